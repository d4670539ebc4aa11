//! The task that reads from one connection. It never waits for a consumer: a hidden node that
//! stops reading suspends the processes that send to it.
//!
//! A turn of the task ends when a certain amount of work was done (see [`super::work`]), however
//! few bytes were read for it, and the other tasks of the thread get a turn. Slow work is done on
//! another thread, and only this connection waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::net::tcp::OwnedReadHalf;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{block_in_place, yield_now};
use tokio::time::timeout_at;

use super::cork;
use super::polling::AdaptivePolling;
use super::shared::Shared;
use super::work::FRAME;
use crate::gen_server::From;
use crate::protocol::control::Control;
use crate::protocol::encode::Signal;
use crate::protocol::frame;
use crate::protocol::session::{Processes, Session, Sink};
use crate::{Connection, DownReason, LocalPid, Message, ProtocolError, Target};

/// The size of the buffer for the first read, which is all that an idle connection has.
const FIRST_READ_BYTES: usize = 2 << 10;
/// The least size of the buffer for a read after one that was full.
const READ_BYTES: usize = 64 << 10;
/// The least rate at which a frame has to arrive, in bytes per second.
const LEAST_RATE: usize = 256 << 10;
/// The length from which on reading and copying a message is slow.
const BLOCKING_BYTES: usize = 256 << 10;
/// The capacity of the buffer that is kept after a long frame.
const KEPT_BYTES: usize = 512 << 10;
/// The number of unknown operations per connection that are logged.
const LOGGED_UNKNOWN: u64 = 3;

/// Reads until the connection ends, and returns the reason.
pub async fn run(
    shared: &Shared,
    connection: &Arc<Connection>,
    session: Session,
    socket: OwnedReadHalf,
) -> DownReason {
    tokio::select! {
        biased;
        () = connection.ending().cancelled() => connection.reason(),
        reason = read(shared, connection, session, socket) => reason,
    }
}

async fn read(
    shared: &Shared,
    connection: &Arc<Connection>,
    mut session: Session,
    mut socket: OwnedReadHalf,
) -> DownReason {
    let max_frame = shared.settings.max_frame;
    let processes = connection.events().processes();
    let mut sink = Incoming { shared, connection, processes, unknown: 0 };
    let mut buffer = BytesMut::with_capacity(FIRST_READ_BYTES);
    let mut room = FIRST_READ_BYTES;
    let mut polling = AdaptivePolling::new(shared.settings.spin);
    let mut share = shared.unfinished.share(connection);
    let mut unfinished: Option<(Instant, Duration)> = None;
    loop {
        let callers = connection.caller_stats();
        let reading = polling.read(callers, &mut socket, &mut buffer, &shared.spinning);
        let read = match unfinished {
            None => reading.await,
            Some((since, within)) => match timeout_at((since + within).into(), reading).await {
                Ok(read) => read,
                Err(_) => return DownReason::SlowFrame(within),
            },
        };
        let read = match read {
            Ok(0) => return DownReason::Closed,
            Ok(read) => read,
            Err(error) => return DownReason::Io(error.to_string()),
        };
        if buffer.len() == buffer.capacity() {
            room = READ_BYTES;
        }
        let now = connection.age();
        connection.heard(now, read);
        let (whole, wanted) = match take_whole(&mut buffer, max_frame) {
            Ok(taken) => taken,
            Err(error) => return DownReason::Protocol(error),
        };
        // A frame has begun if one was finished, or none was under way.
        if !whole.is_empty() || unfinished.is_none() {
            let within = shared.settings.frame_timeout + at_least_rate(wanted);
            unfinished = (!buffer.is_empty()).then(|| (Instant::now(), within));
        } else if let Some((_, within)) = &mut unfinished {
            // Its length may have come by now.
            *within = shared.settings.frame_timeout + at_least_rate(wanted);
        }
        if let Err(reason) = handle(&mut session, whole, now, &mut sink).await {
            return reason;
        }
        reserve(&mut buffer, wanted, room);
        share.set(buffer.len() + session.reassembly().charged());
        // A short read has emptied the socket, so the next one waits.
        if read < READ_BYTES {
            connection.work().rested();
        }
    }
}

/// Returns how long a frame of so many bytes takes at the least rate that is good enough.
fn at_least_rate(bytes: usize) -> Duration {
    Duration::from_secs((bytes / LEAST_RATE) as u64)
}

