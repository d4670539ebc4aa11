//! A process of a node.

use std::sync::Arc;

use bytes::Bytes;
use gater_term::{Atom, Pid, Reference, Term};

use super::mailbox::{Item, Mailbox};
use super::state::Via;
use super::{Caller, Destination, Node, RegisterError, SendError, Target, wire};
use crate::gen_server::{self, Request};
use crate::protocol::flags::Watch;
use crate::protocol::session::NET_KERNEL;

/// A message or signal that a process has received.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message {
        /// The sender, if the peer names it.
        from: Option<Pid>,
        /// The message.
        body: Term,
    },
    /// A call, as made by `gen_server:call`.
    Call {
        /// The caller, which is answered with [`Caller::reply`].
        caller: Caller,
        /// The request.
        request: Term,
    },
    /// A cast, as made by `gen_server:cast`.
    Cast(Term),
    /// A monitored process has ended, never existed, or is out of reach (`noconnection`).
    Down {
        /// The reference of the monitor, which has ended.
        monitor: Reference,
        /// The process as it was monitored.
        target: Target,
        /// The reason of its end.
        reason: Term,
    },
    /// A linked process has ended, or another process has sent an exit signal.
    Exit {
        /// The process that ended or sent the signal.
        from: Pid,
        /// The exit reason.
        reason: Term,
    },
}

/// A process of a [`Node`], with a pid and a mailbox. Dropping the value ends the process.
#[derive(Debug)]
pub struct Process {
    node: Node,
    pid: Pid,
    mailbox: Arc<Mailbox>,
}

impl Process {
    pub(super) fn new(node: Node, pid: Pid, mailbox: Arc<Mailbox>) -> Self {
        Self { node, pid, mailbox }
    }

    /// Returns the pid of the process.
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// Returns the node of the process.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the number of dropped messages, for which the mailbox was full or which were nested
    /// too deep.
    pub fn dropped(&self) -> u64 {
        self.mailbox.dropped()
    }

    /// Waits for the next message or signal. Returns `None` once the node is shut down. The method
    /// is cancel-safe.
    pub async fn receive(&mut self) -> Option<Received> {
        loop {
            let item = self.mailbox.next().await?;
            match self.decode(item) {
                Some(received) => return Some(received),
                None => self.mailbox.count_dropped(),
            }
        }
    }

    fn decode(&self, item: Item) -> Option<Received> {
        let term = |bytes: &Bytes| Term::decode(bytes).ok();
        // The end of a process is reported even if its reason cannot be decoded.
        let reason = |bytes: &Bytes| term(bytes).unwrap_or_else(|| crate::term!(unreadable_reason));
        Some(match item {
            Item::Message { from, body } => match gen_server::parse(&body) {
                Request::Call { from, request } => {
                    let request = term(&request)?;
                    Received::Call { caller: Caller::new(self.node.clone(), from), request }
                }
                Request::Cast(message) => Received::Cast(term(&message)?),
                Request::System { .. } | Request::Other(_) => {
                    Received::Message { from, body: term(&body)? }
                }
            },
            Item::Down { monitor, target, reason: bytes } => {
                Received::Down { monitor, target, reason: reason(&bytes) }
            }
            Item::Exit { from, reason: bytes } => Received::Exit { from, reason: reason(&bytes) },
        })
    }

    /// Registers the process under `name` on its node.
    pub fn register(&self, name: &str) -> Result<(), RegisterError> {
        if matches!(name, "" | "undefined" | NET_KERNEL) || Atom::new(name).is_err() {
            return Err(RegisterError::BadName(name.to_owned()));
        }
        match self.node.0.state.lock().register(name, &self.pid) {
            true => Ok(()),
            false => Err(RegisterError::Taken(name.to_owned())),
        }
    }

    /// Unregisters a name. Returns whether it was registered for this process.
    pub fn unregister(&self, name: &str) -> bool {
        self.node.0.state.lock().unregister(name, &self.pid)
    }

    /// Does the same as [`Node::send`], with this process as the sender.
    pub async fn send(&self, to: impl Into<Destination>, message: &Term) -> Result<(), SendError> {
        let to = self.node.0.resolve(to)?;
        self.node.0.send(&self.pid, &to, message.to_vec()).await
    }

    /// Does the same as [`Node::cast`], with this process as the sender.
    pub async fn cast(&self, to: impl Into<Destination>, message: &Term) -> Result<(), SendError> {
        let to = self.node.0.resolve(to)?;
        self.node.0.send(&self.pid, &to, wire::gen_cast(message)).await
    }

    /// Monitors a process. Its end arrives once, as [`Received::Down`] with the returned reference.
    /// It arrives immediately if the process does not exist or there is no connection.
    pub async fn monitor(&self, target: impl Into<Destination>) -> Result<Reference, SendError> {
        let inner = &self.node.0;
        let (target, reference) = (inner.resolve(target)?, inner.reference());
        if target.node() == inner.lower.name() {
            let mut state = inner.state.lock();
            let watching = state.watch(&self.pid, target.clone(), reference.clone(), Via::HERE);
            if let Err(reason) = watching {
                let reason = if reason.ends_with(b"noproc") { "noproc" } else { "system_limit" };
                state.down_at_once(&self.pid, reference.clone(), target, reason);
            }
            return Ok(reference);
        }
        let Ok(connection) = inner.connection(target.node()).await else {
            let mut state = inner.state.lock();
            state.down_at_once(&self.pid, reference.clone(), target, "noconnection");
            return Ok(reference);
        };
        let mut state = inner.state.lock();
        let via = Via::over(&connection);
        state.monitors(&self.pid, reference.clone(), target.clone(), via);
        if connection.format().watch == Watch::Monitor {
            // The lock is held, so that signals are sent in the order in which the table changes.
            connection.signal(wire::monitor(true, &self.pid, &target, &reference));
        }
        if connection.is_closed() {
            // The end of the connection may have been handled before.
            state.lost(&connection);
        }
        Ok(reference)
    }

    /// Stops monitoring. A [`Received::Down`] of the monitor that waits in the mailbox is removed.
    pub fn demonitor(&self, monitor: &Reference) {
        self.node.0.state.lock().demonitor(&self.pid, monitor);
    }

    /// Links this process with another one. When either ends, the other receives an exit signal;
    /// this process receives one immediately if the other does not exist (`noproc`) or there is no
    /// connection (`noconnection`).
    pub async fn link(&self, other: &Pid) {
        let inner = &self.node.0;
        if other.node == *inner.lower.name() {
            inner.state.lock().link_here(&self.pid, other);
            return;
        }
        let Ok(connection) = inner.connection(&other.node).await else {
            inner.state.lock().exit_at_once(&self.pid, other, "noconnection");
            return;
        };
        let mut state = inner.state.lock();
        if let Err(reason) = state.link(&self.pid, other, Via::over(&connection)) {
            state.exit_at_once(&self.pid, other, reason);
        } else if !connection.signal(wire::link(&self.pid, other)) || connection.is_closed() {
            state.lost(&connection);
        }
    }

    /// Removes a link.
    pub fn unlink(&self, other: &Pid) {
        let inner = &self.node.0;
        inner.state.lock().unlink_both(inner.number(), &self.pid, other);
    }

    /// Ends the process. Linked and monitoring processes are told `reason`.
    pub fn exit(self, reason: &Term) {
        self.end(reason);
    }

    fn end(&self, reason: &Term) {
        self.node.0.state.lock().end(&self.pid, &reason.to_vec().into());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This does nothing if the process has ended already.
        let panics = std::thread::panicking();
        self.end(&if panics { crate::term!(panic) } else { crate::term!(normal) });
    }
}
