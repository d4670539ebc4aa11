//! What is published at one gateway reaches the subscribers at all.
//!
//! Each gateway tells the others which topics its own subscribers want. To the publishing
//! gateway another one is a subscriber like any: it is sent one copy, whatever the number
//! of its subscribers, in the lane of the channel, and hands that out to its own alone.
//! So nothing is relayed twice, and order and priority hold from end to end.
//!
//! Interest is told over the connection between two gateways in the order in which it
//! changes, all of it when the connection comes up. That it is gone is told when the last
//! subscriber of a topic unsubscribes or, if it died, when the next message for it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use gater_core::channel::Topic;
use gater_dist::{Connection, Node};
use gater_term::{Atom, Limits, LocalPid, Pid, Reader, Scanner};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::broadcasts::{Broadcast, Broadcasts};
use super::gateway::{Gateway, TOPICS_AT_A_TIME};
use super::local::{Channel, Ending, Introduction};
use super::message::{self, RelayMessage};
use crate::observe::telemetry::Telemetry;
use crate::registry::cluster::refusals::Reason;
use crate::registry::cluster::trust::{Rank, Trust};
use crate::registry::replica::NodeId;
use crate::services::census::Census;
use crate::services::secret::Secret;
use crate::transport::peers::Peers;

/// Bytes of last messages that are told at a time.
const LAST_AT_A_TIME: usize = 4 << 20;
/// A longer last message is not told: it would hold up all else for too long.
const LAST_AT_MOST: usize = 32 << 20;
/// Subscribers of one topic that a gateway tells another of.
const LISTED_AT_MOST: usize = 100_000;
/// Topics whose recipients are counted for another gateway in one answer.
const COUNTED_AT_MOST: usize = 4096;
/// Topics that are asked for at a time.
const ASK_AT_A_TIME: usize = 8;
/// How long the other gateways may take to tell their subscribers.
const LISTED_WITHIN: Duration = Duration::from_secs(1);

/// The channels' side of a cluster.
pub struct Relays {
    peers: Arc<Peers>,
    trust: Arc<Trust>,
    secret: Arc<Secret>,
    channels: HashMap<String, Arc<Channel>>,
    /// The process of this gateway that takes what others relay.
    taker: Pid,
    gateways: RwLock<Vec<Arc<Gateway>>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Vec<Pid>>>>,
    last_asked: AtomicU64,
    /// Those who ask for subscribers at a time.
    asking: Semaphore,
    broadcasts: Broadcasts,
    census: Arc<Census>,
    /// What the other gateways were told last of listeners here. Locked while they are told of
    /// listeners and nodes, so that they hear it in order.
    listening: Mutex<bool>,
}

impl Relays {
    /// Relays for these channels, taken by a process of `node`.
    pub fn new(
        node: &Node,
        peers: Arc<Peers>,
        trust: Arc<Trust>,
        secret: Arc<Secret>,
        telemetry: Arc<Telemetry>,
        census: Arc<Census>,
        channels: &[Arc<Channel>],
    ) -> Self {
        Self {
            peers,
            trust,
            secret,
            channels: channels.iter().map(|c| (c.name().to_owned(), c.clone())).collect(),
            taker: node.new_pid(),
            gateways: RwLock::default(),
            asked: Mutex::default(),
            last_asked: AtomicU64::new(0),
            asking: Semaphore::new(ASK_AT_A_TIME),
            broadcasts: Broadcasts::new(telemetry),
            census,
            listening: Mutex::new(false),
        }
    }

    /// Greets a member whose greeting has not come over `connection` yet.
    pub fn greet(&self, connection: &Arc<Connection>) {
        if self.at(connection).is_none() {
            self.hail(connection, false);
        }
    }

    fn hail(&self, connection: &Connection, heard: bool) {
        let greeting = RelayMessage::Hello(self.taker.clone(), self.trust.own_id(), heard);
        message::send(connection, &greeting);
    }

