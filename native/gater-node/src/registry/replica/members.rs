//! Who belongs to the cluster, as consensus has it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::{ChangeMembers, Membership, ServerState};
use tokio::time::timeout;

use super::Replica;
use super::types::{Member, NodeId};

/// A member that lacks so many entries has caught up: it gets the rest while it votes.
const NEAR: u64 = 1_000;
/// How long a change that is under way is waited for before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a gateway is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not a member of any cluster yet.
    Waiting,
    /// Takes part without a vote.
    Learner,
    /// Follows the leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// Returns the name operators see.
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
    /// Its own id.
    pub id: NodeId,
    /// What it is itself.
    pub role: Role,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The last entry of the log that its registry holds.
    pub applied: u64,
    /// All members, with whether they vote.
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

    /// Returns whether that member has a vote.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.members.get(&id).is_some_and(|(_, votes)| *votes)
    }

    /// Returns the ids of those that vote.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| *id)
    }
}

/// Positions in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// The last entry there is.
    pub last: u64,
    /// The last entry that the registry holds.
    pub applied: u64,
    /// The last entry that the snapshot holds.
    pub snapshot: u64,
    /// The last entry that was removed.
    pub purged: u64,
    /// The last entry that each member is known to have; nobody's unless this gateway leads.
    pub matched: BTreeMap<NodeId, u64>,
}

/// Why the members could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Another gateway leads, or nobody does.
    #[error("this gateway does not lead")]
    NotLeader,
    /// There is no such member.
    #[error("there is no such member")]
    Unknown,
    /// Without it there would be nobody left.
    #[error("it is the only member that votes")]
    Last,
    /// An earlier change is not done yet, or the cluster is not ready.
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

    /// Where the log of this gateway stands, and, if it leads, how far each member is known to be.
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

    /// For how long no majority has answered this gateway, which leads. `None` if it does not lead,
    /// or nobody has answered yet.
    pub fn quorum_silence(&self) -> Option<Duration> {
        self.raft.metrics().borrow().millis_since_quorum_ack.map(Duration::from_millis)
    }

    /// Returns whether any member, or one on its way in or out, is as `is_it` says of its id and
    /// name.
    pub(crate) fn has_member(&self, is_it: impl Fn(NodeId, &str) -> bool) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().nodes().any(|(id, member)| is_it(*id, &member.name))
    }

    /// Returns when something of the [`ClusterView`] but `applied` may have changed since `seen`,
    /// which is taken from [`Replica::changes`].
    pub async fn changed(&self, seen: &mut Changes) {
        if seen.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What [`Replica::changed`] needs to remember.
    pub fn changes(&self) -> Changes {
        Changes(self.raft.server_metrics())
    }

    /// Makes `members` a cluster. To be called with the same members wherever it is called.
    pub async fn found(&self, members: BTreeMap<NodeId, Member>) -> Result<(), MemberError> {
        match self.raft.initialize(members).await {
            // Another founder was faster, with the same members.
            Ok(()) | Err(RaftError::APIError(openraft::error::InitializeError::NotAllowed(_))) => {
                Ok(())
            }
            Err(error) => Err(MemberError::Refused(error.to_string())),
        }
    }

    /// Has a gateway catch up and then vote. Whoever had its name before is a member no more.
    pub async fn add(&self, id: NodeId, member: Member) -> Result<(), MemberError> {
        self.add_learner(id, member).await?;
        self.caught_up(id).await?;
        self.promote(id).await
    }

    /// Makes a gateway a member that follows without a vote, unless it is a member.
    pub async fn add_learner(&self, id: NodeId, member: Member) -> Result<(), MemberError> {
        let _turn = self.changing.lock().await;
        if self.membership().await?.get_node(&id).is_some() {
            return Ok(());
        }
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, member)])), true).await
    }

    /// Returns when a member has nearly all entries that this gateway, which leads, has.
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

    /// Returns how many entries a member lacks. `None` if this gateway does not lead.
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

    /// Returns whether a member that does not vote yet has caught up so far that it may.
    pub fn may_vote(&self, id: NodeId) -> bool {
        self.lag(id).is_some_and(|lag| lag <= NEAR)
    }

    /// Gives a member a vote. Whoever had its name before is a member no more.
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

    /// Takes a gateway out of the cluster.
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

    /// Takes members without a vote out of the cluster.
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

    /// Returns whether a change of the members has begun and is not done.
    pub fn is_changing(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_joint_config().len() > 1
    }

    /// Those of `ids` that are members without a vote are none any more.
    async fn drop_learners(&self, ids: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        let members = self.membership().await?;
        let learners: BTreeSet<_> =
            members.learner_ids().filter(|learner| ids.contains(learner)).collect();
        if learners.is_empty() {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(learners), false).await
    }

    /// Returns the members as the log has them now. Metrics may lag behind it.
    async fn membership(&self) -> Result<Membership<NodeId, Member>, MemberError> {
        let members = self
            .raft
            .with_raft_state(|state| state.membership_state.effective().membership().clone());
        members.await.map_err(|error| MemberError::Refused(error.to_string()))
    }

    /// Changes the members. What an earlier leader has begun is waited for: it ends, or its
    /// successor leads.
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

    /// Gives this gateway, the only member, the name that others reach it by.
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

    /// Stands for election now, without waiting for the silence of a leader.
    pub async fn campaign(&self) {
        if let Err(error) = self.raft.trigger().elect().await {
            tracing::warn!(%error, "no election");
        }
    }

    /// Never stands for election again: this gateway is no member any more.
    pub fn retire(&self) {
        self.raft.runtime_config().elect(false);
    }
}

/// Those who vote once a change that is under way is done.
fn last_voters(members: &Membership<NodeId, Member>) -> BTreeSet<NodeId> {
    members.get_joint_config().last().cloned().unwrap_or_default()
}

/// See [`Replica::changes`].
pub struct Changes(tokio::sync::watch::Receiver<RaftServerMetrics<NodeId, Member>>);
