//! The work that one peer may request before others have their turn.
//!
//! Work is counted in units of about a nanosecond, which is the cost of a byte of a message that is
//! read, copied or written. The code that carries out a request of a peer charges its cost; see
//! [`Connection::charge`](crate::Connection::charge). Work that takes longer than a turn by itself
//! is moved to another thread ([`Connection::run_blocking`](crate::Connection::run_blocking)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// The amount of work with which a turn ends, after the message that reaches it.
const TURN: usize = 500_000;
/// The cost of a frame beside its bytes.
pub const FRAME: usize = 300;

type Long = Box<dyn FnOnce() + Send>;

/// The work of one connection, which only its reader and the code that it calls use.
#[derive(Default)]
pub struct Work {
    /// The work of the present turn.
    done: AtomicUsize,
    /// Whether `blocking` contains work.
    waits: AtomicBool,
    blocking: Mutex<Option<Long>>,
}

impl Work {
    /// Adds to the work of the turn.
    pub fn charge(&self, units: usize) {
        // Only one thread writes, so no update is lost.
        let done = self.done.load(Ordering::Relaxed);
        self.done.store(done.saturating_add(units), Ordering::Relaxed);
    }

    /// Returns whether the turn is over.
    pub fn is_over(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= TURN
    }

    /// Returns whether no further message may be handled now.
    pub fn pauses(&self) -> bool {
        self.is_over() || self.waits.load(Ordering::Relaxed)
    }

    /// Begins a new turn, after others had theirs.
    pub fn rested(&self) {
        self.done.store(0, Ordering::Relaxed);
    }

    /// Requests that `long` is done on another thread before the next message is handled. There is
    /// room for one; it is returned if another one waits.
    pub fn run_blocking(&self, long: Long) -> Option<Long> {
        let mut blocking = self.blocking.lock();
        if blocking.is_some() {
            return Some(long);
        }
        *blocking = Some(long);
        self.waits.store(true, Ordering::Relaxed);
        None
    }

    /// Removes and returns the work for another thread.
    pub fn take_blocking(&self) -> Option<Long> {
        if !self.waits.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.blocking.lock().take()
    }
}

/// Runs slow work for all connections of a node, a few pieces at a time, in the order in which they
/// came. A reader waits for the work that its peer has requested, so one peer has at most one
/// piece.
pub struct Blocking(Arc<Semaphore>);

impl Blocking {
    /// Returns a value for a machine with this many processors, of which at least one is left to
    /// everything else.
    pub fn new(processors: usize) -> Self {
        Self(Arc::new(Semaphore::new((processors / 2).max(1))))
    }

    /// Runs `long` and waits for its end.
    pub async fn run(&self, long: Long) {
        let Ok(place) = self.0.clone().acquire_owned().await else { return };
        // The permit is held for as long as the work runs, even if the connection ends before.
        let run = move || {
            let _place = place;
            long();
        };
        if spawn_blocking(run).await.is_err() {
            tracing::error!("what was done for a peer on a thread of its own has failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_by_work_and_not_by_messages() {
        let work = Work::default();
        work.charge(TURN - 1);
        assert!(!work.pauses());
        work.charge(1);
        assert!(work.pauses() && work.is_over());
        work.rested();
        assert!(!work.pauses());
        work.charge(usize::MAX);
        work.charge(usize::MAX);
        assert!(work.is_over());
    }

    #[test]
    fn one_piece_of_blocking_work_waits_at_a_time() {
        let work = Work::default();
        assert!(work.run_blocking(Box::new(|| {})).is_none());
        assert!(work.pauses() && !work.is_over());
        assert!(work.run_blocking(Box::new(|| {})).is_some());
        assert!(work.take_blocking().is_some());
        assert!(work.take_blocking().is_none() && !work.pauses());
    }

    #[tokio::test]
    async fn what_panics_apart_gives_its_place_back() {
        let blocking = Blocking::new(1);
        blocking.run(Box::new(|| panic!("on purpose"))).await;
        let (done, was) = tokio::sync::oneshot::channel();
        blocking.run(Box::new(move || done.send(()).unwrap())).await;
        was.await.unwrap();
    }
}
