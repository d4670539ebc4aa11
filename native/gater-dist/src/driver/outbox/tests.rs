use bytes::Bytes;
use gater_term::{Atom, LocalPid, Pid};

use super::*;
use crate::gen_server::{From, Tag};
use crate::protocol::answer::{Answer, Reply};
use crate::protocol::encode::Format;
use crate::{Draft, Payload, Peer};

const LIMITS: LaneLimits = LaneLimits { bytes: 1 << 20, messages: 1000 };
const TO: LocalPid = LocalPid { id: 1, serial: 0, creation: 1 };

fn outbox() -> Outbox {
    let node = Atom::new("gater@h").unwrap();
    let peer = Peer { name: Atom::new("p@h").unwrap(), creation: 1, flags: 0, hidden: false };
    let format = Format::new(&Pid { node, id: 1, serial: 0, creation: 1 }, &peer);
    let outbox = Outbox::new([LIMITS; 5], Batch::new(format, 64 << 10), true);
    // The writer task comes first and finds nothing.
    assert!(matches!(outbox.next(None), Next::Wait));
    outbox
}

fn item(text: &str) -> Item {
    Item::One(TO, Payload::from(text.as_bytes().to_vec()))
}

fn coalesce(outbox: &Outbox, corker: u64, text: &str) -> Coalesced {
    outbox.coalesce(corker, Lane::High, |batch| batch.add(item(text)))
}

/// Returns what the writer task would write, as one string.
fn written(outbox: &Outbox) -> String {
    let all = written_bytes(outbox);
    all.iter().filter(|byte| byte.is_ascii_lowercase()).map(|byte| char::from(*byte)).collect()
}

fn written_bytes(outbox: &Outbox) -> Vec<u8> {
    let (mut all, mut given) = (Vec::new(), None);
    while let Next::Write(mut batch) = outbox.next(given.take()) {
        all.extend_from_slice(&batch.bytes_left());
        batch.clear();
        given = Some(batch);
    }
    all
}

fn order_of(text: &str, marks: [&str; 3]) -> bool {
    let at = marks.map(|mark| text.find(mark).unwrap());
    at.is_sorted()
}

#[test]
fn the_first_to_gather_has_the_duty_until_others_queue() {
    let outbox = outbox();
    assert_eq!(coalesce(&outbox, 1, "one"), Coalesced::Taken { first: true });
    assert_eq!(coalesce(&outbox, 1, "one"), Coalesced::Taken { first: false });
    assert_eq!(coalesce(&outbox, 2, "two"), Coalesced::Refused);
    assert_eq!(outbox.push(Some(2), Lane::High, item("two")), Outcome::Taken);
    // The task leaves the duty to the corker until that is done.
    assert!(matches!(outbox.next(None), Next::Wait));
    assert_eq!(coalesce(&outbox, 1, "three"), Coalesced::Refused);
    assert_eq!(outbox.push(Some(1), Lane::High, item("three")), Outcome::Taken);
    assert!(order_of(&written(&outbox), ["one", "two", "three"]));
    outbox.flush(1, true);
    assert_eq!(coalesce(&outbox, 3, "four"), Coalesced::Taken { first: true });
}

#[test]
fn what_is_not_written_here_is_left_to_the_task() {
    let outbox = outbox();
    assert_eq!(coalesce(&outbox, 1, "one"), Coalesced::Taken { first: true });
    outbox.flush(1, false);
    assert_eq!(coalesce(&outbox, 2, "two"), Coalesced::Refused);
    assert!(written(&outbox).contains("one"));
}

#[test]
fn nothing_gathered_overtakes_what_the_same_gatherer_queued() {
    let outbox = outbox();
    assert_eq!(coalesce(&outbox, 1, "one"), Coalesced::Taken { first: true });
    assert_eq!(outbox.push(Some(1), Lane::High, item("two")), Outcome::Taken);
    assert_eq!(coalesce(&outbox, 1, "three"), Coalesced::Refused);
    assert_eq!(outbox.push(Some(1), Lane::High, item("three")), Outcome::Taken);
    outbox.flush(1, true);
    assert!(order_of(&written(&outbox), ["one", "two", "three"]));
}

