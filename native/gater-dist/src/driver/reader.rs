//! The task that reads from one connection. It never waits for a consumer: a hidden node that
//! stops reading suspends the processes that send to it.
//!
//! A turn of it ends when so much work was done (see [`super::work`]), however little was read for
//! it, and the other tasks of the thread have theirs. What takes long is done on another thread, and
//! this connection alone waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::net::tcp::OwnedReadHalf;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{block_in_place, yield_now};

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

/// What is made ready for the first read, and for all of a connection that is idle.
const FIRST_READ_BYTES: usize = 2 << 10;
/// The least that is made ready for a read once one was full.
const READ_BYTES: usize = 64 << 10;
/// Messages from so many bytes on take long to read and to copy.
const APART_BYTES: usize = 256 << 10;
/// A buffer that has grown beyond this for a long frame goes with it.
const KEPT_BYTES: usize = 512 << 10;
/// Unknown operations that are logged, per connection.
const LOGGED_UNKNOWN: u64 = 3;

/// Reads until the connection ends, and gives the reason.
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
    loop {
        let callers = connection.caller_stats();
        let read = match polling.read(callers, &mut socket, &mut buffer, &shared.spinning).await {
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
        if let Err(reason) = handle(&mut session, whole, now, &mut sink).await {
            return reason;
        }
        reserve(&mut buffer, wanted, room);
        // A short read has emptied the socket: the next one waits.
        if read < READ_BYTES {
            connection.work().rested();
        }
    }
}

/// Takes the whole frames out of `buffer`. With them come the bytes of the next frame, if that is
/// known.
fn take_whole(buffer: &mut BytesMut, max_frame: usize) -> Result<(Bytes, usize), ProtocolError> {
    let extent = frame::extent(buffer, max_frame)?;
    let grown = buffer.capacity() > KEPT_BYTES;
    let frames = buffer.split_to(extent.whole).freeze();
    if extent.whole > 0 && grown {
        // Who keeps a short message that comes next must not keep all of it.
        let mut fresh = BytesMut::with_capacity(buffer.len().max(2 * READ_BYTES));
        fresh.extend_from_slice(buffer);
        *buffer = fresh;
    }
    Ok((frames, extent.next.unwrap_or(0)))
}

/// Handles whole frames, turn by turn. Ends early with the connection.
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
            // Written when it goes out of scope.
            let _cork = cork::begin();
            session.frames_from(handled, &frames, now, sink).map_err(DownReason::Protocol)?
        };
        if let Some(long) = connection.work().take_apart() {
            shared.apart.run(long).await;
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

/// Makes room for the next read. Room grows with what has arrived, never with
/// what is announced.
fn reserve(buffer: &mut BytesMut, wanted: usize, least: usize) {
    let missing = wanted.saturating_sub(buffer.len());
    buffer.reserve(missing.min(buffer.len()).max(least));
}

/// Carries what the session has understood to the node and its user.
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
        if bytes < APART_BYTES {
            return work();
        }
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            // The other tasks of this thread, and the sockets it watches, go to another.
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
