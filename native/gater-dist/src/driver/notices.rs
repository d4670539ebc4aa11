//! Log lines about refused peers, at a bounded rate.
//!
//! Any host that reaches the port can cause such a line. Lines of one kind about one peer are
//! therefore written once a minute, with the number of lines that were left out since the last one,
//! and the number of all such lines is limited to a few per second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The least time between two lines of one kind about one peer.
const REPEATED_AFTER: Duration = Duration::from_secs(60);
/// The period in which at most [`MAX_LINES`] are written.
const PERIOD: Duration = Duration::from_secs(10);
/// The greatest number of lines in a [`PERIOD`].
const MAX_LINES: u32 = 50;
/// The greatest number of peers that are remembered.
const MAX_PEERS: usize = 1024;

/// Decides which lines are written.
#[derive(Debug, Default)]
pub struct Notices(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    peers: HashMap<(&'static str, String), Peer>,
    period: Option<(Instant, u32)>,
}

#[derive(Debug)]
struct Peer {
    said: Option<Instant>,
    left_out: u64,
}

impl Notices {
    /// Decides whether a line of this `kind` about the peer `who` is written at `now`. If so,
    /// returns the number of such lines that were left out since the last one.
    pub fn admit(&self, kind: &'static str, who: &str, now: Instant) -> Option<u64> {
        let mut guard = self.0.lock();
        let Inner { peers, period } = &mut *guard;
        if peers.len() >= MAX_PEERS {
            // Peers whose last line is old and was not repeated are forgotten first. In a flood of
            // peers that appear once, all of them are forgotten.
            let recent = |peer: &Peer| peer.said.is_some_and(|at| now - at < REPEATED_AFTER);
            peers.retain(|_, peer| recent(peer) || peer.left_out > 0);
            if peers.len() >= MAX_PEERS {
                peers.clear();
            }
        }
        let peer = peers.entry((kind, who.to_owned())).or_insert(Peer { said: None, left_out: 0 });
        let (_, lines) = match period {
            Some(current) if now - current.0 < PERIOD => current,
            _ => period.insert((now, 0)),
        };
        if peer.said.is_some_and(|at| now - at < REPEATED_AFTER) || *lines >= MAX_LINES {
            peer.left_out += 1;
            return None;
        }
        *lines += 1;
        peer.said = Some(now);
        Some(std::mem::take(&mut peer.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_repeated_once_a_minute_with_the_number_of_those_left_out() {
        let (notices, start) = (Notices::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(notices.admit("cookie", "a@h", start), Some(0));
        for second in 1..60 {
            assert_eq!(notices.admit("cookie", "a@h", at(second)), None);
        }
        assert_eq!(notices.admit("cookie", "b@h", at(59)), Some(0));
        assert_eq!(notices.admit("noise", "a@h", at(59)), Some(0));
        assert_eq!(notices.admit("cookie", "a@h", at(60)), Some(59));
        assert_eq!(notices.admit("cookie", "a@h", at(120)), Some(0));
    }

    #[test]
    fn a_flood_of_different_peers_is_bounded_in_lines_and_memory() {
        let (notices, start) = (Notices::default(), Instant::now());
        let lines = |from: usize, now| {
            let peers = from..from + 5 * MAX_PEERS;
            peers.filter_map(|n| notices.admit("noise", &n.to_string(), now)).count()
        };
        assert_eq!(lines(0, start), MAX_LINES as usize);
        assert_eq!(lines(1_000_000, start + PERIOD), MAX_LINES as usize);
        assert!(notices.0.lock().peers.len() <= MAX_PEERS);
    }
}