#[test]
fn what_has_no_room_in_a_batch_waits_in_its_lane() {
    let outbox = outbox();
    let prefix = Arc::new(Prefix::tuple(2, &[Atom::new("o").unwrap()]));
    let body = Bytes::from(vec![b'x'; 1000]);
    let draft = Draft::new(&prefix, &body);
    let to = vec![TO; 500];
    let coalesced = outbox.coalesce(1, Lane::Low, |batch| {
        let served = batch.add_draft(&to, &draft);
        assert!((200..400).contains(&served));
        let payload = draft.payload().clone();
        Some(Item::Many { to: to[served..].into(), from: 0, payload })
    });
    // The writer task goes on with it at once.
    assert_eq!(coalesced, Coalesced::Taken { first: false });
    assert_eq!(coalesce(&outbox, 1, "later"), Coalesced::Refused);
    assert_eq!(written(&outbox).matches('x').count(), 500 * 1000);
}

#[test]
fn drops_are_summed_up_by_opening() {
    let outbox = outbox();
    let prefixes = ["a", "b"].map(|text| Prefix::tuple(2, &[Atom::new(text).unwrap()]));
    let prefixes = prefixes.map(Arc::new);
    let body = Bytes::from(vec![b'x'; 1000]);
    let push = |prefix, lane| {
        let payload = Draft::new(prefix, &body).payload().clone();
        outbox.push(None, lane, Item::One(TO, payload))
    };
    while push(&prefixes[0], Lane::Normal) == Outcome::Taken {}
    for _ in 0..3 {
        let lost = push(&prefixes[1], Lane::Normal);
        let Outcome::Dropped(losses) = lost else { panic!("{lost:?}") };
        assert_eq!(losses.len(), 1);
        assert_eq!((losses[0].prefix.as_ref(), losses[0].messages), (Some(&prefixes[0]), 1));
    }
    let many = Item::Many { to: vec![TO; 999].into(), from: 0, payload: Payload::default() };
    let Outcome::Dropped(losses) = outbox.push(None, Lane::Normal, many) else { panic!() };
    assert_eq!(
        losses.iter().map(|loss| loss.prefix.as_ref()).collect::<Vec<_>>(),
        [Some(&prefixes[0]), Some(&prefixes[1]),]
    );
    while push(&prefixes[1], Lane::Low) == Outcome::Taken {}
    let Outcome::Dropped(losses) = push(&prefixes[1], Lane::Low) else { panic!() };
    assert_eq!((losses[0].prefix.as_ref(), losses[0].messages), (Some(&prefixes[1]), 1));
}

#[test]
fn what_a_full_lane_ends_the_connection_over_is_told_with_its_subscribers() {
    let outbox = outbox();
    let prefix = Arc::new(Prefix::tuple(2, &[Atom::new("a").unwrap()]));
    let payload = Draft::new(&prefix, &Bytes::from(vec![b'x'; 1000])).payload().clone();
    let many = || Item::Many { to: vec![TO; 300].into(), from: 0, payload: payload.clone() };
    for _ in 0..3 {
        assert_eq!(outbox.push(None, Lane::Critical, many()), Outcome::Taken);
    }
    let lost = outbox.push(None, Lane::Critical, many());
    let Outcome::Overflow(losses) = lost else { panic!("{lost:?}") };
    assert_eq!(losses.len(), 1);
    assert_eq!((losses[0].reason, losses[0].messages), (LossReason::ConnectionLost, 300));
    assert_eq!(losses[0].prefix.as_ref(), Some(&prefix));
}

#[test]
fn any_number_of_monitors_takes_little_room_and_goes_before_what_follows() {
    const COUNT: u32 = 40_000;
    let outbox = outbox();
    let of = (1..=COUNT).map(|id| (LocalPid { id, ..TO }, u64::from(id))).collect();
    let monitors = Item::Monitors { of, from: 0 };
    assert_eq!(outbox.push(None, Lane::Control, monitors), Outcome::Taken);
    assert_eq!(outbox.push(None, Lane::Control, item("next")), Outcome::Taken);
    let written = written_bytes(&outbox);
    // The name of the node occurs in each pid, and once for the receiver of the following message.
    let nodes = written.windows(4).filter(|bytes| bytes == b"\x03p@h").count();
    assert_eq!(nodes, COUNT as usize + 1);
    assert!(written.ends_with(b"next"));
}

#[test]
fn what_waited_on_a_connection_that_ends_is_told() {
    let outbox = outbox();
    let prefix = Arc::new(Prefix::tuple(2, &[Atom::new("a").unwrap()]));
    let body = Bytes::from(vec![b'x'; 100]);
    let payload = Draft::new(&prefix, &body).payload().clone();
    let many = |n| Item::Many { to: vec![TO; n].into(), from: 0, payload: payload.clone() };
    for (lane, item) in [(Lane::Low, many(3)), (Lane::Critical, many(2)), (Lane::Low, many(5))] {
        assert_eq!(outbox.push(None, lane, item), Outcome::Taken);
    }
    let lost: Vec<_> = outbox
        .close()
        .into_iter()
        .map(|(lane, loss)| (lane, loss.reason, loss.prefix, loss.messages))
        .collect();
    let lost_on =
        |lane, messages| (lane, LossReason::ConnectionLost, Some(prefix.clone()), messages);
    assert_eq!(lost, [lost_on(Lane::Critical, 2), lost_on(Lane::Low, 8)]);
    let Outcome::Dropped(late) = outbox.push(None, Lane::High, many(7)) else { panic!() };
    assert_eq!((late[0].reason, late[0].messages), (LossReason::ConnectionLost, 7));
}

