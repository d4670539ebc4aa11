//! `esdb_gater_session`: the service to which shims attach.
//!
//! A shim attaches one process per BEAM. That process receives the registry and every change of it,
//! and the telemetry events for which its node has handlers, and it may change the secret. The
//! session ends when the process does.

use std::sync::Arc;
use std::time::Instant;

use foldhash::HashSet;
use gater_core::channel::{Hmac, Priority};
use gater_dist::{Connection, Lane, Payload, gen_server::From};
use gater_term::{Atom, LocalPid, Pid, Reader, encode};
use parking_lot::Mutex;

use super::channel::local::Channel;
use super::channel::remote::Relays;
use super::{OK, error, error_with, unknown_request};
use crate::config::Mode;
use crate::observe::drops::Drops;
use crate::observe::logs;
use crate::observe::refusals::Refusals;
use crate::observe::telemetry::{Event, Telemetry};
use crate::registry::directory::Directory;
use crate::transport::peers::{Interest, PeerRef, Peers};

/// The registered name of the session service.
pub const NAME: &str = "esdb_gater_session";

/// The version of the session protocol this gateway speaks.
pub const VERSION: i64 = 1;

/// The greatest number of links of one node. A shim has one, and another one while it restarts.
const MAX_LINKS: usize = 16;
/// The cost of attaching, which sends the first part of the registry.
const ATTACH: usize = 500_000;
/// The greatest number of event names in one request of a listener.
const MAX_EVENT_NAMES: u32 = 64;

/// The observations of the gateway that it reports to nodes that ask.
pub struct Observed {
    /// The events for nodes that listen.
    pub telemetry: Arc<Telemetry>,
    /// Messages that were dropped.
    pub drops: Arc<Drops>,
    /// Requests that were refused.
    pub refusals: Arc<Refusals>,
}

/// The session service.
pub struct Sessions {
    own_name: Atom,
    started: Instant,
    directory: Arc<Directory>,
    peers: Arc<Peers>,
    observed: Observed,
    relays: Arc<Relays>,
    channels: Vec<Arc<Channel>>,
    capabilities: Mode,
    attached: Mutex<HashSet<(PeerRef, LocalPid)>>,
    /// All gateways of the cluster.
    gateways: Mutex<Vec<Atom>>,
}

impl Sessions {
    /// Returns the service of the gateway `own_name`.
    pub fn new(
        own_name: Atom,
        directory: Arc<Directory>,
        peers: Arc<Peers>,
        observed: Observed,
        relays: Arc<Relays>,
        channels: Vec<Arc<Channel>>,
        capabilities: Mode,
    ) -> Self {
        Self {
            gateways: Mutex::new(vec![own_name.clone()]),
            own_name,
            started: Instant::now(),
            directory,
            peers,
            observed,
            relays,
            channels,
            capabilities,
            attached: Mutex::default(),
        }
    }

    /// Answers a `gen_server:call`.
    pub fn call(&self, caller: &Arc<Connection>, from: From, request: &[u8]) {
        match Operation::parse(request) {
            Ok(Operation::Attach { version, .. }) if version != VERSION => {
                let reply = error_with("unsupported_version", |out| {
                    encode::list_of(out, [VERSION].iter(), |out, version| {
                        encode::int(out, *version)
                    });
                });
                caller.reply(&from, reply);
            }
            Ok(Operation::Attach { pid, parts, .. }) => self.attach(caller, &from, &pid, parts),
            Ok(Operation::Detach(pid)) => {
                if let Some(peer) = self.peers.find(&pid) {
                    let local = LocalPid::from(&pid);
                    if self.ended(&peer, local) {
                        self.peers.unwatch(&peer, local, Interest::Session);
                    }
                }
                caller.reply(&from, OK);
            }
            Ok(Operation::Events(pid, events)) => {
                let local = LocalPid::from(&pid);
                let peer = self.peers.find(&pid);
                match peer.filter(|peer| self.is_attached(peer, local)) {
                    Some(peer) => {
                        self.observed.telemetry.listen(&peer, local, &events);
                        self.relays.listeners_changed();
                        caller.reply(&from, OK);
                    }
                    None => caller.reply(&from, error("not_attached")),
                }
            }
            Ok(Operation::SetSecret([])) => {
                caller.reply(&from, error("badarg"));
            }
            Ok(Operation::SetSecret(secret)) => {
                self.relays.change_secret(secret);
                tracing::info!(by = %caller.peer().name, "the secret was changed");
                caller.reply(&from, OK);
            }
            Ok(Operation::Info) => caller.reply(&from, self.info()),
            Ok(Operation::Counts) => caller.reply(&from, self.counts()),
            Ok(Operation::Ping) => caller.reply(&from, OK),
            Err(BadRequest::BadArgument) => caller.reply(&from, error("badarg")),
            Err(BadRequest::Unknown) => caller.reply(&from, unknown_request(request)),
        }
    }

