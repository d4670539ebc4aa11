//! Relays messages between gateways, so that a message that is published at one gateway reaches the
//! subscribers at all.
//!
//! Each gateway announces the topics that its own subscribers desire. The publishing gateway treats
//! another gateway as an ordinary subscriber: it sends one copy, whatever the number of subscribers
//! there, in the lane of the channel, and the receiving gateway delivers it to its own subscribers
//! only. No message is therefore relayed twice, and order and priority are preserved from end to
//! end.
//!
//! Desired topics are announced over the connection between two gateways in the order in which they
//! change, and completely when the connection is established. The end of the desire is announced
//! when the last subscriber of a topic unsubscribes or, if it has died, when the next message of
//! the topic arrives.

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
use super::described;
use super::gateway::{Gateway, TOPICS_AT_A_TIME};
use super::local::{Channel, Ending, Introduction};
use super::message::{self, RelayMessage};
use crate::observe::otlp::{Kind, Tracer};
use crate::observe::telemetry::Telemetry;
use crate::registry::cluster::refusals::Reason;
use crate::registry::cluster::trust::{Rank, Trust};
use crate::registry::replica::NodeId;
use crate::services::census::Census;
use crate::services::secret::Secret;
use crate::transport::peers::Peers;

/// The number of bytes of last messages that are sent in one part.
const LAST_AT_A_TIME: usize = 4 << 20;
/// The length of the longest last message that is sent; a longer one would delay all other messages
/// for too long.
const LAST_AT_MOST: usize = 32 << 20;
/// The greatest number of subscribers of one topic that a gateway reports to another.
const LISTED_AT_MOST: usize = 100_000;
/// The greatest number of topics whose recipients are counted in one answer.
const COUNTED_AT_MOST: usize = 4096;
/// The greatest number of topics that are asked for concurrently.
const ASK_AT_A_TIME: usize = 8;
/// The time within which the other gateways must report their subscribers.
const LISTED_WITHIN: Duration = Duration::from_secs(1);

/// The relays of the channels to the other gateways of the cluster.
pub struct Relays {
    peers: Arc<Peers>,
    trust: Arc<Trust>,
    secret: Arc<Secret>,
    channels: HashMap<String, Arc<Channel>>,
    /// The process of this gateway that receives relayed messages.
    taker: Pid,
    gateways: RwLock<Vec<Arc<Gateway>>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Vec<Pid>>>>,
    last_asked: AtomicU64,
    /// The permits of the tasks that ask for subscribers.
    asking: Semaphore,
    broadcasts: Broadcasts,
    census: Arc<Census>,
    /// Whether the other gateways were last told that there are listeners here. Locked while they
    /// are told of listeners and nodes, so that the messages are in order.
    listening: Mutex<bool>,
    tracer: Tracer,
}

impl Relays {
    /// Returns relays for these channels, whose messages are received by a process of `node`.
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
            tracer: Tracer::default(),
            listening: Mutex::new(false),
        }
    }

    /// The same with messages of other gateways followed.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Greets a member whose greeting has not arrived over `connection` yet.
    pub fn greet(&self, connection: &Arc<Connection>) {
        if self.at(connection).is_none() {
            self.hail(connection, false);
        }
    }

    fn hail(&self, connection: &Connection, heard: bool) {
        let greeting = RelayMessage::Hello(self.taker.clone(), self.trust.own_id(), heard);
        message::send(connection, &greeting);
    }

    /// Handles the end of a connection.
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

    /// Returns whether `pid` is the process that receives relayed messages.
    pub fn takes(&self, pid: &Pid) -> bool {
        (self.taker.id, self.taker.serial) == (pid.id, pid.serial)
    }

    /// Handles a message that another gateway relays: `{channel_message, Channel, Topic, Message}`.
    pub fn relayed(&self, connection: &Arc<Connection>, payload: &Bytes) {
        let Some(gateway) = self.at(connection) else { return };
        if let Some((channel, topic, message)) = self.open(payload) {
            let span = self.tracer.begin();
            channel.relay(&gateway, topic, &message);
            if let Some(span) = span {
                span.end("relay", Kind::Consumer, described(channel, topic, connection), None);
            }
        }
    }

    /// Returns the channel, the topic and the message of `{channel_message, Channel, Topic,
    /// Message}`.
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

    /// Handles a message of the relay protocol from another gateway, or from a node that claims to
    /// be one.
    pub fn message(&self, connection: &Arc<Connection>, term: &[u8]) {
        let refuse = |reason, detail: &str| self.trust.refuse(reason, connection, &detail);
        // Messages of strangers are not decoded.
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
                    // The member was greeted before it knew this gateway to be a member.
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
        // From now on the gateway is told of changes.
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
            // The greeting was handled above.
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
                // The message was not validated yet, and a BEAM closes the connection over a term
                // that it cannot decode.
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
                    // The task that asked may have stopped waiting.
                    let _ = asked.send(pids);
                }
            }
        }
    }

    /// Returns whether there is a listener for publications anywhere in the cluster.
    pub fn broadcast_wanted(&self) -> bool {
        self.broadcasts.wanted(&self.gateways.read())
    }

    /// Handles a message that was published at this gateway.
    pub fn published(&self, broadcast: Broadcast) {
        self.broadcasts.published(broadcast, &self.gateways.read());
    }

    /// Has the recipients of messages that are published here counted at all gateways, for as long
    /// as it is polled.
    pub async fn count_broadcasts(&self) {
        self.broadcasts.run(|| self.gateways.read().clone()).await;
    }

    /// Handles a change of the telemetry handlers, and announces it to the other gateways if it
    /// affects them.
    pub fn listeners_changed(&self) {
        let mut told = self.listening.lock();
        let listens = self.broadcasts.is_heard_here();
        if std::mem::replace(&mut *told, listens) != listens {
            for gateway in self.gateways.read().iter() {
                gateway.say(&RelayMessage::Listening(listens));
            }
        }
    }

    /// Records that a node that is not a gateway is connected to this gateway.
    pub fn node_up(&self, node: &Atom) {
        let _in_order = self.listening.lock();
        self.census.up(node);
        for gateway in self.gateways.read().iter() {
            let up = vec![node.clone()];
            gateway.say(&RelayMessage::Nodes { up, down: Vec::new(), alone: false });
        }
    }

    /// Records that a node is disconnected from this gateway.
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

    /// Returns the subscribers to a topic at other gateways, or `None` if there are no other
    /// gateways.
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
                    // The gateway is silent or gone. The subscribers at the others are better than
                    // none.
                    _ => drop(relays.asked.lock().remove(&number)),
                }
            }
            pids
        })
    }
}

/// Announces the state of a channel in parts, each after the previous one is acknowledged.
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
