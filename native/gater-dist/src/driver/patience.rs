//! When to poll a socket for a while before sleeping.
//!
//! To put a thread to sleep and to wake it takes longer than to answer a call, and who
//! calls again and again has its next call there within that time. So a reader that has
//! just answered a call polls for a short while, as the schedulers of a BEAM do, if that was
//! worth it lately: where it was not, it is tried ever more rarely. Frames that need no answer
//! may come before the call does, as its monitor. Other tasks of the thread run in between.
//! Where several calls come at once, and where none waits for an answer, they come by
//! themselves: there sleeping makes larger batches, and polling would cost more than it gains.
//!
//! The socket itself is asked, not the runtime: that knows only what another thread has
//! woken up for.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::yield_now;

/// After so many failures in a row polling is tried about once in 2 to that power reads.
const MAX_FAILURES: u32 = 8;

/// What is read at once while polling: more than a call takes, mostly.
const CALL_BYTES: usize = 2 << 10;

/// Whether a reader of a node polls: one at a time, others sleep.
#[derive(Debug, Default)]
pub struct Spinning(AtomicBool);

/// Held while polling.
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
pub struct Patience {
    spin: Duration,
    /// In a row.
    failures: u32,
    /// Answers until polling is tried again.
    pause: u32,
    /// Until when the next call is waited for.
    until: Option<Instant>,
}

impl Patience {
    /// Polls for at most `spin` at a time.
    pub fn new(spin: Duration) -> Self {
        Self { spin, failures: 0, pause: 0, until: None }
    }

    /// Reads what there is into `buffer`, and waits for it; so many calls were `answered` just
    /// now.
    pub async fn read(
        &mut self,
        answered: u32,
        socket: &mut OwnedReadHalf,
        buffer: &mut BytesMut,
        spinning: &Spinning,
    ) -> std::io::Result<usize> {
        match answered {
            0 => {}
            1 => self.until = self.due().then(|| Instant::now() + self.spin),
            _ => self.until = None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_in_vain_is_tried_ever_more_rarely() {
        let mut patience = Patience::new(Duration::from_micros(50));
        let mut tried = 0;
        for _ in 0..10_000 {
            if patience.due() {
                tried += 1;
                patience.in_vain();
            }
        }
        assert!(tried < 70, "{tried}");
        patience.worth_it();
        while !patience.due() {}
        assert!(patience.due());
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
        assert!(!Patience::new(Duration::ZERO).due());
    }
}
