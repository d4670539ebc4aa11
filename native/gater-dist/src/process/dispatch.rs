//! Passes the events of the connections underneath to processes.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use gater_term::{Atom, Pid, Reference, Term};

use super::inner::Inner;
use super::state::Via;
use super::{NodeEvent, Target, wire};
use crate::gen_server::{self, Request};
use crate::protocol::control::{Control, Process, RawPid};
use crate::protocol::session::{NET_KERNEL, Processes, reference};
use crate::{Chain, Connection, DialError, DownReason, Events, Message};

/// Receives the events of the connections of a node for as long as the node has handles.
pub struct Dispatcher(pub Weak<Inner>);

impl Events for Dispatcher {
    fn knows(&self, name: &str) -> bool {
        self.0.upgrade().is_some_and(|inner| inner.state.lock().whereis(name).is_some())
    }

    fn up(&self, peer: &Arc<Connection>) {
        self.report(|| NodeEvent::Up(peer.peer().name.clone()));
    }

    fn down(&self, peer: &Arc<Connection>, reason: &DownReason) {
        if let Some(inner) = self.0.upgrade() {
            inner.state.lock().lost(peer);
        }
        self.report(|| NodeEvent::Down(peer.peer().name.clone(), reason.clone()));
    }

    /// Does nothing, since processes take all messages in [`Processes::control`].
    fn message(&self, _peer: &Arc<Connection>, _message: Message<'_>) {}

    /// Does nothing, since processes have monitors of their own and do not use those of
    /// connections.
    fn exited(&self, _peer: &Arc<Connection>, _pid: &Pid, _reason: Bytes) {}

    fn unreachable(&self, node: &Atom, error: &DialError) {
        self.report(|| NodeEvent::Unreachable(node.clone(), Chain(error).to_string()));
    }

    fn processes(&self) -> Option<&dyn Processes> {
        Some(self)
    }
}

impl Dispatcher {
    fn report(&self, event: impl FnOnce() -> NodeEvent) {
        if let Some(inner) = self.0.upgrade() {
            // There may be no receiver.
            let _ = inner.events.send(event());
        }
    }
}

impl Processes for Dispatcher {
    fn control(&self, peer: &Arc<Connection>, control: &Control<'_>, payload: &Bytes) -> bool {
        // A node without handles answers like a node without processes.
        self.0.upgrade().is_some_and(|inner| inner.control(peer, control, payload))
    }
}

fn pid(raw: &RawPid<'_>) -> Option<Pid> {
    let node = Atom::new(std::str::from_utf8(raw.node).ok()?).ok()?;
    Some(Pid { node, id: raw.id, serial: raw.serial, creation: raw.creation })
}

fn pid_of(peer: &Connection, raw: &RawPid<'_>) -> Option<Pid> {
    let pid = pid(raw)?;
    (pid.node == peer.peer().name && pid.creation == peer.peer().creation).then_some(pid)
}

/// Returns a copy of the reason. A slice would keep the whole buffer of the connection.
fn reason_of(reason: &Option<&[u8]>, payload: &Bytes) -> Bytes {
    Bytes::copy_from_slice(reason.unwrap_or(payload))
}

impl Inner {
    fn target(&self, process: &Process<'_>) -> Option<Target> {
        match process {
            Process::Pid(raw) => pid(raw).map(Target::Pid),
            Process::Name { text, .. } => {
                let name = Atom::new(std::str::from_utf8(text).ok()?).ok()?;
                Some(Target::Name { name, node: self.lower.name().clone() })
            }
        }
    }

