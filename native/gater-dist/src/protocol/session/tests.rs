use proptest::prelude::*;

use super::*;
use crate::Payload;

const NOW: Duration = Duration::ZERO;

/// A sink that keeps the messages to names.
#[derive(Default)]
struct Kept(Vec<(String, Vec<u8>)>);

impl Sink for Kept {
    fn knows(&mut self, _name: &str) -> bool {
        true
    }

    fn lives(&mut self, _id: u32, _serial: u32) -> bool {
        false
    }

    fn signal(&mut self, _signal: Signal) {}

    fn reply(&mut self, _from: &From, _reply: Bytes) {}

    fn tick(&mut self) {}

    fn message(&mut self, to: Target<'_>, payload: Bytes) {
        if let Target::Name(name) = to {
            self.0.push((name.to_owned(), payload.to_vec()));
        }
    }

    fn exited(&mut self, _pid: LocalPid, _reference: &[u8], _reason: Bytes) {}

    fn link_broken(&mut self, _pid: LocalPid, _reason: Bytes) {}

    fn probe_answered(&mut self, _reference: &[u8]) {}

    fn unknown_operation(&mut self, _op: u64) {}
}

fn session() -> Session {
    let atom = |text| Atom::new(text).unwrap();
    let ours = Pid { node: atom("gater@h"), id: 1, serial: 0, creation: 1 };
    let peer = Peer { name: atom("a@h"), creation: 2, flags: u64::MAX, hidden: true };
    let limits = Limits { message: 1 << 20, total: 1 << 22, stale: Duration::from_secs(1) };
    Session::new(&ours, &peer, limits)
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

/// `{6, Pid, '', srv}` with the atoms a@h, '', srv and tail, and a list of all four.
const LIST: &[u8] = b"\x04\x88\x88\x00\x00\x03a@h\x01\x00\x02\x03srv\x03\x04tail";
const SAME_LIST: &[u8] = b"\x04\x00\x00\x00\x00\x01\x02\x03";
const CONTROL: &[u8] = b"\x68\x04\x61\x06\x58\x52\x00\0\0\0\x01\0\0\0\0\0\0\0\x02\x52\x01\x52\x02";

/// Returns a list of `references` references and a binary, as it is sent and with its atoms written
/// out.
fn payload(references: usize, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let mut start = vec![108];
    start.extend((references as u32 + 1).to_be_bytes());
    let mut end = vec![109];
    end.extend((bytes as u32).to_be_bytes());
    end.extend(vec![7; bytes]);
    end.push(106);
    let sent = [&start[..], &b"\x52\x03".repeat(references), &end].concat();
    (sent, [&start[..], &b"\x77\x04tail".repeat(references), &end].concat())
}

proptest! {
    #[test]
    fn a_message_is_the_same_whole_and_in_fragments(
        // With more than about 250 references the atoms no longer fit in front of the payload.
        references in 0_usize..600,
        bytes in 0_usize..5000,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
    ) {
        let (sent, expected) = payload(references, bytes);
        let mut session = session();
        let mut kept = Kept::default();
        let whole = [&[131, 68], LIST, CONTROL, &sent].concat();
        session.frames(&framed(&whole).into(), NOW, &mut kept).unwrap();

        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(sent.len())).collect();
        cuts.sort_unstable();
        let fragments = cuts.len() as u64 + 1;
        let header = |kind: u8, left: u64| {
            [&[131, kind][..], &9_u64.to_be_bytes(), &left.to_be_bytes()].concat()
        };
        let first = [&header(69, fragments), SAME_LIST, CONTROL, &sent[..cuts[0]]].concat();
        let mut frames = framed(&first);
        for (at, cut) in cuts.iter().enumerate() {
            let end = cuts.get(at + 1).copied().unwrap_or(sent.len());
            let left = fragments - 1 - at as u64;
            frames.extend(framed(&[&header(70, left), &sent[*cut..end]].concat()));
        }
        session.frames(&frames.into(), NOW, &mut kept).unwrap();

        let both = vec![("srv".to_owned(), expected); 2];
        prop_assert_eq!(kept.0, both);
    }
}

#[test]
fn a_reference_to_an_atom_that_is_not_listed_is_refused() {
    let mut session = session();
    for control in [&CONTROL[..5], &CONTROL[..19], &CONTROL[..21]] {
        let mut broken = CONTROL.to_vec();
        broken[control.len() + 1] = 9;
        let whole = [&[131, 68], LIST, &broken, &[97, 1]].concat();
        let outcome = session.frames(&framed(&whole).into(), NOW, &mut Kept::default());
        assert!(outcome.is_err());
    }
}

