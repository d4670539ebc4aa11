//! The members of the cluster according to consensus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::{ChangeMembers, Membership, ServerState};
use tokio::time::timeout;

use super::Replica;
use super::types::{Member, NodeId};

/// The number of missing entries below which a member has caught up. It receives the rest while it
/// votes.
const NEAR: u64 = 1_000;
/// The pause before another look at a change in progress.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The role of a gateway in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The gateway is not a member of any cluster yet.
    Waiting,
    /// The gateway is a member without a vote.
    Learner,
    /// The gateway follows the leader.
    Follower,
    /// The gateway campaigns for election.
    Candidate,
    /// The gateway leads.
    Leader,
}

impl Role {
    /// Returns the name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// The cluster as one gateway knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// The id of the gateway.
    pub id: NodeId,
    /// The role of the gateway.
    pub role: Role,
    /// The term of the gateway.
    pub term: u64,
    /// The leader, as far as the gateway knows.
    pub leader: Option<NodeId>,
    /// The index of the last entry that is applied to its registry.
    pub applied: u64,
    /// All members, and whether they vote.
    pub members: BTreeMap<NodeId, (Member, bool)>,
}

impl ClusterView {
    /// Returns the node name of a member.
    pub fn name_of(&self, id: NodeId) -> Option<&str> {
        self.members.get(&id).map(|(member, _)| member.name.as_str())
    }

    /// Returns whether this gateway has a vote.
    pub fn votes(&self) -> bool {
        self.is_voter(self.id)
    }

    /// Returns whether the member with this id has a vote.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.members.get(&id).is_some_and(|(_, votes)| *votes)
    }

    /// Returns the ids of the voters.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| *id)
    }
}

/// Positions in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// The last entry of the log.
    pub last: u64,
    /// The last entry that is applied to the registry.
    pub applied: u64,
    /// The last entry that the snapshot contains.
    pub snapshot: u64,
    /// The last entry that was removed.
    pub purged: u64,
    /// The last entry that each member is known to have; empty unless this gateway leads.
    pub matched: BTreeMap<NodeId, u64>,
}

/// The reason why the members could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Another gateway leads, or there is no leader.
    #[error("this gateway does not lead")]
    NotLeader,
    /// The member does not exist.
    #[error("there is no such member")]
    Unknown,
    /// The member is the only voter, so the cluster would be empty without it.
    #[error("it is the only member that votes")]
    Last,
    /// An earlier change is not complete, or the cluster is not ready.
    #[error("{0}")]
    Refused(String),
}

impl From<RaftError<NodeId, ClientWriteError<NodeId, Member>>> for MemberError {
    fn from(error: RaftError<NodeId, ClientWriteError<NodeId, Member>>) -> Self {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Self::NotLeader,
            error => Self::Refused(error.to_string()),
        }
    }
}