    /// Handles a control message. Returns false if the node itself has to handle it.
    fn control(&self, peer: &Arc<Connection>, control: &Control<'_>, payload: &Bytes) -> bool {
        let is_node = |to: &Process<'_>| match to {
            Process::Name { text, .. } => *text == NET_KERNEL.as_bytes(),
            Process::Pid(_) => false,
        };
        match control {
            Control::Send { to, .. } | Control::Monitor { to, .. } if is_node(to) => return false,
            Control::Send { from, to } => {
                if let Some(target) = self.target(to) {
                    self.received(peer, &target, from.as_ref().and_then(pid), payload);
                }
            }
            Control::SendAlias { to, .. } => {
                if let Some(alias) = reference(to) {
                    self.answered(&alias, payload);
                }
            }
            Control::Link { from, to } => {
                if let (Some(from), Some(to)) = (pid_of(peer, from), pid(to)) {
                    self.linked(peer, &from, &to);
                }
            }
            Control::UnlinkId { from, to, .. } => {
                if let (Some(from), Some(to)) = (pid_of(peer, from), pid(to)) {
                    self.state.lock().unlink(&to, &from);
                }
                // The node itself acknowledges the message.
                return false;
            }
            Control::Exit { from, to, reason } => {
                if let (Some(from), Some(to)) = (pid_of(peer, from), pid(to)) {
                    let reason = reason_of(reason, payload);
                    self.state.lock().link_broken(&to, &from, Some(peer), &reason);
                }
            }
            Control::ExitSignal { from, to, reason } => {
                if let (Some(from), Some(to)) = (pid_of(peer, from), pid(to))
                    && let Some(mailbox) = self.state.lock().mailbox(&to)
                {
                    mailbox.offer_exit(from, reason_of(reason, payload));
                }
            }
            Control::Monitor { from, to, reference: raw } => {
                if let (Some(from), Some(to), Some(alias)) =
                    (pid_of(peer, from), self.target(to), reference(raw))
                    // Otherwise a peer could replace a monitor of another node.
                    && alias.node() == &from.node
                {
                    self.monitored(peer, &from, to, alias);
                }
            }
            Control::Demonitor { from, reference: raw } => {
                if let (Some(from), Some(alias)) = (pid_of(peer, from), reference(raw)) {
                    self.state.lock().unwatch(&alias, &from);
                }
            }
            Control::MonitorExit { to, reference: raw, reason, .. } => {
                let (Some(to), Some(alias)) = (pid(to), reference(raw)) else { return false };
                let mut state = self.state.lock();
                if to != self.caller && state.mailbox(&to).is_none() {
                    return false;
                }
                state.down(&to, &alias, Some(peer), &reason_of(reason, payload));
            }
            _ => return false,
        }
        true
    }

    fn received(&self, peer: &Arc<Connection>, to: &Target, from: Option<Pid>, payload: &Bytes) {
        if matches!(to, Target::Pid(pid) if *pid == self.caller) {
            // Servers that answer by themselves, as `net_kernel` of OTP does, send to the pid.
            if let Some(alias) = alias_of_answer(payload) {
                self.answered(&alias, payload);
            }
            return;
        }
        if let Request::System { from, request } = gen_server::parse(payload)
            && self.state.lock().find(to).is_some()
        {
            return peer.reply(&from, gen_server::system_refused(&request));
        }
        self.deliver(to, from, Bytes::copy_from_slice(payload));
    }

    /// Handles `{Tag, Reply}` that was sent to the alias of a call.
    pub fn answered(&self, alias: &Reference, payload: &[u8]) {
        let Some(call) = self.state.lock().answered(alias) else { return };
        let answer = match Term::decode(payload) {
            Ok(Term::Tuple(mut elements)) if elements.len() == 2 => elements.pop(),
            _ => None,
        };
        // The caller may have stopped waiting.
        let _ = call.answer.send(answer.ok_or(super::CallError::BadAnswer));
    }

    fn linked(&self, peer: &Arc<Connection>, from: &Pid, to: &Pid) {
        if let Err(reason) = self.state.lock().link(to, from, Via::over(peer)) {
            let reason = atom(reason);
            peer.signal(wire::exit(peer.format().exit_payload, to, from, &reason));
        }
    }

    fn monitored(&self, peer: &Arc<Connection>, from: &Pid, to: Target, alias: Reference) {
        let outcome = self.state.lock().watch(from, to.clone(), alias.clone(), Via::over(peer));
        if let Err(reason) = outcome {
            let mut named = Vec::new();
            wire::put_target(&mut named, &to);
            let in_payload = peer.format().exit_payload;
            peer.signal(wire::monitor_exit(in_payload, &named, from, &alias, &reason));
        }
    }
}

/// The alias in `{[alias | Alias], Reply}`.
fn alias_of_answer(payload: &[u8]) -> Option<Reference> {
    let Ok(Term::Tuple(elements)) = Term::decode(payload) else { return None };
    match elements.as_slice() {
        [Term::ImproperList(_, tail), _] => match &**tail {
            Term::Reference(alias) => Some(alias.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn atom(text: &str) -> Bytes {
    let mut out = Vec::new();
    gater_term::encode::atom(&mut out, text);
    out.into()
}
