//! The forms in which the types of consensus are stored and sent.
//!
//! The forms are types of this crate that consist of numbers and names. The types of the consensus
//! library are never serialised, so a new release of it cannot change the contents of the disk or
//! the messages that other gateways understand. A change of a form requires another version in
//! [`codec`](super::codec); the golden vectors in `tests/vectors` detect an unintended change.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload, LeaderId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::types::{Batch, Entry, LogId, Member, Membership, NodeId, SnapshotMeta, Vote};

/// A type that is stored and sent in the form of another type.
pub trait Formed: Sized {
    /// The type of the form.
    type Form: Serialize + DeserializeOwned;

    /// Returns the form of this value.
    fn form(&self) -> Self::Form;

    /// Returns the value of a form.
    fn of(form: Self::Form) -> Self;
}

/// Serialises a value in its form, for `#[serde(serialize_with)]`. [`deserialize`] is the
/// counterpart.
pub fn serialize<T: Formed, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.form().serialize(serializer)
}

/// Deserialises a value from its form.
pub fn deserialize<'de, T: Formed, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::Form::deserialize(deserializer).map(T::of)
}

impl<T: Formed> Formed for Option<T> {
    type Form = Option<T::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(T::form)
    }

    fn of(form: Self::Form) -> Self {
        form.map(T::of)
    }
}

/// A position in the log.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogIdForm {
    term: u64,
    leader: NodeId,
    index: u64,
}

impl Formed for LogId {
    type Form = LogIdForm;

    fn form(&self) -> LogIdForm {
        let CommittedLeaderId { term, node_id } = self.leader_id;
        LogIdForm { term, leader: node_id, index: self.index }
    }

    fn of(form: LogIdForm) -> Self {
        Self::new(CommittedLeaderId::new(form.term, form.leader), form.index)
    }
}

/// A vote.
#[derive(Debug, Serialize, Deserialize)]
pub struct VoteForm {
    term: u64,
    candidate: NodeId,
    /// Whether a majority has granted the vote.
    committed: bool,
}

impl Formed for Vote {
    type Form = VoteForm;

    fn form(&self) -> VoteForm {
        let LeaderId { term, node_id } = self.leader_id;
        VoteForm { term, candidate: node_id, committed: self.committed }
    }

    fn of(form: VoteForm) -> Self {
        let leader_id = LeaderId::new(form.term, form.candidate);
        Self { leader_id, committed: form.committed }
    }
}

/// The members of a cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct MembersForm {
    /// The voters; two sets while one is being replaced by the other.
    voters: Vec<BTreeSet<NodeId>>,
    /// All members, including those without a vote.
    members: BTreeMap<NodeId, Member>,
}

type Members = openraft::Membership<NodeId, Member>;

impl Formed for Members {
    type Form = MembersForm;

    fn form(&self) -> MembersForm {
        MembersForm {
            voters: self.get_joint_config().clone(),
            members: self.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        }
    }

    fn of(form: MembersForm) -> Self {
        Self::new(form.voters, form.members)
    }
}

/// The members of a cluster as of a position in the log.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredMembersForm {
    since: Option<LogIdForm>,
    members: MembersForm,
}

impl Formed for Membership {
    type Form = StoredMembersForm;

    fn form(&self) -> StoredMembersForm {
        StoredMembersForm { since: self.log_id().form(), members: self.membership().form() }
    }

    fn of(form: StoredMembersForm) -> Self {
        Self::new(Option::of(form.since), Members::of(form.members))
    }
}

/// An entry of the log.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryForm {
    id: LogIdForm,
    content: ContentForm,
}

/// The content of an entry.
#[derive(Debug, Serialize, Deserialize)]
enum ContentForm {
    /// A leader has begun its term.
    Blank,
    /// Commands to the registry.
    Commands(Batch),
    /// The members from this entry on.
    Members(MembersForm),
}

impl Formed for Entry {
    type Form = EntryForm;

    fn form(&self) -> EntryForm {
        let content = match &self.payload {
            EntryPayload::Blank => ContentForm::Blank,
            // The commands are shared and not copied.
            EntryPayload::Normal(batch) => ContentForm::Commands(batch.clone()),
            EntryPayload::Membership(members) => ContentForm::Members(members.form()),
        };
        EntryForm { id: self.log_id.form(), content }
    }

    fn of(form: EntryForm) -> Self {
        let payload = match form.content {
            ContentForm::Blank => EntryPayload::Blank,
            ContentForm::Commands(batch) => EntryPayload::Normal(batch),
            ContentForm::Members(members) => EntryPayload::Membership(Members::of(members)),
        };
        Self { log_id: LogId::of(form.id), payload }
    }
}

impl<T: Formed> Formed for Vec<T> {
    type Form = Vec<T::Form>;

    fn form(&self) -> Self::Form {
        self.iter().map(T::form).collect()
    }

    fn of(form: Self::Form) -> Self {
        form.into_iter().map(T::of).collect()
    }
}

/// The position and the members of which a snapshot was taken.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotMetaForm {
    last: Option<LogIdForm>,
    members: StoredMembersForm,
    id: String,
}

impl Formed for SnapshotMeta {
    type Form = SnapshotMetaForm;

    fn form(&self) -> SnapshotMetaForm {
        SnapshotMetaForm {
            last: self.last_log_id.form(),
            members: self.last_membership.form(),
            id: self.snapshot_id.clone(),
        }
    }

    fn of(form: SnapshotMetaForm) -> Self {
        Self {
            last_log_id: Option::of(form.last),
            last_membership: Membership::of(form.members),
            snapshot_id: form.id,
        }
    }
}
