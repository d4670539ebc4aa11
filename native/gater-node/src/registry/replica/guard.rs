//! Checks requests of other gateways before they reach consensus.
//!
//! The consensus library trusts its peers: a term that cannot be incremented, an entry that does
//! not follow its predecessor, or a committed position below an earlier one makes its task panic.
//! Messages of other gateways are therefore checked here first, against the state of this gateway's
//! own log. A refused request has changed nothing.
//!
//! The checks do not read the log themselves: [`needed`] returns the indices of the required
//! entries, and [`append`] receives their ids.

use std::collections::BTreeMap;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use super::types::{LogId, NodeId, SnapshotMeta, TypeConfig, Vote};

/// The greatest term. Elections can continue from every term up to it.
pub const MAX_TERM: u64 = 1 << 62;
/// The greatest difference by which another gateway's term may be ahead of this gateway's term. A
/// gateway that is alone campaigns about once a second, so this is more than a hundred years.
const MAX_TERM_STEP: u64 = 1 << 32;
/// The greatest index, since epochs of registrations consist of an index and 16 bits.
pub const MAX_INDEX: u64 = 1 << 47;
/// The greatest number of entries in one request; gateways send 64 at a time.
const MAX_ENTRIES: usize = 1024;
/// The greatest number of commands in one entry. The epochs of more commands would overlap those of
/// the next entry.
pub const MAX_COMMANDS: usize = 1024;
/// The greatest number of members of a cluster, including those without a vote.
const MAX_MEMBERS: usize = 256;

/// The state of this gateway's log and vote.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local {
    /// The last vote.
    pub vote: Vote,
    /// The last entry.
    pub last: Option<LogId>,
    /// The last entry that must never change, because it is committed or applied.
    pub settled: Option<LogId>,
    /// The last entry that only a snapshot contains.
    pub purged: Option<LogId>,
}

/// The reason why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request contains the vote of a gateway other than the sender.
    #[error("it speaks for another gateway")]
    NotItself,
    /// The vote has the form of another kind of request.
    #[error("its vote is of the wrong kind")]
    Kind,
    /// The term is out of bounds.
    #[error("its term {0} is out of bounds")]
    Term(u64),
    /// The index is out of bounds.
    #[error("its index {0} is out of bounds")]
    Index(u64),
    /// The request has too many entries, commands, members or bytes.
    #[error("it holds too much")]
    TooMuch,
    /// An entry does not follow the one before it.
    #[error("its entry {0} does not follow the one before")]
    Gap(u64),
    /// The committed position contradicts the log.
    #[error("what it calls committed, {0}, contradicts the log")]
    Committed(u64),
    /// The request would change an entry that is committed on this gateway.
    #[error("it would change entry {at}, which is committed here")]
    Rewrites {
        /// The index of the entry.
        at: u64,
    },
    /// The members in the request cannot form a cluster.
    #[error("the members it names make no cluster")]
    Members,
    /// The sender is not the leader of this gateway.
    #[error("it does not come from the leader")]
    NotLeader,
    /// The registry in the request cannot be decoded.
    #[error("the registry in it cannot be read")]
    Body,
}

/// Checks that `vote`, which another gateway sends, belongs to `from` and is in bounds.
fn vote(local: &Local, from: NodeId, vote: &Vote, committed: bool) -> Result<(), Refusal> {
    if vote.leader_id.voted_for() != Some(from) {
        return Err(Refusal::NotItself);
    }
    if vote.committed != committed {
        return Err(Refusal::Kind);
    }
    term(local.vote.leader_id.term, vote.leader_id.term)
}

/// Checks that a gateway in term `own` may advance to the term `other`.
fn term(own: u64, other: u64) -> Result<(), Refusal> {
    let is_near = other <= own.saturating_add(MAX_TERM_STEP);
    if is_near && other <= MAX_TERM { Ok(()) } else { Err(Refusal::Term(other)) }
}

/// Checks that `id` can occur in a log of the term `upto`.
fn place(upto: u64, id: &LogId) -> Result<(), Refusal> {
    if id.leader_id.term > upto {
        return Err(Refusal::Term(id.leader_id.term));
    }
    if id.index > MAX_INDEX { Err(Refusal::Index(id.index)) } else { Ok(()) }
}