#[test]
fn a_closed_outbox_takes_and_keeps_nothing() {
    let outbox = outbox();
    assert_eq!(coalesce(&outbox, 1, "one"), Coalesced::Taken { first: true });
    assert!(outbox.close().is_empty());
    assert_eq!(coalesce(&outbox, 1, "two"), Coalesced::Refused);
    assert!(matches!(outbox.push(None, Lane::High, item("two")), Outcome::Dropped(_)));
    outbox.flush(1, true);
    assert!(matches!(outbox.next(None), Next::End));
    let inner = outbox.inner.lock();
    assert!(Lane::ALL.iter().all(|lane| inner.lanes.items(*lane) == 0));
}

/// Returns the number of the oldest unanswered probe.
fn awaited(outbox: &Outbox) -> Option<u64> {
    outbox.inner.lock().window.awaited()
}

/// Returns an outbox whose peer answers probes, but has not answered those of the last messages,
/// which were so many that no more may be sent.
fn held() -> Outbox {
    let outbox = outbox();
    let long = || Item::One(TO, Payload::from(vec![b'-'; 100_000]));
    assert_eq!(outbox.push(None, Lane::Low, long()), Outcome::Taken);
    while awaited(&outbox).is_none() {
        assert_eq!(outbox.push(None, Lane::Low, long()), Outcome::Taken);
        written(&outbox);
    }
    outbox.answered(|number| number == 1);
    while outbox.held().is_none() {
        assert_eq!(outbox.push(None, Lane::Low, long()), Outcome::Taken);
        written(&outbox);
    }
    outbox
}

#[test]
fn what_waits_for_the_peer_is_overtaken_by_critical_messages_alone() {
    let outbox = held();
    for (lane, text) in
        [(Lane::High, "high"), (Lane::Critical, "critical"), (Lane::Control, "control")]
    {
        assert_eq!(outbox.push(None, lane, item(text)), Outcome::Taken);
    }
    let out = written(&outbox);
    assert!(out.find("control").unwrap() < out.find("critical").unwrap());
    assert!(!out.contains("high"));
    // A corker does not even need the task.
    let coalesce = |lane, text| outbox.coalesce(1, lane, |batch| batch.add(item(text)));
    assert_eq!(coalesce(Lane::Critical, "more"), Coalesced::Taken { first: true });
    outbox.flush(1, false);
    assert!(written(&outbox).contains("more"));
    assert_eq!(coalesce(Lane::High, "last"), Coalesced::Refused);
}

#[test]
fn an_answer_lets_the_rest_go_and_any_other_does_not() {
    let outbox = held();
    let probe = awaited(&outbox).unwrap();
    assert_eq!(outbox.push(None, Lane::High, item("high")), Outcome::Taken);
    outbox.answered(|number| number == probe + 1);
    assert!(!written(&outbox).contains("high"));
    outbox.answered(|number| number == probe);
    assert!(written(&outbox).contains("high"));
    assert!(outbox.held().is_none());
}

#[test]
fn an_end_waits_for_no_answer() {
    let outbox = held();
    assert_eq!(outbox.push(None, Lane::Low, item("last")), Outcome::Taken);
    outbox.drain();
    assert!(written(&outbox).contains("last"));
    assert!(matches!(outbox.next(None), Next::End));
}

#[test]
fn what_callers_have_repeated_to_them_counts() {
    let outbox = outbox();
    let from = From {
        pid: Pid { node: Atom::new("p@h").unwrap(), id: 1, serial: 0, creation: 1 },
        tag: Tag::Other { term: vec![0; LIMITS.bytes / 3].into(), alias: None },
    };
    let answer = || {
        let reply = Reply::Own(Bytes::from_static(b"w\x02ok"));
        Item::Answer(Answer { from: from.clone(), reply })
    };
    for _ in 0..2 {
        assert_eq!(outbox.push(None, Lane::Control, answer()), Outcome::Taken);
    }
    assert!(matches!(outbox.push(None, Lane::Control, answer()), Outcome::Overflow(_)));
}
