//! What consensus may be asked to do by another gateway.
//!
//! The consensus library trusts its peers: a term it cannot add one to, an entry that does not
//! follow the one before, or a committed place below an earlier one ends its task in a panic.
//! Whatever another gateway sends is therefore measured here first, against what is known of this
//! gateway's own log. A request that is refused has not changed anything.
//!
//! The checks read no log by themselves: [`needed`] tells which entries have to be known, and
//! [`append`] is given them.

use std::collections::BTreeMap;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use super::types::{LogId, NodeId, SnapshotMeta, TypeConfig, Vote};

/// The greatest term: elections go on from every term up to it.
pub const MAX_TERM: u64 = 1 << 62;
/// How far ahead of this gateway's term another one may be. A gateway that is alone campaigns
/// about once a second, so that this is more than a hundred years.
const MAX_TERM_STEP: u64 = 1 << 32;
/// The greatest index: epochs of registrations are made of an index and 16 bits.
pub const MAX_INDEX: u64 = 1 << 47;
/// The most entries of one request; gateways send 64 at a time.
const MAX_ENTRIES: usize = 1024;
/// The most commands of one entry. The epochs of more would run into those of the next entry.
pub const MAX_COMMANDS: usize = 1024;
/// The most members of a cluster, with those that do not vote.
const MAX_MEMBERS: usize = 256;

/// What this gateway's log and vote are like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local {
    /// The last vote.
    pub vote: Vote,
    /// The last entry.
    pub last: Option<LogId>,
    /// The last entry that must never change: it is committed, or applied.
    pub settled: Option<LogId>,
    /// The last entry that only a snapshot holds.
    pub purged: Option<LogId>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It speaks of a vote that is not the sender's.
    #[error("it speaks for another gateway")]
    NotItself,
    /// The form of the vote is that of another request.
    #[error("its vote is of the wrong kind")]
    Kind,
    /// The term is out of every order.
    #[error("its term {0} is out of bounds")]
    Term(u64),
    /// The index is out of every order.
    #[error("its index {0} is out of bounds")]
    Index(u64),
    /// There are too many entries, commands or members, or too many bytes.
    #[error("it holds too much")]
    TooMuch,
    /// An entry does not follow the one before it.
    #[error("its entry {0} does not follow the one before")]
    Gap(u64),
    /// What it calls committed contradicts the log.
    #[error("what it calls committed, {0}, contradicts the log")]
    Committed(u64),
    /// It would change what is committed here.
    #[error("it would change entry {at}, which is committed here")]
    Rewrites {
        /// The entry.
        at: u64,
    },
    /// The members it names make no cluster.
    #[error("the members it names make no cluster")]
    Members,
    /// It does not come from the gateway that leads here.
    #[error("it does not come from the leader")]
    NotLeader,
    /// The registry in it cannot be read.
    #[error("the registry in it cannot be read")]
    Body,
}

/// Whether `vote`, which another gateway sends, is that of `from` and in order.
fn vote(local: &Local, from: NodeId, vote: &Vote, committed: bool) -> Result<(), Refusal> {
    if vote.leader_id.voted_for() != Some(from) {
        return Err(Refusal::NotItself);
    }
    if vote.committed != committed {
        return Err(Refusal::Kind);
    }
    term(local.vote.leader_id.term, vote.leader_id.term)
}

/// Whether a gateway that is in term `own` may come into the term `other`.
fn term(own: u64, other: u64) -> Result<(), Refusal> {
    let is_near = other <= own.saturating_add(MAX_TERM_STEP);
    if is_near && other <= MAX_TERM { Ok(()) } else { Err(Refusal::Term(other)) }
}

/// Whether `id` can stand in a log of the term `upto`.
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

/// The indices of `request` whose entries here have to be known to judge it.
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

/// Checks entries for this gateway's log. `known` are its own entries at the [`needed`] indices,
/// as far as they are there.
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
    // What is committed stands in the log of the leader, of which this request is a part.
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
    // No entry of this log is of a later term than what is committed at its place or behind it.
    let nearest = Some(committed.index).min(local.last.map(|last| last.index));
    match nearest.and_then(|index| known.get(&index)) {
        Some(own) if own.leader_id > committed.leader_id => contradicts,
        _ => Ok(()),
    }
}

/// Whether `id`, at or below what is settled, is what stands there.
fn keeps(local: &Local, known: &BTreeMap<u64, LogId>, id: LogId) -> Result<(), Refusal> {
    let is_kept = match known.get(&id.index) {
        Some(own) => *own == id,
        // Of what only a snapshot holds the last place is known.
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

/// Whether these can be the members of a cluster.
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

/// Checks what a snapshot says it is of, and who sends it.
pub fn snapshot(
    local: &Local,
    from: NodeId,
    leader: &Vote,
    meta: &SnapshotMeta,
) -> Result<(), Refusal> {
    vote(local, from, leader, true)?;
    // The leader was heard before: its heartbeats go out from the start.
    if local.vote != *leader {
        return Err(Refusal::NotLeader);
    }
    let last = meta.last_log_id.ok_or(Refusal::Index(0))?;
    place(leader.leader_id.term, &last)?;
    if meta.snapshot_id.len() > 256 {
        return Err(Refusal::TooMuch);
    }
    // One that tells nothing new is for the consensus library to answer.
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

/// Whether a log that ends this way can be gone on with. `Err` is for people.
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