/// Checks a request for this gateway's vote.
pub fn vote_request(
    local: &Local,
    from: NodeId,
    request: &VoteRequest<NodeId>,
) -> Result<(), Refusal> {
    vote(local, from, &request.vote, false)?;
    let term = request.vote.leader_id.term;
    request.last_log_id.iter().try_for_each(|last| place(term, last))
}

/// Checks the answer to a request for a vote.
pub fn vote_response(
    asked: &VoteRequest<NodeId>,
    answer: &VoteResponse<NodeId>,
) -> Result<(), Refusal> {
    if answer.vote_granted && answer.vote != asked.vote {
        return Err(Refusal::Kind);
    }
    term(asked.vote.leader_id.term, answer.vote.leader_id.term)?;
    answer.last_log_id.iter().try_for_each(|last| place(MAX_TERM, last))
}

/// Returns the indices at which the entries of this gateway must be known to check `request`.
pub fn needed(local: &Local, request: &AppendEntriesRequest<TypeConfig>) -> Vec<u64> {
    let settled = local.settled.map(|id| id.index);
    let entries = request.prev_log_id.iter().chain(request.entries.iter().map(|e| &e.log_id));
    let mut indices: Vec<_> =
        entries.map(|id| id.index).filter(|index| Some(*index) <= settled).collect();
    let committed = request.leader_commit.map(|committed| committed.index);
    let last = local.last.map(|last| last.index);
    indices.extend(committed.min(last));
    indices
}

/// Checks entries for this gateway's log. `known` contains its own entries at the [`needed`]
/// indices, as far as they exist.
pub fn append(
    local: &Local,
    known: &BTreeMap<u64, LogId>,
    from: NodeId,
    request: &AppendEntriesRequest<TypeConfig>,
) -> Result<(), Refusal> {
    vote(local, from, &request.vote, true)?;
    let term = request.vote.leader_id.term;
    if request.entries.len() > MAX_ENTRIES {
        return Err(Refusal::TooMuch);
    }
    let mut before = request.prev_log_id;
    for id in request.prev_log_id.iter().chain(&request.leader_commit) {
        place(term, id)?;
    }
    for entry in &request.entries {
        let id = entry.log_id;
        place(term, &id)?;
        let next = before.map_or(0, |before| before.index.saturating_add(1));
        if id.index != next || before.is_some_and(|before| id.leader_id < before.leader_id) {
            return Err(Refusal::Gap(id.index));
        }
        before = Some(id);
        self::entry(entry)?;
    }
    let entries = request.prev_log_id.into_iter().chain(request.entries.iter().map(|e| e.log_id));
    for id in entries {
        if Some(id.index) <= local.settled.map(|settled| settled.index) {
            keeps(local, known, id)?;
        }
    }
    let Some(committed) = request.leader_commit else { return Ok(()) };
    let contradicts = Err(Refusal::Committed(committed.index));
    if local.settled.is_some_and(|own| committed.index <= own.index && committed > own) {
        return contradicts;
    }
    // The committed position is in the leader's log, of which this request is a part.
    let entries = request.prev_log_id.into_iter().chain(request.entries.iter().map(|e| e.log_id));
    for id in entries {
        let is_right = match id.index.cmp(&committed.index) {
            std::cmp::Ordering::Less => id.leader_id <= committed.leader_id,
            std::cmp::Ordering::Equal => id == committed,
            std::cmp::Ordering::Greater => id.leader_id >= committed.leader_id,
        };
        if !is_right {
            return contradicts;
        }
    }
    // No entry of this log has a later term than the entry that is committed at its index or behind
    // it.
    let nearest = Some(committed.index).min(local.last.map(|last| last.index));
    match nearest.and_then(|index| known.get(&index)) {
        Some(own) if own.leader_id > committed.leader_id => contradicts,
        _ => Ok(()),
    }
}

/// Checks that `id`, at or below the settled position, is the id of the entry there.
fn keeps(local: &Local, known: &BTreeMap<u64, LogId>, id: LogId) -> Result<(), Refusal> {
    let is_kept = match known.get(&id.index) {
        Some(own) => *own == id,
        // Of the entries that only a snapshot contains, just the last id is known.
        None => local.purged.is_some_and(|purged| id <= purged && id.index <= purged.index),
    };
    if is_kept { Ok(()) } else { Err(Refusal::Rewrites { at: id.index }) }
}

