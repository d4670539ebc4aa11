//! What gateways say to each other, beside what they say to BEAM nodes.
//!
//! A message is one binary term, sent to the registered name [`NAME`]: an
//! [`Envelope`] in the form in which the log is written as well. Gateways of one
//! cluster must be of versions that know the same messages.

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
use crate::registry::replica::codec::{self, CodecError};
use crate::registry::replica::{Batch, ForwardError, NodeId, TypeConfig, Written};

/// The registered name that gateways send to.
pub const NAME: &str = "esdb_gater_gateway";

/// A message between gateways.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The cluster of the sender, if it belongs to one.
    pub cluster: Option<ClusterId>,
    /// Which question it is, or which one it answers: counted by who asks.
    pub number: u64,
    /// The question or the answer.
    pub content: Content,
}

/// A question or an answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Content {
    /// A question.
    Ask(Question),
    /// Its answer.
    Tell(Answer),
}

/// What one gateway asks of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Who are you?
    Hello,
    /// Of the election of a leader, to the member with this id. One of its name with another
    /// data directory is not that member, and must not vote or keep entries in its place.
    Vote(NodeId, VoteRequest<NodeId>),
    /// Entries of the log, to the member with this id.
    Append(NodeId, AppendEntriesRequest<TypeConfig>),
    /// A piece of a snapshot, to the member with this id.
    Snapshot(NodeId, InstallSnapshotRequest<TypeConfig>),
    /// Commands to be written by the leader.
    Forward(Batch),
    /// Have you, too, no connection to a leader?
    Leaderless,
    /// Of the founding, first half: take part in this ballot and in none before.
    Prepare(Ballot),
    /// Of the founding, second half: accept this, unless a later ballot is on.
    Accept(Founding),
    /// Let me in: I am new, and on your list.
    Admit {
        /// Who asks.
        id: NodeId,
        /// Its node name.
        name: String,
    },
    /// Have a gateway added, for an operator.
    Add(String),
    /// Have a gateway removed, for an operator.
    Remove(String),
    /// Have you reached any of these incarnations of nodes lately? For each, in order.
    Reached(Vec<(Atom, u32)>),
}

/// What comes of a [`Question`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Hello`.
    Hello(Hello),
    /// To `Vote`.
    Vote(Result<VoteResponse<NodeId>, RaftError<NodeId>>),
    /// To `Append`.
    Append(Result<AppendEntriesResponse<NodeId>, RaftError<NodeId>>),
    /// To `Snapshot`.
    Snapshot(Result<InstallSnapshotResponse<NodeId>, RaftError<NodeId, InstallSnapshotError>>),
    /// To `Forward`.
    Forward(Result<Written, ForwardError>),
    /// To `Prepare`: what was accepted before, or nothing if a later ballot is on.
    Prepared(Option<Option<Founding>>),
    /// To `Leaderless`, `Accept`.
    Flag(bool),
    /// To `Reached`.
    Flags(Vec<bool>),
    /// To `Admit`, `Add`, `Remove`; the error is for people.
    Done(Result<(), String>),
    /// It belongs to another cluster or to none, or is not the member that was asked.
    Stranger,
}

/// Who a gateway is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its id.
    pub id: NodeId,
    /// Whether it is or was a member of a cluster.
    pub founded: bool,
    /// The members it knows, by id and name.
    pub members: Vec<(NodeId, String)>,
    /// Whether it knows a leader.
    pub led: bool,
}

impl Question {
    /// The member it is for, whoever bears its name.
    pub fn addressee(&self) -> Option<NodeId> {
        match self {
            Self::Vote(to, _) | Self::Append(to, _) | Self::Snapshot(to, _) => Some(*to),
            _ => None,
        }
    }
}

impl Envelope {
    /// As a term to be sent.
    pub fn encode(&self) -> Result<Payload, CodecError> {
        let bytes = codec::encode(self)?;
        let mut term = Vec::with_capacity(bytes.len() + 8);
        encode::binary(&mut term, &bytes);
        Ok(Payload::from(Bytes::from(term)))
    }

    /// From a term that was received; `None` if it is no such message.
    pub fn decode(term: &[u8]) -> Option<Self> {
        codec::decode(Reader::new(term).binary().ok()?).ok()
    }
}
