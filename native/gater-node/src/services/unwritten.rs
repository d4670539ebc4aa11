//! Commands of the registry that are not written: the log has a line when that begins, one now and
//! then with their number, and one when commands are written again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::registry::replica::ProposeError;

/// How often the log tells how many commands were not written.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The commands that are not written.
#[derive(Default)]
pub struct Unwritten(Mutex<State>);

#[derive(Default)]
struct State {
    /// When commands began not to be written, if they are not.
    began: Option<Instant>,
    /// How many were not written since, and whether the log says so.
    count: u64,
    is_told: bool,
    /// When the log last said so.
    told: Option<Instant>,
}

impl Unwritten {
    /// A command was not written.
    pub fn failed(&self, error: &ProposeError) {
        let now = Instant::now();
        let (count, seconds) = {
            let mut state = self.0.lock();
            let began = *state.began.get_or_insert(now);
            state.count += 1;
            if state.told.is_some_and(|told| now.duration_since(told) < TELL_EVERY) {
                return;
            }
            state.told = Some(now);
            state.is_told = true;
            (state.count, now.duration_since(began).as_secs())
        };
        tracing::warn!(
            %error,
            count,
            seconds,
            "registry commands are not written; removals are tried again. `esdb-gater cluster status` \
             tells what is missing"
        );
    }

    /// A command was written.
    pub fn written(&self) {
        let (count, seconds) = {
            let mut state = self.0.lock();
            // Nearly always there is nothing to say.
            let Some(began) = state.began.take() else { return };
            let count = std::mem::take(&mut state.count);
            if !std::mem::take(&mut state.is_told) {
                return;
            }
            (count, began.elapsed().as_secs())
        };
        tracing::info!(count, seconds, "registry commands are written again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_is_counted_and_ends_with_the_first_command_that_is_written() {
        let unwritten = Unwritten::default();
        unwritten.written();
        for _ in 0..1000 {
            unwritten.failed(&ProposeError::NoQuorum);
        }
        assert_eq!(unwritten.0.lock().count, 1000);
        assert!(unwritten.0.lock().is_told);
        unwritten.written();
        assert_eq!(unwritten.0.lock().count, 0);
        // One that begins soon after is counted, and not told at once.
        unwritten.failed(&ProposeError::NoQuorum);
        assert!(!unwritten.0.lock().is_told);
    }
}
