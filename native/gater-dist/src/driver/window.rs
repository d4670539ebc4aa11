//! How much a peer is sent before it has shown that it has read what came before.
//!
//! What the kernels at both ends hold, tens of MiB with a receiver that is slower than the
//! sender, cannot be overtaken any more. So after every so many bytes a **probe** goes out: a
//! monitor of a name that no process can have, which every node answers at once, in the order
//! in which it reads. While too much is unanswered only the urgent lanes are written, and all
//! else waits where it can be overtaken, and dropped by the rule of its lane.
//!
//! How much is too much is found out by how long answers take, as LEDBAT does (RFC 6817): what an
//! answer takes beyond the fastest one ever is time that bytes have waited. A near node is
//! sent little at a time and reads it soon; one that is far away needs more under way.
//!
//! A node that does not answer the first probe is never kept waiting for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Lane;

/// Bytes that may be unanswered at first, and at the least: enough that a BEAM nearby has always
/// something to read.
const MIN_OPEN_BYTES: usize = 384 << 10;
/// At the most: 400 MB/s to a node 20 ms away.
const MAX_OPEN_BYTES: usize = 8 << 20;
/// So many probes are under way when the window is full. Invariant: at least 2, so that one that
/// has shrunk is not full of bytes without a probe.
const MARKS: usize = 3;
/// What waits for less lets the window grow if it was full; what waits for twice as long makes
/// it shrink. A few times what it takes to wake a node nearby.
const WAIT: Duration = Duration::from_micros(500);
/// The share of the window that it grows or shrinks by with an answer.
const STEP: usize = 8;

/// The lowest lane that never waits for an answer.
const URGENT: Lane = Lane::Critical;

/// What one peer was sent, less what it has read.
#[derive(Debug)]
pub struct Window {
    /// Whether the peer answers probes at all.
    probes: bool,
    /// Bytes that may be unanswered.
    open: usize,
    /// Whether it was full since the last answer.
    full: bool,
    /// What the last answer took.
    latest: Option<Duration>,
    /// The least that an answer took, once there was one.
    fastest: Option<Duration>,
    /// The last probe. They are numbered from 1.
    last: u64,
    unanswered: VecDeque<Mark>,
    /// Bytes after the last probe.
    since: usize,
    /// All that is unanswered.
    bytes: usize,
}

#[derive(Debug)]
struct Mark {
    /// Before it, and after the one before.
    bytes: usize,
    sent: Instant,
}

impl Default for Window {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Window {
    /// Returns the window for a peer that answers `probes`, or none and is sent everything at once.
    pub fn new(probes: bool) -> Self {
        Self {
            probes,
            open: MIN_OPEN_BYTES,
            full: false,
            latest: None,
            fastest: None,
            last: 0,
            unanswered: VecDeque::new(),
            since: 0,
            bytes: 0,
        }
    }

    /// So many bytes of a lane go out; the number of the probe that is to follow, if one is.
    #[must_use]
    pub fn sent(&mut self, lane: Lane, bytes: usize, now: impl FnOnce() -> Instant) -> Option<u64> {
        if lane <= URGENT || !self.probes {
            return None;
        }
        self.since += bytes;
        self.bytes += bytes;
        self.full |= self.bytes >= self.open;
        // The first has to be answered before there is a second.
        if self.since < self.open / MARKS || (self.fastest.is_none() && !self.unanswered.is_empty())
        {
            return None;
        }
        let bytes = std::mem::take(&mut self.since);
        self.unanswered.push_back(Mark { bytes, sent: now() });
        self.last += 1;
        Some(self.last)
    }

    /// Returns the probe that is answered next.
    pub fn awaited(&self) -> Option<u64> {
        let unanswered = self.unanswered.len() as u64;
        (unanswered > 0).then(|| self.last - unanswered + 1)
    }

    /// It is answered: returns what that took.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        let Mark { bytes, sent } = self.unanswered.pop_front()?;
        self.bytes -= bytes;
        let took = now.saturating_duration_since(sent);
        self.latest = Some(took);
        match self.fastest {
            None => {
                self.fastest = Some(took);
                // What went out meanwhile has no probes in it to be waited for.
                (self.since, self.bytes) = (0, 0);
            }
            Some(fastest) => {
                let fastest = fastest.min(took);
                self.fastest = Some(fastest);
                self.adapt(took - fastest);
            }
        }
        self.full = self.bytes >= self.open;
        Some(took)
    }

    /// The bytes that are unanswered.
    pub fn unread(&self) -> usize {
        self.bytes
    }

    /// What the last answer took, if there was one.
    pub fn latest(&self) -> Option<Duration> {
        self.latest
    }

    fn adapt(&mut self, waited: Duration) {
        let step = self.open / STEP;
        if waited > 2 * WAIT {
            self.open = (self.open - step).max(MIN_OPEN_BYTES);
        } else if waited < WAIT && self.full {
            self.open = (self.open + step).min(MAX_OPEN_BYTES);
        }
    }

