//! The state that all handles of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gater_term::{Atom, Pid, Reference};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use super::state::State;
use super::{Destination, NodeEvent, SendError, Target, wire};
use crate::protocol::encode::Signal;
use crate::protocol::flags::Watch;
use crate::{Chain, Connection, Lane};

/// The time for which queued output is still written when the last handle is dropped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A node with processes. Dropping the value shuts the node down.
pub struct Inner {
    /// The node underneath.
    pub lower: crate::Node,
    /// The pid that stands for callers and senders that are not processes.
    pub caller: Pid,
    pub state: Mutex<State>,
    pub events: broadcast::Sender<NodeEvent>,
    pub max_message: usize,
    /// The number of bytes that may wait for a peer before sends are refused.
    pub max_waiting: usize,
    pub runtime: Handle,
    pub last_number: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let lower = self.lower.clone();
        self.runtime.spawn(async move { lower.shutdown(LAST_WORDS).await });
    }
}

impl Inner {
    /// Returns a number that this node has never used before.
    pub fn number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns a reference that this node has never used before. Its third word distinguishes it
    /// from the references of the connections underneath.
    pub fn reference(&self) -> Reference {
        const OF_PROCESSES: u32 = 0x4000_0000;
        let number = self.number();
        // The first word of a reference has 18 bits.
        let words = [(number & 0x3_ffff) as u32, (number >> 18) as u32, OF_PROCESSES];
        let (node, creation) = (self.lower.name().clone(), self.lower.creation());
        Reference::new(node, creation, &words)
            .unwrap_or_else(|| unreachable!("three words are a reference"))
    }

    /// Returns the process that `to` names.
    pub fn resolve(&self, to: impl Into<Destination>) -> Result<Target, SendError> {
        to.into().resolve(self.lower.name())
    }

    /// Returns the connection to `node`, and connects first if necessary.
    pub async fn connection(&self, node: &Atom) -> Result<Arc<Connection>, SendError> {
        match self.lower.connection(node.as_str()) {
            Some(connection) => Ok(connection),
            None => self
                .lower
                .connect(node)
                .await
                .map_err(|error| SendError::NoConnection(Chain(&error).to_string())),
        }
    }

    /// Sends an encoded message.
    pub async fn send(&self, from: &Pid, to: &Target, payload: Vec<u8>) -> Result<(), SendError> {
        self.admit(&payload)?;
        if to.node() == self.lower.name() {
            self.deliver(to, Some(from.clone()), payload.into());
            return Ok(());
        }
        let connection = self.connection(to.node()).await?;
        self.send_over(&connection, from, to, payload)
    }

    /// Sends an encoded message to a process at the other end of `connection`.
    pub fn send_over(
        &self,
        connection: &Arc<Connection>,
        from: &Pid,
        to: &Target,
        payload: Vec<u8>,
    ) -> Result<(), SendError> {
        self.admit(&payload)?;
        let with_sender = connection.format().watch == Watch::Monitor;
        self.transmit(connection, wire::send(from, with_sender, to, payload))
    }

    /// Refuses a payload that is longer than a message may be.
    fn admit(&self, payload: &[u8]) -> Result<(), SendError> {
        let (bytes, limit) = (payload.len(), self.max_message);
        if bytes > limit { Err(SendError::TooLong { bytes, limit }) } else { Ok(()) }
    }

    /// Queues a signal. All signals use one lane, so they are sent in order.
    fn transmit(&self, connection: &Arc<Connection>, signal: Signal) -> Result<(), SendError> {
        if connection.outbox().waiting(Lane::Control) > self.max_waiting {
            return Err(SendError::Busy);
        }
        if connection.signal(signal) {
            Ok(())
        } else {
            Err(SendError::NoConnection(connection.reason().to_string()))
        }
    }

    /// Puts a message into the mailbox of a process of this node. Returns whether the process
    /// exists.
    pub fn deliver(&self, to: &Target, from: Option<Pid>, body: Bytes) -> bool {
        let found = {
            let state = self.state.lock();
            state.find(to).and_then(|pid| state.mailbox(pid)).cloned()
        };
        let Some(mailbox) = found else { return false };
        if mailbox.offer(from, body) {
            tracing::warn!(process = %to, "its mailbox is full: messages are dropped");
        }
        true
    }
}
