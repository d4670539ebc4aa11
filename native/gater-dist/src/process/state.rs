//! The tables of the processes of a node: their names, calls, links and monitors.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use gater_term::{Pid, Reference, Term};
use tokio::sync::oneshot;

use super::mailbox::{Item, Mailbox};
use super::{CallError, Target, wire};
use crate::Connection;
use crate::protocol::encode::Signal;

/// The greatest number of monitors, and the greatest number of links, of other processes that one
/// process accepts. Further ones are refused with the reason `system_limit`.
pub const MAX_WATCHERS: usize = 100_000;

/// The connection on which an entry depends, or `None` for a process of this node.
#[derive(Debug, Clone)]
pub struct Via(Option<Weak<Connection>>);

impl Via {
    /// The value for processes of this node.
    pub const HERE: Self = Self(None);

    /// Returns the value for an entry that depends on `connection`.
    pub fn over(connection: &Arc<Connection>) -> Self {
        Self(Some(Arc::downgrade(connection)))
    }

    /// Returns whether the entry depends on `connection`.
    pub fn is(&self, connection: &Arc<Connection>) -> bool {
        self.0.as_ref().is_some_and(|over| std::ptr::eq(over.as_ptr(), Arc::as_ptr(connection)))
    }

    fn is_here(&self) -> bool {
        self.0.is_none()
    }

    fn signal(&self, signal: impl FnOnce(&Connection) -> Signal) {
        if let Some(connection) = self.0.as_ref().and_then(Weak::upgrade) {
            connection.signal(signal(&connection));
        }
    }
}

/// A monitor of a process of this node.
struct Watcher {
    pid: Pid,
    /// The process as the monitor named it, encoded.
    named: Vec<u8>,
    via: Via,
}

/// A monitor that a process of this node has on another process.
struct Monitored {
    target: Target,
    /// The monitored process, if it is on this node.
    ours: Option<Pid>,
    via: Via,
}

struct Entry {
    mailbox: Arc<Mailbox>,
    links: HashMap<Pid, Via>,
    watchers: HashMap<Reference, Watcher>,
    monitors: HashMap<Reference, Monitored>,
}

/// A call that waits for its answer.
pub struct Pending {
    /// The sender of the answer.
    pub answer: oneshot::Sender<Result<Term, CallError>>,
    /// The connection on which the call depends.
    pub via: Via,
}

/// The tables of a node.
#[derive(Default)]
pub struct State {
    processes: HashMap<Pid, Entry>,
    names: HashMap<String, Pid>,
    /// The process of this node to which a monitor of a remote process, or of a caller, belongs.
    watched: HashMap<Reference, Pid>,
    calls: HashMap<Reference, Pending>,
    closed: bool,
}

fn encoded(atom: &str) -> Bytes {
    let mut out = Vec::new();
    gater_term::encode::atom(&mut out, atom);
    out.into()
}

impl State {
    /// Adds a process.
    pub fn begin(&mut self, pid: Pid, mailbox: Arc<Mailbox>) {
        if self.closed {
            mailbox.close();
        }
        let (links, watchers, monitors) = Default::default();
        self.processes.insert(pid, Entry { mailbox, links, watchers, monitors });
    }

    /// Returns the process that has registered a name.
    pub fn whereis(&self, name: &str) -> Option<&Pid> {
        self.names.get(name)
    }

    /// Registers a name. Returns false if it is taken.
    pub fn register(&mut self, name: &str, pid: &Pid) -> bool {
        let free = !self.names.contains_key(name);
        if free {
            self.names.insert(name.to_owned(), pid.clone());
        }
        free
    }

    /// Unregisters a name of `pid`. Returns false if `pid` has not registered it.
    pub fn unregister(&mut self, name: &str, pid: &Pid) -> bool {
        self.names.get(name) == Some(pid) && self.names.remove(name).is_some()
    }

    /// Returns the process of this node with a name or pid.
    pub fn find(&self, target: &Target) -> Option<&Pid> {
        match target {
            Target::Pid(pid) => self.processes.get_key_value(pid).map(|(pid, _)| pid),
            Target::Name { name, .. } => self.whereis(name.as_str()),
        }
    }

    /// Returns the mailbox of a process of this node.
    pub fn mailbox(&self, pid: &Pid) -> Option<&Arc<Mailbox>> {
        self.processes.get(pid).map(|entry| &entry.mailbox)
    }