/// One end of a connection in memory.
struct Side {
    session: Session,
    seen: Seen,
}

/// The events that a session has reported to its end.
#[derive(Default)]
struct Seen {
    /// The numbers of the process that exists at this end.
    lives: Option<(u32, u32)>,
    /// The signals that were not sent yet.
    signals: Vec<Signal>,
    exited: Vec<(LocalPid, Vec<u8>, Bytes)>,
    probes: Vec<Vec<u8>>,
    broken: Vec<(LocalPid, Bytes)>,
}

impl Sink for Seen {
    fn knows(&mut self, name: &str) -> bool {
        name == "srv"
    }

    fn lives(&mut self, id: u32, serial: u32) -> bool {
        self.lives == Some((id, serial))
    }

    fn signal(&mut self, signal: Signal) {
        self.signals.push(signal);
    }

    fn reply(&mut self, _from: &From, _reply: Bytes) {}

    fn tick(&mut self) {}

    fn message(&mut self, _to: Target<'_>, _payload: Bytes) {}

    fn exited(&mut self, pid: LocalPid, reference: &[u8], reason: Bytes) {
        self.exited.push((pid, reference.to_vec(), reason));
    }

    fn link_broken(&mut self, pid: LocalPid, reason: Bytes) {
        self.broken.push((pid, reason));
    }

    fn probe_answered(&mut self, reference: &[u8]) {
        self.probes.push(reference.to_vec());
    }

    fn unknown_operation(&mut self, op: u64) {
        panic!("operation {op} is unknown");
    }
}

impl Side {
    fn new(ours: &Pid, peer: &Pid, flags: u64) -> Self {
        let peer = Peer { name: peer.node.clone(), creation: peer.creation, flags, hidden: true };
        let limits = Limits { message: 1 << 20, total: 1 << 22, stale: Duration::from_secs(1) };
        Self { session: Session::new(ours, &peer, limits), seen: Seen::default() }
    }