/// Checks the content of an entry.
fn entry(entry: &super::types::Entry) -> Result<(), Refusal> {
    match &entry.payload {
        openraft::EntryPayload::Blank => Ok(()),
        openraft::EntryPayload::Normal(batch) if batch.commands.len() > MAX_COMMANDS => {
            Err(Refusal::TooMuch)
        }
        openraft::EntryPayload::Normal(_) => Ok(()),
        openraft::EntryPayload::Membership(members) => membership(members),
    }
}

/// Checks that the members can form a cluster.
fn membership(members: &openraft::Membership<NodeId, super::types::Member>) -> Result<(), Refusal> {
    let configs = members.get_joint_config();
    if members.nodes().count() > MAX_MEMBERS {
        return Err(Refusal::TooMuch);
    }
    let is_known = |id: &NodeId| members.get_node(id).is_some();
    let is_sound = !configs.is_empty()
        && configs.len() <= 2
        && configs.iter().all(|voters| !voters.is_empty() && voters.iter().all(is_known));
    if is_sound { Ok(()) } else { Err(Refusal::Members) }
}

/// Checks the answer to entries that were sent.
pub fn append_response(
    asked: &AppendEntriesRequest<TypeConfig>,
    answer: &AppendEntriesResponse<NodeId>,
) -> Result<(), Refusal> {
    match answer {
        AppendEntriesResponse::Success => Ok(()),
        AppendEntriesResponse::Conflict if asked.prev_log_id.is_some() => Ok(()),
        AppendEntriesResponse::Conflict => Err(Refusal::Kind),
        AppendEntriesResponse::PartialSuccess(upto) => {
            let was_sent = *upto == asked.prev_log_id
                || asked.entries.iter().any(|entry| Some(entry.log_id) == *upto);
            let index = upto.map_or(0, |upto| upto.index);
            if was_sent { Ok(()) } else { Err(Refusal::Index(index)) }
        }
        AppendEntriesResponse::HigherVote(higher) => {
            term(asked.vote.leader_id.term, higher.leader_id.term)
        }
    }
}

/// Checks the vote that answers a part of a snapshot.
pub fn snapshot_response(asked: &Vote, answer: &Vote) -> Result<(), Refusal> {
    term(asked.leader_id.term, answer.leader_id.term)
}

/// Checks the position and the members of a snapshot, and its sender.
pub fn snapshot(
    local: &Local,
    from: NodeId,
    leader: &Vote,
    meta: &SnapshotMeta,
) -> Result<(), Refusal> {
    vote(local, from, leader, true)?;
    // This gateway has heard the leader before, since heartbeats are sent from the start.
    if local.vote != *leader {
        return Err(Refusal::NotLeader);
    }
    let last = meta.last_log_id.ok_or(Refusal::Index(0))?;
    place(leader.leader_id.term, &last)?;
    if meta.snapshot_id.len() > 256 {
        return Err(Refusal::TooMuch);
    }
    // A snapshot without new entries is answered by the consensus library.
    if let Some(settled) = local.settled
        && last.index <= settled.index
        && last > settled
    {
        return Err(Refusal::Rewrites { at: last.index });
    }
    if meta.last_membership.log_id().as_ref() > Some(&last) {
        return Err(Refusal::Members);
    }
    membership(meta.last_membership.membership())
}

/// Checks that a log with this end can be continued. The error is a text for people.
pub fn at_start(vote: &Vote, last: Option<&LogId>) -> Result<(), String> {
    let vote = vote.leader_id.term;
    if vote > MAX_TERM {
        return Err(format!("it holds a vote in term {vote}, which no election comes to"));
    }
    let Some(last) = last else { return Ok(()) };
    if last.index > MAX_INDEX {
        return Err(format!("it ends with entry {}, which no log comes to", last.index));
    }
    if last.leader_id.term > MAX_TERM {
        let term = last.leader_id.term;
        return Err(format!("its last entry is of term {term}, which no election comes to"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