/// Removes and returns the complete frames of `buffer`, with the number of bytes of the next frame
/// if it is known.
fn take_whole(buffer: &mut BytesMut, max_frame: usize) -> Result<(Bytes, usize), ProtocolError> {
    let extent = frame::extent(buffer, max_frame)?;
    let grown = buffer.capacity() > KEPT_BYTES;
    let frames = buffer.split_to(extent.whole).freeze();
    if extent.whole > 0 && grown {
        // A short message in the next read must not keep the whole large buffer alive.
        let mut fresh = BytesMut::with_capacity(buffer.len().max(2 * READ_BYTES));
        fresh.extend_from_slice(buffer);
        *buffer = fresh;
    }
    Ok((frames, extent.next.unwrap_or(0)))
}

/// Handles complete frames in turns. Returns early if the connection ends.
async fn handle(
    session: &mut Session,
    frames: Bytes,
    now: Duration,
    sink: &mut Incoming<'_>,
) -> Result<(), DownReason> {
    let (shared, connection) = (sink.shared, sink.connection);
    let mut handled = 0;
    while handled < frames.len() {
        handled = {
            // The cork is written when it goes out of scope.
            let _cork = cork::begin();
            session.frames_from(handled, &frames, now, sink).map_err(DownReason::Protocol)?
        };
        if let Some(long) = connection.work().take_blocking() {
            shared.blocking.run(long).await;
        }
        if connection.is_closed() {
            return Err(connection.reason());
        }
        if connection.work().is_over() {
            connection.work().rested();
            yield_now().await;
        }
    }
    Ok(())
}

/// Makes room for the next read. The buffer grows with the bytes that have arrived, and never with
/// announced lengths.
fn reserve(buffer: &mut BytesMut, wanted: usize, least: usize) {
    let missing = wanted.saturating_sub(buffer.len());
    buffer.reserve(missing.min(buffer.len()).max(least));
}

/// Passes the results of the session to the node and its user.
struct Incoming<'a> {
    shared: &'a Shared,
    connection: &'a Arc<Connection>,
    processes: Option<&'a dyn Processes>,
    unknown: u64,
}

impl Sink for Incoming<'_> {
    fn knows(&mut self, name: &str) -> bool {
        self.connection.events().knows(name)
    }

    fn lives(&mut self, id: u32, serial: u32) -> bool {
        self.shared.has_pid(id, serial)
    }

    fn signal(&mut self, signal: Signal) {
        self.connection.signal(signal);
    }

    fn reply(&mut self, from: &From, reply: Bytes) {
        self.connection.reply(from, reply);
    }

    fn tick(&mut self) {
        self.connection.outbox().answer_tick(Instant::now());
    }

    fn message(&mut self, to: Target<'_>, payload: Bytes) {
        self.connection.events().message(self.connection, Message { to, payload });
    }

    fn exited(&mut self, local: LocalPid, reference: &[u8], reason: Bytes) {
        if self.connection.monitor_ended(local, reference) {
            let pid = local.of(&self.connection.peer().name);
            self.connection.events().exited(self.connection, &pid, reason);
        }
    }

    fn link_broken(&mut self, local: LocalPid, reason: Bytes) {
        if self.connection.link_broken(local) {
            let pid = local.of(&self.connection.peer().name);
            self.connection.events().exited(self.connection, &pid, reason);
        }
    }

    fn probe_answered(&mut self, reference: &[u8]) {
        self.connection.probe_answered(reference);
    }

    fn frame(&mut self, bytes: usize) {
        self.connection.work().charge(FRAME + bytes);
    }

    fn pauses(&mut self) -> bool {
        self.connection.work().pauses() || self.connection.is_closed()
    }

    fn run_blocking<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
        if bytes < BLOCKING_BYTES {
            return work();
        }
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            // The other tasks of this thread, and the sockets that it watches, move to another
            // thread.
            Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
            _ => work(),
        }
    }

    fn process(&mut self, control: &Control<'_>, payload: &Bytes) -> bool {
        self.processes.is_some_and(|all| all.control(self.connection, control, payload))
    }

    fn unknown_operation(&mut self, op: u64) {
        self.unknown += 1;
        if self.unknown <= LOGGED_UNKNOWN {
            tracing::info!(peer = %self.connection.peer().name, op, "unknown operation ignored");
        }
    }
}