    /// A connection is gone.
    pub fn lost(&self, connection: &Arc<Connection>) {
        let mut gateways = self.gateways.write();
        let before = gateways.len();
        gateways.retain(|gateway| !gateway.is_at(connection));
        if gateways.len() < before {
            drop(gateways);
            self.census.lost(connection);
            for channel in self.channels.values() {
                channel.detach(connection);
            }
        }
    }

    fn at(&self, connection: &Arc<Connection>) -> Option<Arc<Gateway>> {
        self.gateways.read().iter().find(|gateway| gateway.is_at(connection)).cloned()
    }

    /// Whether `pid` takes what other gateways relay.
    pub fn takes(&self, pid: &Pid) -> bool {
        (self.taker.id, self.taker.serial) == (pid.id, pid.serial)
    }

    /// A message that another gateway relays: `{channel_message, Channel, Topic, Message}`.
    pub fn relayed(&self, connection: &Arc<Connection>, payload: &Bytes) {
        let Some(gateway) = self.at(connection) else { return };
        if let Some((channel, topic, message)) = self.open(payload) {
            channel.relay(&gateway, topic, &message);
        }
    }

    /// Channel, topic and message of `{channel_message, Channel, Topic, Message}`.
    fn open<'a>(&self, payload: &'a Bytes) -> Option<(&Arc<Channel>, &'a [u8], Bytes)> {
        let mut reader = Reader::new(payload);
        reader.tuple_of(4).ok()?;
        if !reader.is_atom("channel_message") {
            return None;
        }
        let channel = self.channels.get(&*reader.atom().ok()?)?;
        let topic = reader.binary().ok()?;
        Some((channel, topic, payload.slice_ref(reader.rest())))
    }

    /// Something that another gateway tells, or a node that wants to be taken for one.
    pub fn message(&self, connection: &Arc<Connection>, term: &[u8]) {
        let refuse = |reason, detail: &str| self.trust.refuse(reason, connection, &detail);
        // Nothing is read that a stranger sends.
        if !self.trust.knows(connection.peer().name.as_str()) {
            return refuse(Reason::NotGateway, "its name is none of a gateway");
        }
        if !self.trust.has_proved(connection) {
            return refuse(Reason::NotProved, "no proof has come before it");
        }
        match (RelayMessage::decode(term), self.at(connection)) {
            (None, _) => refuse(Reason::Form, "it cannot be read"),
            (Some(RelayMessage::Hello(taker, id, heard)), known) => {
                match self.trust.rank(connection.peer().name.as_str(), id) {
                    Rank::Member if !self.trust.speaks_for(connection, id) => {
                        refuse(Reason::NotMember, "it changes its id");
                    }
                    Rank::Member if known.is_none() => self.hello(connection, &taker, id, heard),
                    // It was greeted before it knew this gateway for a member.
                    Rank::Member if !heard => self.hail(connection, true),
                    Rank::Member => {}
                    // It is greeted when this gateway has become a member.
                    Rank::Founder => {}
                    Rank::Applicant | Rank::Stranger => {
                        refuse(Reason::NotMember, "its id is that of no member");
                    }
                }
            }
            (Some(message), Some(gateway)) if self.trust.is_member(connection, gateway.id()) => {
                self.told(&gateway, message);
            }
            (Some(_), Some(_)) => {
                refuse(Reason::NotMember, "it is a member no more");
                self.lost(connection);
            }
            (Some(_), None) => refuse(Reason::NotMember, "it has not greeted this gateway"),
        }
    }

    fn hello(&self, connection: &Arc<Connection>, taker: &Pid, id: NodeId, heard: bool) {
        let peer = connection.peer();
        if (&taker.node, taker.creation) != (&peer.name, peer.creation) {
            let detail = "its process is on another node";
            return self.trust.refuse(Reason::Content, connection, &detail);
        }
        let Some(peer) = self.peers.find(taker) else { return };
        peer.set_gateway();
        let gateway = Arc::new(Gateway::new(connection.clone(), id, peer, LocalPid::from(taker)));
        self.gateways.write().push(gateway.clone());
        if !heard {
            self.hail(connection, true);
        }
        self.introduce_listeners(&gateway);
        // From now on it is told of changes.
        let all: Vec<_> = self
            .channels
            .values()
            .map(|channel| (channel.clone(), channel.attach(&gateway)))
            .collect();
        tokio::spawn(async move {
            for (channel, all) in all {
                introduce(&gateway, &channel, all).await;
            }
        });
    }

    fn introduce_listeners(&self, gateway: &Gateway) {
        let listening = self.listening.lock();
        gateway.say(&RelayMessage::Listening(*listening));
        let up = self.census.own();
        gateway.say(&RelayMessage::Nodes { up, down: Vec::new(), alone: true });
    }

    fn told(&self, gateway: &Arc<Gateway>, message: RelayMessage) {
        match message {
            // Dealt with before.
            RelayMessage::Hello(..) => {}
            RelayMessage::Wants { number, channel, topics, alone } => {
                if let Some(channel) = self.channels.get(&channel) {
                    let topics = topics.iter().filter_map(|topic| Topic::new(topic).ok());
                    channel.wanted(gateway.peer(), gateway.taker(), topics, alone);
                }
                gateway.say(&RelayMessage::Known(number));
            }
            RelayMessage::Known(number) => {
                gateway.acknowledged(number);
            }
            RelayMessage::Gone { channel, topic } => {
                if let Some(channel) = self.channels.get(&channel) {
                    channel.unwanted(gateway.peer(), gateway.taker(), &topic);
                }
            }
            RelayMessage::Last { at, message } => {
                // Nobody has validated it yet, and a BEAM does not forgive what it cannot decode.
                let valid = Scanner::new(Limits::default()).scan(&message, 0) == Ok(message.len());
                let message = Bytes::from(message);
                if valid && let Some((channel, topic, message)) = self.open(&message) {
                    channel.last_was(topic, at, &message);
                }
            }
            RelayMessage::Ended { number, channel, topic, pid, stamp, remember } => {
                if let (Some(channel), Ok(topic)) =
                    (self.channels.get(&channel), Topic::new(&topic))
                {
                    let ending = Ending { topic: &topic, pid: &pid, stamp, remember };
                    channel.ended_elsewhere(&self.peers, &ending);
                }
                gateway.say(&RelayMessage::Known(number));
            }
            RelayMessage::Listening(listens) => gateway.set_listens(listens),
            RelayMessage::Count { number, of } => {
                let counts = of.iter().take(COUNTED_AT_MOST).map(|(channel, topic)| {
                    let channel = self.channels.get(channel);
                    channel.map_or(0, |channel| channel.recipients(topic) as u64)
                });
                gateway.say(&RelayMessage::Counted { number, counts: counts.collect() });
            }
            RelayMessage::Counted { number, counts } => self.broadcasts.counted(number, counts),
            RelayMessage::Broadcasts(broadcasts) => {
                for broadcast in &broadcasts {
                    // Only names of channels become atoms on the nodes that listen.
                    if self.channels.contains_key(&broadcast.channel) {
                        self.broadcasts.emit(broadcast);
                    }
                }
            }
            RelayMessage::Nodes { up, down, alone } => {
                self.census.told(gateway.connection(), up, &down, alone);
            }
            RelayMessage::Secret(secret) => {
                self.secret.rotate(&secret);
                tracing::info!(by = %gateway.peer().node(), "the secret was changed");
            }
            RelayMessage::List { number, channel, topic } => {
                let channel = self.channels.get(&channel);
                let mut pids = channel.map(|c| c.subscribers(&topic)).unwrap_or_default();
                pids.truncate(LISTED_AT_MOST);
                gateway.say(&RelayMessage::Listed { number, pids });
            }
            RelayMessage::Listed { number, pids } => {
                if let Some(asked) = self.asked.lock().remove(&number) {
                    // Who asked may have given up.
                    let _ = asked.send(pids);
                }
            }
        }
    }

    /// Whether anybody in the cluster wants to hear of publications.
    pub fn broadcast_wanted(&self) -> bool {
        self.broadcasts.wanted(&self.gateways.read())
    }

    /// A message was published here.
    pub fn published(&self, broadcast: Broadcast) {
        self.broadcasts.published(broadcast, &self.gateways.read());
    }

    /// Has the recipients of what is published here counted everywhere, for as long as it is
    /// polled.
    pub async fn count_broadcasts(&self) {
        self.broadcasts.run(|| self.gateways.read().clone()).await;
    }

    /// Handlers of telemetry events have come or gone: the other gateways are told if that matters
    /// to them.
    pub fn listeners_changed(&self) {
        let mut told = self.listening.lock();
        let listens = self.broadcasts.is_heard_here();
        if std::mem::replace(&mut *told, listens) != listens {
            for gateway in self.gateways.read().iter() {
                gateway.say(&RelayMessage::Listening(listens));
            }
        }
    }

    /// A node that is no gateway is connected to this one.
    pub fn node_up(&self, node: &Atom) {
        let _in_order = self.listening.lock();
        self.census.up(node);
        for gateway in self.gateways.read().iter() {
            let up = vec![node.clone()];
            gateway.say(&RelayMessage::Nodes { up, down: Vec::new(), alone: false });
        }
    }

    /// A node is not connected to this gateway any more.
    pub fn node_down(&self, node: &Atom) {
        let _in_order = self.listening.lock();
        if !self.census.down(node) {
            return;
        }
        for gateway in self.gateways.read().iter() {
            let down = vec![node.clone()];
            gateway.say(&RelayMessage::Nodes { up: Vec::new(), down, alone: false });
        }
    }

    /// Changes the secret at this gateway and at the others.
    pub fn change_secret(&self, secret: &[u8]) {
        self.secret.rotate(secret);
        for gateway in self.gateways.read().iter() {
            gateway.say(&RelayMessage::Secret(secret.to_vec()));
        }
    }

    /// Those who are subscribed to a topic at other gateways; `None` if there are no others.
    pub fn subscribers(
        self: &Arc<Self>,
        channel: &str,
        topic: &[u8],
    ) -> Option<impl Future<Output = Vec<Pid>> + Send + use<>> {
        let gateways = self.gateways.read().clone();
        if gateways.is_empty() {
            return None;
        }
        let (channel, topic) = (channel.to_owned(), topic.to_vec());
        let relays = self.clone();
        Some(async move {
            let mut pids = Vec::new();
            let until = Instant::now() + LISTED_WITHIN;
            let Ok(Ok(_turn)) = timeout_at(until, relays.asking.acquire()).await else {
                return pids;
            };
            let mut asked = Vec::new();
            for gateway in &gateways {
                let number = relays.last_asked.fetch_add(1, Ordering::Relaxed);
                let (sender, answer) = oneshot::channel();
                relays.asked.lock().insert(number, sender);
                asked.push((number, answer));
                let (channel, topic) = (channel.clone(), topic.clone());
                gateway.say(&RelayMessage::List { number, channel, topic });
            }
            for (number, answer) in asked {
                match timeout_at(until, answer).await {
                    Ok(Ok(theirs)) => pids.extend(theirs),
                    // It is silent or gone: those at the others are better than none.
                    _ => drop(relays.asked.lock().remove(&number)),
                }
            }
            pids
        })
    }
}

/// Tells what there is of a channel, a part after the other: the next when the last is known.
async fn introduce(gateway: &Gateway, channel: &Channel, all: Introduction) {
    let mut number = 0;
    for part in all.topics.chunks(TOPICS_AT_A_TIME) {
        if !gateway.has_heard(number).await {
            return;
        }
        number = channel.tell_of(gateway, part);
    }
    let mut bytes = 0;
    for (at, payload) in all.last.into_iter().filter(|(_, last)| last.len() <= LAST_AT_MOST) {
        bytes += payload.len();
        if bytes > LAST_AT_A_TIME {
            number = gateway.wants(channel.name(), Vec::new(), false);
            bytes = payload.len();
            if !gateway.has_heard(number).await {
                return;
            }
        }
        gateway.say(&RelayMessage::Last { at, message: payload.to_vec() });
    }
}
