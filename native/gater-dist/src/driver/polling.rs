//! When to read a socket: as soon as something has come, after polling for it, or a little
//! later.
//!
//! To put a thread to sleep and to wake it takes longer than to answer a call, and who
//! calls again and again has its next call there within that time. So a reader that has
//! just answered a call polls for a short while, as the schedulers of a BEAM do, if that was
//! worth it lately: where it was not, it is tried ever more rarely. Frames that need no answer
//! may come before the call does, as its monitor. Other tasks of the thread run in between.
//! Where many call again and again, where several calls have come together, and where none waits
//! for an answer, the next come by themselves, and polling would take from the callers what they
//! need.
//!
//! Where many call at once and their calls take long, since each has to be read, decoded and
//! asked again by one busy BEAM, the reader naps when it has answered just a few of them: more
//! calls come meanwhile, and what is answered together reaches the BEAM together. That costs
//! both ends less, and it is what makes a BEAM use more than one of its schedulers.
//!
//! The socket itself is asked, not the runtime: that knows only what another thread has
//! woken up for.
//!
//! What it is worth (`tests/bench/run --quick --only latency --only registry`, on two cores, with
//! and without in turns): the median round trip of a publish call takes 0.35 to 0.65 of the
//! Erlang gateway's time, and 0.96 to 0.98 without polling. `get_workers` of 1,000 workers with
//! 32 clients reaches 1.9 to 2.5 of its rate, 1.4 to 2.2 without naps and 1.3 to 1.8 without
//! both.

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

/// After so many failures in a row polling is tried about once in 2 to that power reads.
const MAX_FAILURES: u32 = 8;

/// Up to so many callers are polled for: a few find the reader asleep more often than not.
const FEW: u32 = 4;

/// Callers from so many on are waited for.
const MANY: u32 = 16;
/// More calls are waited for when less than this part of the callers was answered.
const PART: u32 = 2;
/// How long they are waited for.
const NAP: Duration = Duration::from_micros(50);
/// Their calls take so many times that, at the least.
const ROUND: u32 = 10;

/// What is read at once while polling: more than a call takes, mostly.
const CALL_BYTES: usize = 2 << 10;

/// Whether a reader of a node polls or naps: one at a time.
#[derive(Debug, Default)]
pub struct Spinning(AtomicBool);

/// Held meanwhile.
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

/// What one reader knows of its peer.
#[derive(Debug)]
pub struct AdaptivePolling {
    spin: Duration,
    /// In a row.
    failures: u32,
    /// Answers until polling is tried again.
    pause: u32,
    /// Until when the next call is waited for.
    until: Option<Instant>,
}

impl AdaptivePolling {
    /// Polls for at most `spin` at a time.
    pub fn new(spin: Duration) -> Self {
        Self { spin, failures: 0, pause: 0, until: None }
    }

    /// Reads what there is into `buffer`, and waits for it; `callers` were answered just now.
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
            // Too short a time for the timers of the runtime.
            std::thread::sleep(NAP);
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

    /// Reads what comes soon; an error of [`ErrorKind::WouldBlock`] if nothing does.
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

/// Returns whether so many call again and again that their next calls come by themselves.
fn many_call(seen: Seen) -> bool {
    seen.callers > FEW && seen.round.is_some()
}

/// Returns whether more of those that call again and again will call within a nap, which is short
/// for them.
fn more_are_due(seen: Seen) -> bool {
    seen.callers >= MANY
        && (1..seen.callers / PART).contains(&seen.at_once)
        && seen.round.is_some_and(|round| (NAP * ROUND..NAP * seen.callers).contains(&round))
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
        // None was answered, enough were, or just a few call.
        assert!(!seen(0, 32, 1000) && !seen(16, 32, 1000) && !seen(1, 8, 1000));
        // The nap would take them long, or nobody would call meanwhile.
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
