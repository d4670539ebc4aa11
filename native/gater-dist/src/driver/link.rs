//! The life of an established connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::shared::Shared;
use super::{reader, writer};
use crate::protocol::fragment::Limits;
use crate::protocol::session::Session;
use crate::{Connection, DialError, DownReason, Peer};

/// The number of unsent bytes that the kernel may hold. Messages there cannot be overtaken.
const UNSENT_BYTES: u32 = 256 << 10;
/// The time after which an unfinished message that has not grown may be discarded.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// The atom `noconnection`.
const NOCONNECTION: &[u8] = b"\x77\x0cnoconnection";

/// Registers the connection and runs it to its end. Returns an error, and closes the socket, while
/// the node does not run or if there are as many connections as the settings allow.
pub fn start(
    shared: &Arc<Shared>,
    socket: TcpStream,
    peer: Peer,
) -> Result<Arc<Connection>, DialError> {
    let events = shared.events.get().ok_or(DialError::Stopped)?.clone();
    tune(&socket);
    let limits = Limits {
        message: shared.settings.max_message,
        total: shared.settings.max_reassembly,
        stale: STALE_AFTER,
    };
    let session = Session::new(&shared.new_pid(), &peer, limits);
    let connection = Connection::new(
        peer,
        session.format().clone(),
        shared.settings.lanes,
        shared.settings.fragment_bytes,
        events,
    );
    let replaced = shared.linked(&connection)?;
    let task = run(shared.clone(), connection.clone(), session, socket, replaced);
    shared.tasks.spawn_on(task, &shared.runtime);
    Ok(connection)
}

async fn run(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    session: Session,
    socket: TcpStream,
    replaced: Option<Arc<Connection>>,
) {
    if let Some(old) = replaced {
        old.end(DownReason::Replaced);
        old.ended().cancelled().await;
    }
    let over = Over { shared: &shared, connection: &connection };
    let peer = connection.peer();
    tracing::info!(peer = %peer.name, creation = peer.creation, hidden = peer.hidden, "connected");
    connection.events().up(&connection);

    let (read, write) = socket.into_split();
    let write = Arc::new(write);
    connection.outbox().attach(write.clone());
    let settings = &shared.settings;
    let writing =
        writer::run(connection.clone(), write, settings.tick_time, settings.write_timeout);
    let writer = shared.tasks.spawn_on(
        {
            let connection = connection.clone();
            async move {
                let reason = tokio::select! {
                    () = connection.ending().cancelled() => None,
                    reason = writing => reason,
                };
                if let Some(reason) = reason {
                    connection.end(reason);
                }
            }
        },
        &shared.runtime,
    );
    let reason = reader::run(&shared, &connection, session, read).await;
    connection.end(reason);
    connection.outbox().detach();
    if writer.await.is_err() {
        tracing::error!(peer = %connection.peer().name, "the writer of a connection failed");
    }
    drop(over);
}

/// Reports the end of a connection when it is dropped, even if the task that read from it has
/// panicked, since the peer could not connect again otherwise.
struct Over<'a> {
    shared: &'a Shared,
    connection: &'a Arc<Connection>,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let Self { shared, connection } = self;
        // Only the first reason is kept, so this one applies if no other was set.
        connection.end(DownReason::Requested("its reader has failed"));
        connection.outbox().detach();
        shared.unlinked(connection);
        let reason = connection.reason();
        match &reason {
            DownReason::Closed | DownReason::Shutdown | DownReason::Requested(_) => {
                tracing::info!(peer = %connection.peer().name, %reason, "disconnected");
            }
            _ => tracing::warn!(peer = %connection.peer().name, %reason, "disconnected"),
        }
        for local in connection.end_with_it() {
            let pid = local.of(&connection.peer().name);
            connection.events().exited(connection, &pid, Bytes::from_static(NOCONNECTION));
        }
        connection.events().down(connection, &reason);
        connection.ended().cancel();
    }
}

/// Sets the socket options that send small messages at once and detect dead peers.
fn tune(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
    let outcome = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| unsent(&socket));
    if let Err(error) = outcome {
        tracing::debug!(%error, "a socket option could not be set");
    }
}

#[cfg(target_os = "linux")]
fn unsent(socket: &SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}

#[cfg(not(target_os = "linux"))]
fn unsent(socket: &SockRef<'_>) -> std::io::Result<()> {
    socket.set_send_buffer_size(UNSENT_BYTES as usize)
}
