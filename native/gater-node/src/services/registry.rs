//! `esdb_gater_worker_registry`: the service that registers workers of stores and looks them up.

use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::{Command, Refusal};
use gater_dist::{Connection, gen_server::From};
use gater_term::{Atom, Pid, Reader};
use tokio::task::JoinHandle;

use super::unwritten::Unwritten;
use super::{OK, error, unknown_request};
use crate::observe::otlp::{Kind, Tracer, span};
use crate::registry::directory::Directory;
use crate::registry::replica::Replica;
use crate::registry::store_limit::{StoreLimit, TooManyNames};
use crate::transport::peers::{PeerRef, Peers, TooManyNodes};

/// The registered name of the registry.
pub const NAME: &str = "esdb_gater_worker_registry";

/// The pause before a removal that could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The cost of a command; see [`Connection::charge`].
const COMMAND: usize = 5_000;
/// The number of workers of one node that can be searched in about a millisecond.
const MANY: usize = 10_000;
/// The number of a node's registrations that one command removes.
const PURGED_AT_ONCE: usize = 1024;
/// `[]`, encoded.
const NONE: &[u8] = &[106];

/// The caller that waits for the answer to a command.
struct Caller {
    connection: Arc<Connection>,
    from: From,
    /// The task to await before the answer `ok`, if there is one.
    reached: Option<JoinHandle<()>>,
}

impl Caller {
    fn done(self) {
        let Self { connection, from, reached } = self;
        match reached {
            None => connection.reply(&from, OK),
            Some(reached) => drop(tokio::spawn(async move {
                // The answer is the same however the task ended.
                let _ = reached.await;
                connection.reply(&from, OK);
            })),
        }
    }
}

/// The registry service. A clone is another handle.
#[derive(Clone)]
pub struct Registry {
    replica: Arc<Replica>,
    directory: Arc<Directory>,
    peers: Arc<Peers>,
    own_name: Atom,
    names: Arc<StoreLimit>,
    tracer: Tracer,
    unwritten: Arc<Unwritten>,
}

impl Registry {
    /// Returns the service over a replicated registry, for the gateway node `own_name`.
    pub fn new(
        replica: Arc<Replica>,
        directory: Arc<Directory>,
        peers: Arc<Peers>,
        own_name: Atom,
        names: Arc<StoreLimit>,
    ) -> Self {
        let (tracer, unwritten) = (Tracer::default(), Arc::default());
        Self { replica, directory, peers, own_name, names, tracer, unwritten }
    }

    /// The same with registrations followed.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Answers a `gen_server:call`.
    pub fn call(&self, caller: &Arc<Connection>, from: From, request: &[u8]) {
        match Operation::parse(request) {
            Ok(Operation::Register(store, pid)) => {
                self.register(
                    caller,
                    from,
                    (&store.clone(), &pid.clone()),
                    Command::Register { store, pid },
                );
            }
            Ok(Operation::Reassert(store, pid)) => {
                self.register(
                    caller,
                    from,
                    (&store.clone(), &pid.clone()),
                    Command::Reassert { store, pid },
                );
            }
            Ok(Operation::Unregister(store, pid)) => {
                caller.charge(COMMAND);
                let caller = Caller { connection: caller.clone(), from, reached: None };
                self.write(Command::Unregister { store, pid, epoch: None }, Some(caller));
            }
            Ok(Operation::Workers(store)) => self.workers(caller, from, store),
            Ok(Operation::LocalWorkers(store)) => self.local_workers(caller, from, store),
            Ok(Operation::Stores) => caller.reply(&from, self.directory.stores()),
            Err(BadRequest::BadArgument) => caller.reply(&from, error("badarg")),
            Err(BadRequest::Unknown) => caller.reply(&from, unknown_request(request)),
        }
    }

    fn workers(&self, caller: &Arc<Connection>, from: From, store: Atom) {
        if !self.directory.takes_long(store.as_str()) {
            return caller.reply_shared(&from, &self.directory.workers(store.as_str()));
        }
        let (directory, connection) = (self.directory.clone(), caller.clone());
        caller.run_blocking(move || {
            connection.reply_shared(&from, &directory.workers(store.as_str()));
        });
    }

