use bytes::BytesMut;
use gater_term::{Atom, Pid, Reference, encode, expand};

use super::*;
use crate::gen_server::{self, From, Request};
use crate::protocol::atom_cache::Incoming;
use crate::protocol::flags;
use crate::protocol::frame::{self, Frame};
use crate::{Peer, SharedTerm};

fn atom(text: &str) -> Atom {
    Atom::new(text).unwrap()
}

fn pid(node: &str) -> Pid {
    Pid { node: atom(node), id: 7, serial: 1, creation: 3 }
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn reference(out: &mut Vec<u8>, reference: &Reference) {
    out.extend([90, 0, reference.words().len() as u8]);
    encode::atom(out, reference.node().as_str());
    out.put_u32(reference.creation());
    reference.words().iter().for_each(|word| out.put_u32(*word));
}

/// Returns `[alias|Ref]` with a reference of `words` words.
fn alias(node: &str, words: usize) -> (Vec<u8>, Reference) {
    let alias = Reference::new(atom(node), 3, &[1, 2, 3, 4, 5][..words]).unwrap();
    let tag = encoded(|out| {
        out.extend([108, 0, 0, 0, 1]);
        encode::atom(out, "alias");
        reference(out, &alias);
    });
    (tag, alias)
}

/// Returns the control messages and payloads of all frames, with their atoms written out.
fn received(batch: &Batch, cached: bool, incoming: &mut Incoming) -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = batch.bytes_left();
    let (mut rest, mut all) = (&bytes[..], Vec::new());
    while let Some((body, after)) = frame::first(rest) {
        rest = after;
        incoming.forget_last();
        let mut atoms = Vec::new();
        let data = match frame::parse(body).unwrap() {
            Frame::Whole(data) if cached => incoming.read(data, &mut atoms).unwrap(),
            Frame::PassThrough(data) if !cached => &data[1..],
            other => panic!("{other:?}"),
        };
        let (mut control, mut payload) = (BytesMut::new(), BytesMut::new());
        let len = expand(data, &atoms, usize::MAX, &mut control).unwrap();
        let data = if cached { &data[len..] } else { data[len..].strip_prefix(&[131]).unwrap() };
        assert_eq!(expand(data, &atoms, usize::MAX, &mut payload), Ok(data.len()));
        all.push((control.to_vec(), payload.to_vec()));
    }
    all
}

/// Returns a caller with this tag, as it arrives in a call.
fn from(tag: &[u8]) -> From {
    let call = gen_server::call(
        &pid("peer@h"),
        |out| out.extend_from_slice(tag),
        |out| encode::atom(out, "what"),
    );
    let Request::Call { from, .. } = gen_server::parse(&call.to_vec().into()) else { panic!() };
    from
}

#[test]
fn an_answer_is_the_same_with_and_without_references_to_atoms() {
    let (plain_alias, to_alias) = alias("peer@h", 3);
    let (long_alias, to_long) = alias("peer@h", 5);
    let (foreign_alias, to_foreign) = alias("other@h", 3);
    let nested = encoded(|out| {
        out.extend([108, 0, 0, 0, 1]);
        out.extend_from_slice(&plain_alias);
        encode::uint(out, 42);
    });
    let other = encoded(|out| encode::atom(out, "alias"));
    let tags = [
        (plain_alias, Some(&to_alias)),
        (long_alias, Some(&to_long)),
        (foreign_alias, Some(&to_foreign)),
        (nested, Some(&to_alias)),
        (other, None),
    ];
    let shared = Arc::new(SharedTerm::new(|out, atoms| {
        encode::list_of(out, [atom("alias"), atom("x@h"), atom("peer@h")].iter(), |out, atom| {
            atoms.put(out, atom);
        });
    }));
    let long = encoded(|out| encode::binary(out, &[1; 10_000]));
    let replies = [
        (Reply::Own(Bytes::from_static(b"w\x02ok")), b"w\x02ok".to_vec()),
        (Reply::Shared(shared.clone()), shared.plain().to_vec()),
        (Reply::Own(long.clone().into()), long),
    ];
    for cached in [false, true] {
        let flags = if cached { flags::OFFERED } else { 0 };
        let peer = Peer { name: atom("peer@h"), creation: 3, flags, hidden: false };
        let format = Format::new(&pid("gater@h"), &peer);
        let (mut batch, mut incoming) = (Batch::new(format, 1 << 16), Incoming::new(cached));
        for _ in 0..3 {
            let mut expected = Vec::new();
            for (tag, to) in &tags {
                for (reply, reply_encoded) in &replies {
                    let reply = match reply {
                        Reply::Own(reply) => Reply::Own(reply.clone()),
                        Reply::Shared(reply) => Reply::Shared(reply.clone()),
                    };
                    assert!(batch.add(Item::Answer(Answer { from: from(tag), reply })).is_none());
                    let control = encoded(|out| {
                        encode::tuple(out, 3);
                        match to {
                            Some(alias) => {
                                encode::uint(out, 33);
                                encode::pid(out, &pid("gater@h"));
                                reference(out, alias);
                            }
                            None => {
                                encode::uint(out, 2);
                                encode::atom(out, "");
                                encode::pid(out, &pid("peer@h"));
                            }
                        }
                    });
                    expected.push((control, [&[104, 2], &tag[..], reply_encoded].concat()));
                }
            }
            assert_eq!(received(&batch, cached, &mut incoming), expected);
            batch.clear();
        }
    }
}
