//! Caller statistics: the number of processes of a peer that call concurrently, and the duration of
//! their calls, derived from the answers.
//!
//! One caller is watched at a time. The number of answers between two answers to this caller is the
//! number of concurrent callers.

use std::time::Duration;

use gater_term::Pid;

/// A caller is no longer watched after twice as many answers as there were callers last, plus this
/// number.
const SPARE: u32 = 8;
/// The greatest number of callers that is distinguished.
const MAX: u32 = 1024;

/// Counts answers and estimates the number of callers.
#[derive(Debug)]
pub struct CallerStats {
    /// The id and the serial of the watched caller, and the time of its last answer.
    watched: Option<(u32, u32, Duration)>,
    /// The number of answers since then.
    since: u32,
    seen: Seen,
}

/// The statistics of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The number of answers in the period.
    pub answers: u32,
    /// The number of these answers that were given while the calls were being read, without
    /// waiting.
    pub at_once: u32,
    /// The number of concurrent callers. For processes that call only once, the number of them
    /// since one was watched.
    pub callers: u32,
    /// The time between two answers to one caller, or `None` if it does not call again.
    pub round: Option<Duration>,
}

impl Default for CallerStats {
    fn default() -> Self {
        let seen = Seen { answers: 0, at_once: 0, callers: 1, round: None };
        Self { watched: None, since: 0, seen }
    }
}

impl CallerStats {
    /// Records an answer to `caller`, which was given `at_once` or later than its call was read.
    /// `now` is the time on any fixed clock.
    pub fn answered(&mut self, caller: &Pid, at_once: bool, now: impl FnOnce() -> Duration) {
        self.seen.answers = self.seen.answers.saturating_add(1);
        self.seen.at_once += u32::from(at_once && self.seen.at_once < u32::MAX);
        self.since += 1;
        let (id, serial) = (caller.id, caller.serial);
        let last = match self.watched {
            Some((of, serial_of, last)) if (of, serial_of) == (id, serial) => Some(last),
            _ if self.since > 2 * self.seen.callers + SPARE => None,
            _ => return,
        };
        let now = now();
        self.seen.callers = self.since.min(MAX);
        self.seen.round = last.map(|last| now.saturating_sub(last));
        (self.watched, self.since) = (Some((id, serial, now)), 0);
    }

    /// Returns the statistics since the last call, and starts a new period.
    pub fn take(&mut self) -> Seen {
        let seen = self.seen;
        (self.seen.answers, self.seen.at_once) = (0, 0);
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gater_term::Atom;

    const STEP: Duration = Duration::from_micros(10);

    fn pid(id: u32) -> Pid {
        Pid { node: Atom::new("n@h").unwrap(), id, serial: 0, creation: 1 }
    }

    /// Records the answers one after the other, with a step of time between them.
    fn after(answered: impl IntoIterator<Item = u32>) -> Seen {
        let mut callers = CallerStats::default();
        for (id, time) in answered.into_iter().zip(1..) {
            callers.answered(&pid(id), true, || STEP * time);
        }
        callers.take()
    }

    #[test]
    fn those_that_call_again_and_again_are_told_apart_and_timed() {
        for count in [1, 2, 5, 32, 1000] {
            let seen = after((0..20).flat_map(|_| 0..count));
            assert_eq!((seen.callers, seen.round), (count, Some(STEP * count)));
        }
    }

    #[test]
    fn those_that_come_and_go_are_soon_noticed() {
        let many = (0..10).flat_map(|_| 0..32_u32);
        let then_one = std::iter::repeat_n(99, 80);
        assert_eq!(after(many.clone().chain(then_one)).callers, 1);
        let then_two = (0..40).flat_map(|_| [98, 99]);
        assert_eq!(after(many.chain(then_two)).callers, 2);
    }

    #[test]
    fn those_that_call_once_are_many_and_have_no_round() {
        assert!(after(0..20).callers > 8);
        let seen = after(0..100_000);
        assert_eq!((seen.callers, seen.round), (MAX, None));
    }

    #[test]
    fn answers_are_counted_since_the_last_time() {
        let mut callers = CallerStats::default();
        for at_once in [true, false, true] {
            callers.answered(&pid(1), at_once, || STEP);
        }
        let seen = callers.take();
        assert_eq!((seen.answers, seen.at_once), (3, 2));
        let seen = callers.take();
        assert_eq!((seen.answers, seen.at_once), (0, 0));
    }
}