    fn attach(&self, caller: &Arc<Connection>, from: &From, pid: &Pid, parts: bool) {
        // Messages to a link on another node than the caller's would not be in order with the
        // answer.
        if pid.node != caller.peer().name || pid.creation != caller.peer().creation {
            return caller.reply(from, error("badarg"));
        }
        if !parts && self.directory.needs_parts() {
            return caller.reply(from, error("overloaded"));
        }
        let Ok(peer) = self.peers.of(pid, &caller.peer().name) else {
            return caller.reply(from, error("overloaded"));
        };
        let local = LocalPid::from(pid);
        let new = {
            let mut attached = self.attached.lock();
            let link = (peer.clone(), local);
            let new = !attached.contains(&link);
            if new && attached.iter().filter(|(of, _)| *of == peer).count() >= MAX_LINKS {
                drop(attached);
                return caller.reply(from, error("overloaded"));
            }
            attached.insert(link);
            new
        };
        if new {
            self.peers.watch(&peer, local, Interest::Session);
        }
        caller.reply(from, self.welcome());
        caller.charge(ATTACH);
        self.directory.attach(&peer, local, parts);
        self.tell_gateways(&[(peer.clone(), local)]);
        tracing::info!(node = %peer.node(), "shim attached");
    }

    /// Sets the gateways of the cluster and announces them to every link.
    pub fn set_gateways(&self, gateways: Vec<Atom>) {
        let changed = {
            let mut known = self.gateways.lock();
            let changed = *known != gateways;
            *known = gateways;
            changed
        };
        if changed {
            let links: Vec<_> = self.attached.lock().iter().cloned().collect();
            self.tell_gateways(&links);
        }
    }

    /// Sends `{esdb_gater_gateways, [Node]}` to the links.
    fn tell_gateways(&self, links: &[(PeerRef, LocalPid)]) {
        let mut out = Vec::with_capacity(128);
        encode::tuple(&mut out, 2);
        encode::atom(&mut out, "esdb_gater_gateways");
        self.encode_gateways(&mut out);
        let payload = Payload::from(out);
        for (peer, local) in links {
            if let Some(link) = &*peer.link() {
                link.send(Lane::Control, *local, &payload);
            }
        }
    }

    fn encode_gateways(&self, out: &mut Vec<u8>) {
        let gateways = self.gateways.lock();
        encode::list_of(out, gateways.iter(), |out, name| encode::atom(out, name.as_str()));
    }

    fn is_attached(&self, peer: &PeerRef, local: LocalPid) -> bool {
        self.attached.lock().contains(&(peer.clone(), local))
    }

    /// Handles the end or the detachment of a link. Returns whether it was attached.
    pub fn ended(&self, peer: &PeerRef, local: LocalPid) -> bool {
        self.directory.detach(peer, local);
        self.observed.telemetry.listen(peer, local, &[]);
        self.relays.listeners_changed();
        self.attached.lock().remove(&(peer.clone(), local))
    }

