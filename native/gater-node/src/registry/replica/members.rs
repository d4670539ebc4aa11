//! Who belongs to the cluster, as consensus has it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::{ChangeMembers, ServerState};

use super::Replica;
use super::types::{Member, NodeId};

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
    /// The name operators see.
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
    /// The node name of a member.
    pub fn name_of(&self, id: NodeId) -> Option<&str> {
        self.members.get(&id).map(|(member, _)| member.name.as_str())
    }

    /// The members of that name: one, unless one was replaced and is on its way out.
    fn named(&self, name: &str) -> BTreeSet<NodeId> {
        let named = |member: &Member| member.name == name;
        self.members.iter().filter(|(_, (member, _))| named(member)).map(|(id, _)| *id).collect()
    }

    /// Whether this gateway has a vote.
    pub fn votes(&self) -> bool {
        self.is_voter(self.id)
    }

    /// Whether that member has a vote.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.members.get(&id).is_some_and(|(_, votes)| *votes)
    }

    /// The ids of those that vote.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|(_, (_, votes))| *votes).map(|(id, _)| *id)
    }
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
    /// The cluster as this gateway knows it.
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

    /// For how long no majority has answered this gateway, which leads. `None` if it does not lead,
    /// or nobody has answered yet.
    pub fn quorum_silence(&self) -> Option<Duration> {
        self.raft.metrics().borrow().millis_since_quorum_ack.map(Duration::from_millis)
    }

    /// Whether any member, or one on its way in or out, is as `is_it` says of its id and name.
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
        let mut replaced = self.view().named(&member.name);
        replaced.remove(&id);
        self.raft.add_learner(id, member, true).await?;
        let mut voters: BTreeSet<_> = self.view().voters().collect();
        voters.insert(id);
        voters.retain(|voter| !replaced.contains(voter));
        self.raft.change_membership(voters, false).await?;
        self.drop_learners(&replaced).await
    }

    /// Takes a gateway out of the cluster.
    pub async fn remove(&self, name: &str) -> Result<(), MemberError> {
        let view = self.view();
        let named = view.named(name);
        if named.is_empty() {
            return Err(MemberError::Unknown);
        }
        let voters: BTreeSet<_> = view.voters().filter(|id| !named.contains(id)).collect();
        if voters.is_empty() {
            return Err(MemberError::Last);
        }
        if voters.len() < view.voters().count() {
            self.raft.change_membership(voters, false).await?;
        }
        self.drop_learners(&named).await
    }

    /// Those of `ids` that are members without a vote are none any more.
    async fn drop_learners(&self, ids: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        let learners: BTreeSet<_> =
            self.view().members.keys().filter(|id| ids.contains(id)).copied().collect();
        if !learners.is_empty() {
            self.raft.change_membership(ChangeMembers::RemoveNodes(learners), false).await?;
        }
        Ok(())
    }

    /// Gives this gateway, the only member, the name that others reach it by.
    pub async fn take_name(&self, name: &str) -> Result<(), MemberError> {
        let view = self.view();
        let alone = view.members.len() == 1 && view.votes();
        if alone && view.name_of(view.id) != Some(name) {
            let member = Member { name: name.to_owned() };
            let nodes = BTreeMap::from([(view.id, member)]);
            self.raft.change_membership(ChangeMembers::SetNodes(nodes), true).await?;
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

/// See [`Replica::changes`].
pub struct Changes(tokio::sync::watch::Receiver<RaftServerMetrics<NodeId, Member>>);
