//! Another gateway, as channels see it: who takes its messages, and what it was told.

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

/// Topics that are told in one message.
pub const TOPICS_AT_A_TIME: usize = 4096;
/// How long a subscriber waits for the other gateways to know.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Another gateway, as channels see it.
pub struct Gateway {
    connection: Arc<Connection>,
    /// The member it is.
    id: NodeId,
    peer: PeerRef,
    /// Its process that takes messages.
    taker: LocalPid,
    told: Mutex<u64>,
    known: watch::Sender<u64>,
    /// Handlers of nodes there want to hear of publications.
    listens: AtomicBool,
}

impl Gateway {
    /// The gateway at the other end of `connection`, whose process `taker` takes messages.
    pub fn new(connection: Arc<Connection>, id: NodeId, peer: PeerRef, taker: LocalPid) -> Self {
        let (told, known) = (Mutex::new(0), watch::Sender::new(0));
        Self { connection, id, peer, taker, told, known, listens: AtomicBool::new(false) }
    }

    /// The member it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The node of the gateway.
    pub fn peer(&self) -> &PeerRef {
        &self.peer
    }

    /// Its process that takes messages.
    pub fn taker(&self) -> LocalPid {
        self.taker
    }

    /// The connection to it.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether handlers of nodes there want to hear of publications.
    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    /// Takes note of whether they do.
    pub fn set_listens(&self, listens: bool) {
        self.listens.store(listens, Ordering::Relaxed);
    }

    /// Sends it a message of the relay protocol.
    pub fn say(&self, message: &RelayMessage) {
        message::send(&self.connection, message);
    }

    /// It knows what it was told up to `number`.
    pub fn acknowledged(&self, number: u64) {
        self.known.send_replace(number);
    }

    /// Tells which `topics` of a channel are wanted; the number to wait for.
    /// The caller holds the channel's lock, so that this is told in the order of the changes.
    pub fn wants(&self, channel: &str, topics: Vec<Vec<u8>>, alone: bool) -> u64 {
        // Channels tell at the same time: the numbers leave in their order.
        let mut told = self.told.lock();
        *told += 1;
        let (number, channel) = (*told, channel.to_owned());
        self.say(&RelayMessage::Wants { number, channel, topics, alone });
        number
    }

    /// Tells that the subscription of a process was ended; the number to wait for. Under the
    /// channel's lock, as [`Gateway::wants`].
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

    /// Tells that a topic is not wanted any more; under the channel's lock.
    pub fn gone(&self, channel: &str, topic: &[u8]) {
        self.say(&RelayMessage::Gone { channel: channel.to_owned(), topic: topic.to_vec() });
    }

    /// Waits until what was told up to `number` is known there; false if it never will be.
    pub async fn has_heard(&self, number: u64) -> bool {
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
