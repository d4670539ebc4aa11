//! Accepts connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gater_term::Atom;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::shared::Shared;
use super::slots::{Slot, Slots};
use super::{exchange, link};
use crate::protocol::handshake::{Acceptor, Step};
use crate::{Chain, DialError, HandshakeError, Peer};

/// The pause when the system has no more sockets.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the node stops.
pub async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let slots = Arc::new(Slots::new(shared.settings.max_handshakes));
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                let slot = tokio::select! {
                    () = shared.stop.cancelled() => return,
                    slot = slots.take(address.ip()) => slot,
                };
                let Some(slot) = slot else { return };
                let task = receive(shared.clone(), socket, address, slot);
                shared.tasks.spawn(task);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn receive(shared: Arc<Shared>, mut socket: TcpStream, address: SocketAddr, slot: Slot) {
    let limit = shared.settings.handshake_timeout;
    let mut name = None;
    let outcome = tokio::select! {
        outcome = timeout(limit, shake(&shared, &mut socket, &slot, &mut name)) => {
            outcome.unwrap_or(Err(HandshakeError::Timeout(limit)))
        }
        () = slot.given_up() => Err(HandshakeError::TooManyConnections),
        () = shared.stop.cancelled() => return,
    };
    let error = match outcome {
        // Other handshakes may have taken the last connection since the peer was let in.
        Ok(peer) => match link::start(&shared, socket, peer) {
            Err(DialError::TooManyConnections) => HandshakeError::TooManyConnections,
            Ok(_) | Err(_) => return,
        },
        Err(error) => {
            drop(socket);
            error
        }
    };
    // The socket is closed by now, so the permit may be returned.
    drop(slot);
    if let Some(events) = shared.events.get() {
        events.refused(address, name.as_ref(), &error);
    }
    refused(&shared, &error, address, name.as_ref());
}

/// Logs the reason why there is no connection, at a level that depends on whether an operator
/// should act. Repeated lines are counted; see [`super::notices`].
fn refused(shared: &Shared, error: &HandshakeError, address: SocketAddr, name: Option<&Atom>) {
    let peer = name.map_or("unnamed", Atom::as_str);
    let source = address.ip().to_string();
    let admit = |kind, who: &str| shared.notices.admit(kind, who, Instant::now());
    match error {
        HandshakeError::WrongCookie => {
            if let Some(repeated) = admit("cookie", peer) {
                tracing::warn!(
                    peer, %address, stage = error.stage().as_str(), repeated,
                    "refused: wrong cookie. Start that node with this gateway's cookie, or this \
                     gateway with its"
                );
            }
        }
        HandshakeError::TooOld
        | HandshakeError::MissingFlags(_)
        | HandshakeError::BadName(_)
        | HandshakeError::TooManyConnections => {
            if let Some(repeated) = admit("refused", name.map_or(&source, |_| peer)) {
                let stage = error.stage().as_str();
                tracing::warn!(peer, %address, stage, error = %Chain(error), repeated, "refused");
            }
        }
        HandshakeError::NotErlang(_)
        | HandshakeError::Malformed(_)
        | HandshakeError::TooLong(_) => {
            if let Some(repeated) = admit("protocol", &source) {
                tracing::info!(peer, %address, %error, repeated, "refused: no Erlang node");
            }
        }
        _ => tracing::debug!(peer, %address, error = %Chain(error), "handshake ended"),
    }
}

async fn shake(
    shared: &Shared,
    socket: &mut TcpStream,
    slot: &Slot,
    name: &mut Option<Atom>,
) -> Result<Peer, HandshakeError> {
    let challenge = getrandom::u32().map_err(std::io::Error::from)?;
    let mut acceptor = Acceptor::new(shared.identity(), challenge);
    loop {
        let message = match acceptor.is_new() {
            true => exchange::read_first(socket).await?,
            false => exchange::read(socket).await?,
        };
        let Some(message) = message else {
            return Err(acceptor.closed());
        };
        match acceptor.handle(&message)? {
            Step::Wait | Step::Alive => {}
            Step::Send(messages) => exchange::write(socket, &messages).await?,
            Step::Named => {
                let Some(peer) = acceptor.peer() else { continue };
                *name = Some(peer.name.clone());
                if shared.dials.has_succeeded(&peer.name) {
                    slot.is_known();
                }
                let status = shared.judge(peer);
                let (messages, outcome) = acceptor.status(status);
                exchange::write(socket, &messages).await?;
                outcome?;
            }
            Step::Done(messages, peer) => {
                exchange::write(socket, &messages).await?;
                return Ok(peer);
            }
        }
    }
}