impl Replica {
    /// Returns the cluster as this gateway knows it.
    pub fn view(&self) -> ClusterView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<_> = membership.voter_ids().collect();
        let members: BTreeMap<_, _> = membership
            .nodes()
            .map(|(id, member)| (*id, (member.clone(), voters.contains(id))))
            .collect();
        ClusterView {
            id: metrics.id,
            role: match metrics.state {
                _ if members.is_empty() => Role::Waiting,
                ServerState::Leader => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Follower => Role::Follower,
                ServerState::Learner | ServerState::Shutdown => Role::Learner,
            },
            term: metrics.current_term,
            leader: metrics.current_leader,
            applied: metrics.last_applied.map_or(0, |id| id.index),
            members,
        }
    }

    /// Returns the positions in the log of this gateway and, if it leads, the known position of
    /// each member.
    pub fn positions(&self) -> Positions {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let index = |id: Option<openraft::LogId<NodeId>>| id.map_or(0, |id| id.index);
        let replication = metrics.replication.iter().flatten();
        Positions {
            last: metrics.last_log_index.unwrap_or(0),
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            matched: replication.map(|(id, matched)| (*id, index(*matched))).collect(),
        }
    }

    /// Returns whether `is_it` is true for the id and the name of any member, including those that
    /// are being added or removed.
    pub(crate) fn has_member(&self, is_it: impl Fn(NodeId, &str) -> bool) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().nodes().any(|(id, member)| is_it(*id, &member.name))
    }

    /// Returns when a field of the [`ClusterView`] other than `applied` may have changed since
    /// `seen`, which [`Replica::changes`] returned.
    pub async fn changed(&self, seen: &mut Changes) {
        if seen.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the state that [`Replica::changed`] needs.
    pub fn changes(&self) -> Changes {
        Changes(self.raft.server_metrics())
    }

    /// Initialises a cluster of `members`. It must be called with the same members on every gateway
    /// that calls it.
    pub async fn found(&self, members: BTreeMap<NodeId, Member>) -> Result<(), MemberError> {
        match self.raft.initialize(members).await {
            // Another gateway was faster, with the same members.
            Ok(()) | Err(RaftError::APIError(openraft::error::InitializeError::NotAllowed(_))) => {
                Ok(())
            }
            Err(error) => Err(MemberError::Refused(error.to_string())),
        }
    }

    /// Has a gateway catch up and then vote. An earlier member with its name is removed.
    pub async fn add(&self, id: NodeId, member: Member) -> Result<(), MemberError> {
        self.add_learner(id, member).await?;
        self.caught_up(id).await?;
        self.promote(id).await
    }

    /// Makes a gateway a member without a vote, unless it is a member.
    pub async fn add_learner(&self, id: NodeId, member: Member) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        if self.membership().await?.get_node(&id).is_some() {
            return Ok(());
        }
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, member)])), true).await
    }

    /// Waits until a member has nearly all entries of this gateway, which leads.
    pub async fn caught_up(&self, id: NodeId) -> Result<(), MemberError> {
        let mut metrics = self.raft.metrics();
        loop {
            match self.lag(id) {
                None => return Err(MemberError::NotLeader),
                Some(lag) if lag <= NEAR => return Ok(()),
                Some(_) => {}
            }
            if metrics.changed().await.is_err() {
                return Err(MemberError::NotLeader);
            }
        }
    }

    /// Returns the number of entries that a member lacks, or `None` if this gateway does not lead.
    pub fn lag(&self, id: NodeId) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let last = metrics.last_log_index.map_or(0, |index| index.saturating_add(1));
        let replication = metrics.replication.as_ref()?;
        if id == metrics.id {
            return Some(0);
        }
        let matched = replication.get(&id).copied().flatten();
        Some(last.saturating_sub(matched.map_or(0, |matched| matched.index.saturating_add(1))))
    }

    /// Returns whether a member without a vote has caught up enough to be given a vote.
    pub fn may_vote(&self, id: NodeId) -> bool {
        self.lag(id).is_some_and(|lag| lag <= NEAR)
    }

    /// Gives a member a vote. An earlier member with its name is removed.
    pub async fn promote(&self, id: NodeId) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        let members = self.membership().await?;
        let name = &members.get_node(&id).ok_or(MemberError::Unknown)?.name;
        let replaced: BTreeSet<_> = members
            .nodes()
            .filter(|(other, member)| **other != id && member.name == *name)
            .map(|(other, _)| *other)
            .collect();
        let mut voters = last_voters(&members);
        let is_done = voters.contains(&id)
            && voters.is_disjoint(&replaced)
            && members.get_joint_config().len() == 1;
        if !is_done {
            voters.insert(id);
            voters.retain(|voter| !replaced.contains(voter));
            self.change(ChangeMembers::ReplaceAllVoters(voters), false).await?;
        }
        self.drop_learners(&replaced).await
    }

    /// Removes a gateway from the cluster.
    pub async fn remove(&self, name: &str) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        let members = self.membership().await?;
        let named: BTreeSet<_> =
            members.nodes().filter(|(_, member)| member.name == name).map(|(id, _)| *id).collect();
        if named.is_empty() {
            return Err(MemberError::Unknown);
        }
        let voters = last_voters(&members);
        let staying: BTreeSet<_> = voters.difference(&named).copied().collect();
        if staying.is_empty() {
            return Err(MemberError::Last);
        }
        if staying.len() < voters.len() || members.get_joint_config().len() > 1 {
            self.change(ChangeMembers::ReplaceAllVoters(staying), false).await?;
        }
        self.drop_learners(&named).await
    }

    /// Removes a member without a vote from the cluster.
    pub async fn remove_learner(&self, id: NodeId) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        self.drop_learners(&BTreeSet::from([id])).await
    }

    /// Completes a change of the members that an earlier leader has begun.
    pub async fn complete_change(&self) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        let members = self.membership().await?;
        if members.get_joint_config().len() <= 1 {
            return Ok(());
        }
        self.change(ChangeMembers::ReplaceAllVoters(last_voters(&members)), false).await
    }

    /// Returns whether a change of the members is in progress.
    pub fn is_changing(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_joint_config().len() > 1
    }

    /// Removes those of `ids` that are members without a vote.
    async fn drop_learners(&self, ids: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        let members = self.membership().await?;
        let learners: BTreeSet<_> =
            members.learner_ids().filter(|learner| ids.contains(learner)).collect();
        if learners.is_empty() {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(learners), false).await
    }

    /// Returns the members according to the log. Metrics may lag behind it.
    async fn membership(&self) -> Result<Membership<NodeId, Member>, MemberError> {
        let members = self
            .raft
            .with_raft_state(|state| state.membership_state.effective().membership().clone());
        members.await.map_err(|error| MemberError::Refused(error.to_string()))
    }

    /// Changes the members. A change that an earlier leader has begun is waited for: it is
    /// completed, or its successor leads.
    async fn change(
        &self,
        changes: ChangeMembers<NodeId, Member>,
        retain: bool,
    ) -> Result<(), MemberError> {
        let mut metrics = self.raft.metrics();
        loop {
            match self.raft.change_membership(changes.clone(), retain).await {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => {
                    let _ = timeout(LOOK_AGAIN, metrics.changed()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives this gateway, the only member, the name by which others reach it.
    pub async fn take_name(&self, name: &str) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        let members = self.membership().await?;
        let id = self.node_id();
        let alone = members.nodes().count() == 1 && members.voter_ids().any(|voter| voter == id);
        if alone && members.get_node(&id).is_some_and(|member| member.name != name) {
            let member = Member { name: name.to_owned() };
            self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, member)])), true).await?;
        }
        Ok(())
    }

    /// Sends a heartbeat to all members, if this gateway leads.
    pub async fn beat(&self) {
        if let Err(error) = self.raft.trigger().heartbeat().await {
            tracing::debug!(%error, "no heartbeat");
        }
    }

    /// Returns for how long the leader has not been heard.
    pub fn leader_silence(&self) -> Duration {
        self.leader_heard.lock().elapsed()
    }

    /// Campaigns now, without waiting for missing heartbeats of a leader.
    pub async fn campaign(&self) {
        if let Err(error) = self.raft.trigger().elect().await {
            tracing::warn!(%error, "no election");
        }
    }

    /// Stops campaigning for ever, since this gateway is no longer a member.
    pub fn retire(&self) {
        self.raft.runtime_config().elect(false);
    }
}

/// Returns the voters after a change in progress.
fn last_voters(members: &Membership<NodeId, Member>) -> BTreeSet<NodeId> {
    members.get_joint_config().last().cloned().unwrap_or_default()
}

/// See [`Replica::changes`].
pub struct Changes(tokio::sync::watch::Receiver<RaftServerMetrics<NodeId, Member>>);
