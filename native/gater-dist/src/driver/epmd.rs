//! The client of the Erlang Port Mapper Daemon, which registers this node and looks up others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use erl_dist::epmd::{EpmdClient, NodeEntry};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::shared::Shared;
use crate::{Chain, EpmdError, Settings};

/// The time within which a daemon that was just started must answer.
const START_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two attempts to reach a daemon.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// The pause between two attempts to register again.
const REREGISTER_AFTER: Duration = Duration::from_secs(1);

/// A registration, which lasts as long as its connection to the daemon.
pub struct Registration {
    connection: TcpStream,
    /// The incarnation that the daemon has assigned to this node.
    pub creation: u32,
}

/// Registers a hidden node. Starts a daemon on this machine if none runs.
pub async fn register(
    settings: &Settings,
    name: &str,
    port: u16,
) -> Result<Registration, EpmdError> {
    let first = register_once(settings, name, port).await;
    let Err(EpmdError::Unreachable { .. }) = &first else { return first };
    if !settings.start_epmd || !settings.epmd.ip().is_loopback() {
        return first;
    }
    start_daemon(settings.epmd.port()).await;
    let started = Instant::now();
    loop {
        match register_once(settings, name, port).await {
            Err(EpmdError::Unreachable { .. }) if started.elapsed() < START_WITHIN => {
                sleep(RETRY_AFTER).await;
            }
            outcome => return outcome,
        }
    }
}

/// Registers with the daemon at the configured address, or at the loopback address of the other
/// family, since a host may have only one of them.
async fn register_once(
    settings: &Settings,
    name: &str,
    port: u16,
) -> Result<Registration, EpmdError> {
    let first = register_at(settings.epmd, settings, name, port).await;
    if !matches!(first, Err(EpmdError::Unreachable { .. })) || !settings.epmd.ip().is_loopback() {
        return first;
    }
    let other: IpAddr = match settings.epmd.ip() {
        IpAddr::V4(_) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
    };
    let other = SocketAddr::new(other, settings.epmd.port());
    match register_at(other, settings, name, port).await {
        Err(EpmdError::Unreachable { .. }) => first,
        outcome => outcome,
    }
}

async fn register_at(
    epmd: SocketAddr,
    settings: &Settings,
    name: &str,
    port: u16,
) -> Result<Registration, EpmdError> {
    let limit = settings.connect_timeout;
    let client = open(epmd, limit).await?;
    let (connection, creation) = timeout(limit, client.register(NodeEntry::new_hidden(name, port)))
        .await
        .map_err(|_| EpmdError::Timeout(limit))?
        .map_err(|error| match error {
            erl_dist::epmd::EpmdError::RegisterNodeError { .. } => {
                EpmdError::NameTaken(name.to_owned())
            }
            other => EpmdError::Protocol(other.to_string()),
        })?;
    Ok(Registration { connection: connection.into_inner(), creation: creation.get() })
}

/// Starts a daemon, which moves to the background itself. If several are started, one of them wins
/// the port.
async fn start_daemon(port: u16) {
    let spawned = Command::new("epmd")
        .args(["-daemon", "-port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    match spawned {
        Ok(_) => tracing::info!(port, "started epmd"),
        Err(error) => tracing::warn!(%error, "cannot start epmd"),
    }
}

/// Stays registered until the node stops, and registers again with a daemon that was restarted.
pub async fn stay(shared: Arc<Shared>, name: String, registration: Registration) {
    let mut connection = registration.connection;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = closed(&mut connection) => {}
        }
        tracing::warn!("epmd has gone; registering again");
        connection = loop {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = sleep(REREGISTER_AFTER) => {}
            }
            // The node keeps the incarnation of its first registration, as in OTP.
            match register(&shared.settings, &name, shared.port).await {
                Ok(again) => break again.connection,
                Err(error) => tracing::warn!(error = %Chain(&error), "not registered with epmd"),
            }
        };
        tracing::info!("registered with epmd again");
    }
}

/// Waits until the daemon closes the connection. It never sends anything on it.
async fn closed(connection: &mut TcpStream) {
    let mut buffer = [0; 64];
    while connection.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// Returns the port of a node by its name without the host, or `None` if it is not running.
pub async fn look_up(
    epmd: SocketAddr,
    name: &str,
    limit: Duration,
) -> Result<Option<u16>, EpmdError> {
    let client = open(epmd, limit).await?;
    let found = timeout(limit, client.get_node(name))
        .await
        .map_err(|_| EpmdError::Timeout(limit))?
        .map_err(|error| EpmdError::Protocol(error.to_string()))?;
    Ok(found.map(|node| node.port))
}

async fn open(
    address: SocketAddr,
    limit: Duration,
) -> Result<EpmdClient<Compat<TcpStream>>, EpmdError> {
    let unreachable = |source| EpmdError::Unreachable { address, source };
    let socket = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| EpmdError::Timeout(limit))?
        .map_err(unreachable)?;
    Ok(EpmdClient::new(socket.compat()))
}
