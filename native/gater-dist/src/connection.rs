//! One established connection to a peer, as its user sees it.

use gater_core::etf::{Atom, Pid};

use crate::gen_server::From;
use crate::{Lane, LocalPid, Payload};

/// Who is at the other end of a [`Connection`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: Atom,
    /// The node's incarnation.
    pub creation: u32,
    /// The distribution flags the peer offered.
    pub flags: u64,
    /// Whether the peer is a hidden node.
    pub hidden: bool,
}

/// An established connection. Sending never blocks: messages are queued in lanes.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
}

/// What waits to be written on a connection, per [`Lane`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queued {
    /// Bytes per lane.
    pub bytes: [usize; 5],
    /// Queue items per lane.
    pub items: [usize; 5],
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Sends `payload` to a process of the peer.
    pub fn send(&self, _lane: Lane, _to: LocalPid, _payload: &Payload) {}

    /// Sends `payload` to several processes of the peer; the payload is queued once.
    pub fn send_many(&self, _lane: Lane, _to: &[LocalPid], _payload: &Payload) {}

    /// Sends `payload` to a registered name on the peer.
    pub fn send_name(&self, _lane: Lane, _name: &str, _payload: &Payload) {}

    /// Answers a call that arrived on this connection with the encoded term `reply`,
    /// in the control lane.
    pub fn reply(&self, _from: &From, _reply: &[u8]) {}

    /// Monitors a process of the peer; its end is told by
    /// [`Events::exited`](crate::Events::exited), once. Monitoring twice is monitoring
    /// once. False, and nothing done, if the pid is not of this node.
    pub fn monitor(&self, _pid: &Pid) -> bool {
        false
    }

    /// Stops monitoring.
    pub fn demonitor(&self, _pid: &Pid) {}

    /// Closes the connection at once; what is queued is lost.
    pub fn close(&self, _reason: &'static str) {}

    /// Whether the connection is gone or about to go.
    pub fn is_closed(&self) -> bool {
        false
    }

    /// What waits to be written.
    pub fn queued(&self) -> Queued {
        Queued::default()
    }
}
