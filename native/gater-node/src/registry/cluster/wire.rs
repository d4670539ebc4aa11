//! The messages between gateways, beside those to BEAM nodes.
//!
//! A message is one binary term that is sent to the registered name [`NAME`]: the version of this
//! form, `WIRE`, followed by an [`Envelope`]. All gateways of one cluster must run programs with
//! the same version.

use bytes::Bytes;
use gater_dist::Payload;
use gater_term::{Atom, Reader, encode};
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::bootstrap::{Ballot, ClusterId, Founding};
use super::key::KeyMessage;
use super::past::Statement;
use crate::registry::replica::codec::{self, CodecError, WIRE};
use crate::registry::replica::form;
use crate::registry::replica::{Batch, ForwardError, NodeId, TypeConfig, Written};

/// The registered name to which gateways send.
pub const NAME: &str = "esdb_gater_gateway";

/// A message between gateways.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The cluster of the sender, if it belongs to one.
    pub cluster: Option<ClusterId>,
    /// The id of the sender.
    pub from: NodeId,
    /// The number of the question, which its asker counts, or of the question that is answered.
    pub number: u64,
    /// The question or the answer.
    pub content: Content,
}

/// A question or an answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Content {
    /// A question.
    Ask(Question),
    /// The answer to a question.
    Tell(Answer),
    /// A message about the key of the cluster, which precedes all others.
    Key(KeyMessage),
}

