//! The events that a node reports to its user.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gater_term::{Atom, Pid, Reference};

use crate::protocol::session::Processes;
use crate::{Connection, DialError, DownReason, HandshakeError, Lane, Loss};

/// A message that a peer sent to this node.
#[derive(Debug)]
pub struct Message<'a> {
    /// The receiver of the message.
    pub to: Target<'a>,
    /// The message: one valid term, without the version byte. Long payloads are slices of the
    /// receive buffer, so a receiver that keeps one for long should keep a copy.
    pub payload: Bytes,
}

/// The receiver of a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// A registered name. Messages to `net_kernel` and to unknown names are not reported.
    Name(&'a str),
    /// A pid that this incarnation of the node handed out.
    Pid(Pid),
    /// An alias of this node.
    Alias(Reference),
}

/// Receives the events of the connections of a [`Node`](crate::Node).
///
/// The events of one connection are reported in order, with `up` first and `down` last, on the task
/// of that connection. The methods must not block.
pub trait Events: Send + Sync + 'static {
    /// Returns whether `name` is registered on this node. The node asks for every message and every
    /// monitor by name, but answers for `net_kernel` itself.
    fn knows(&self, name: &str) -> bool;

    /// Reports that a connection is established. If the peer returned while its old connection was
    /// still established, `down` is called for the old connection first.
    fn up(&self, peer: &Arc<Connection>);

    /// Reports that a connection has ended. Its monitors are forgotten without a call of
    /// [`Events::exited`], unless the peer belongs to the kind that reports the end of its
    /// processes only by the end of the connection, as programs of C's `ei` do; the ends of these
    /// processes were reported just before.
    fn down(&self, peer: &Arc<Connection>, reason: &DownReason);

    /// Reports that a message has arrived.
    fn message(&self, peer: &Arc<Connection>, message: Message<'_>);

    /// Reports that a process that is monitored by [`Connection::monitor`] has ended or never
    /// existed. `reason` is a valid term.
    fn exited(&self, peer: &Arc<Connection>, pid: &Pid, reason: Bytes);

    /// Returns the processes of the node, if it has processes that can end. They take the control
    /// messages of peers. See [`process`](crate::process).
    fn processes(&self) -> Option<&dyn Processes> {
        None
    }

    /// Reports that dialling a node that is to be kept connected has failed. The node dials again.
    fn unreachable(&self, _node: &Atom, _error: &DialError) {}

    /// A peer that wanted to connect was refused, or gave up: `name` is what it called itself, if
    /// it came to that. Whoever reaches the port can cause this.
    fn refused(&self, _address: SocketAddr, _name: Option<&Atom>, _error: &HandshakeError) {}

    /// The peer has read what was sent before a probe, which took so long since the probe was
    /// written. Probes follow every hundred kilobytes or so, below the critical lane.
    fn read_by(&self, _peer: &Arc<Connection>, _took: Duration) {}

    /// Reports that messages with the common prefix that `loss` names will not be sent. It is
    /// called on the thread that pushed the message that did not fit, or that ended the connection.
    fn dropped(&self, _peer: &Arc<Connection>, _lane: Lane, _loss: &Loss) {}
}
