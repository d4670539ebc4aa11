//! An established connection: any stream of bytes, cut into frames, put together
//! from fragments and understood.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use gater_term::{Atom, Pid, Scanner};
use gater_dist::gen_server::From;
use gater_dist::protocol::encode::{Format, Signal};
use gater_dist::protocol::session::{Session, Sink};
use gater_dist::protocol::{fragment, frame};
use gater_dist::{LocalPid, Peer, Target};
use libfuzzer_sys::fuzz_target;

/// Checks what comes out.
struct Check {
    format: Format,
}

impl Sink for Check {
    fn knows(&mut self, name: &str) -> bool {
        name.len() % 2 == 0
    }

    fn lives(&mut self, id: u32, _serial: u32) -> bool {
        id < 4
    }

    fn signal(&mut self, signal: Signal) {
        let control = &signal.control;
        assert_eq!(Scanner::default().scan(control, 0), Ok(control.len()));
    }

    fn reply(&mut self, from: &From, reply: Bytes) {
        let mut answer = Vec::new();
        self.format.put_answer(&mut answer, from, None);
        answer.extend_from_slice(&reply);
        let payload = Scanner::default().scan(&answer, 0).expect("a control message");
        assert_eq!(Scanner::default().scan(&answer[payload..], 0), Ok(answer.len() - payload));
    }

    fn message(&mut self, _to: Target<'_>, payload: Bytes) {
        assert_eq!(Scanner::default().scan(&payload, 0), Ok(payload.len()));
    }

    fn exited(&mut self, _pid: LocalPid, _reference: &[u8], _reason: Bytes) {}

    fn tick(&mut self) {}

    fn link_broken(&mut self, _pid: LocalPid, _reason: Bytes) {}

    fn probe_answered(&mut self, _reference: &[u8]) {}

    fn unknown_operation(&mut self, _op: u64) {}
}

fuzz_target!(|input: &[u8]| {
    let (Ok(node), Ok(name)) = (Atom::new("gater@127.0.0.1"), Atom::new("a@127.0.0.1")) else {
        return;
    };
    let ours = Pid { node, id: 1, serial: 0, creation: 1 };
    let peer = Peer { name, creation: 2, flags: u64::MAX, hidden: true };
    let limits = fragment::Limits { message: 1 << 16, total: 1 << 18, stale: Duration::ZERO };
    let mut check = Check { format: Format::new(&ours, &peer) };
    let mut session = Session::new(&ours, &peer, limits);
    let Ok(extent) = frame::extent(input, 1 << 16) else { return };
    let frames = Bytes::copy_from_slice(&input[..extent.whole]);
    let _ = session.frames(&frames, Duration::ZERO, &mut check);
    assert!(session.reassembly().charged() <= limits.total);
});
