//! Adaptive polling: decides whether a reader waits for its socket, polls it, or sleeps briefly
//! before it reads.
//!
//! Putting a thread to sleep and waking it takes longer than answering a call, and a process that
//! calls repeatedly has its next call ready within that time. A reader that has just answered a
//! call therefore polls for a short time, as the schedulers of a BEAM do, if that was worthwhile
//! recently; where it was not, polling is tried ever more rarely. Frames that need no answer, such
//! as the monitor of a call, may arrive before the call does. Other tasks of the thread run between
//! two polls. Where many processes call repeatedly, where several calls have arrived together, and
//! where no caller waits for an answer, the next calls arrive anyway, and polling would take
//! processor time from the callers.
//!
//! Where many processes call concurrently and their calls take long, because one busy BEAM has to
//! read, decode and repeat each of them, the reader sleeps briefly after it has answered only a few
//! of them. Further calls arrive during this pause, and their answers reach the BEAM together. This
//! costs both ends less, and it makes a BEAM use more than one of its schedulers.
//!
//! The reader polls the socket itself and not the runtime, which only knows of events for which
//! another thread was woken.
//!
//! The benefit was measured with `tests/bench/run --quick --only latency --only registry` on two
//! cores, with and without polling in turns. The median round trip of a publish call takes 0.35 to
//! 0.65 of the Erlang gateway's time, and 0.96 to 0.98 without polling. `get_workers` of 1,000
//! workers with 32 clients reaches 1.9 to 2.5 of the Erlang gateway's rate, 1.4 to 2.2 without
//! pauses, and 1.3 to 1.8 without both.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::yield_now;

use super::caller_stats::Seen;

/// After this many failures in a row, polling is tried about once in 2^`MAX_FAILURES` reads.
const MAX_FAILURES: u32 = 8;

/// The greatest number of callers for which the reader polls. A few callers find the reader asleep
/// more often than not.
const FEW: u32 = 4;

/// The least number of callers for which the reader pauses.
const MANY: u32 = 16;
/// The reader pauses if fewer than one in this many callers were answered.
const PART: u32 = 2;
/// The duration of the pause.
const PAUSE: Duration = Duration::from_micros(50);
/// The least duration of the callers' calls, in units of the pause.
const ROUND: u32 = 10;

/// The number of bytes that are read at once while polling, which usually suffices for a call.
const CALL_BYTES: usize = 2 << 10;

/// Whether a reader of the node polls or pauses. Only one reader does at a time.
#[derive(Debug, Default)]
pub struct Spinning(AtomicBool);

/// Locked while a reader polls or pauses, so that only one reader of the node does so at a time.
struct Turn<'a>(&'a Spinning);

impl Spinning {
    fn turn(&self) -> Option<Turn<'_>> {
        let taken = self.0.swap(true, Ordering::Relaxed);
        (!taken).then_some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

/// The polling state of one reader.
#[derive(Debug)]
pub struct AdaptivePolling {
    spin: Duration,
    /// The number of consecutive failures.
    failures: u32,
    /// The number of answers until polling is tried again.
    pause: u32,
    /// The time until which the reader polls for the next call.
    until: Option<Instant>,
}

impl AdaptivePolling {
    /// Returns a state that polls for at most `spin` at a time.
    pub fn new(spin: Duration) -> Self {
        Self { spin, failures: 0, pause: 0, until: None }
    }

    /// Reads available bytes into `buffer`, and waits for them if there are none. `callers` are the
    /// statistics of the calls that were just answered.
    pub async fn read(
        &mut self,
        callers: Seen,
        socket: &mut OwnedReadHalf,
        buffer: &mut BytesMut,
        spinning: &Spinning,
    ) -> std::io::Result<usize> {
        match callers.answers {
            0 => {}
            1 if !many_call(callers) => {
                self.until = self.due().then(|| Instant::now() + self.spin);
            }
            _ => self.until = None,
        }
        if !self.spin.is_zero()
            && more_are_due(callers)
            && let Some(_turn) = spinning.turn()
        {
            // The pause is too short for the timers of the runtime.
            std::thread::sleep(PAUSE);
        }
        if let Some(until) = self.until
            && let Some(_turn) = spinning.turn()
        {
            match self.poll(until, (*socket).as_ref(), buffer).await {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.until = None,
                outcome => return outcome,
            }
        }
        socket.read_buf(buffer).await
    }

