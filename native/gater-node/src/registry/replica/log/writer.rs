//! The one thread that writes the log: whatever waits when it comes back from a
//! write goes into the next one, with one sync for all of it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

use super::Shared;
use super::record::Change;
use super::wal::Wal;
use crate::registry::replica::types::TypeConfig;

/// How old what the disk says of the committed entries may be. It is not needed to keep
/// what was acknowledged; a gateway that starts without the others offers what it says.
/// So it rides along with entries now and then, and is written alone only when none come.
const COMMITTED_WITHIN: Duration = Duration::from_millis(100);

/// A change, and who hears when it is on the disk.
pub struct Job {
    pub change: Change,
    pub done: Done,
}

/// Who hears of the end of a write.
pub enum Done {
    /// Openraft, of appended entries.
    Flushed(LogFlushed<TypeConfig>),
    /// Whoever waits.
    Waiting(oneshot::Sender<io::Result<()>>),
    /// Nobody; a failure shows with the next job.
    Nobody,
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Flushed(callback) => callback.log_io_completed(result),
            Self::Waiting(waiting) => {
                // Whoever waited gave up.
                let _ = waiting.send(result);
            }
            Self::Nobody => {}
        }
    }
}

/// Starts the thread, which writes `wal`. It ends when the sender is gone and all is written.
pub fn start(shared: Arc<Shared>, wal: Wal) -> io::Result<(Sender<Job>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    let thread =
        std::thread::Builder::new().name("log".into()).spawn(move || run(&shared, wal, &queue))?;
    Ok((jobs, thread))
}

fn run(shared: &Shared, mut wal: Wal, queue: &Receiver<Job>) {
    // A disk that failed once may have lost what it took before: nothing is written after.
    let mut failed: Option<String> = None;
    let mut written = shared.committed();
    let mut written_at = Instant::now();
    loop {
        let first = match queue.recv_timeout(COMMITTED_WITHIN) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) if failed.is_none() && shared.committed() != written => {
                None
            }
            // Nothing to write for as long as nothing comes.
            Err(RecvTimeoutError::Timeout) => match queue.recv() {
                Ok(first) => Some(first),
                Err(_) => break,
            },
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // Before the queue is emptied: what is committed by then is in it, or on the disk.
        let committed = shared.committed();
        let jobs: Vec<Job> = first.into_iter().chain(queue.try_iter()).collect();
        if failed.is_none() {
            let due = committed != written
                && (jobs.is_empty() || written_at.elapsed() >= COMMITTED_WITHIN);
            let mark = committed.filter(|_| due).map(Change::Committed);
            match wal.write(jobs.iter().map(|job| &job.change).chain(&mark)) {
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
            // Nobody waits for that.
            wal.tidy();
        }
    }
    // What is committed is not needed, but saves the next start from asking.
    let committed = shared.committed();
    let mark = committed.filter(|_| committed != written).map(Change::Committed);
    if failed.is_none()
        && let Err(error) = wal.close(mark.iter())
    {
        tracing::warn!(%error, "the end of the log could not be written");
    }
}