/// A question of one gateway to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Asks for the introduction of the gateway.
    Hello,
    /// Requests a vote of the member with this id. A gateway with its name but another data
    /// directory is not that member, and must not vote or store entries in its place.
    Vote(NodeId, #[serde(with = "form")] VoteRequest<NodeId>),
    /// Sends log entries to the member with this id.
    Append(NodeId, #[serde(with = "form")] AppendEntriesRequest<TypeConfig>),
    /// Sends a part of a snapshot to the member with this id.
    Snapshot(NodeId, #[serde(with = "form")] InstallSnapshotRequest<TypeConfig>),
    /// Forwards commands to the leader.
    Forward(Batch),
    /// Asks whether the gateway has lost the leader, too.
    Leaderless,
    /// The first phase of the bootstrap: asks to take part in this ballot and in none before.
    Prepare(Ballot),
    /// The second phase of the bootstrap: asks to accept this proposal, unless a later ballot was
    /// promised.
    Accept(Founding),
    /// Asks for the admission of a new gateway that is listed.
    Admit {
        /// The id of the new gateway.
        id: NodeId,
        /// The node name of the new gateway.
        name: String,
    },
    /// Asks to add a gateway on behalf of an operator.
    Add(String),
    /// Asks to remove a gateway on behalf of an operator.
    Remove(String),
    /// Asks for each of these incarnations of nodes whether the gateway has reached it recently.
    Reached(Vec<(Atom, u32)>),
}

/// The answer to a [`Question`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The answer to `Hello`.
    Hello(Hello),
    /// The answer to `Vote`.
    Vote(#[serde(with = "form")] Result<VoteResponse<NodeId>, RaftError<NodeId>>),
    /// The answer to `Append`.
    Append(#[serde(with = "form")] Result<AppendEntriesResponse<NodeId>, RaftError<NodeId>>),
    /// The answer to `Snapshot`.
    Snapshot(
        #[serde(with = "form")]
        Result<InstallSnapshotResponse<NodeId>, RaftError<NodeId, InstallSnapshotError>>,
    ),
    /// The answer to `Forward`.
    Forward(Result<Written, ForwardError>),
    /// The answer to `Prepare`: the proposal that was accepted before, or `None` if a later ballot
    /// was promised.
    Prepared(Option<Option<Founding>>),
    /// The answer to `Leaderless` and `Accept`.
    Flag(bool),
    /// The answer to `Reached`.
    Flags(Vec<bool>),
    /// The answer to `Admit`, `Add` and `Remove`; the error is a text for people.
    Done(Result<(), String>),
    /// The gateway belongs to another cluster or to none, or is not the member that was asked.
    Stranger,
}

/// The introduction of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The id of the gateway.
    pub id: NodeId,
    /// Whether the gateway is or was a member of a cluster.
    pub founded: bool,
    /// The members that it knows, by id and name.
    pub members: Vec<(NodeId, String)>,
    /// Whether it knows a leader.
    pub led: bool,
    /// The progress that it reports.
    pub statement: Statement,
    /// The statement of the asker that it remembers.
    pub remembered: Option<Statement>,
    /// Whether it has found that its data directory is an older copy.
    pub rolled_back: bool,
}

impl Question {
    /// Returns whether the question belongs to consensus, whose messages are not limited in number.
    pub fn is_of_consensus(&self) -> bool {
        matches!(self, Self::Vote(..) | Self::Append(..) | Self::Snapshot(..) | Self::Forward(_))
    }

    /// Returns whether a gateway that answers the question takes part in the decisions of the
    /// cluster.
    pub fn takes_part(&self) -> bool {
        self.is_of_consensus() || matches!(self, Self::Leaderless)
    }

    /// Returns the id of the member to which the question is addressed, whatever node has its name.
    pub fn addressee(&self) -> Option<NodeId> {
        match self {
            Self::Vote(to, _) | Self::Append(to, _) | Self::Snapshot(to, _) => Some(*to),
            _ => None,
        }
    }
}

impl Envelope {
    /// Encodes the message as a term.
    pub fn encode(&self) -> Result<Payload, CodecError> {
        let bytes = codec::encode(WIRE, self)?;
        let mut term = Vec::with_capacity(bytes.len() + 8);
        encode::binary(&mut term, &bytes);
        Ok(Payload::from(Bytes::from(term)))
    }

    /// Decodes a received term. Returns `None` if it is not such a message.
    pub fn decode(term: &[u8]) -> Option<Self> {
        codec::decode(WIRE, Reader::new(term).binary().ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gater_core::registry::{Change, Command, Origin, Outcome, Refusal};
    use gater_term::Pid;
    use openraft::error::{Fatal, SnapshotMismatch};
    use openraft::{CommittedLeaderId, EntryPayload, LeaderId, SnapshotMeta, Vote};

    use super::*;
    use crate::registry::replica::Applied;

    type LogId = openraft::LogId<NodeId>;

    fn last() -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(3, 9), 300))
    }

    fn vote() -> Vote<NodeId> {
        Vote { leader_id: LeaderId::new(5, 9), committed: true }
    }

    fn pid() -> Pid {
        Pid { node: Atom::new("a@h").unwrap(), id: 1, serial: 2, creation: u32::MAX }
    }

    fn batch() -> Batch {
        let origin = Some(Origin { proposer: u64::MAX, number: 2 });
        Batch { origin, commands: [Command::Exited { pid: pid(), epoch: None }].into() }
    }

    fn founding() -> Founding {
        let members = BTreeMap::from([(9, "a@h".to_owned())]);
        Founding { ballot: (4, 9), cluster: 42, members }
    }

    fn questions() -> Vec<(&'static str, Question)> {
        let append = AppendEntriesRequest {
            vote: vote(),
            prev_log_id: last(),
            entries: vec![openraft::Entry {
                log_id: LogId::new(CommittedLeaderId::new(5, 9), 301),
                payload: EntryPayload::Normal(batch()),
            }],
            leader_commit: None,
        };
        let meta = SnapshotMeta {
            last_log_id: last(),
            last_membership: Default::default(),
            snapshot_id: "3-9-300".into(),
        };
        let data = vec![1, 2, 3];
        let install = InstallSnapshotRequest { vote: vote(), meta, offset: 300, data, done: true };
        vec![
            ("hello", Question::Hello),
            ("vote", Question::Vote(8, VoteRequest { vote: vote(), last_log_id: last() })),
            ("append", Question::Append(8, append)),
            ("snapshot", Question::Snapshot(8, install)),
            ("forward", Question::Forward(batch())),
            ("leaderless", Question::Leaderless),
            ("prepare", Question::Prepare((4, 9))),
            ("accept", Question::Accept(founding())),
            ("admit", Question::Admit { id: 9, name: "a@h".into() }),
            ("add", Question::Add("a@h".into())),
            ("remove", Question::Remove("a@h".into())),
            ("reached", Question::Reached(vec![(Atom::new("a@h").unwrap(), 7)])),
        ]
    }

    fn answers() -> Vec<(&'static str, Answer)> {
        let response = VoteResponse { vote: vote(), vote_granted: true, last_log_id: last() };
        let hello = Hello {
            id: 9,
            founded: true,
            members: vec![(9, "a@h".into())],
            led: false,
            statement: Statement::example(),
            remembered: Some(Statement::example()),
            rolled_back: false,
        };
        let stopped = || RaftError::Fatal(Fatal::Stopped);
        let mismatch = SnapshotMismatch {
            expect: ("3-9-300".to_owned(), 300).into(),
            got: ("3-9-300".to_owned(), 5).into(),
        };
        let changes = vec![
            Change::Registered { store: Atom::new("s").unwrap(), pid: pid(), epoch: 4 },
            Change::Unregistered { store: Atom::new("s").unwrap(), pid: pid(), epoch: 3 },
        ];
        let applied = Applied(vec![Outcome { changes, refused: Some(Refusal::Full) }]);
        let installed = InstallSnapshotResponse { vote: vote() };
        let appended = |response| Answer::Append(Ok(response));
        vec![
            ("to_hello", Answer::Hello(hello)),
            ("voted", Answer::Vote(Ok(response))),
            ("not_voted", Answer::Vote(Err(stopped()))),
            ("appended", appended(AppendEntriesResponse::Success)),
            ("appended_up_to", appended(AppendEntriesResponse::PartialSuccess(last()))),
            ("conflict", appended(AppendEntriesResponse::Conflict)),
            ("higher_vote", appended(AppendEntriesResponse::HigherVote(vote()))),
            ("not_appended", Answer::Append(Err(stopped()))),
            ("installed", Answer::Snapshot(Ok(installed))),
            ("mismatch", Answer::Snapshot(Err(RaftError::APIError(mismatch.into())))),
            ("written", Answer::Forward(Ok(Written { index: 300, applied }))),
            ("not_leader", Answer::Forward(Err(ForwardError::NotLeader))),
            ("lost", Answer::Forward(Err(ForwardError::Lost))),
            ("promised", Answer::Prepared(Some(Some(founding())))),
            ("not_promised", Answer::Prepared(None)),
            ("flag", Answer::Flag(true)),
            ("flags", Answer::Flags(vec![true, false])),
            ("done", Answer::Done(Ok(()))),
            ("not_done", Answer::Done(Err("no gateway leads".into()))),
            ("stranger", Answer::Stranger),
        ]
    }

    #[test]
    fn messages_are_sent_as_they_always_were() {
        let questions = questions().into_iter().map(|(name, it)| (name, Content::Ask(it)));
        let answers = answers().into_iter().map(|(name, it)| (name, Content::Tell(it)));
        let key = [
            ("challenge", Content::Key(KeyMessage::Challenge([7; 32]))),
            ("proof", Content::Key(KeyMessage::Proof([8; 32]))),
        ];
        let vectors: Vec<_> = questions
            .chain(answers)
            .chain(key)
            .map(|(name, content)| {
                let envelope = Envelope { cluster: Some(42), from: 9, number: 300, content };
                let bytes = codec::encode(WIRE, &envelope).unwrap();
                let read: Envelope = codec::decode(WIRE, &bytes).unwrap();
                assert_eq!(format!("{read:?}"), format!("{envelope:?}"), "{name}");
                (name, bytes)
            })
            .collect();
        crate::vectors::check("gateways.txt", &vectors);
    }
}