    fn local_workers(&self, caller: &Arc<Connection>, from: From, store: Atom) {
        let Some(peer) = self.peers.connected(caller) else {
            return caller.reply(&from, NONE);
        };
        if self.directory.registrations_of(&peer) < MANY {
            return caller.reply(&from, self.directory.workers_on(&store, &peer));
        }
        let (directory, connection) = (self.directory.clone(), caller.clone());
        caller.run_blocking(move || {
            connection.reply(&from, directory.workers_on(&store, &peer));
        });
    }

    fn register(
        &self,
        caller: &Arc<Connection>,
        from: From,
        (store, pid): (&Atom, &Pid),
        command: Command,
    ) {
        caller.charge(COMMAND);
        match self.judge(caller, store, pid) {
            Err(reason) => caller.reply(&from, error(reason)),
            Ok(peer) => {
                // A caller that is answered `ok` must find the worker among those that are offered.
                let reached = self.peers.reach(&peer).map(tokio::spawn);
                let caller = Caller { connection: caller.clone(), from, reached };
                self.write(command, Some(caller));
            }
        }
    }

    /// Carries out a `gen_server:cast`.
    pub fn cast(&self, caller: &Arc<Connection>, request: &[u8]) {
        caller.charge(COMMAND);
        match Operation::parse(request) {
            Ok(Operation::Register(store, pid)) if self.judge(caller, &store, &pid).is_ok() => {
                self.write(Command::Register { store, pid }, None);
            }
            Ok(Operation::Unregister(store, pid)) => {
                self.write(Command::Unregister { store, pid, epoch: None }, None);
            }
            _ => tracing::debug!(peer = %caller.peer().name, "cast to the registry ignored"),
        }
    }

    /// Returns the incarnation to which a worker belongs, or the reason why the process cannot be a
    /// worker, if that is known at once.
    fn judge(&self, caller: &Connection, store: &Atom, pid: &Pid) -> Result<PeerRef, &'static str> {
        let stale = pid.node == caller.peer().name && pid.creation != caller.peer().creation;
        if stale || pid.node == self.own_name {
            return Err("noproc");
        }
        let peer = self.peers.of(pid, &caller.peer().name).map_err(|TooManyNodes| "overloaded")?;
        self.names.admit(store, &caller.peer().name).map_err(|TooManyNames| "overloaded")?;
        Ok(peer)
    }

    /// Removes the registrations of a worker that has ended, however long the write takes.
    pub fn exited(&self, pid: Pid) {
        self.write_until_done(Command::Exited { pid, epoch: None });
    }

    /// Removes an incarnation of a node with all its workers. Many registrations are removed in
    /// steps, between which other commands are carried out.
    pub fn purge(&self, peer: &PeerRef) {
        let purge = Command::Purge { node: peer.node().clone(), creation: peer.creation() };
        if self.directory.registrations_of(peer) <= PURGED_AT_ONCE {
            return self.write_until_done(purge);
        }
        let (registry, peer) = (self.clone(), peer.clone());
        tokio::spawn(async move {
            while registry.directory.registrations_of(&peer) > PURGED_AT_ONCE {
                let some = registry.directory.some_workers(&peer, PURGED_AT_ONCE);
                let gone = some.into_iter().map(|(local, epoch)| {
                    let (pid, epoch) = (peer.pid(local), Some(epoch));
                    registry.replica.propose(Command::Exited { pid, epoch })
                });
                for written in gone.collect::<Vec<_>>() {
                    match written.await {
                        Ok(_) => {}
                        Err(error) if error.is_final() => return,
                        // The remaining registrations are removed with one command, which is
                        // repeated until it succeeds.
                        Err(_) => return registry.write_until_done(purge),
                    }
                }
            }
            registry.write_until_done(purge);
        });
    }

    fn write(&self, command: Command, caller: Option<Caller>) {
        let unwritten = self.unwritten.clone();
        let span = followed(&command).and_then(|(name, store)| {
            let store = span::text(store.as_str().as_bytes());
            Some((self.tracer.begin()?, name, store))
        });
        self.replica.propose_then(command, move |result| {
            match &result {
                Ok(_) => unwritten.written(),
                Err(error) => unwritten.failed(error),
            }
            let refused = match &result {
                Ok(outcome) => outcome.refused.as_ref().map(Refusal::as_atom),
                Err(reason) => Some(reason.as_atom()),
            };
            if let Some((span, name, store)) = span {
                span.end(name, Kind::Server, vec![("esdb_gater.store", store)], refused);
            }
            match (caller, refused) {
                (None, _) => {}
                (Some(caller), Some(reason)) => {
                    caller.connection.reply(&caller.from, error(reason))
                }
                (Some(caller), None) => caller.done(),
            }
        });
    }

    fn write_until_done(&self, command: Command) {
        let (replica, unwritten) = (self.replica.clone(), self.unwritten.clone());
        let mut proposed = replica.propose(command.clone());
        tokio::spawn(async move {
            while let Err(error) = proposed.await {
                if error.is_final() {
                    return;
                }
                unwritten.failed(&error);
                tokio::time::sleep(RETRY_AFTER).await;
                proposed = replica.propose(command.clone());
            }
            unwritten.written();
        });
    }
}

