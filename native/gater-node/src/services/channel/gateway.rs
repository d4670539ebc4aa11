//! Another gateway from the channels' point of view: the process that receives its messages, and
//! what it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gater_dist::{Connection, Lane, Payload};
use gater_term::LocalPid;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::local::Ending;
use super::message::{self, RelayMessage};
use crate::registry::replica::NodeId;
use crate::transport::peers::PeerRef;

/// The number of topics in one message.
pub const TOPICS_AT_A_TIME: usize = 4096;
/// The time for which a subscriber waits until the other gateways know its topic.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Another gateway from the channels' point of view.
pub struct Gateway {
    connection: Arc<Connection>,
    /// The id of the gateway as a member.
    id: NodeId,
    peer: PeerRef,
    /// The process of the gateway that receives messages.
    taker: LocalPid,
    told: Mutex<u64>,
    known: watch::Sender<u64>,
    /// Whether nodes there have handlers for publications.
    listens: AtomicBool,
}

impl Gateway {
    /// Returns the gateway at the other end of `connection`, whose process `taker` receives
    /// messages.
    pub fn new(connection: Arc<Connection>, id: NodeId, peer: PeerRef, taker: LocalPid) -> Self {
        let (told, known) = (Mutex::new(0), watch::Sender::new(0));
        Self { connection, id, peer, taker, told, known, listens: AtomicBool::new(false) }
    }

    /// Returns the id of the gateway as a member.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Returns the node of the gateway.
    pub fn peer(&self) -> &PeerRef {
        &self.peer
    }

    /// Returns the process of the gateway that receives messages.
    pub fn taker(&self) -> LocalPid {
        self.taker
    }

    /// Returns the connection to the gateway.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Returns whether nodes there have handlers for publications.
    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// Records whether nodes there have handlers for publications.
    pub fn set_listens(&self, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
    }

    /// Sends a message of the relay protocol to the gateway.
    pub fn say(&self, message: &RelayMessage) {
        message::send(&self.connection, message);
    }

    /// Records that the gateway has acknowledged all messages up to `number`.
    pub fn acknowledged(&self, number: u64) {
        self.known.send_replace(number);
    }

    /// Announces the desired `topics` of a channel. Returns the number whose acknowledgement is to
    /// be awaited. The caller must hold the lock of the channel, so that announcements are sent in
    /// the order of the changes.
    pub fn wants(&self, channel: &str, topics: Vec<Vec<u8>>, alone: bool) -> u64 {
        // Several channels announce topics concurrently, and the numbers must be sent in their
        // order.
        let mut told = self.told.lock();
        *told += 1;
        let (number, channel) = (*told, channel.to_owned());
        self.say(&RelayMessage::Wants { number, channel, topics, alone });
        number
    }

    /// Announces that the subscription of a process was ended. Returns the number whose
    /// acknowledgement is to be awaited. The caller must hold the lock of the channel, as for
    /// [`Gateway::wants`].
    pub fn ended(&self, channel: &str, ending: &Ending<'_>) -> u64 {
        let mut told = self.told.lock();
        *told += 1;
        self.say(&RelayMessage::Ended {
            number: *told,
            channel: channel.to_owned(),
            topic: ending.topic.as_bytes().to_vec(),
            pid: ending.pid.clone(),
            stamp: ending.stamp,
            remember: ending.remember,
        });
        *told
    }

    /// Announces that a topic is no longer desired. The caller must hold the lock of the channel.
    pub fn gone(&self, channel: &str, topic: &[u8]) {
        self.say(&RelayMessage::Gone { channel: channel.to_owned(), topic: topic.to_vec() });
    }

    /// Waits until the gateway has acknowledged everything up to `number`. Returns false if it
    /// never will.
    pub async fn has_heard(&self, number: u64) -> bool {
        while *self.known.borrow() < number {
            if self.connection.is_closed() {
                return false;
            }
            self.knows(number, Instant::now() + KNOWN_WITHIN).await;
        }
        true
    }

    /// Waits until the gateway has acknowledged everything up to `number`, or until the time is
    /// over.
    async fn knows(&self, number: u64, until: Instant) {
        let mut known = self.known.subscribe();
        let _ = timeout_at(until, known.wait_for(|known| *known >= number)).await;
    }

    /// Sends a message for the subscribers of the gateway.
    pub fn send(&self, lane: Lane, payload: &Payload) {
        self.connection.send(lane, self.taker, payload);
    }

    /// Returns whether this is the gateway at the other end of `connection`.
    pub fn is_at(&self, connection: &Arc<Connection>) -> bool {
        Arc::ptr_eq(&self.connection, connection)
    }
}

/// Gateways, each with the number up to which it was told.
pub type Told = Vec<(Arc<Gateway>, u64)>;

/// Waits until each gateway has acknowledged what it was told, or cannot do so in time.
pub async fn known(told: Told) {
    let until = Instant::now() + KNOWN_WITHIN;
    for (gateway, number) in told {
        gateway.knows(number, until).await;
    }
}
