//! How much a peer is sent before it has shown that it has read what came before.
//!
//! What the kernels at both ends hold, tens of MiB with a receiver that is slower than the
//! sender, cannot be overtaken any more. So after every so many bytes a **mark** goes out: a
//! monitor of a name that no process can have, which every node answers at once, in the order
//! in which it reads. While too much is unanswered only the urgent lanes are written, and all
//! else waits where it can be overtaken, and dropped by the rule of its lane.
//!
//! A node that does not answer the first mark is never kept waiting for.

use std::collections::VecDeque;

use gater_core::channel::Lane;

/// Bytes between two marks.
const MARK_BYTES: usize = 384 << 10;
/// Bytes that may be unanswered: a few milliseconds of work for a BEAM, and enough that it
/// never waits for more. Invariant: at least twice [`MARK_BYTES`].
const OPEN_BYTES: usize = 1536 << 10;

/// The lowest lane that never waits for an answer.
const URGENT: Lane = Lane::Critical;

/// What one peer was sent, less what it has read.
#[derive(Debug, Default)]
pub struct Window {
    /// Whether a mark was answered ever.
    proven: bool,
    /// The last mark. They are numbered from 1.
    last: u64,
    /// The bytes before each unanswered mark and after the one before.
    unanswered: VecDeque<usize>,
    /// Bytes after the last mark.
    since: usize,
    /// All of these together.
    bytes: usize,
}

impl Window {
    /// So many bytes of a lane go out; the number of the mark that is to follow, if one is.
    #[must_use]
    pub fn sent(&mut self, lane: Lane, bytes: usize) -> Option<u64> {
        if lane <= URGENT {
            return None;
        }
        self.since += bytes;
        self.bytes += bytes;
        // The first has to be answered before there is a second.
        if self.since < MARK_BYTES || (!self.proven && !self.unanswered.is_empty()) {
            return None;
        }
        self.unanswered.push_back(std::mem::take(&mut self.since));
        self.last += 1;
        Some(self.last)
    }

    /// The mark that is answered next.
    pub fn awaited(&self) -> Option<u64> {
        let unanswered = self.unanswered.len() as u64;
        (unanswered > 0).then(|| self.last - unanswered + 1)
    }

    /// It is answered.
    pub fn answered(&mut self) {
        let Some(bytes) = self.unanswered.pop_front() else { return };
        self.bytes -= bytes;
        if !self.proven {
            self.proven = true;
            // What went out meanwhile has no marks in it to be waited for.
            (self.since, self.bytes) = (0, 0);
        }
    }

    /// The lowest lane that may be written now.
    pub fn lowest(&self) -> Lane {
        if !self.proven || self.bytes < OPEN_BYTES { Lane::Low } else { URGENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends until a mark is due.
    fn mark(window: &mut Window) -> u64 {
        std::iter::repeat_with(|| window.sent(Lane::Low, 1000)).flatten().next().unwrap()
    }

    #[test]
    fn a_peer_that_answers_no_mark_is_sent_everything_and_one_mark() {
        let mut window = Window::default();
        assert_eq!(mark(&mut window), 1);
        for _ in 0..100 {
            assert_eq!(window.sent(Lane::Low, OPEN_BYTES), None);
            assert_eq!(window.lowest(), Lane::Low);
        }
    }

    #[test]
    fn once_one_is_answered_others_wait_for_answers_and_urgent_lanes_do_not() {
        let mut window = Window::default();
        mark(&mut window);
        assert_eq!(window.awaited(), Some(1));
        window.answered();
        assert_eq!(window.awaited(), None);
        while window.lowest() == Lane::Low {
            mark(&mut window);
        }
        assert_eq!(window.lowest(), Lane::Critical);
        assert_eq!(window.awaited(), Some(2));
        window.answered();
        assert_eq!((window.lowest(), window.awaited()), (Lane::Low, Some(3)));
    }

    #[test]
    fn whatever_is_sent_a_closed_window_has_a_mark_to_open_it() {
        let mut window = Window::default();
        let _ = window.sent(Lane::Normal, 100 * OPEN_BYTES);
        let _ = window.sent(Lane::Normal, 100 * OPEN_BYTES);
        window.answered();
        for bytes in [1, MARK_BYTES - 1, MARK_BYTES, 100 * OPEN_BYTES, 7] {
            let _ = window.sent(Lane::High, bytes);
            assert!(window.lowest() == Lane::Low || window.awaited().is_some());
        }
        while window.awaited().is_some() {
            window.answered();
        }
        assert_eq!(window.lowest(), Lane::Low);
    }

    #[test]
    fn urgent_lanes_are_not_counted_and_an_answer_to_nothing_does_nothing() {
        let mut window = Window::default();
        window.answered();
        assert_eq!(window.sent(Lane::Critical, 100 * OPEN_BYTES), None);
        assert_eq!(window.sent(Lane::Control, 100 * OPEN_BYTES), None);
        assert_eq!((window.lowest(), window.awaited()), (Lane::Low, None));
    }
}
