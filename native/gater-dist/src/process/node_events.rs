//! The events of the connections of a node.

use gater_term::Atom;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::DownReason;

/// An event of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// The node is connected.
    Up(Atom),
    /// The connection to the node has ended.
    Down(Atom, DownReason),
    /// A node that [`Node::keep`](super::Node::keep) is to keep connected could not be reached. It
    /// is dialled again.
    Unreachable(Atom, String),
    /// This number of events was missed, because the receiver was more than 1,024 events behind.
    Missed(u64),
}

/// A stream of the [`NodeEvent`]s that occur after it was made.
#[derive(Debug)]
pub struct NodeEvents(pub(super) Receiver<NodeEvent>);

impl NodeEvents {
    /// Returns the next event, or `None` if no event is available yet.
    pub fn try_next(&mut self) -> Option<NodeEvent> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(count)) => Some(NodeEvent::Missed(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    /// Waits for the next event. Returns `None` once the node has ended. The method is cancel-safe.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(NodeEvent::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}
