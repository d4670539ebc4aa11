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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use gater_core::channel::Topic;
use gater_dist::{Connection, Lane, Node, Payload};
use gater_term::{Limits, LocalPid, Pid, Reader, Scanner, encode};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::local::{Channel, Introduction};
use crate::registry::replica::codec;
use crate::services::secret::Secret;
use crate::transport::peers::{PeerRef, Peers};

/// The registered name that gateways send what they want to.
pub const NAME: &str = "esdb_gater_relay";

/// Topics that are told in one message.
pub const TOPICS_AT_A_TIME: usize = 4096;
/// Bytes of last messages that are told at a time.
const LAST_AT_A_TIME: usize = 4 << 20;
/// A longer last message is not told: it would hold up all else for too long.
const LAST_AT_MOST: usize = 32 << 20;
/// Subscribers of one topic that a gateway tells another of.
const LISTED_AT_MOST: usize = 100_000;
/// Topics that are asked for at a time.
const ASK_AT_A_TIME: usize = 8;
/// How long a subscriber waits for the other gateways to know.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);
/// How long the other gateways may take to tell their subscribers.
const LISTED_WITHIN: Duration = Duration::from_secs(1);

/// What gateways tell each other about channels.
#[derive(Serialize, Deserialize)]
enum Word {
    /// This process of mine takes what my subscribers want.
    Hello(Pid),
    /// My subscribers want these topics, too; or these alone.
    Wants { number: u64, channel: String, topics: Vec<Vec<u8>>, alone: bool },
    /// What was told up to this number is known.
    Known(u64),
    /// Nobody here wants this topic any more.
    Gone { channel: String, topic: Vec<u8> },
    /// The last message of a topic, and when it was published in Unix milliseconds.
    /// The message is whole, as a subscriber gets it.
    Last { at: u64, message: Vec<u8> },
    /// Sign with this from now on. Not logged, and no more secret on the way than it was
    /// on the way here.
    Secret(Vec<u8>),
    /// Who is subscribed to this at yours?
    List { number: u64, channel: String, topic: Vec<u8> },
    /// These are.
    Listed { number: u64, pids: Vec<Pid> },
}

/// Another gateway, as channels see it.
pub struct Gateway {
    connection: Arc<Connection>,
    peer: PeerRef,
    /// Its process that takes messages.
    taker: LocalPid,
    told: Mutex<u64>,
    known: watch::Sender<u64>,
}

impl Gateway {
    /// Tells which `topics` of a channel are wanted; the number to wait for.
    /// The caller holds the channel's lock, so that this is told in the order of the changes.
    pub fn wants(&self, channel: &str, topics: Vec<Vec<u8>>, alone: bool) -> u64 {
        // Channels tell at the same time: the numbers leave in their order.
        let mut told = self.told.lock();
        *told += 1;
        let (number, channel) = (*told, channel.to_owned());
        say(&self.connection, &Word::Wants { number, channel, topics, alone });
        number
    }

    /// Tells that a topic is not wanted any more; under the channel's lock.
    pub fn gone(&self, channel: &str, topic: &[u8]) {
        say(&self.connection, &Word::Gone { channel: channel.to_owned(), topic: topic.to_vec() });
    }

    /// Tells what there is of a channel, a part after the other: the next when the last is known.
    async fn introduce(&self, channel: &Channel, all: Introduction) {
        let mut number = 0;
        for part in all.topics.chunks(TOPICS_AT_A_TIME) {
            if !self.has_heard(number).await {
                return;
            }
            number = channel.tell_of(self, part);
        }
        let mut bytes = 0;
        for (at, payload) in all.last.into_iter().filter(|(_, last)| last.len() <= LAST_AT_MOST) {
            bytes += payload.len();
            if bytes > LAST_AT_A_TIME {
                number = self.wants(channel.name(), Vec::new(), false);
                bytes = payload.len();
                if !self.has_heard(number).await {
                    return;
                }
            }
            say(&self.connection, &Word::Last { at, message: payload.to_vec() });
        }
    }

    /// Waits until what was told up to `number` is known there; false if it never will be.
    async fn has_heard(&self, number: u64) -> bool {
        while *self.known.borrow() < number {
            if self.connection.is_closed() {
                return false;
            }
            self.knows(number, Instant::now() + KNOWN_WITHIN).await;
        }
        true
    }

    /// Waits until what was told up to `number` is known there, or the time is up.
    async fn knows(&self, number: u64, until: Instant) {
        let mut known = self.known.subscribe();
        let _ = timeout_at(until, known.wait_for(|known| *known >= number)).await;
    }

    /// Sends a message for its subscribers.
    pub fn send(&self, lane: Lane, payload: &Payload) {
        self.connection.send(lane, self.taker, payload);
    }

    /// Whether this is the gateway at the other end of `connection`.
    pub fn is_at(&self, connection: &Arc<Connection>) -> bool {
        Arc::ptr_eq(&self.connection, connection)
    }
}

/// Up to which number which gateways were told.
pub type Told = Vec<(Arc<Gateway>, u64)>;

/// Waits until each of the gateways knows what it was told, or cannot soon.
pub async fn known(told: Told) {
    let until = Instant::now() + KNOWN_WITHIN;
    for (gateway, number) in told {
        gateway.knows(number, until).await;
    }
}

fn say(connection: &Connection, word: &Word) {
    match codec::encode(word) {
        Ok(bytes) => {
            let mut term = Vec::with_capacity(bytes.len() + 8);
            encode::binary(&mut term, &bytes);
            connection.send_name(Lane::Control, NAME, &Payload::from(term));
        }
        Err(error) => tracing::error!(%error, "a word to another gateway was not encoded"),
    }
}