    /// Sends the signals of this end to the other end in their wire form.
    fn talk_to(&mut self, other: &mut Self) {
        let format = self.session.format();
        let mut frames = BytesMut::new();
        for Signal { control, payload } in self.seen.signals.drain(..) {
            let payload: Bytes = payload.to_vec().into();
            format.put_signal(&mut frames, &control, payload.len());
            frames.extend_from_slice(&payload);
        }
        other.session.frames(&frames.freeze(), NOW, &mut other.seen).unwrap();
    }
}

fn pid(node: &str, id: u32, creation: u32) -> Pid {
    Pid { node: Atom::new(node).unwrap(), id, serial: 0, creation }
}

fn encoded(pid: &Pid) -> Vec<u8> {
    let mut out = Vec::new();
    gater_term::encode::pid(&mut out, pid);
    out
}

fn control(op: u8, elements: &[&[u8]]) -> Bytes {
    [&[104, 1 + elements.len() as u8, 97, op][..], &elements.concat()].concat().into()
}

/// Returns pairs of a gateway, whose only process is number 1, and a BEAM, which agreed on all
/// flags or on none.
fn pairs() -> [(Side, Side); 2] {
    let (ours, theirs) = (pid("gater@h", 1, 1), pid("a@h", 4, 2));
    [u64::MAX, 0].map(|flags| {
        let mut gateway = Side::new(&ours, &theirs, flags);
        gateway.seen.lives = Some((1, 0));
        (gateway, Side::new(&theirs, &ours, flags))
    })
}

/// Returns the answer of the gateway to a signal of the BEAM, after the BEAM has accepted it.
fn answer(gateway: &mut Side, beam: &mut Side, control: Bytes, payload: &[u8]) -> Vec<Signal> {
    let payload = Payload::from(payload.to_vec());
    beam.seen.signals.push(Signal { control, payload });
    beam.talk_to(gateway);
    let answers = gateway.seen.signals.clone();
    gateway.talk_to(beam);
    answers
}

#[test]
fn a_monitor_of_a_process_that_is_gone_ends_at_once_and_of_one_that_lives_does_not() {
    for (mut gateway, mut beam) in pairs() {
        let process = LocalPid { id: 5, serial: 0, creation: 2 };
        let reference = gateway.session.format().monitor_reference(7);
        for lives in [true, false] {
            beam.seen.lives = lives.then_some((5, 0));
            let monitor = gateway.session.format().monitor(true, process, 7);
            gateway.seen.signals.push(monitor);
            gateway.talk_to(&mut beam);
            beam.talk_to(&mut gateway);
            assert_eq!(gateway.seen.exited.is_empty(), lives);
        }
        let noproc = Bytes::from_static(b"\x77\x06noproc");
        assert_eq!(gateway.seen.exited, [(process, reference, noproc)]);
    }
}

#[test]
fn a_probe_is_answered_when_all_before_it_was_read() {
    for (mut gateway, mut beam) in pairs() {
        let probe = gateway.session.format().probe(3);
        gateway.seen.signals.push(probe);
        gateway.talk_to(&mut beam);
        beam.talk_to(&mut gateway);
        assert_eq!(gateway.seen.probes.len(), 1);
        assert!(gateway.session.format().is_probe(3, &gateway.seen.probes[0]));
        assert!(gateway.seen.exited.is_empty());
    }
}

#[test]
fn a_monitor_by_name_ends_at_once_unless_the_name_is_known() {
    let reference = [&[90, 0, 1, 119, 3][..], b"a@h", &[0, 0, 0, 2, 0, 0, 0, 9]].concat();
    for (mut gateway, mut beam) in pairs() {
        let from = encoded(&pid("a@h", 6, 2));
        let monitor = |name: &[u8]| control(19, &[&from, name, &reference]);
        let known = answer(&mut gateway, &mut beam, monitor(b"\x77\x03srv"), b"");
        assert_eq!(known, []);
        let unknown = answer(&mut gateway, &mut beam, monitor(b"\x77\x04none"), b"");
        assert_eq!(unknown.len(), 1);
        assert_eq!(beam.seen.probes, std::slice::from_ref(&reference));
    }
}

#[test]
fn a_link_to_a_process_that_is_gone_ends_at_once() {
    let (ours, gone) = (encoded(&pid("gater@h", 1, 1)), encoded(&pid("gater@h", 9, 1)));
    let (theirs, before) = (encoded(&pid("a@h", 6, 2)), encoded(&pid("a@h", 6, 1)));
    for (mut gateway, mut beam) in pairs() {
        let mut link =
            |from: &[u8], to: &[u8]| answer(&mut gateway, &mut beam, control(1, &[from, to]), b"");
        assert_eq!(link(&theirs, &ours), [], "it lives");
        assert_eq!(link(&before, &gone), [], "an earlier life of the node asks");
        assert_eq!(link(&theirs, &theirs), [], "it is not of this node");
        let [exit] = &link(&theirs, &gone)[..] else { panic!("one answer") };
        let [.., op] = exit.control[..4] else { panic!("a tuple") };
        let in_payload = op == 24;
        assert!(in_payload || op == 3);
        assert!(exit.control.ends_with(if in_payload { &theirs } else { b"\x77\x06noproc" }));
        assert_eq!(exit.payload.is_empty(), !in_payload);
    }
}

#[test]
fn an_unlink_is_acknowledged_with_its_id() {
    let ours = encoded(&pid("gater@h", 1, 1));
    let (theirs, before) = (encoded(&pid("a@h", 6, 2)), encoded(&pid("a@h", 6, 1)));
    let id = [110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255];
    for (mut gateway, mut beam) in pairs() {
        let mut unlink =
            |from: &[u8]| answer(&mut gateway, &mut beam, control(35, &[&id, from, &ours]), b"");
        assert_eq!(unlink(&before), [], "an earlier life of the node is not answered");
        let [ack] = &unlink(&theirs)[..] else { panic!("one answer") };
        assert_eq!(ack.control, control(36, &[&id, &ours, &theirs]));
    }
}

#[test]
fn a_request_to_spawn_is_refused_under_its_own_reference() {
    let request = [&[90, 0, 1, 119, 3][..], b"a@h", &[0, 0, 0, 2, 0, 0, 0, 9]].concat();
    let theirs = encoded(&pid("a@h", 6, 2));
    let call = b"\x68\x03\x77\x01m\x77\x01f\x61\x00";
    for (mut gateway, mut beam) in pairs() {
        let spawn = control(29, &[&request, &theirs, &theirs, call, b"\x6a"]);
        let [refused] = &answer(&mut gateway, &mut beam, spawn, b"\x6a")[..] else {
            panic!("one answer")
        };
        assert_eq!(
            refused.control,
            control(31, &[&request, &theirs, b"\x61\0", b"\x77\x06notsup"])
        );
    }
}