/// What is followed of the commands: its name, and the store.
fn followed(command: &Command) -> Option<(&'static str, &Atom)> {
    match command {
        Command::Register { store, .. } | Command::Reassert { store, .. } => {
            Some(("register", store))
        }
        Command::Unregister { store, .. } => Some(("unregister", store)),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Operation {
    Register(Atom, Pid),
    /// A registration by a shim that has registered the worker before.
    Reassert(Atom, Pid),
    Unregister(Atom, Pid),
    Workers(Atom),
    LocalWorkers(Atom),
    Stores,
}

#[derive(Debug, PartialEq, Eq)]
enum BadRequest {
    /// The operation is known, but its arguments have other types.
    BadArgument,
    Unknown,
}

impl Operation {
    fn parse(request: &[u8]) -> Result<Self, BadRequest> {
        let mut reader = Reader::new(request);
        if reader.is_atom("list_stores") {
            return Ok(Self::Stores);
        }
        let arity = reader.tuple().map_err(|_| BadRequest::Unknown)?;
        let name = reader.atom().map_err(|_| BadRequest::Unknown)?;
        let bad = |_| BadRequest::BadArgument;
        match (&*name, arity) {
            ("register", 3) => Ok(Self::Register(store(&mut reader)?, reader.pid().map_err(bad)?)),
            ("reassert", 3) => Ok(Self::Reassert(store(&mut reader)?, reader.pid().map_err(bad)?)),
            ("unregister", 3) => {
                Ok(Self::Unregister(store(&mut reader)?, reader.pid().map_err(bad)?))
            }
            ("get_workers", 2) => Ok(Self::Workers(store(&mut reader)?)),
            ("get_local_workers", 2) => Ok(Self::LocalWorkers(store(&mut reader)?)),
            _ => Err(BadRequest::Unknown),
        }
    }
}

fn store(reader: &mut Reader<'_>) -> Result<Atom, BadRequest> {
    let text = reader.atom().map_err(|_| BadRequest::BadArgument)?;
    Atom::new(&text).map_err(|_| BadRequest::BadArgument)
}

/// Reads a request to the registry, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(request: &[u8]) {
    drop(Operation::parse(request));
}

#[cfg(test)]
mod tests {
    use super::*;
    use gater_term::encode;

    fn request(name: &str, store: &str, pid: Option<&Pid>) -> Vec<u8> {
        let mut out = Vec::new();
        encode::tuple(&mut out, if pid.is_some() { 3 } else { 2 });
        encode::atom(&mut out, name);
        encode::atom(&mut out, store);
        if let Some(pid) = pid {
            encode::pid(&mut out, pid);
        }
        out
    }

    fn pid() -> Pid {
        Pid { node: Atom::new("a@h").unwrap(), id: 1, serial: 0, creation: 7 }
    }

    #[test]
    fn a_registration_names_a_store_and_a_pid() {
        let parsed = Operation::parse(&request("register", "orders", Some(&pid())));
        assert_eq!(parsed, Ok(Operation::Register(Atom::new("orders").unwrap(), pid())));
    }

    #[test]
    fn registering_what_is_no_pid_is_a_bad_argument() {
        let mut out = Vec::new();
        encode::tuple(&mut out, 3);
        encode::atom(&mut out, "register");
        encode::atom(&mut out, "orders");
        encode::atom(&mut out, "not_a_pid");
        assert_eq!(Operation::parse(&out), Err(BadRequest::BadArgument));
    }

    #[test]
    fn what_is_no_operation_is_unknown() {
        assert_eq!(Operation::parse(&request("explode", "x", None)), Err(BadRequest::Unknown));
        assert_eq!(Operation::parse(OK), Err(BadRequest::Unknown));
        assert_eq!(Operation::parse(&[]), Err(BadRequest::Unknown));
    }
}