/// The channels' side of a cluster.
pub struct Relays {
    peers: Arc<Peers>,
    secret: Arc<Secret>,
    channels: HashMap<String, Arc<Channel>>,
    taker: OnceLock<Pid>,
    gateways: RwLock<Vec<Arc<Gateway>>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Vec<Pid>>>>,
    last_asked: AtomicU64,
    /// Those who ask for subscribers at a time.
    asking: Semaphore,
}

impl Relays {
    /// Relays for these channels.
    pub fn new(peers: Arc<Peers>, secret: Arc<Secret>, channels: &[Arc<Channel>]) -> Self {
        Self {
            peers,
            secret,
            channels: channels.iter().map(|c| (c.name().to_owned(), c.clone())).collect(),
            taker: OnceLock::new(),
            gateways: RwLock::default(),
            asked: Mutex::default(),
            last_asked: AtomicU64::new(0),
            asking: Semaphore::new(ASK_AT_A_TIME),
        }
    }

    /// Hands over the running node.
    pub fn attach(&self, node: &Node) {
        self.taker.get_or_init(|| node.new_pid());
        // Those that connected before have not been greeted.
        for connection in node.connections() {
            if self.at(&connection).is_some() {
                self.greet(&connection);
            }
        }
    }

    /// Another gateway has connected.
    pub fn greet(&self, connection: &Connection) {
        if let Some(taker) = self.taker.get() {
            say(connection, &Word::Hello(taker.clone()));
        }
    }

    /// A connection is gone.
    pub fn lost(&self, connection: &Arc<Connection>) {
        let mut gateways = self.gateways.write();
        let before = gateways.len();
        gateways.retain(|gateway| !gateway.is_at(connection));
        if gateways.len() < before {
            drop(gateways);
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
        self.taker.get().is_some_and(|taker| (taker.id, taker.serial) == (pid.id, pid.serial))
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

    /// Something that another gateway tells.
    pub fn message(&self, connection: &Arc<Connection>, term: &[u8]) {
        let word = Reader::new(term).binary().ok().and_then(|bytes| codec::decode(bytes).ok());
        match (word, self.at(connection)) {
            (Some(Word::Hello(taker)), None) => self.hello(connection, &taker),
            (Some(word), Some(gateway)) => self.told(&gateway, word),
            _ => tracing::debug!(peer = %connection.peer().name, "not a gateway's word: ignored"),
        }
    }

    fn hello(&self, connection: &Arc<Connection>, taker: &Pid) {
        let peer = connection.peer();
        if (&taker.node, taker.creation) != (&peer.name, peer.creation) {
            return;
        }
        let Some(peer) = self.peers.find(taker) else { return };
        peer.set_gateway();
        let gateway = Arc::new(Gateway {
            connection: connection.clone(),
            peer,
            taker: LocalPid::from(taker),
            told: Mutex::new(0),
            known: watch::Sender::new(0),
        });
        self.gateways.write().push(gateway.clone());
        // It may not be known as a gateway here yet. Who knows it already hears it twice.
        self.greet(connection);
        // From now on it is told of changes.
        let all: Vec<_> = self
            .channels
            .values()
            .map(|channel| (channel.clone(), channel.attach(&gateway)))
            .collect();
        tokio::spawn(async move {
            for (channel, all) in all {
                gateway.introduce(&channel, all).await;
            }
        });
    }

    fn told(&self, gateway: &Arc<Gateway>, word: Word) {
        match word {
            // Said twice.
            Word::Hello(_) => {}
            Word::Wants { number, channel, topics, alone } => {
                if let Some(channel) = self.channels.get(&channel) {
                    let topics = topics.iter().filter_map(|topic| Topic::new(topic).ok());
                    channel.wanted(&gateway.peer, gateway.taker, topics, alone);
                }
                say(&gateway.connection, &Word::Known(number));
            }
            Word::Known(number) => {
                gateway.known.send_replace(number);
            }
            Word::Gone { channel, topic } => {
                if let Some(channel) = self.channels.get(&channel) {
                    channel.unwanted(&gateway.peer, gateway.taker, &topic);
                }
            }
            Word::Last { at, message } => {
                // Nobody has validated it yet, and a BEAM does not forgive what it cannot decode.
                let valid = Scanner::new(Limits::default()).scan(&message, 0) == Ok(message.len());
                let message = Bytes::from(message);
                if valid && let Some((channel, topic, message)) = self.open(&message) {
                    channel.last_was(topic, at, &message);
                }
            }
            Word::Secret(secret) => {
                self.secret.rotate(&secret);
                tracing::info!(by = %gateway.peer.node(), "the secret was changed");
            }
            Word::List { number, channel, topic } => {
                let channel = self.channels.get(&channel);
                let mut pids = channel.map(|c| c.subscribers(&topic)).unwrap_or_default();
                pids.truncate(LISTED_AT_MOST);
                say(&gateway.connection, &Word::Listed { number, pids });
            }
            Word::Listed { number, pids } => {
                if let Some(asked) = self.asked.lock().remove(&number) {
                    // Who asked may have given up.
                    let _ = asked.send(pids);
                }
            }
        }
    }

    /// Changes the secret at this gateway and at the others.
    pub fn change_secret(&self, secret: &[u8]) {
        self.secret.rotate(secret);
        for gateway in self.gateways.read().iter() {
            say(&gateway.connection, &Word::Secret(secret.to_vec()));
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
                say(&gateway.connection, &Word::List { number, channel, topic });
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
