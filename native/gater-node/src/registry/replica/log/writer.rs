//! The only thread that writes the log. All changes that wait when it returns from a write go into
//! the next write, with one sync.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

use super::Shared;
use super::record::Change;
use super::space::{Space, TRY_AGAIN, is_full};
use super::wal::Wal;
use crate::registry::replica::types::TypeConfig;

/// The greatest age of the committed position on the disk. The position is not needed to keep
/// acknowledged commands, but a gateway that starts without the others offers the registry as of
/// it. It is therefore written along with entries now and then, and alone only when no entries
/// arrive.
const COMMITTED_WITHIN: Duration = Duration::from_millis(100);

/// A change, and the receiver of the result of its write.
pub struct Job {
    pub change: Change,
    pub done: Done,
}

/// The receiver of the result of a write.
pub enum Done {
    /// Openraft waits for appended entries.
    Flushed(LogFlushed<TypeConfig>),
    /// A task waits.
    Waiting(oneshot::Sender<io::Result<()>>),
    /// Nothing waits; a failure is reported with the next job.
    Nobody,
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Flushed(callback) => callback.log_io_completed(result),
            Self::Waiting(waiting) => {
                // The task may have stopped waiting.
                let _ = waiting.send(result);
            }
            Self::Nobody => {}
        }
    }
}

/// Starts the thread that writes `wal`. It ends when the sender is dropped and everything is
/// written.
pub fn start(
    shared: Arc<Shared>,
    space: Arc<Space>,
    wal: Wal,
) -> io::Result<(Sender<Job>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    let thread = std::thread::Builder::new()
        .name("log".into())
        .spawn(move || run(&shared, &space, wal, &queue))?;
    Ok((jobs, thread))
}

/// Writes `changes`, however long it takes until there is room for them.
fn write<'a>(
    wal: &mut Wal,
    space: &Space,
    changes: impl Iterator<Item = &'a Change> + Clone,
) -> io::Result<()> {
    loop {
        match wal.write(changes.clone()) {
            Err(error) if is_full(&error) && space.found_none(&wal.path(), &error) => {
                std::thread::sleep(TRY_AGAIN);
            }
            written => {
                if written.is_ok() {
                    space.found_some();
                }
                return written;
            }
        }
    }
}

fn run(shared: &Shared, space: &Space, mut wal: Wal, queue: &Receiver<Job>) {
    // A disk that has failed may have lost earlier writes, so nothing is written afterwards.
    let mut failed: Option<String> = None;
    let mut written = shared.committed();
    let mut written_at = Instant::now();
    loop {
        let first = match queue.recv_timeout(COMMITTED_WITHIN) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) if failed.is_none() && shared.committed() != written => {
                None
            }
            // Nothing is written until a change arrives.
            Err(RecvTimeoutError::Timeout) => match queue.recv() {
                Ok(first) => Some(first),
                Err(_) => break,
            },
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // This is read before the queue is drained, so that every committed entry is in the queue
        // or on the disk.
        let committed = shared.committed();
        let jobs: Vec<Job> = first.into_iter().chain(queue.try_iter()).collect();
        if failed.is_none() {
            let due = committed != written
                && (jobs.is_empty() || written_at.elapsed() >= COMMITTED_WITHIN);
            let mark = committed.filter(|_| due).map(Change::Committed);
            match write(&mut wal, space, jobs.iter().map(|job| &job.change).chain(&mark)) {
                Ok(()) if due => (written, written_at) = (committed, Instant::now()),
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(%error, "the log cannot be written; the registry stops");
                    failed = Some(error.to_string());
                }
            }
        }
        if failed.is_none() {
            shared.written(jobs.iter().map(|job| &job.change));
        }
        for job in jobs {
            job.done.tell(match &failed {
                None => Ok(()),
                Some(error) => Err(io::Error::other(error.clone())),
            });
        }
        if failed.is_none() {
            // No caller waits for this.
            wal.tidy();
        }
    }
    // The committed position is not needed, but saves the next start from asking other gateways.
    let committed = shared.committed();
    let mark = committed.filter(|_| committed != written).map(Change::Committed);
    if failed.is_none()
        && let Err(error) = wal.close(mark.iter())
    {
        tracing::warn!(%error, "the end of the log could not be written");
    }
}
