//! Connects to other nodes, and keeps connections to them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gater_term::Atom;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::resolver::resolve;
use super::shared::{DialStep, Shared};
use super::{epmd, exchange, link};
use crate::protocol::handshake::{Dialer, Step};
use crate::protocol::name;
use crate::{Chain, Connection, DialError, HandshakeError, Peer};

/// Keeps a connection to `node` until `until` is cancelled.
pub async fn keep(shared: Arc<Shared>, node: Atom, until: CancellationToken) {
    let mut pause = shared.settings.redial_min;
    loop {
        let outcome = tokio::select! {
            () = until.cancelled() => return,
            outcome = connect(&shared, &node) => outcome,
        };
        match outcome {
            Ok(connection) => {
                let since = Instant::now();
                tokio::select! {
                    () = until.cancelled() => return,
                    () = connection.ended().cancelled() => {}
                }
                // A connection that breaks at once counts like a failed dial.
                if since.elapsed() >= pause {
                    pause = shared.settings.redial_min;
                    continue;
                }
            }
            Err(DialError::Stopped) => return,
            Err(error) => {
                if let Some(events) = shared.events.get() {
                    events.unreachable(&node, &error);
                }
            }
        }
        tokio::select! {
            () = until.cancelled() => return,
            () = sleep(jittered(pause)) => {}
        }
        pause = (pause * 2).min(shared.settings.redial_max);
    }
}

/// Returns a random time between half of `pause` and all of it, so that nodes do not dial in step.
fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// Connects to `node`, or returns the established connection.
pub async fn connect(shared: &Arc<Shared>, node: &Atom) -> Result<Arc<Connection>, DialError> {
    if *node == shared.local.name || name::split(node.as_str()).is_none() {
        return Err(DialError::BadName(node.as_str().to_owned()));
    }
    // A prepared node dials once it runs.
    tokio::select! {
        _ = shared.events.wait() => {}
        () = shared.stop.cancelled() => return Err(DialError::Stopped),
    }
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match shared.dial_step(node)? {
            DialStep::Connected(connection) => return Ok(connection),
            DialStep::UnderWay => changed.await,
            DialStep::Dial(given_up) => {
                let outcome = {
                    let _over = Dialed { shared, node };
                    tokio::select! {
                        biased;
                        outcome = dial(shared, node) => outcome,
                        () = given_up.cancelled() => Err(HandshakeError::Simultaneous.into()),
                    }
                };
                match outcome {
                    // The peer has connected to this node during the dial.
                    Err(DialError::Handshake(HandshakeError::AlreadyConnected)) => {}
                    // The peer is about to connect to this node.
                    Err(DialError::Handshake(error @ HandshakeError::Simultaneous)) => {
                        return accepted(shared, node).await.ok_or(error.into());
                    }
                    outcome => return outcome,
                }
            }
        }
    }
}

/// Waits for the connection that `node` makes. Returns `None` if it does not connect in time.
async fn accepted(shared: &Shared, node: &Atom) -> Option<Arc<Connection>> {
    let made = async {
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(connection) = shared.connection(node.as_str()) {
                return connection;
            }
            changed.await;
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => None,
        made = timeout(shared.settings.handshake_timeout, made) => made.ok(),
    }
}

/// Reports the end of a dial when it is dropped, however the dial ended.
struct Dialed<'a> {
    shared: &'a Shared,
    node: &'a Atom,
}

impl Drop for Dialed<'_> {
    fn drop(&mut self) {
        self.shared.dialed(self.node);
    }
}

async fn dial(shared: &Arc<Shared>, node: &Atom) -> Result<Arc<Connection>, DialError> {
    let bad_name = || DialError::BadName(node.as_str().to_owned());
    let (name, host) = name::split(node.as_str()).ok_or_else(bad_name)?;
    let settings = &shared.settings;
    let mut outcome = Err(DialError::Resolve(node.as_str().to_owned()));
    let addresses = resolve(host, settings.connect_timeout).await;
    // The place is held until the connection is counted or the socket is closed.
    let _place = shared.dials.take(node).await.ok_or(DialError::Stopped)?;
    // What comes of it is known when the connection is counted.
    shared.dials.ended(node, false);
    // The node, and its EPMD too, may listen on only one of the address families.
    for ip in addresses {
        match open(shared, node, name, ip).await {
            Ok(socket) => {
                outcome = Ok(socket);
                break;
            }
            // The error for the first address is kept, since it is the preferred address of the
            // name.
            Err(error) if matches!(outcome, Err(DialError::Resolve(_))) => outcome = Err(error),
            Err(error) => {
                tracing::debug!(%node, %ip, error = %Chain(&error), "not reached there either")
            }
        }
    }
    let mut socket = outcome?;
    let limit = settings.handshake_timeout;
    let peer = timeout(limit, shake(shared, &mut socket, node))
        .await
        .unwrap_or(Err(HandshakeError::Timeout(limit)))?;
    link::start(shared, socket, peer)
}

/// Asks the EPMD at `ip` for the port of the node and connects to it.
async fn open(
    shared: &Shared,
    node: &Atom,
    name: &str,
    ip: IpAddr,
) -> Result<TcpStream, DialError> {
    let settings = &shared.settings;
    let epmd = SocketAddr::new(ip, settings.epmd.port());
    let port = epmd::look_up(epmd, name, settings.connect_timeout)
        .await?
        .ok_or_else(|| DialError::NotRunning(node.as_str().to_owned()))?;
    let address = SocketAddr::new(ip, port);
    let failed = |source| DialError::Connect { address, source };
    timeout(settings.connect_timeout, TcpStream::connect(address))
        .await
        .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(failed)
}

async fn shake(
    shared: &Shared,
    socket: &mut TcpStream,
    node: &Atom,
) -> Result<Peer, HandshakeError> {
    let challenge = getrandom::u32().map_err(std::io::Error::from)?;
    let dialer = Dialer::new(shared.identity(), node.clone(), challenge);
    // If the peer believes in a connection that this node does not have, either both have lost it
    // or the peer has made it during the dial.
    let is_new = || shared.connection(node.as_str()).is_none();
    carry_out(dialer, socket, is_new, |_| ()).await
}

/// Carries out the handshake of a [`Dialer`], beginning with its first message. `go_on` is called
/// if the peer believes that it is connected already, and `heard` is called with every message of
/// the peer.
pub async fn carry_out(
    (mut dialer, first): (Dialer, Vec<u8>),
    socket: &mut TcpStream,
    go_on: impl Fn() -> bool,
    mut heard: impl FnMut(&[u8]),
) -> Result<Peer, HandshakeError> {
    exchange::write(socket, &[first]).await?;
    let mut message = exchange::read_first(socket).await?;
    loop {
        let Some(received) = message else {
            return Err(dialer.closed());
        };
        heard(&received);
        match dialer.handle(&received)? {
            Step::Wait | Step::Named => {}
            Step::Send(messages) => exchange::write(socket, &messages).await?,
            Step::Alive => {
                let go_on = go_on();
                let answer = dialer.alive(go_on);
                exchange::write(socket, &[answer]).await?;
                if !go_on {
                    return Err(HandshakeError::AlreadyConnected);
                }
            }
            Step::Done(messages, peer) => {
                exchange::write(socket, &messages).await?;
                return Ok(peer);
            }
        }
        message = exchange::read(socket).await?;
    }
}
