//! Nodes that cannot be reached.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use gater_term::Atom;
use parking_lot::Mutex;

/// The greatest number of unreached nodes that are remembered. If there are more, all are forgotten.
const MAX_UNREACHED: usize = 4096;
/// The period in which at most [`MAX_LINES`] are logged.
const PERIOD: Duration = Duration::from_secs(10);
/// The greatest number of lines in a [`PERIOD`].
const MAX_LINES: u32 = 20;

/// Decides which failed attempts are logged: those that fail for another reason than the attempt
/// before, and of those that fail for the same reason each that doubles their number, a few in all.
#[derive(Default)]
pub struct Unreached(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    nodes: HashMap<Atom, (String, u64)>,
    /// When the period began, and the lines in it.
    period: Option<(Instant, u32)>,
    left_out: u64,
}

/// What to log of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The number of attempts since the last success.
    pub attempts: u64,
    /// The lines about other nodes that were left out since the last line.
    pub left_out: u64,
}

impl Unreached {
    /// Records an attempt that failed at `now`. Returns what is to be logged, if anything is.
    pub fn failed(&self, node: &Atom, error: &str, now: Instant) -> Option<Failure> {
        let mut guard = self.0.lock();
        let Inner { nodes, period, left_out } = &mut *guard;
        if nodes.len() >= MAX_UNREACHED && !nodes.contains_key(node) {
            nodes.clear();
        }
        let (last, attempts) = nodes.entry(node.clone()).or_default();
        *attempts += 1;
        let attempts = *attempts;
        let told = *last == error && !attempts.is_power_of_two();
        if *last != error {
            error.clone_into(last);
        }
        if told {
            return None;
        }
        let (_, lines) = match period {
            Some(current) if now.saturating_duration_since(current.0) < PERIOD => current,
            _ => period.insert((now, 0)),
        };
        if *lines >= MAX_LINES {
            *left_out += 1;
            return None;
        }
        *lines += 1;
        Some(Failure { attempts, left_out: std::mem::take(left_out) })
    }

    /// Records that the node is connected.
    pub fn reached(&self, node: &Atom) {
        self.0.lock().nodes.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_logged_whenever_the_attempts_have_doubled() {
        let (unreached, now) = (Unreached::default(), Instant::now());
        let node = Atom::new("a@h").unwrap();
        let failed = |error| unreached.failed(&node, error, now).map(|failure| failure.attempts);
        let logged: Vec<_> = (0..10).filter_map(|_| failed("gone")).collect();
        assert_eq!(logged, [1, 2, 4, 8]);
        assert_eq!(failed("refused"), Some(11));
        assert_eq!(failed("refused"), None);
        unreached.reached(&node);
        assert_eq!(failed("refused"), Some(1));
    }

    #[test]
    fn many_nodes_that_do_not_exist_are_a_few_lines_and_their_number() {
        let (unreached, start) = (Unreached::default(), Instant::now());
        let failed =
            |n: u64, now| unreached.failed(&Atom::new(&format!("n{n}@h")).unwrap(), "gone", now);
        let lines = (0..10_000).filter_map(|n| failed(n, start)).count();
        assert_eq!(lines, MAX_LINES as usize);
        let next = failed(20_000, start + PERIOD);
        assert_eq!(next, Some(Failure { attempts: 1, left_out: 10_000 - u64::from(MAX_LINES) }));
        assert!(unreached.0.lock().nodes.len() <= MAX_UNREACHED);
    }
}