    /// Polls the socket. Returns an error of the kind [`ErrorKind::WouldBlock`] if nothing arrives
    /// in time.
    async fn poll(
        &mut self,
        until: Instant,
        socket: &TcpStream,
        buffer: &mut BytesMut,
    ) -> std::io::Result<usize> {
        let mut bytes = [0; CALL_BYTES];
        loop {
            match (&*SockRef::from(socket)).read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => {
                    self.worth_it();
                    let read = outcome?;
                    buffer.extend_from_slice(bytes.get(..read).unwrap_or_default());
                    return Ok(read);
                }
            }
            if Instant::now() >= until {
                self.in_vain();
                return Err(ErrorKind::WouldBlock.into());
            }
            yield_now().await;
        }
    }

    fn due(&mut self) -> bool {
        let due = self.pause == 0 && !self.spin.is_zero();
        self.pause = self.pause.saturating_sub(1);
        due
    }

    fn worth_it(&mut self) {
        self.failures = 0;
    }

    fn in_vain(&mut self) {
        self.failures = (self.failures + 1).min(MAX_FAILURES);
        self.pause = (1 << self.failures) - 2;
    }
}

/// Returns whether so many processes call repeatedly that the next calls arrive without polling.
fn many_call(seen: Seen) -> bool {
    seen.callers > FEW && seen.round.is_some()
}

/// Returns whether further calls are expected within a pause that is short in comparison with the
/// duration of the calls.
fn more_are_due(seen: Seen) -> bool {
    seen.callers >= MANY
        && (1..seen.callers / PART).contains(&seen.at_once)
        && seen.round.is_some_and(|round| (PAUSE * ROUND..PAUSE * seen.callers).contains(&round))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_callers_are_polled_for_and_those_that_call_once() {
        let round = Some(Duration::from_micros(100));
        let seen = |callers, round| Seen { answers: 1, at_once: 1, callers, round };
        assert!(!many_call(seen(1, round)) && !many_call(seen(FEW, round)));
        assert!(many_call(seen(FEW + 1, round)));
        assert!(!many_call(seen(1000, None)));
    }

    #[test]
    fn naps_are_for_many_callers_of_long_calls() {
        let seen = |at_once, callers, round| {
            let round = Some(Duration::from_micros(round));
            more_are_due(Seen { answers: at_once, at_once, callers, round })
        };
        assert!(seen(1, 32, 1000));
        // No call was answered, enough calls were answered, or there are only a few callers.
        assert!(!seen(0, 32, 1000) && !seen(16, 32, 1000) && !seen(1, 8, 1000));
        // The pause is long in comparison with the calls, or no call would arrive during it.
        assert!(!seen(1, 32, 100) && !seen(1, 32, 10_000));
        assert!(!more_are_due(Seen { answers: 1, at_once: 1, callers: 100, round: None }));
    }

    #[test]
    fn polling_in_vain_is_tried_ever_more_rarely() {
        let mut polling = AdaptivePolling::new(Duration::from_micros(50));
        let mut tried = 0;
        for _ in 0..10_000 {
            if polling.due() {
                tried += 1;
                polling.in_vain();
            }
        }
        assert!(tried < 70, "{tried}");
        polling.worth_it();
        while !polling.due() {}
        assert!(polling.due());
    }

    #[test]
    fn one_reader_polls_at_a_time() {
        let spinning = Spinning::default();
        let turn = spinning.turn();
        assert!(turn.is_some());
        assert!(spinning.turn().is_none());
        drop(turn);
        assert!(spinning.turn().is_some());
    }

    #[test]
    fn without_a_time_to_poll_it_is_never_due() {
        assert!(!AdaptivePolling::new(Duration::ZERO).due());
    }
}
