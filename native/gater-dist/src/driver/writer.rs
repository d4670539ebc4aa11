//! The task that writes the queued messages of one connection, and its ticks.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::batch::Batch;
use super::outbox::Next;
use crate::{Connection, DownReason};

/// The number of full batches that are written before other tasks get a turn: some milliseconds at
/// most.
const FULL_IN_A_ROW: u32 = 8;

/// Writes until the connection ends. Returns the reason if writing caused the end.
pub async fn run(
    connection: Arc<Connection>,
    socket: Arc<OwnedWriteHalf>,
    tick_time: Duration,
    write_timeout: Duration,
) -> Option<DownReason> {
    let outbox = connection.outbox();
    let mut ticks = interval(tick_time / 4);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = None;
    let mut full = 0;
    loop {
        match outbox.next(written.take()) {
            Next::Write(mut batch) => {
                full = if batch.has_room() { 0 } else { full + 1 };
                if let Err(reason) = write(&mut batch, &socket, write_timeout).await {
                    return Some(reason);
                }
                if full >= FULL_IN_A_ROW {
                    // The other tasks of the thread get a turn.
                    full = 0;
                    yield_now().await;
                }
                written = Some(batch);
            }
            Next::Wait => tokio::select! {
                () = outbox.woken() => {}
                () = overdue(outbox.held(), write_timeout) => {
                    if outbox.held().is_some_and(|since| since.elapsed() >= write_timeout) {
                        return Some(DownReason::Stalled(write_timeout));
                    }
                }
                _ = ticks.tick() => {
                    let silence = connection.silence();
                    if silence >= tick_time {
                        return Some(DownReason::Silent(tick_time));
                    }
                    if silence >= tick_time / 2 {
                        connection.liveness_probe();
                    }
                    outbox.tick();
                }
            },
            Next::End => {
                // Shutting down tells the peer that nothing more follows; it closes when it has
                // read everything. An error is ignored, since it means that the socket is broken
                // already.
                let stream: &TcpStream = (*socket).as_ref();
                let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
                return None;
            }
        }
    }
}

/// Waits until the output that has been held up since `since` exceeds the limit.
async fn overdue(since: Option<Instant>, limit: Duration) {
    match since {
        Some(since) => sleep_until((since + limit).into()).await,
        None => pending().await,
    }
}

/// Writes everything. The socket must take some bytes within each period of `limit`.
async fn write(
    batch: &mut Batch,
    socket: &OwnedWriteHalf,
    limit: Duration,
) -> Result<(), DownReason> {
    let failed = |error: std::io::Error| DownReason::Io(error.to_string());
    while !batch.try_write(socket).map_err(failed)? {
        match timeout(limit, socket.writable()).await {
            Err(_) => return Err(DownReason::Stalled(limit)),
            Ok(ready) => ready.map_err(failed)?,
        }
    }
    Ok(())
}