    /// Returns the lowest lane that may be written now.
    pub fn lowest(&self) -> Lane {
        if self.fastest.is_none() || self.bytes < self.open { Lane::Low } else { URGENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::from_micros(100);
    const FAR: Duration = Duration::from_millis(20);

    /// A window, and the time.
    struct Clock(Window, Instant);

    impl Clock {
        fn new() -> Self {
            Self(Window::default(), Instant::now())
        }

        fn sent(&mut self, lane: Lane, bytes: usize) -> Option<u64> {
            let now = self.1;
            self.0.sent(lane, bytes, || now)
        }

        /// Sends until a probe is due.
        fn probe(&mut self) -> u64 {
            std::iter::repeat_with(|| self.sent(Lane::Low, 1000)).flatten().next().unwrap()
        }

        fn answered(&mut self) {
            let now = self.1;
            self.0.answered(now);
        }

        fn open(&self) -> bool {
            self.0.lowest() == Lane::Low
        }

        /// Fills the window, and has all of it answered after `took`.
        fn round(&mut self, took: Duration) -> usize {
            while self.open() {
                let _ = self.sent(Lane::Low, 1000);
            }
            let filled = self.0.bytes;
            self.1 += took;
            while self.0.awaited().is_some() {
                self.answered();
            }
            filled
        }

        fn proven(mut self, took: Duration) -> Self {
            self.probe();
            self.1 += took;
            self.answered();
            self
        }
    }

    #[test]
    fn a_peer_that_answers_no_mark_is_sent_everything_and_one_mark() {
        let mut window = Clock::new();
        assert_eq!(window.probe(), 1);
        for _ in 0..100 {
            assert_eq!(window.sent(Lane::Low, MIN_OPEN_BYTES), None);
            assert!(window.open());
        }
    }

    #[test]
    fn once_one_is_answered_others_wait_for_answers_and_urgent_lanes_do_not() {
        let mut window = Clock::new();
        window.probe();
        assert_eq!(window.0.awaited(), Some(1));
        window.answered();
        assert_eq!(window.0.awaited(), None);
        while window.open() {
            window.probe();
        }
        assert_eq!(window.0.lowest(), Lane::Critical);
        assert_eq!(window.0.awaited(), Some(2));
        window.answered();
        assert_eq!((window.open(), window.0.awaited()), (true, Some(3)));
    }

    #[test]
    fn a_near_node_is_sent_little_at_a_time_and_a_far_one_what_is_under_way() {
        // A node that reads 100 bytes in a microsecond, as fast as it can.
        let reads = |bytes: usize| Duration::from_nanos(10 * bytes as u64);
        let mut near = Clock::new().proven(NEAR);
        let mut filled = 0;
        for _ in 0..100 {
            filled = near.round(NEAR + reads(filled));
        }
        assert!(filled <= 2 * MIN_OPEN_BYTES, "{filled}");
        let mut far = Clock::new().proven(FAR);
        for _ in 0..100 {
            filled = far.round(FAR);
        }
        assert!(filled >= MAX_OPEN_BYTES, "{filled}");
        // It gets slower.
        for _ in 0..100 {
            filled = far.round(FAR + 3 * WAIT);
        }
        assert!(filled <= 2 * MIN_OPEN_BYTES, "{filled}");
    }

    #[test]
    fn a_window_that_is_never_full_does_not_grow() {
        let mut window = Clock::new().proven(NEAR);
        for _ in 0..1000 {
            window.probe();
            window.answered();
        }
        assert_eq!(window.0.open, MIN_OPEN_BYTES);
    }

    #[test]
    fn whatever_is_sent_a_closed_window_has_a_mark_to_open_it() {
        let mut window = Clock::new();
        let _ = window.sent(Lane::Normal, 100 * MAX_OPEN_BYTES);
        let _ = window.sent(Lane::Normal, 100 * MAX_OPEN_BYTES);
        window.answered();
        for took in [NEAR, 10 * WAIT] {
            for bytes in [1, MIN_OPEN_BYTES / MARKS - 1, 100 * MAX_OPEN_BYTES, 7, 60_000, 60_000] {
                let _ = window.sent(Lane::High, bytes);
                assert!(window.open() || window.0.awaited().is_some());
                window.1 += took;
                window.answered();
                assert!(window.open() || window.0.awaited().is_some());
            }
        }
        while window.0.awaited().is_some() {
            window.answered();
        }
        assert!(window.open());
    }

    #[test]
    fn urgent_lanes_are_not_counted_and_an_answer_to_nothing_does_nothing() {
        let mut window = Clock::new();
        window.answered();
        assert_eq!(window.sent(Lane::Critical, 100 * MAX_OPEN_BYTES), None);
        assert_eq!(window.sent(Lane::Control, 100 * MAX_OPEN_BYTES), None);
        assert_eq!((window.open(), window.0.awaited()), (true, None));
    }
}
