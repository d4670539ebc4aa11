use super::*;
use crate::registry::replica::types::Entry;
use openraft::{CommittedLeaderId, EntryPayload};
use proptest::prelude::*;

const OTHER: NodeId = 7;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, OTHER), index)
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: id(term, index), payload: EntryPayload::Blank }
}

fn leader(term: u64) -> Vote {
    Vote::new_committed(term, OTHER)
}

/// Returns the state of a gateway in term 3 whose log ends with entry 5, of which 0 to 3 are
/// committed.
fn local() -> (Local, BTreeMap<u64, LogId>) {
    let log: BTreeMap<_, _> = (0..=5).map(|index| (index, id(1 + index / 2, index))).collect();
    let local =
        Local { vote: leader(3), last: Some(id(3, 5)), settled: Some(id(2, 3)), purged: None };
    (local, log)
}

fn request(
    term: u64,
    before: Option<LogId>,
    entries: Vec<Entry>,
    committed: Option<LogId>,
) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: leader(term),
        prev_log_id: before,
        entries,
        leader_commit: committed,
    }
}

fn judge(request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Refusal> {
    let (local, log) = local();
    append(&local, &log, OTHER, request)
}

#[test]
fn what_a_leader_sends_is_taken() {
    for request in [
        // A heartbeat, the next entry, entries that exist already, and entries that replace
        // uncommitted ones.
        request(3, Some(id(3, 5)), vec![], Some(id(2, 3))),
        request(3, Some(id(3, 5)), vec![blank(3, 6)], Some(id(3, 5))),
        request(3, Some(id(1, 1)), vec![blank(2, 2), blank(2, 3)], Some(id(2, 3))),
        request(4, Some(id(2, 3)), vec![blank(4, 4)], Some(id(2, 3))),
        // The leader probes with an entry that does not exist here.
        request(4, Some(id(4, 20)), vec![], Some(id(4, 19))),
        request(3, None, vec![blank(1, 0), blank(1, 1)], Some(id(3, 40))),
    ] {
        assert_eq!(judge(&request), Ok(()), "{request:?}");
    }
}

#[test]
fn what_no_leader_sends_is_refused() {
    let far = MAX_INDEX + 1;
    for (request, refusal) in [
        (request(u64::MAX, None, vec![], None), Refusal::Term(u64::MAX)),
        (request(3 + MAX_TERM_STEP + 1, None, vec![], None), Refusal::Term(4 + MAX_TERM_STEP)),
        (request(3, Some(id(4, 5)), vec![], None), Refusal::Term(4)),
        (request(3, Some(id(3, far)), vec![], None), Refusal::Index(far)),
        (request(3, Some(id(3, 5)), vec![blank(3, 7)], None), Refusal::Gap(7)),
        (request(3, None, vec![blank(1, 1)], None), Refusal::Gap(1)),
        (request(3, Some(id(3, 5)), vec![blank(2, 6)], None), Refusal::Gap(6)),
        (request(4, Some(id(4, 3)), vec![], None), Refusal::Rewrites { at: 3 }),
        (request(4, Some(id(1, 1)), vec![blank(4, 2)], None), Refusal::Rewrites { at: 2 }),
        (request(9, Some(id(3, 5)), vec![], Some(id(9, 1))), Refusal::Committed(1)),
        (request(9, Some(id(3, 5)), vec![blank(9, 6)], Some(id(8, 6))), Refusal::Committed(6)),
        (request(3, Some(id(2, 3)), vec![], Some(id(2, 9))), Refusal::Committed(9)),
    ] {
        assert_eq!(judge(&request), Err(refusal), "{request:?}");
    }
}

#[test]
fn nobody_speaks_for_another_or_with_the_vote_of_another_request() {
    let (local, log) = local();
    let mut append_request = request(3, Some(id(3, 5)), vec![], None);
    assert_eq!(append(&local, &log, 8, &append_request), Err(Refusal::NotItself));
    append_request.vote.committed = false;
    assert_eq!(append(&local, &log, OTHER, &append_request), Err(Refusal::Kind));
    let mut vote = VoteRequest::new(Vote::new(4, OTHER), Some(id(3, 5)));
    assert_eq!(vote_request(&local, OTHER, &vote), Ok(()));
    assert_eq!(vote_request(&local, 8, &vote), Err(Refusal::NotItself));
    vote.vote.committed = true;
    assert_eq!(vote_request(&local, OTHER, &vote), Err(Refusal::Kind));
}

#[test]
fn a_snapshot_is_of_the_leader_and_names_a_cluster() {
    let (local, _) = local();
    let members = |voters: &[NodeId], nodes: &[NodeId]| {
        let configs = vec![voters.iter().copied().collect()];
        let nodes: BTreeMap<_, _> =
            nodes.iter().map(|id| (*id, crate::registry::replica::Member::default())).collect();
        openraft::StoredMembership::new(Some(id(1, 0)), openraft::Membership::new(configs, nodes))
    };
    let meta = |index, members| SnapshotMeta {
        last_log_id: Some(id(3, index)),
        last_membership: members,
        snapshot_id: "s".into(),
    };
    let sound = meta(9, members(&[1, 2], &[1, 2]));
    assert_eq!(snapshot(&local, OTHER, &leader(3), &sound), Ok(()));
    assert_eq!(snapshot(&local, 8, &leader(3), &sound), Err(Refusal::NotItself));
    assert_eq!(snapshot(&local, OTHER, &leader(4), &sound), Err(Refusal::NotLeader));
    let nobody = meta(9, members(&[], &[1]));
    assert_eq!(snapshot(&local, OTHER, &leader(3), &nobody), Err(Refusal::Members));
    let back = meta(2, members(&[1], &[1]));
    assert_eq!(snapshot(&local, OTHER, &leader(3), &back), Err(Refusal::Rewrites { at: 2 }));
}

#[test]
fn an_answer_speaks_of_what_was_asked() {
    let asked = request(3, Some(id(3, 5)), vec![blank(3, 6)], None);
    for (answer, is_sound) in [
        (AppendEntriesResponse::Success, true),
        (AppendEntriesResponse::Conflict, true),
        (AppendEntriesResponse::PartialSuccess(Some(id(3, 6))), true),
        (AppendEntriesResponse::PartialSuccess(Some(id(3, 7))), false),
        (AppendEntriesResponse::HigherVote(Vote::new(4, 9)), true),
        (AppendEntriesResponse::HigherVote(Vote::new(u64::MAX, 9)), false),
    ] {
        assert_eq!(append_response(&asked, &answer).is_ok(), is_sound, "{answer:?}");
    }
    let asked = VoteRequest::new(Vote::new(4, OTHER), None);
    for (vote, granted, is_sound) in [
        (Vote::new(4, OTHER), true, true),
        (Vote::new(4, 9), true, false),
        (Vote::new(5, 9), false, true),
        (Vote::new(u64::MAX, 9), false, false),
    ] {
        let answer = VoteResponse::new(vote, None, granted);
        assert_eq!(vote_response(&asked, &answer).is_ok(), is_sound, "{answer:?}");
    }
}

#[test]
fn a_log_that_nothing_can_follow_is_not_started_with() {
    assert_eq!(at_start(&Vote::default(), None), Ok(()));
    assert_eq!(at_start(&leader(3), Some(&id(3, 5))), Ok(()));
    assert!(at_start(&leader(u64::MAX), None).is_err());
    assert!(at_start(&leader(3), Some(&id(u64::MAX, 1))).is_err());
    assert!(at_start(&leader(3), Some(&id(3, u64::MAX))).is_err());
}

prop_compose! {
    fn any_id()(term in prop_oneof![0_u64..6, Just(u64::MAX)], index in prop_oneof![0_u64..9, Just(u64::MAX)])
        -> LogId { id(term, index) }
}

proptest! {
    /// Whatever is sent, an accepted request leaves no gap, changes nothing that is committed, and
    /// commits nothing below it.
    #[test]
    fn what_is_taken_keeps_what_is_committed(
        term in prop_oneof![0_u64..6, Just(u64::MAX)],
        before in prop::option::of(any_id()),
        ids in prop::collection::vec(any_id(), 0..4),
        committed in prop::option::of(any_id()),
    ) {
        let (local, log) = local();
        let entries: Vec<_> =
            ids.iter().map(|id| Entry { log_id: *id, payload: EntryPayload::Blank }).collect();
        let request = request(term, before, entries, committed);
        let known = needed(&local, &request)
            .into_iter()
            .filter_map(|index| Some((index, *log.get(&index)?)))
            .collect();
        if append(&local, &known, OTHER, &request).is_ok() {
            let settled = local.settled.unwrap();
            let mut next = before.map_or(0, |before| before.index + 1);
            for id in &ids {
                prop_assert_eq!(id.index, next);
                next += 1;
                prop_assert!(id.index > settled.index || log[&id.index] == *id);
            }
            // The consensus library commits this, if the position before the entries exists here.
            let accepted = ids.last().copied().max(before);
            let upto = accepted.min(committed);
            prop_assert!(upto <= Some(settled) || upto.unwrap().index > settled.index);
            prop_assert!(upto.is_none_or(|upto| upto.index < next || Some(upto) <= local.settled));
        }
    }
}
