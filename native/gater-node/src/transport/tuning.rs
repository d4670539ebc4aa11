//! Socket options that BEAMs are asked to change at their end of a connection.
//!
//! By default a BEAM reads distribution data into a buffer of 1,460 bytes, and makes four system
//! calls each time it is full, which is about once for every message of 1 KiB. It also writes the
//! messages of a process before the next process runs, a few messages at a time. With a larger
//! `buffer` and with `delay_send`, two options of its socket, the same node receives and sends two
//! to three times as many messages, and twice as many answers of 20 KB; a single message is as fast
//! as before. The gateway asks the node to call `net_kernel:setopts/2`, which sets options of one
//! connection. A node with a larger buffer keeps it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gater_dist::Connection;
use gater_term::{Atom, Reader, encode};
use tokio::time::sleep;

use crate::services::rpc::Rex;

/// The least size of the read buffer in bytes, which has room for several of the longer answers.
/// The parts of a read that are kept are copied, so a short message does not occupy the whole
/// buffer. Beyond 512 KiB each buffer would be a memory mapping of its own.
const BUFFER_BYTES: u64 = 384 << 10;
/// The number of attempts, since the node may have its end of the connection a moment later than
/// the gateway.
const ATTEMPTS: u32 = 5;
/// The pause after the first attempt. It doubles after each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// The names of socket options; see `inet:setopts/2`.
const BUFFER: &str = "buffer";
const DELAY_SEND: &str = "delay_send";

/// Asks BEAMs to use larger reads and writes.
pub struct Tuning {
    own: Atom,
    rex: Arc<Rex>,
    enabled: bool,
}

/// The relevant options of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Options {
    buffer: u64,
    delay_send: bool,
}

impl Options {
    fn are_good(self) -> bool {
        self.buffer >= BUFFER_BYTES && self.delay_send
    }
}

impl Tuning {
    /// Returns a value for connections with the node `own`, which calls through `rex`. It does
    /// nothing unless it is `enabled`.
    pub fn new(own: Atom, rex: Arc<Rex>, enabled: bool) -> Self {
        Self { own, rex, enabled }
    }

    /// Tunes the other end of a new connection, if it is a BEAM.
    pub fn up(self: &Arc<Self>, connection: &Arc<Connection>) {
        if self.enabled && connection.peer().is_beam() {
            tokio::spawn(self.clone().tune(connection.clone()));
        }
    }

    async fn tune(self: Arc<Self>, connection: Arc<Connection>) {
        let node = &connection.peer().name;
        for attempt in 0..ATTEMPTS {
            if connection.is_closed() {
                return;
            }
            // A node that does not answer is not asked again.
            let Some(answer) = self.options(&connection).await else { break };
            let done = match read(&answer) {
                Some(options) if options.are_good() => return,
                Some(options) => self.set(&connection, options.buffer.max(BUFFER_BYTES)).await,
                None => false,
            };
            if done {
                return tracing::debug!(%node, "reads and writes more at a time");
            }
            sleep(PAUSE * 2_u32.pow(attempt)).await;
        }
        tracing::debug!(%node, "could not be told to read and write more at a time");
    }

    /// Returns the encoded options, or `None` without an answer.
    async fn options(&self, connection: &Connection) -> Option<Bytes> {
        let names = |out: &mut Vec<u8>| {
            encode::list_of(out, [BUFFER, DELAY_SEND].iter(), |out, name| encode::atom(out, name));
        };
        self.call(connection, "getopts", names).await
    }

    /// Sets the options. Returns whether this succeeded.
    async fn set(&self, connection: &Connection, buffer: u64) -> bool {
        let options = |out: &mut Vec<u8>| {
            encode::list_of(out, [BUFFER, DELAY_SEND].iter(), |out, name| {
                encode::tuple(out, 2);
                encode::atom(out, name);
                match *name {
                    BUFFER => encode::uint(out, buffer),
                    _ => encode::atom(out, "true"),
                }
            });
        };
        let answer = self.call(connection, "setopts", options).await;
        answer.is_some_and(|answer| Reader::new(&answer).atom().is_ok_and(|atom| atom == "ok"))
    }

    /// Calls `net_kernel:Function(Node, Options)` at the other end. `options` writes the options.
    async fn call(
        &self,
        connection: &Connection,
        function: &'static str,
        options: impl Fn(&mut Vec<u8>),
    ) -> Option<Bytes> {
        let arguments = |out: &mut Vec<u8>| {
            encode::list_of(out, 0..2, |out, place| match place {
                0 => encode::atom(out, self.own.as_str()),
                _ => options(out),
            });
        };
        self.rex.call(connection, ("net_kernel", function), arguments).await
    }
}

/// Reads `{ok, [{buffer, Bytes}, {delay_send, Boolean}]}`.
fn read(answer: &[u8]) -> Option<Options> {
    let mut reader = Reader::new(answer);
    reader.tuple_of(2).ok()?;
    reader.atom().ok().filter(|atom| atom == "ok")?;
    reader.list().ok().filter(|count| *count == 2)?;
    reader.tuple_of(2).ok()?;
    reader.atom().ok().filter(|atom| atom == BUFFER)?;
    let buffer = u64::try_from(reader.integer().ok()?).ok()?;
    reader.tuple_of(2).ok()?;
    reader.atom().ok().filter(|atom| atom == DELAY_SEND)?;
    let delay_send = reader.atom().ok()? == "true";
    Some(Options { buffer, delay_send })
}

/// Reads an answer, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(answer: &[u8]) {
    let _ = read(answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_with_care() {
        // {ok, [{buffer, 1460}, {delay_send, true}]}
        let answer =
            b"h\x02w\x02okl\0\0\0\x02h\x02w\x06bufferb\0\0\x05\xb4h\x02w\x0adelay_sendw\x04truej";
        assert_eq!(read(answer), Some(Options { buffer: 1460, delay_send: true }));
        for end in 0..answer.len() - 1 {
            assert_eq!(read(&answer[..end]), None);
        }
        // {error, noconnection}
        assert_eq!(read(b"h\x02w\x05errorw\x0cnoconnection"), None);
    }

    #[test]
    fn both_options_count() {
        let options = |buffer, delay_send| Options { buffer, delay_send };
        assert!(options(1 << 20, true).are_good());
        assert!(!options(1 << 20, false).are_good());
        assert!(!options(1460, true).are_good());
    }
}
