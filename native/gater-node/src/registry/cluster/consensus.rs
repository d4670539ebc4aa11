//! The forms of the messages of consensus between gateways; see
//! [`form`](crate::registry::replica::form).

use openraft::SnapshotSegmentId;
use openraft::error::{Fatal, InstallSnapshotError, RaftError, SnapshotMismatch};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::registry::replica::form::{EntryForm, Formed, LogIdForm, SnapshotMetaForm, VoteForm};
use crate::registry::replica::{NodeId, TypeConfig};

/// A request for a vote.
#[derive(Debug, Serialize, Deserialize)]
pub struct VoteRequestForm {
    vote: VoteForm,
    last: Option<LogIdForm>,
}

impl Formed for VoteRequest<NodeId> {
    type Form = VoteRequestForm;

    fn form(&self) -> VoteRequestForm {
        VoteRequestForm { vote: self.vote.form(), last: self.last_log_id.form() }
    }

    fn of(form: VoteRequestForm) -> Self {
        Self { vote: Formed::of(form.vote), last_log_id: Formed::of(form.last) }
    }
}

/// The answer to a request for a vote.
#[derive(Debug, Serialize, Deserialize)]
pub struct VoteResponseForm {
    vote: VoteForm,
    granted: bool,
    last: Option<LogIdForm>,
}

impl Formed for VoteResponse<NodeId> {
    type Form = VoteResponseForm;

    fn form(&self) -> VoteResponseForm {
        let (vote, last) = (self.vote.form(), self.last_log_id.form());
        VoteResponseForm { vote, granted: self.vote_granted, last }
    }

    fn of(form: VoteResponseForm) -> Self {
        Self {
            vote: Formed::of(form.vote),
            vote_granted: form.granted,
            last_log_id: Formed::of(form.last),
        }
    }
}

/// Entries of the log.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppendForm {
    vote: VoteForm,
    /// The entry before them.
    previous: Option<LogIdForm>,
    entries: Vec<EntryForm>,
    committed: Option<LogIdForm>,
}

impl Formed for AppendEntriesRequest<TypeConfig> {
    type Form = AppendForm;

    fn form(&self) -> AppendForm {
        AppendForm {
            vote: self.vote.form(),
            previous: self.prev_log_id.form(),
            entries: self.entries.form(),
            committed: self.leader_commit.form(),
        }
    }

    fn of(form: AppendForm) -> Self {
        Self {
            vote: Formed::of(form.vote),
            prev_log_id: Formed::of(form.previous),
            entries: Formed::of(form.entries),
            leader_commit: Formed::of(form.committed),
        }
    }
}

/// The answer to log entries.
#[derive(Debug, Serialize, Deserialize)]
pub enum AppendedForm {
    /// All entries are in the log.
    All,
    /// The entries up to this one are in the log.
    UpTo(Option<LogIdForm>),
    /// The entry before them is not in the log.
    Conflict,
    /// Another leader has a later vote.
    HigherVote(VoteForm),
}

impl Formed for AppendEntriesResponse<NodeId> {
    type Form = AppendedForm;

    fn form(&self) -> AppendedForm {
        match self {
            Self::Success => AppendedForm::All,
            Self::PartialSuccess(last) => AppendedForm::UpTo(last.form()),
            Self::Conflict => AppendedForm::Conflict,
            Self::HigherVote(vote) => AppendedForm::HigherVote(vote.form()),
        }
    }

    fn of(form: AppendedForm) -> Self {
        match form {
            AppendedForm::All => Self::Success,
            AppendedForm::UpTo(last) => Self::PartialSuccess(Formed::of(last)),
            AppendedForm::Conflict => Self::Conflict,
            AppendedForm::HigherVote(vote) => Self::HigherVote(Formed::of(vote)),
        }
    }
}

/// A part of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstallForm {
    vote: VoteForm,
    meta: SnapshotMetaForm,
    offset: u64,
    data: Vec<u8>,
    done: bool,
}

impl Formed for InstallSnapshotRequest<TypeConfig> {
    type Form = InstallForm;

    fn form(&self) -> InstallForm {
        InstallForm {
            vote: self.vote.form(),
            meta: self.meta.form(),
            offset: self.offset,
            data: self.data.clone(),
            done: self.done,
        }
    }

    fn of(form: InstallForm) -> Self {
        Self {
            vote: Formed::of(form.vote),
            meta: Formed::of(form.meta),
            offset: form.offset,
            data: form.data,
            done: form.done,
        }
    }
}

impl Formed for InstallSnapshotResponse<NodeId> {
    type Form = VoteForm;

    fn form(&self) -> VoteForm {
        self.vote.form()
    }

    fn of(form: VoteForm) -> Self {
        Self { vote: Formed::of(form) }
    }
}

/// The reason why the consensus of another gateway did not carry out a request.
#[derive(Debug, Serialize, Deserialize)]
pub enum FailureForm<E> {
    /// It refuses this request.
    Refused(E),
    /// It has stopped for good; its own log contains the reason.
    Stopped,
}

impl<E: Formed> Formed for RaftError<NodeId, E> {
    type Form = FailureForm<E::Form>;

    fn form(&self) -> Self::Form {
        match self {
            Self::APIError(refusal) => FailureForm::Refused(refusal.form()),
            Self::Fatal(_) => FailureForm::Stopped,
        }
    }

    fn of(form: Self::Form) -> Self {
        match form {
            FailureForm::Refused(refusal) => Self::APIError(E::of(refusal)),
            FailureForm::Stopped => Self::Fatal(Fatal::Stopped),
        }
    }
}

/// A refusal that cannot occur.
#[derive(Debug, Serialize, Deserialize)]
pub enum NeverForm {}

impl Formed for openraft::error::Infallible {
    type Form = NeverForm;

    fn form(&self) -> NeverForm {
        match *self {}
    }

    fn of(form: NeverForm) -> Self {
        match form {}
    }
}

/// The refusal of a part of a snapshot that is not the next one: the expected id and offset, and
/// those that were found.
#[derive(Debug, Serialize, Deserialize)]
pub struct MismatchForm {
    expected: (String, u64),
    found: (String, u64),
}

impl Formed for InstallSnapshotError {
    type Form = MismatchForm;

    fn form(&self) -> MismatchForm {
        let Self::SnapshotMismatch(SnapshotMismatch { expect, got }) = self;
        let pair = |segment: &SnapshotSegmentId| (segment.id.clone(), segment.offset);
        MismatchForm { expected: pair(expect), found: pair(got) }
    }

    fn of(form: MismatchForm) -> Self {
        let (expect, got) = (form.expected.into(), form.found.into());
        SnapshotMismatch { expect, got }.into()
    }
}

impl<T: Formed, E: Formed> Formed for Result<T, E> {
    type Form = Result<T::Form, E::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(T::form).map_err(E::form)
    }

    fn of(form: Self::Form) -> Self {
        form.map(T::of).map_err(E::of)
    }
}
