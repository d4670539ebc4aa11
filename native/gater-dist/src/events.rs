//! What a node tells its user.

use std::sync::Arc;

use bytes::Bytes;
use gater_term::{Atom, Pid, Reference};

use crate::protocol::session::Processes;
use crate::{Connection, DialError, DownReason, Lane, Loss};

/// A message a peer sent to this node.
#[derive(Debug)]
pub struct Message<'a> {
    /// Whom it is for.
    pub to: Target<'a>,
    /// One valid term, without the version byte. Long payloads are slices of the
    /// receive buffer: keep a copy rather than the slice if it is kept for long.
    pub payload: Bytes,
}

/// The receiver of a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// A registered name. `net_kernel` never gets here; unknown names do not either.
    Name(&'a str),
    /// A pid this incarnation of the node handed out.
    Pid(Pid),
    /// An alias of this node.
    Alias(Reference),
}

/// Receives what happens on the connections of a [`Node`](crate::Node).
///
/// The calls of one connection come in order, `up` first and `down` last, on the
/// task of that connection: they must not block.
pub trait Events: Send + Sync + 'static {
    /// Whether `name` is registered on this node. Asked for every message and
    /// monitor by name; `net_kernel` is answered by the node itself.
    fn knows(&self, name: &str) -> bool;

    /// A connection is established. A peer that came back while its old
    /// connection still stood gives `down` for the old one first.
    fn up(&self, peer: &Arc<Connection>);

    /// A connection is gone. Its monitors are forgotten without an [`Events::exited`], unless the
    /// peer is of a kind that tells the end of its processes by the end of the connection
    /// alone, as programs of C's `ei` are: those were reported just before.
    fn down(&self, peer: &Arc<Connection>, reason: &DownReason);

    /// A message has arrived.
    fn message(&self, peer: &Arc<Connection>, message: Message<'_>);

    /// A process monitored by [`Connection::monitor`] has ended, or never was.
    /// `reason` is a valid term.
    fn exited(&self, peer: &Arc<Connection>, pid: &Pid, reason: Bytes);

    /// The processes of the node, if it has any that end: they take the control messages of
    /// peers. See [`process`](crate::process).
    #[doc(hidden)]
    fn processes(&self) -> Option<&dyn Processes> {
        None
    }

    /// A dial of a node that is to be kept connected has failed; it is tried again.
    fn unreachable(&self, _node: &Atom, _error: &DialError) {}

    /// Messages that have the prefix named in `loss` in common will not be sent. Called by
    /// whoever pushed the message that did not fit or ended the connection, on its thread.
    fn dropped(&self, _peer: &Arc<Connection>, _lane: Lane, _loss: &Loss) {}
}