    /// Adds a call that waits for its answer.
    pub fn call(&mut self, alias: Reference, pending: Pending) {
        self.calls.insert(alias, pending);
    }

    /// Removes a call that was answered or is no longer waited for.
    pub fn answered(&mut self, alias: &Reference) -> Option<Pending> {
        self.calls.remove(alias)
    }

    /// Records that `me` monitors a process elsewhere.
    pub fn monitors(&mut self, me: &Pid, reference: Reference, target: Target, via: Via) {
        if let Some(entry) = self.processes.get_mut(me) {
            entry.monitors.insert(reference, Monitored { target, ours: None, via });
        }
    }

    /// Adds a monitor of a process of this node by a process on this node or at the other end of
    /// `via`. The error is the exit reason to report instead.
    pub fn watch(
        &mut self,
        by: &Pid,
        target: Target,
        reference: Reference,
        via: Via,
    ) -> Result<(), Bytes> {
        let pid = self.find(&target).cloned().ok_or_else(|| encoded("noproc"))?;
        let entry = self.processes.get_mut(&pid).ok_or_else(|| encoded("noproc"))?;
        if entry.watchers.len() >= MAX_WATCHERS {
            return Err(encoded("system_limit"));
        }
        let mut named = Vec::new();
        wire::put_target(&mut named, &target);
        let here = via.is_here();
        let watcher = Watcher { pid: by.clone(), named, via };
        entry.watchers.insert(reference.clone(), watcher);
        self.watched.insert(reference.clone(), pid.clone());
        if here && let Some(entry) = self.processes.get_mut(by) {
            let monitored = Monitored { target, ours: Some(pid), via: Via::HERE };
            entry.monitors.insert(reference, monitored);
        }
        Ok(())
    }

    /// Removes a monitor of a process of this node that `by` has ended.
    pub fn unwatch(&mut self, reference: &Reference, by: &Pid) {
        let Some(pid) = self.watched.get(reference) else { return };
        if let Some(entry) = self.processes.get_mut(pid)
            && entry.watchers.get(reference).is_some_and(|watcher| watcher.pid == *by)
        {
            entry.watchers.remove(reference);
            self.watched.remove(reference);
        }
    }

    /// Ends a monitor of the process `me` of this node.
    pub fn demonitor(&mut self, me: &Pid, reference: &Reference) {
        let Some(entry) = self.processes.get_mut(me) else { return };
        entry.mailbox.forget(reference);
        if let Some(Monitored { target, ours, via }) = entry.monitors.remove(reference) {
            if ours.is_some() {
                self.unwatch(reference, me);
            }
            via.signal(|_| wire::monitor(false, me, &target, reference));
        }
    }

    /// Handles the end of a process that `me`, a process of this node or a caller, monitors. Does
    /// nothing if the process is not monitored, or is monitored over another connection than
    /// `over`.
    pub fn down(
        &mut self,
        me: &Pid,
        reference: &Reference,
        over: Option<&Arc<Connection>>,
        reason: &Bytes,
    ) {
        let matches = |via: &Via| over.is_none_or(|connection| via.is(connection));
        if let Some(entry) = self.processes.get_mut(me) {
            if entry.monitors.get(reference).is_some_and(|monitored| matches(&monitored.via))
                && let Some(Monitored { target, .. }) = entry.monitors.remove(reference)
            {
                let (monitor, reason) = (reference.clone(), reason.clone());
                entry.mailbox.put(Item::Down { monitor, target, reason });
            }
        } else if self.calls.get(reference).is_some_and(|call| matches(&call.via))
            && let Some(call) = self.calls.remove(reference)
        {
            let error = Term::decode(reason).map_or(CallError::BadAnswer, CallError::of_exit);
            // The caller may have stopped waiting.
            let _ = call.answer.send(Err(error));
        }
    }

    /// Reports to `me` the end of a process that it could not start to monitor.
    pub fn down_at_once(&mut self, me: &Pid, monitor: Reference, target: Target, reason: &str) {
        if let Some(entry) = self.processes.get(me) {
            entry.mailbox.put(Item::Down { monitor, target, reason: encoded(reason) });
        }
    }

