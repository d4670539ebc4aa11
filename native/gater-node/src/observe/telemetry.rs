//! Events of the gateway for the telemetry handlers of linked BEAM nodes.
//!
//! Nothing is encoded or sent without a listener: [`Telemetry::wants`] is one atomic load.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use gater_dist::{Lane, Payload};
use gater_term::{Atom, LocalPid, Pid, encode};
use parking_lot::RwLock;

use crate::clock;
use crate::observe::alarms;
use crate::transport::peers::PeerRef;

/// An event of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// `[esdb_gater, worker, registered]`
    WorkerRegistered,
    /// `[esdb_gater, worker, unregistered]`
    WorkerUnregistered,
    /// `[esdb_gater, cluster, node, up]`
    NodeUp,
    /// `[esdb_gater, cluster, node, down]`
    NodeDown,
    /// `[esdb_gater, channel, broadcast]`
    Broadcast,
    /// `[esdb_gater, channel, dropped]`
    Dropped,
    /// `[esdb_gater, alarm, raised]`
    AlarmRaised,
    /// `[esdb_gater, alarm, cleared]`
    AlarmCleared,
}

impl Event {
    /// All events, in the order of their bits.
    pub const ALL: [Self; 8] = [
        Self::WorkerRegistered,
        Self::WorkerUnregistered,
        Self::NodeUp,
        Self::NodeDown,
        Self::Broadcast,
        Self::Dropped,
        Self::AlarmRaised,
        Self::AlarmCleared,
    ];

    /// Returns the name of the event in telemetry, as a list of atoms.
    pub fn name(self) -> &'static [&'static str] {
        match self {
            Self::WorkerRegistered => &["esdb_gater", "worker", "registered"],
            Self::WorkerUnregistered => &["esdb_gater", "worker", "unregistered"],
            Self::NodeUp => &["esdb_gater", "cluster", "node", "up"],
            Self::NodeDown => &["esdb_gater", "cluster", "node", "down"],
            Self::Broadcast => &["esdb_gater", "channel", "broadcast"],
            Self::Dropped => &["esdb_gater", "channel", "dropped"],
            Self::AlarmRaised => &["esdb_gater", "alarm", "raised"],
            Self::AlarmCleared => &["esdb_gater", "alarm", "cleared"],
        }
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The listeners of each event.
#[derive(Default)]
pub struct Telemetry {
    wanted: AtomicU32,
    listeners: RwLock<Vec<Listener>>,
}

struct Listener {
    peer: PeerRef,
    local: LocalPid,
    events: u32,
}

impl Telemetry {
    /// Returns whether any process listens to `event`.
    pub fn wants(&self, event: Event) -> bool {
        self.wanted.load(Ordering::Relaxed) & event.bit() != 0
    }

    /// Makes a process listen to `events`, and to no others.
    pub fn listen(&self, peer: &PeerRef, local: LocalPid, events: &[Event]) {
        let events = events.iter().fold(0, |bits, event| bits | event.bit());
        let mut listeners = self.listeners.write();
        listeners.retain(|l| l.peer != *peer || l.local != local);
        if events != 0 {
            listeners.push(Listener { peer: peer.clone(), local, events });
        }
        self.recount(&listeners);
    }

    /// Removes the listeners of an incarnation.
    pub fn forget_peer(&self, peer: &PeerRef) {
        let mut listeners = self.listeners.write();
        listeners.retain(|listener| listener.peer != *peer);
        self.recount(&listeners);
    }

    fn recount(&self, listeners: &[Listener]) {
        let wanted = listeners.iter().fold(0, |bits, listener| bits | listener.events);
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Reports that a node is connected or disconnected. `counts` returns the number of nodes that
    /// are connected to any gateway of the cluster, and the number of gateways.
    pub fn node(&self, event: Event, node: &Atom, counts: impl FnOnce() -> (usize, usize)) {
        self.emit(event, |out| {
            encode::map(out, 1);
            encode::atom(out, "system_time");
            encode::uint(out, clock::unix_millis());
            let (nodes, gateways) = counts();
            encode::map(out, 3);
            encode::atom(out, "node");
            encode::atom(out, node.as_str());
            encode::atom(out, "member_count");
            encode::uint(out, nodes as u64);
            encode::atom(out, "gateway_count");
            encode::uint(out, gateways as u64);
        });
    }

    /// Reports that a worker was registered or unregistered.
    pub fn worker(&self, event: Event, store: &Atom, pid: &Pid) {
        self.emit(event, |out| {
            let with_node = event == Event::WorkerRegistered;
            encode::map(out, 1);
            encode::atom(out, "system_time");
            encode::uint(out, clock::unix_millis());
            encode::map(out, if with_node { 3 } else { 2 });
            encode::atom(out, "store_id");
            encode::atom(out, store.as_str());
            encode::atom(out, "pid");
            encode::pid(out, pid);
            if with_node {
                encode::atom(out, "node");
                encode::atom(out, pid.node.as_str());
            }
        });
    }

    /// Emits that an alarm was raised, or is over.
    pub fn alarm(&self, change: &alarms::Change) {
        let (event, alarm) = match change {
            alarms::Change::Raised(alarm) => (Event::AlarmRaised, alarm),
            alarms::Change::Cleared(alarm) => (Event::AlarmCleared, alarm),
        };
        self.emit(event, |out| {
            encode::map(out, 1);
            encode::atom(out, "system_time");
            encode::uint(out, clock::unix_millis());
            encode::map(out, 5);
            // Names and severities are few and are this program's own.
            for (key, name) in [("alarm", &alarm.name), ("severity", &alarm.severity)] {
                encode::atom(out, key);
                encode::atom(out, name);
            }
            encode::atom(out, "subject");
            match &alarm.subject {
                Some(subject) => encode::binary(out, subject.as_bytes()),
                None => encode::atom(out, "undefined"),
            }
            for (key, text) in [("text", &alarm.text), ("next_step", &alarm.next_step)] {
                encode::atom(out, key);
                encode::binary(out, text.as_bytes());
            }
        });
    }

    /// Sends `{esdb_gater_event, Name, Measurements, Metadata}` to all listeners. `body` writes the
    /// two maps, and runs only if there is a listener.
    pub fn emit(&self, event: Event, body: impl FnOnce(&mut Vec<u8>)) {
        if !self.wants(event) {
            return;
        }
        let mut out = Vec::with_capacity(256);
        encode::tuple(&mut out, 4);
        encode::atom(&mut out, "esdb_gater_event");
        encode::list_of(&mut out, event.name().iter(), |out, part| encode::atom(out, part));
        body(&mut out);
        let payload = Payload::from(Bytes::from(out));
        for listener in self.listeners.read().iter() {
            if listener.events & event.bit() != 0
                && let Some(link) = &*listener.peer.link()
            {
                link.send(Lane::Low, listener.local, &payload);
            }
        }
    }
}
