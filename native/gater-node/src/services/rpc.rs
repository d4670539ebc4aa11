//! Calls functions on BEAM nodes as `rpc:call/4` does: through the server `rex`, which OTP 25 to 29
//! run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gater_dist::{Connection, Lane, Node, Payload, gen_server};
use gater_term::{Pid, Reader, encode};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The registered name of OTP's `rpc` server.
const NAME: &str = "rex";
/// The time within which a node must answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A function of a module.
pub type Function = (&'static str, &'static str);

/// The calling process of the gateway, and its pending calls.
pub struct Rex {
    caller: Pid,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Bytes>>>,
    last: AtomicU64,
}

impl Rex {
    /// Returns a value that calls as a process of `node`.
    pub fn new(node: &Node) -> Self {
        Self { caller: node.new_pid(), waiting: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// Calls a function on the node at the other end with the written list of arguments. Returns
    /// its result, or `None` without an answer. The result is a valid term of any kind, so the
    /// caller has to check it.
    pub async fn call(
        &self,
        connection: &Connection,
        function: Function,
        arguments: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Bytes> {
        self.ask(connection, NAME, |number| question(&self.caller, number, function, arguments))
            .await
    }

    /// Calls the `gen_server` of that name on the node at the other end with the written request.
    /// Returns its answer in the same way as [`Rex::call`].
    pub async fn call_server(
        &self,
        connection: &Connection,
        server: &str,
        request: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Bytes> {
        let call =
            |number| gen_server::call(&self.caller, |out| encode::uint(out, number), request);
        self.ask(connection, server, call).await
    }

    async fn ask(
        &self,
        connection: &Connection,
        server: &str,
        call: impl FnOnce(u64) -> Payload,
    ) -> Option<Bytes> {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(number, sender);
        connection.send_name(Lane::Control, server, &call(number));
        let answer = timeout(ANSWER_WITHIN, answer).await;
        self.waiting.lock().remove(&number);
        answer.ok()?.ok()
    }

    /// Returns whether `pid` is the calling process.
    pub fn takes(&self, pid: &Pid) -> bool {
        (self.caller.id, self.caller.serial) == (pid.id, pid.serial)
    }

    /// Handles a message to the calling process, which is `{Number, Answer}` or unexpected.
    pub fn message(&self, term: &Bytes) {
        if let Some((number, answer)) = read(term)
            && let Some(asked) = self.waiting.lock().remove(&number)
        {
            // The caller may have stopped waiting.
            let _ = asked.send(answer);
        }
    }
}

/// Returns `{'$gen_call', {Pid, Number}, {call, Module, Function, Arguments, Pid}}`.
fn question(
    caller: &Pid,
    number: u64,
    (module, function): Function,
    arguments: impl FnOnce(&mut Vec<u8>),
) -> Payload {
    gen_server::call(
        caller,
        |out| encode::uint(out, number),
        |out| {
            encode::tuple(out, 5);
            for atom in ["call", module, function] {
                encode::atom(out, atom);
            }
            arguments(out);
            // The last element is the group leader.
            encode::pid(out, caller);
        },
    )
}

/// Reads `{Number, Answer}`.
fn read(term: &Bytes) -> Option<(u64, Bytes)> {
    let mut reader = Reader::new(term);
    reader.tuple_of(2).ok()?;
    let number = u64::try_from(reader.integer().ok()?).ok()?;
    Some((number, term.slice_ref(reader.rest())))
}

/// Reads an answer, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(answer: &Bytes) {
    drop(read(answer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_other_messages() {
        let mut out = Vec::new();
        encode::tuple(&mut out, 2);
        encode::uint(&mut out, 7);
        encode::atom(&mut out, "ok");
        let term = Bytes::from(out);
        assert_eq!(read(&term), Some((7, Bytes::from_static(b"w\x02ok"))));
        assert_eq!(read(&term.slice(..2)), None);
        assert_eq!(read(&Bytes::from_static(b"w\x02ok")), None);
        assert_eq!(read(&Bytes::new()), None);
    }
}
