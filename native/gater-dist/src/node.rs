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

/// How long connections may take to notice that they are cut.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// A running hidden node. Cloning gives another handle of the same node.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

/// A node that has its name, its incarnation and its port, and does not run yet.
///
/// Parts that need the node's handle are made between [`Node::prepare`] and
/// [`PreparedNode::run`]: the handle hands out pids and takes orders to keep connections,
/// which are carried out once the node runs. Connections of peers wait until then.
/// Dropping it gives the name back.
#[must_use = "a prepared node serves nobody until it runs"]
pub struct PreparedNode {
    node: Node,
    /// What other nodes find it by; `None` if they cannot.
    listed: Option<Listed>,
}

struct Listed {
    short: String,
    listener: TcpListener,
    registration: driver::Registration,
}

impl PreparedNode {
    /// The handle of the node.
    pub fn handle(&self) -> Node {
        self.node.clone()
    }

    /// Accepts and dials connections from now on, and reports to `events`.
    pub fn run(self, events: Arc<dyn Events>) -> Node {
        let Self { node, listed } = self;
        let shared = &node.shared;
        // It is set here only, and this takes the one prepared node there is.
        let _ = shared.events.set(events);
        if let Some(Listed { short, listener, registration }) = listed {
            shared.tasks.spawn(driver::stay(shared.clone(), short, registration));
            shared.tasks.spawn(driver::accept(shared.clone(), listener));
        }
        node
    }
}

impl Node {
    /// Listens, registers with EPMD and accepts connections from then on.
    pub async fn start(settings: Settings, events: Arc<dyn Events>) -> Result<Self, StartError> {
        Ok(Self::prepare(settings).await?.run(events))
    }

    /// Listens and registers with EPMD, without accepting connections yet.
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

    /// Prepares a node that does not listen, that EPMD does not know and that dials nobody. Its
    /// peers are those that [`Node::adopt`] is given once it runs.
    pub fn unlisted(settings: Settings, creation: u32) -> Result<PreparedNode, StartError> {
        Self::unfindable(settings, creation, false)
    }

    /// Prepares a node that dials others and does not listen: EPMD does not know it, and nobody
    /// can connect to it. Needs no EPMD on its own host. For programs that ask something and end.
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

    /// Takes `socket` for an established connection with `peer`: what would have been agreed on
    /// in a handshake is in [`Peer`]. A peer of the same name that is connected is replaced.
    pub fn adopt(&self, socket: UnixStream, peer: Peer) -> std::io::Result<Arc<Connection>> {
        // A connection reads, writes and shuts down. All stream sockets do so by the same
        // system calls; the options of TCP alone are refused, which is not an error.
        let socket = std::net::TcpStream::from(OwnedFd::from(socket.into_std()?));
        let connection = driver::established(&self.shared, TcpStream::from_std(socket)?, peer);
        connection.map_err(std::io::Error::other)
    }

    /// Uses `cookie` for handshakes that begin from now on. Connections stay as they are.
    pub fn set_cookie(&self, cookie: SecretSlice<u8>) {
        self.shared.set_cookie(cookie);
    }

    /// The full name, `name@host`.
    pub fn name(&self) -> &Atom {
        &self.shared.local.name
    }

    /// The incarnation of this node, given by EPMD.
    pub fn creation(&self) -> u32 {
        self.shared.local.creation
    }

    /// The TCP port connections are accepted on; 0 if the node does not listen.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// A pid of this node never handed out before. It lives as long as the node.
    pub fn new_pid(&self) -> Pid {
        self.shared.new_pid()
    }

    /// Keeps a connection to `node`: dials it, and dials it again with growing,
    /// jittered pauses whenever the connection is lost, until [`Node::release`].
    pub fn keep(&self, node: &Atom) {
        if self.shared.dialing
            && let Some(until) = self.shared.start_keeping(node)
        {
            let task = driver::keep(self.shared.clone(), node.clone(), until);
            self.shared.tasks.spawn_on(task, &self.shared.runtime);
        }
    }

    /// Stops dialling `node`. A connection that stands is left alone.
    pub fn release(&self, node: &Atom) {
        self.shared.stop_keeping(node);
    }

    /// Connects to `node` once, or gives the connection that stands.
    pub async fn connect(&self, node: &Atom) -> Result<Arc<Connection>, DialError> {
        driver::connect(&self.shared, node).await
    }

    /// The connection to `node`, if one is established.
    pub fn connection(&self, node: &str) -> Option<Arc<Connection>> {
        self.shared.connection(node)
    }

    /// All established connections.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.connections()
    }

    /// Stops accepting and dialling, leaves EPMD, writes out what is queued for at
    /// most `deadline`, and closes all connections.
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
