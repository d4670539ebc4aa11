//! How much work one peer may ask for before others have their turn.
//!
//! Work is counted in units of about a nanosecond: what a byte of a message costs that is read,
//! copied or written. Whoever carries out what a peer asks charges what it costs, see
//! [`Connection::charge`](crate::Connection::charge). What takes longer than a turn by itself is set
//! apart ([`Connection::set_apart`](crate::Connection::set_apart)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// A turn ends with the message that brings the work done in it to this.
const TURN: usize = 500_000;
/// What a frame costs beside its bytes.
pub const FRAME: usize = 300;

type Long = Box<dyn FnOnce() + Send>;

/// The work of one connection: only its reader and what that calls use it.
#[derive(Default)]
pub struct Work {
    /// In the turn at hand.
    done: AtomicUsize,
    /// Whether there is something in `apart`.
    waits: AtomicBool,
    apart: Mutex<Option<Long>>,
}

impl Work {
    /// So much was done.
    pub fn charge(&self, units: usize) {
        // Nobody else writes: no lost update matters.
        let done = self.done.load(Ordering::Relaxed);
        self.done.store(done.saturating_add(units), Ordering::Relaxed);
    }

    /// Whether the turn is over.
    pub fn is_over(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= TURN
    }

    /// Whether no further message is to be handled now.
    pub fn pauses(&self) -> bool {
        self.is_over() || self.waits.load(Ordering::Relaxed)
    }

    /// Others had their turn.
    pub fn rested(&self) {
        self.done.store(0, Ordering::Relaxed);
    }

    /// Has `long` done on another thread before the next message is handled. There is room for one:
    /// gives it back if another waits.
    pub fn set_apart(&self, long: Long) -> Option<Long> {
        let mut apart = self.apart.lock();
        if apart.is_some() {
            return Some(long);
        }
        *apart = Some(long);
        self.waits.store(true, Ordering::Relaxed);
        None
    }

    /// Takes what was set apart.
    pub fn take_apart(&self) -> Option<Long> {
        if !self.waits.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.apart.lock().take()
    }
}

/// Runs what takes long for all connections of a node, a few at a time, in the order in which it
/// came. A reader waits for what its peer has asked for, so one peer has one place.
pub struct Apart(Arc<Semaphore>);

impl Apart {
    /// For a machine with so many processors: one at least stays for everything else.
    pub fn new(processors: usize) -> Self {
        Self(Arc::new(Semaphore::new((processors / 2).max(1))))
    }

    /// Runs `long` and waits for its end.
    pub async fn run(&self, long: Long) {
        let Ok(place) = self.0.clone().acquire_owned().await else { return };
        // The place is taken for as long as it runs, even if the connection ends before.
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
    fn one_thing_is_set_apart_at_a_time() {
        let work = Work::default();
        assert!(work.set_apart(Box::new(|| {})).is_none());
        assert!(work.pauses() && !work.is_over());
        assert!(work.set_apart(Box::new(|| {})).is_some());
        assert!(work.take_apart().is_some());
        assert!(work.take_apart().is_none() && !work.pauses());
    }

    #[tokio::test]
    async fn what_panics_apart_gives_its_place_back() {
        let apart = Apart::new(1);
        apart.run(Box::new(|| panic!("on purpose"))).await;
        let (done, was) = tokio::sync::oneshot::channel();
        apart.run(Box::new(move || done.send(()).unwrap())).await;
        was.await.unwrap();
    }
}
