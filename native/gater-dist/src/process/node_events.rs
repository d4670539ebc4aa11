//! What happens to the connections of a node.

use gater_term::Atom;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::DownReason;

/// Something that has happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// A node is connected.
    Up(Atom),
    /// The connection to a node is gone.
    Down(Atom, DownReason),
    /// A node that [`Node::keep`](super::Node::keep) is to connect to could not be reached; it is
    /// tried again.
    Unreachable(Atom, String),
    /// So many events were missed: the receiver was more than 1,024 behind.
    Missed(u64),
}

/// A stream of [`NodeEvent`]s, from the time on when it was made.
#[derive(Debug)]
pub struct NodeEvents(pub(super) Receiver<NodeEvent>);

impl NodeEvents {
    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<NodeEvent> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(count)) => Some(NodeEvent::Missed(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    /// Waits for the next event; `None` once the node has ended. Nothing is lost if the future
    /// is dropped.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(count)) => Some(NodeEvent::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}
