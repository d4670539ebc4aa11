use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::ZERO;

/// Keeps the messages to names.
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

    fn mark_answered(&mut self, _reference: &[u8]) {}

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

/// A list of so many references and a binary, as it is sent and written out.
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
        // Above some 250 references there is no room for the atoms in front.
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