    /// Returns the number of links.
    pub fn count(&self) -> usize {
        self.attached.lock().len()
    }

    /// Merges the counts of nodes that are no longer known.
    pub fn sweep(&self) {
        let presence = |node: &Atom| self.peers.presence(node);
        self.observed.drops.sweep(Instant::now(), presence);
        self.observed.refusals.sweep(presence);
    }

    /// Removes the links of an incarnation of a node that is gone.
    pub fn peer_gone(&self, peer: &PeerRef) {
        self.directory.detach_peer(peer);
        self.observed.telemetry.forget_peer(peer);
        self.relays.listeners_changed();
        self.attached.lock().retain(|(of, _)| of != peer);
    }

    /// Returns `{ok, #{node, version, gateways, channels}}`.
    fn welcome(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        encode::tuple(&mut out, 2);
        encode::atom(&mut out, "ok");
        encode::map(&mut out, 4);
        encode::atom(&mut out, "node");
        encode::atom(&mut out, self.own_name.as_str());
        encode::atom(&mut out, "version");
        encode::binary(&mut out, env!("CARGO_PKG_VERSION").as_bytes());
        encode::atom(&mut out, "gateways");
        self.encode_gateways(&mut out);
        encode::atom(&mut out, "channels");
        encode::map(&mut out, self.channels.len() as u32);
        for channel in &self.channels {
            let policy = channel.policy();
            encode::atom(&mut out, channel.name());
            encode::map(&mut out, 5);
            encode::atom(&mut out, "priority");
            encode::atom(&mut out, priority_name(policy.priority));
            encode::atom(&mut out, "max_rate");
            match policy.max_rate {
                Some(rate) => encode::uint(&mut out, rate.get().into()),
                None => encode::atom(&mut out, "infinity"),
            }
            encode::atom(&mut out, "hmac");
            let required = policy.hmac == Hmac::Required;
            encode::atom(&mut out, if required { "required" } else { "optional" });
            encode::atom(&mut out, "replay_last");
            encode::atom(&mut out, if policy.replay_last { "true" } else { "false" });
            // A publication that cannot be refused need not be answered individually.
            encode::atom(&mut out, "refuses");
            let refuses = self.capabilities == Mode::Required || policy.refuses();
            encode::atom(&mut out, if refuses { "true" } else { "false" });
        }
        out
    }

    /// Returns a map of the present state of the gateway. Its size is bounded, whatever has
    /// happened.
    fn info(&self) -> Vec<u8> {
        let subscriptions: usize = self.channels.iter().map(|c| c.subscriptions()).sum();
        let numbers = [
            ("uptime_seconds", self.started.elapsed().as_secs()),
            ("registrations", self.directory.registrations() as u64),
            ("subscriptions", subscriptions as u64),
            ("connected_nodes", self.peers.online_count() as u64),
            ("sessions", self.attached.lock().len() as u64),
            ("log_lines_lost", logs::lost()),
        ];
        let mut out = Vec::with_capacity(256);
        encode::map(&mut out, numbers.len() as u32 + 2);
        encode::atom(&mut out, "node");
        encode::atom(&mut out, self.own_name.as_str());
        encode::atom(&mut out, "version");
        encode::binary(&mut out, env!("CARGO_PKG_VERSION").as_bytes());
        for (name, number) in numbers {
            encode::atom(&mut out, name);
            encode::uint(&mut out, number);
        }
        out
    }

    /// Returns a map of the messages that were not delivered and of the refusals, by node.
    fn counts(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        encode::map(&mut out, 2);
        encode::atom(&mut out, "dropped");
        self.observed.drops.encode(&mut out);
        encode::atom(&mut out, "refused");
        self.observed.refusals.encode(&mut out);
        out
    }
}

fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical => "critical",
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

