//! Measures the cost of routing a published message: from the bytes of a read, through frames, the
//! atom cache, validation and `gen_server`, into the batch of a subscriber's connection.
//!
//! `cargo bench -p gater-dist` prints the median of several rounds, in nanoseconds per message.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gater_dist::driver::batch::Batch;
use gater_dist::driver::item::Item;
use gater_dist::driver::outbox::{Coalesced, Next, Outbox, Outcome};
use gater_dist::gen_server::{self, From, Request};
use gater_dist::protocol::encode::{Format, Signal};
use gater_dist::protocol::fragment::Limits;
use gater_dist::protocol::session::{Session, Sink};
use gater_dist::{Draft, Lane, LaneLimits, LocalPid, Peer, Prefix, Target};
use gater_term::{Atom, Pid, Reader, encode};

const ROUNDS: usize = 15;
const ROUND_MILLIS: u128 = 100;
/// The number of messages in one read.
const MESSAGES: usize = 200;
const CORKER: u64 = 1;
const LIMITS: LaneLimits = LaneLimits { bytes: 64 << 20, messages: 1 << 20 };

/// Passes messages on to subscribers on another connection, as a channel does.
struct Router {
    outbox: Outbox,
    prefix: Arc<Prefix>,
    subscribers: Vec<LocalPid>,
}

impl Sink for Router {
    fn knows(&mut self, name: &str) -> bool {
        name == "esdb_channel_events"
    }

    fn lives(&mut self, _id: u32, _serial: u32) -> bool {
        false
    }

    fn signal(&mut self, _signal: Signal) {}

    fn reply(&mut self, _from: &From, _reply: Bytes) {}

    fn tick(&mut self) {}

    fn message(&mut self, _to: Target<'_>, payload: Bytes) {
        let Request::Cast(request) = gen_server::parse(&payload) else { return };
        let mut reader = Reader::new(&request);
        if reader.tuple() != Ok(3) || reader.atom().as_deref() != Ok("publish") {
            return;
        }
        let body = request.slice_ref(reader.rest());
        let draft = Draft::new(&self.prefix, &body);
        let to = &self.subscribers;
        let item = |to: &[LocalPid]| Item::Many {
            to: to.into(),
            from: 0,
            payload: draft.payload().clone(),
        };
        let coalesced = self.outbox.coalesce(CORKER, Lane::High, |batch| {
            let served = batch.add_draft(to, &draft);
            to.get(served..).filter(|rest| !rest.is_empty()).map(item)
        });
        if coalesced == Coalesced::Refused {
            let outcome = self.outbox.push(Some(CORKER), Lane::High, item(to));
            assert_eq!(outcome, Outcome::Taken);
        }
    }

    fn exited(&mut self, _pid: LocalPid, _reference: &[u8], _reason: Bytes) {}

    fn link_broken(&mut self, _pid: LocalPid, _reason: Bytes) {}

    fn probe_answered(&mut self, _reference: &[u8]) {}

    fn unknown_operation(&mut self, _op: u64) {}
}

impl Router {
    /// Does the work of the writer except for the system call.
    fn write(&self) {
        self.outbox.flush(CORKER, false);
        let mut written = None;
        while let Next::Write(mut batch) = self.outbox.next(written.take()) {
            batch.clear();
            written = Some(batch);
        }
    }
}

fn atom(text: &str) -> Atom {
    Atom::new(text).expect("a short name")
}

fn peer(name: &str) -> Peer {
    Peer { name: atom(name), creation: 2, flags: u64::MAX, hidden: false }
}

/// Returns `{6, Pid, '', esdb_channel_events}` and `{'$gen_cast', {publish, Topic, Message}}` as a
/// BEAM sends them, with all atoms as references.
fn frame(list: &[u8], size: usize) -> Vec<u8> {
    let mut body = vec![131, 68];
    body.extend_from_slice(list);
    body.extend(b"\x68\x04\x61\x06\x58\x52\x00\0\0\0\x01\0\0\0\0\0\0\0\x02\x52\x01\x52\x02");
    body.extend(b"\x68\x02\x52\x03\x68\x03\x52\x04");
    encode::binary(&mut body, b"orders");
    encode::binary(&mut body, &vec![7; size]);
    let mut framed = u32::try_from(body.len()).expect("a short frame").to_be_bytes().to_vec();
    framed.extend(body);
    framed
}

fn measure(subscribers: u32, size: usize) {
    let ours = Pid { node: atom("gater@h"), id: 1, serial: 0, creation: 1 };
    let limits = Limits { message: 64 << 20, total: 128 << 20, stale: Duration::from_secs(60) };
    let mut session = Session::new(&ours, &peer("publisher@h"), limits);
    let batch = Batch::new(Format::new(&ours, &peer("subscriber@h")), 64 << 10);
    let mut router = Router {
        outbox: Outbox::new([LIMITS; 5], batch, true),
        prefix: Arc::new(Prefix::tuple(4, &[atom("channel_message"), atom("events")])),
        subscribers: (1..=subscribers).map(|id| LocalPid { id, serial: 0, creation: 2 }).collect(),
    };
    router.write();
    let names = ["publisher@h", "", "esdb_channel_events", "$gen_cast", "publish"];
    let mut list = vec![5, 0x88, 0x88, 0x08];
    for (slot, name) in (0_u8..).zip(names) {
        list.extend([slot, name.len() as u8]);
        list.extend_from_slice(name.as_bytes());
    }
    let known = [5, 0, 0, 0, 0, 1, 2, 3, 4];
    session.frames(&frame(&list, size).into(), Duration::ZERO, &mut router).expect("valid");
    router.write();
    let frames = Bytes::from(frame(&known, size).repeat(MESSAGES));
    let mut round = |times: u32| {
        let begun = Instant::now();
        for _ in 0..times {
            session.frames(black_box(&frames), Duration::ZERO, &mut router).expect("valid");
            router.write();
        }
        begun.elapsed()
    };
    let mut times = 1;
    while round(times).as_millis() < ROUND_MILLIS {
        times *= 2;
    }
    let per_message = f64::from(times) * MESSAGES as f64;
    let mut nanos: Vec<_> =
        (0..ROUNDS).map(|_| round(times).as_nanos() as f64 / per_message).collect();
    nanos.sort_by(f64::total_cmp);
    println!("{size:>6} B to {subscribers:>4} {:>10.0} ns", nanos[ROUNDS / 2]);
}

fn main() {
    for (subscribers, size) in [(1, 64), (10, 64), (1000, 64), (1, 1024), (10, 1024), (1, 16384)] {
        measure(subscribers, size);
    }
}
