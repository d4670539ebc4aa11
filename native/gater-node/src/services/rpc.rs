//! Calls of functions on BEAM nodes, as `rpc:call/4` makes them: by the server `rex`, which
//! OTP 25 to 29 run.

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
/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A function of a module.
pub type Function = (&'static str, &'static str);

/// The process of the gateway that calls, and the calls it waits for.
pub struct Rex {
    caller: Pid,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Bytes>>>,
    last: AtomicU64,
}

impl Rex {
    /// Calls are made by a process of `node`.
    pub fn new(node: &Node) -> Self {
        Self { caller: node.new_pid(), waiting: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// What the function returns on the node at the other end for the arguments that are
    /// written, a list; nothing if no answer comes. Whatever that node answers is passed on:
    /// a valid term, which is to be read with care.
    pub async fn call(
        &self,
        connection: &Connection,
        function: Function,
        arguments: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Bytes> {
        self.ask(connection, NAME, |number| question(&self.caller, number, function, arguments))
            .await
    }

    /// Calls the `gen_server` of that name on the node at the other end with the request that is
    /// written, and returns its answer as [`Rex::call`] does.
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

    /// Whether `pid` is the process that calls.
    pub fn takes(&self, pid: &Pid) -> bool {
        (self.caller.id, self.caller.serial) == (pid.id, pid.serial)
    }

    /// A message to the process that calls: `{Number, Answer}`, or nothing that was asked for.
    pub fn message(&self, term: &Bytes) {
        if let Some((number, answer)) = read(term)
            && let Some(asked) = self.waiting.lock().remove(&number)
        {
            // Who asked may have given up.
            let _ = asked.send(answer);
        }
    }
}

/// `{'$gen_call', {Pid, Number}, {call, Module, Function, Arguments, Pid}}`.
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
            // The group leader.
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
