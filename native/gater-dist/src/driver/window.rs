//! Limits the number of bytes that a peer is sent before it has shown that it has read the earlier
//! ones.
//!
//! Bytes in the buffers of the kernels at both ends, which are tens of MiB with a receiver that is
//! slower than the sender, cannot be overtaken any more. The gateway therefore sends a **probe** at
//! intervals: a monitor of a name that no process can have, which every node answers at once, in
//! the order in which it reads. While too many bytes are unanswered only the urgent lanes are
//! written, and all other items wait where they can be overtaken, and dropped by the rule of their
//! lane.
//!
//! The limit is derived from the time that answers take, as in LEDBAT (RFC 6817): the time beyond
//! the fastest answer ever is the time for which bytes have waited. A near node is sent few bytes
//! at a time and reads them soon; a distant one needs more bytes in transit.
//!
//! The gateway never waits for a node that does not answer the first probe.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Lane;

/// The initial and smallest limit of unanswered bytes, with which a BEAM nearby always has
/// something to read.
const MIN_OPEN_BYTES: usize = 384 << 10;
/// The greatest limit, which allows 400 MB/s to a node 20 ms away.
const MAX_OPEN_BYTES: usize = 8 << 20;
/// The number of unanswered probes when the window is full. Invariant: at least 2, so that a window
/// that has shrunk is not full of bytes without a probe.
const PROBES: usize = 3;
/// The waiting time of bytes below which a full window grows; above twice this time it shrinks. It
/// is a few times the time in which a node nearby wakes up.
const WAIT: Duration = Duration::from_micros(500);
/// The window grows or shrinks by one part in this many with an answer.
const STEP: usize = 8;

/// The lowest lane that never waits for an answer.
const URGENT: Lane = Lane::Critical;

/// The bytes that one peer was sent and has not shown to have read.
#[derive(Debug)]
pub struct Window {
    /// Whether the peer answers probes.
    probes: bool,
    /// The limit of unanswered bytes.
    open: usize,
    /// Whether the window was full since the last answer.
    full: bool,
    /// The time that the last answer took.
    latest: Option<Duration>,
    /// The shortest time that an answer took, after the first answer.
    fastest: Option<Duration>,
    /// The number of the last probe. Probes are numbered from 1.
    last: u64,
    unanswered: VecDeque<Probe>,
    /// The number of bytes after the last probe.
    since: usize,
    /// The number of all unanswered bytes.
    bytes: usize,
}

#[derive(Debug)]
struct Probe {
    /// The number of bytes between the probe before and this one.
    bytes: usize,
    sent: Instant,
}

impl Default for Window {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Window {
    /// Returns the window for a peer that answers `probes`. A peer that does not is sent everything
    /// at once.
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

    /// Records that `bytes` of a lane were sent. Returns the number of the probe to send next, if
    /// one is due.
    #[must_use]
    pub fn sent(&mut self, lane: Lane, bytes: usize, now: impl FnOnce() -> Instant) -> Option<u64> {
        if lane <= URGENT || !self.probes {
            return None;
        }
        self.since += bytes;
        self.bytes += bytes;
        self.full |= self.bytes >= self.open;
        // The first probe has to be answered before the second is sent.
        if self.since < self.open / PROBES
            || (self.fastest.is_none() && !self.unanswered.is_empty())
        {
            return None;
        }
        let bytes = std::mem::take(&mut self.since);
        self.unanswered.push_back(Probe { bytes, sent: now() });
        self.last += 1;
        Some(self.last)
    }

    /// Returns the number of the oldest unanswered probe.
    pub fn awaited(&self) -> Option<u64> {
        let unanswered = self.unanswered.len() as u64;
        (unanswered > 0).then(|| self.last - unanswered + 1)
    }

    /// Records that the oldest probe was answered. Returns the time that the answer took.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        let Probe { bytes, sent } = self.unanswered.pop_front()?;
        self.bytes -= bytes;
        let took = now.saturating_duration_since(sent);
        self.latest = Some(took);
        match self.fastest {
            None => {
                self.fastest = Some(took);
                // Bytes that were sent in the meantime contain no probe for which to wait.
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

    /// Returns the number of unanswered bytes.
    pub fn unread(&self) -> usize {
        self.bytes
    }

    /// Returns the time that the last answer took, if there was one.
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

        /// Fills the window, and answers all of its probes after `took`.
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
        // The node reads 100 bytes in a microsecond, as fast as it can.
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
        // The node gets slower.
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
            for bytes in [1, MIN_OPEN_BYTES / PROBES - 1, 100 * MAX_OPEN_BYTES, 7, 60_000, 60_000] {
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