    /// Links the process `me` of this node with `other`, at the other end of `via`. The error is
    /// the reason why they cannot be linked.
    pub fn link(&mut self, me: &Pid, other: &Pid, via: Via) -> Result<(), &'static str> {
        let entry = self.processes.get_mut(me).ok_or("noproc")?;
        if entry.links.len() >= MAX_WATCHERS {
            return Err("system_limit");
        }
        entry.links.insert(other.clone(), via);
        Ok(())
    }

    /// Links two processes of this node.
    pub fn link_here(&mut self, me: &Pid, other: &Pid) {
        match self.link(other, me, Via::HERE) {
            Ok(()) if self.link(me, other, Via::HERE).is_ok() => {}
            Ok(()) => drop(self.unlink(other, me)),
            Err(reason) => self.exit_at_once(me, other, reason),
        }
    }

    /// Removes a link. Returns the connection on which it depended, or `None` if it did not exist.
    pub fn unlink(&mut self, me: &Pid, other: &Pid) -> Option<Via> {
        self.processes.get_mut(me)?.links.remove(other)
    }

    /// Ends the link of the process `me` of this node with `other`.
    pub fn unlink_both(&mut self, id: u64, me: &Pid, other: &Pid) {
        if let Some(via) = self.unlink(me, other) {
            self.unlink(other, me);
            via.signal(|_| wire::unlink(id, me, other));
        }
    }

    /// Reports to `me` the end of a process with which it could not be linked.
    pub fn exit_at_once(&mut self, me: &Pid, other: &Pid, reason: &str) {
        if let Some(entry) = self.processes.get(me) {
            entry.mailbox.put(Item::Exit { from: other.clone(), reason: encoded(reason) });
        }
    }

    /// Handles the end of a process that may be linked to `me`.
    pub fn link_broken(
        &mut self,
        me: &Pid,
        from: &Pid,
        over: Option<&Arc<Connection>>,
        reason: &Bytes,
    ) {
        let matches = |via: &Via| over.is_none_or(|connection| via.is(connection));
        if let Some(entry) = self.processes.get_mut(me)
            && entry.links.get(from).is_some_and(matches)
        {
            entry.links.remove(from);
            entry.mailbox.put(Item::Exit { from: from.clone(), reason: reason.clone() });
        }
    }

    /// Ends a process of this node. All processes that are linked to it or monitor it are told.
    pub fn end(&mut self, me: &Pid, reason: &Bytes) {
        let Some(entry) = self.processes.remove(me) else { return };
        entry.mailbox.close();
        self.names.retain(|_, pid| pid != me);
        for (reference, monitored) in entry.monitors {
            if monitored.ours.is_some() {
                self.unwatch(&reference, me);
            }
            monitored.via.signal(|_| wire::monitor(false, me, &monitored.target, &reference));
        }
        for (reference, Watcher { pid, named, via }) in entry.watchers {
            self.watched.remove(&reference);
            if via.is_here() {
                self.down(&pid, &reference, None, reason);
            }
            via.signal(|to| {
                wire::monitor_exit(to.format().exit_payload, &named, &pid, &reference, reason)
            });
        }
        for (other, via) in entry.links {
            if via.is_here() {
                self.link_broken(&other, me, None, reason);
            }
            via.signal(|to| wire::exit(to.format().exit_payload, me, &other, reason));
        }
    }

    /// Handles the end of a connection and of everything that depended on it.
    pub fn lost(&mut self, connection: &Arc<Connection>) {
        let reason = encoded("noconnection");
        let Self { processes, watched, calls, .. } = self;
        for entry in processes.values_mut() {
            for (from, _) in entry.links.extract_if(|_, via| via.is(connection)) {
                entry.mailbox.put(Item::Exit { from, reason: reason.clone() });
            }
            let lost = entry.monitors.extract_if(|_, monitored| monitored.via.is(connection));
            for (monitor, Monitored { target, .. }) in lost {
                entry.mailbox.put(Item::Down { monitor, target, reason: reason.clone() });
            }
            for (reference, _) in entry.watchers.extract_if(|_, by| by.via.is(connection)) {
                watched.remove(&reference);
            }
        }
        for (_, call) in calls.extract_if(|_, call| call.via.is(connection)) {
            let cause = connection.reason().to_string();
            let _ = call.answer.send(Err(CallError::NoConnection(cause)));
        }
    }

    /// Handles the end of the node: mailboxes close once they are empty, and calls fail.
    pub fn close(&mut self) {
        self.closed = true;
        self.processes.values().for_each(|entry| entry.mailbox.close());
        for (_, call) in self.calls.drain() {
            let _ = call.answer.send(Err(CallError::NoConnection("the node has ended".into())));
        }
    }
}
