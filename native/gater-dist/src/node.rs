//! The hidden node.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gater_term::{Atom, Pid};
use secrecy::SecretSlice;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use crate::driver::shared::Shared;
use crate::driver::{self};
use crate::protocol::handshake::Local;
use crate::protocol::name;
use crate::{Connection, DialError, DownReason, Events, Peer, Settings, StartError};

/// The time within which connections that are cut end on their own.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// A running hidden node. A clone is another handle of the same node.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

/// A node that has its name, its incarnation and its port, but does not run yet.
///
/// Parts of a program that need the handle of the node are made between [`Node::prepare`] and
/// [`PreparedNode::run`]. The handle hands out pids, and accepts requests to keep connections,
/// which are carried out once the node runs. Connections of peers wait until then. Dropping the
/// prepared node unregisters its name.
#[must_use = "a prepared node serves nobody until it runs"]
pub struct PreparedNode {
    node: Node,
    /// The registration by which other nodes find this node; `None` if they cannot.
    listed: Option<Listed>,
}

struct Listed {
    short: String,
    listener: TcpListener,
    registration: driver::Registration,
}

impl PreparedNode {
    /// Returns the handle of the node.
    pub fn handle(&self) -> Node {
        self.node.clone()
    }

    /// Starts accepting and dialling connections, and reports to `events`.
    pub fn run(self, events: Arc<dyn Events>) -> Node {
        let Self { node, listed } = self;
        let shared = &node.shared;
        // The events are set only here, and this call consumes the only prepared node.
        let _ = shared.events.set(events);
        if let Some(Listed { short, listener, registration }) = listed {
            shared.tasks.spawn(driver::stay(shared.clone(), short, registration));
            shared.tasks.spawn(driver::accept(shared.clone(), listener));
        }
        node
    }
}

impl Node {
    /// Starts a node: it listens, registers with EPMD and accepts connections.
    pub async fn start(settings: Settings, events: Arc<dyn Events>) -> Result<Self, StartError> {
        Ok(Self::prepare(settings).await?.run(events))
    }

    /// Listens and registers with EPMD, but does not accept connections yet.
    pub async fn prepare(settings: Settings) -> Result<PreparedNode, StartError> {
        let bad_name = || StartError::BadName(settings.name.clone());
        let (short, _) = name::split(&settings.name).ok_or_else(bad_name)?;
        let short = short.to_owned();
        let name = Atom::new(&settings.name).map_err(|_| bad_name())?;
        let failed = |source| StartError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let registration = driver::register(&settings, &short, port).await?;
        let cookie = settings.cookie.clone();
        let local = Local { name, creation: registration.creation, cookie };
        let node = Self { shared: Arc::new(Shared::new(settings, local, port, true)) };
        Ok(PreparedNode { node, listed: Some(Listed { short, listener, registration }) })
    }

    /// Prepares a node that does not listen, is not registered with EPMD and dials no other node.
    /// Its peers are passed to [`Node::adopt`] once it runs.
    pub fn unlisted(settings: Settings, creation: u32) -> Result<PreparedNode, StartError> {
        Self::unfindable(settings, creation, false)
    }

    /// Prepares a node that dials other nodes but does not listen. It is not registered with EPMD,
    /// so no other node can connect to it, and it needs no EPMD on its own host. It is meant for
    /// programs that ask something and end.
    pub fn dial_only(settings: Settings, creation: u32) -> Result<PreparedNode, StartError> {
        Self::unfindable(settings, creation, true)
    }

    fn unfindable(
        settings: Settings,
        creation: u32,
        dialing: bool,
    ) -> Result<PreparedNode, StartError> {
        let bad_name = || StartError::BadName(settings.name.clone());
        name::split(&settings.name).ok_or_else(bad_name)?;
        let name = Atom::new(&settings.name).map_err(|_| bad_name())?;
        let local = Local { name, creation, cookie: settings.cookie.clone() };
        let node = Self { shared: Arc::new(Shared::new(settings, local, 0, dialing)) };
        Ok(PreparedNode { node, listed: None })
    }

    /// Adopts `socket` as an established connection with `peer`, which holds the values that a
    /// handshake would have negotiated. A connected peer of the same name is replaced.
    pub fn adopt(&self, socket: UnixStream, peer: Peer) -> std::io::Result<Arc<Connection>> {
        // A connection reads, writes and shuts down its socket, for which all stream sockets have
        // the same system calls. Only the options of TCP are refused, which is not treated as an
        // error.
        let socket = std::net::TcpStream::from(OwnedFd::from(socket.into_std()?));
        let connection = driver::established(&self.shared, TcpStream::from_std(socket)?, peer);
        connection.map_err(std::io::Error::other)
    }

    /// Uses `cookie` for handshakes that begin from now on. Existing connections are unaffected.
    pub fn set_cookie(&self, cookie: SecretSlice<u8>) {
        self.shared.set_cookie(cookie);
    }

    /// Returns the full name of the node, `name@host`.
    pub fn name(&self) -> &Atom {
        &self.shared.local.name
    }

    /// Returns the incarnation of this node, which EPMD has assigned.
    pub fn creation(&self) -> u32 {
        self.shared.local.creation
    }

    /// Returns the TCP port on which the node accepts connections, or 0 if it does not listen.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// Returns a pid that this node has never handed out before. It is valid for the life of the
    /// node.
    pub fn new_pid(&self) -> Pid {
        self.shared.new_pid()
    }

    /// Keeps a connection to `node`: dials it now, and again with growing, jittered pauses whenever
    /// the connection is lost, until [`Node::release`] is called.
    pub fn keep(&self, node: &Atom) {
        if self.shared.dialing
            && let Some(until) = self.shared.start_keeping(node)
        {
            let task = driver::keep(self.shared.clone(), node.clone(), until);
            self.shared.tasks.spawn_on(task, &self.shared.runtime);
        }
    }

    /// Stops dialling `node`. An established connection is unaffected.
    pub fn release(&self, node: &Atom) {
        self.shared.stop_keeping(node);
    }

    /// Connects to `node` once, or returns the established connection.
    pub async fn connect(&self, node: &Atom) -> Result<Arc<Connection>, DialError> {
        driver::connect(&self.shared, node).await
    }

    /// Returns the connection to `node`, if it is established.
    pub fn connection(&self, node: &str) -> Option<Arc<Connection>> {
        self.shared.connection(node)
    }

    /// Returns all established connections.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.connections()
    }

    /// Shuts the node down: stops accepting and dialling, unregisters from EPMD, writes the queued
    /// messages for at most `deadline`, and closes all connections.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        for connection in self.connections() {
            connection.outbox().drain();
        }
        if timeout(deadline, self.shared.tasks.wait()).await.is_ok() {
            return;
        }
        for connection in self.connections() {
            connection.end(DownReason::Shutdown);
        }
        if timeout(CUT_WITHIN, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("connections left open at the end");
        }
    }
}