enum Operation<'a> {
    Attach {
        version: i64,
        pid: Pid,
        /// Whether the registry may be sent in several messages.
        parts: bool,
    },
    Detach(Pid),
    Events(Pid, Vec<Event>),
    SetSecret(&'a [u8]),
    Info,
    Counts,
    /// The heartbeat that shims request several times a second, so its answer is small.
    Ping,
}

enum BadRequest {
    BadArgument,
    Unknown,
}

impl<'a> Operation<'a> {
    fn parse(request: &'a [u8]) -> Result<Self, BadRequest> {
        let mut reader = Reader::new(request);
        for (name, operation) in
            [("ping", Self::Ping), ("info", Self::Info), ("counts", Self::Counts)]
        {
            if reader.is_atom(name) {
                return Ok(operation);
            }
        }
        let arity = reader.tuple().map_err(|_| BadRequest::Unknown)?;
        let name = reader.atom().map_err(|_| BadRequest::Unknown)?;
        let bad = |_| BadRequest::BadArgument;
        match (&*name, arity) {
            ("attach", 4) => {
                let version = reader.integer().map_err(bad)?;
                let pid = reader.pid().map_err(bad)?;
                Ok(Self::Attach { version, pid, parts: takes_parts(&mut reader) })
            }
            ("detach", 2) => Ok(Self::Detach(reader.pid().map_err(bad)?)),
            ("events", 3) => {
                let pid = reader.pid().map_err(bad)?;
                Ok(Self::Events(pid, events(&mut reader)?))
            }
            ("set_secret", 2) => Ok(Self::SetSecret(reader.binary().map_err(bad)?)),
            _ => Err(BadRequest::Unknown),
        }
    }
}

/// Reads the options of a link. Returns whether they contain `parts => true`.
fn takes_parts(reader: &mut Reader<'_>) -> bool {
    for _ in 0..reader.map().unwrap_or(0) {
        if reader.is_atom("parts") {
            return reader.is_atom("true");
        }
        if reader.skip().and_then(|_| reader.skip()).is_err() {
            return false;
        }
    }
    false
}

/// Reads a list of event names. Events that do not happen in a gateway are skipped.
fn events(reader: &mut Reader<'_>) -> Result<Vec<Event>, BadRequest> {
    let bad = |_| BadRequest::BadArgument;
    let count = reader.list().map_err(bad)?;
    if count > MAX_EVENT_NAMES {
        return Err(BadRequest::BadArgument);
    }
    let mut events = Vec::new();
    for _ in 0..count {
        let mut name = Vec::new();
        for _ in 0..reader.list().map_err(bad)?.min(MAX_EVENT_NAMES) {
            name.push(reader.atom().map_err(bad)?);
        }
        reader.nil().map_err(bad)?;
        events.extend(Event::ALL.iter().filter(|event| {
            event.name().len() == name.len() && event.name().iter().zip(&name).all(|(a, b)| a == b)
        }));
    }
    Ok(events)
}

/// Reads a request to the sessions, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(request: &[u8]) {
    drop(Operation::parse(request));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_whether_it_takes_parts_among_other_options() {
        let attach = |options: &[(&str, &str)]| {
            let mut out = Vec::new();
            encode::tuple(&mut out, 4);
            encode::atom(&mut out, "attach");
            encode::int(&mut out, VERSION);
            let node = Atom::new("a@h").unwrap();
            encode::pid(&mut out, &Pid { node, id: 1, serial: 0, creation: 7 });
            encode::map(&mut out, options.len() as u32);
            for (key, value) in options {
                encode::atom(&mut out, key);
                encode::atom(&mut out, value);
            }
            matches!(Operation::parse(&out), Ok(Operation::Attach { parts: true, .. }))
        };
        assert!(attach(&[("parts", "true")]));
        assert!(attach(&[("other", "parts"), ("parts", "true")]));
        assert!(!attach(&[("parts", "false")]));
        assert!(!attach(&[("other", "true")]));
        assert!(!attach(&[]));
    }
}
