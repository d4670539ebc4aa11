//! Passes requests of other gateways to consensus after the [`guard`] has checked them.

use std::io::Cursor;

use openraft::error::{Fatal, InstallSnapshotError, RaftError, SnapshotMismatch};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{Snapshot, SnapshotSegmentId};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Replica;
use super::guard::{self, MAX_COMMANDS, Refusal};
use super::snapshot;
use super::types::{Batch, NodeId, SnapshotMeta, TypeConfig, Vote};

/// The greatest number of bytes of one part of a snapshot; gateways send 1 MiB at a time.
const MAX_PART_BYTES: usize = 4 << 20;
/// The greatest number of bytes of a snapshot, which suffices for a million registrations with
/// names of the greatest length.
const MAX_SNAPSHOT_BYTES: usize = 1 << 30;

/// The reason why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// No honest member sends such a request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Consensus has stopped.
    #[error("consensus has stopped: {0}")]
    Stopped(#[from] Box<Fatal<NodeId>>),
    /// This gateway's own log cannot be read.
    #[error("the log cannot be read: {0}")]
    Log(#[from] openraft::AnyError),
}

impl From<Fatal<NodeId>> for IntakeError {
    fn from(error: Fatal<NodeId>) -> Self {
        Self::Stopped(Box::new(error))
    }
}

impl From<RaftError<NodeId>> for IntakeError {
    fn from(error: RaftError<NodeId>) -> Self {
        match error {
            RaftError::Fatal(error) => error.into(),
            RaftError::APIError(never) => match never {},
        }
    }
}

/// The parts of a snapshot that have arrived. Only one snapshot is received at a time. The lock is
/// also held during a check, so that the log does not change.
#[derive(Default)]
pub struct Intake(Mutex<Option<Arriving>>);

struct Arriving {
    leader: Vote,
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

impl Replica {
    fn local(&self) -> guard::Local {
        self.log.local(self.machine.applied())
    }

    /// Decides about this gateway's vote for the gateway `from`.
    pub(crate) async fn take_vote(
        &self,
        from: NodeId,
        request: VoteRequest<NodeId>,
    ) -> Result<VoteResponse<NodeId>, IntakeError> {
        let _turn = self.intake.0.lock().await;
        guard::vote_request(&self.local(), from, &request)?;
        Ok(self.raft.vote(request).await?)
    }

    /// Accepts log entries from the gateway `from`.
    pub(crate) async fn take_entries(
        &self,
        from: NodeId,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<NodeId>, IntakeError> {
        let _turn = self.intake.0.lock().await;
        let local = self.local();
        let known = self.log.ids_at(guard::needed(&local, &request)).await?;
        guard::append(&local, &known, from, &request)?;
        let answer = self.raft.append_entries(request).await?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            *self.leader_heard.lock() = Instant::now();
        }
        Ok(answer)
    }

    /// Accepts a part of a snapshot from the gateway `from`, and installs the snapshot when it is
    /// complete and its content is valid.
    pub(crate) async fn take_snapshot(
        &self,
        from: NodeId,
        request: InstallSnapshotRequest<TypeConfig>,
    ) -> Result<Result<InstallSnapshotResponse<NodeId>, InstallSnapshotError>, IntakeError> {
        let mut arriving = self.intake.0.lock().await;
        let local = self.local();
        guard::snapshot(&local, from, &request.vote, &request.meta)?;
        *self.leader_heard.lock() = Instant::now();
        let offset = usize::try_from(request.offset).unwrap_or(usize::MAX);
        if request.data.len() > MAX_PART_BYTES
            || offset.saturating_add(request.data.len()) > MAX_SNAPSHOT_BYTES
        {
            *arriving = None;
            return Err(Refusal::TooMuch.into());
        }
        let goes_on = arriving
            .as_ref()
            .is_some_and(|known| known.leader == request.vote && known.meta == request.meta);
        if !goes_on {
            let (leader, meta) = (request.vote, request.meta.clone());
            *arriving = Some(Arriving { leader, meta, bytes: Vec::new() });
        }
        let Some(parts) = &mut *arriving else { return Err(Refusal::TooMuch.into()) };
        // A part that is sent again after its answer was lost replaces the first copy.
        if offset > parts.bytes.len() {
            *arriving = None;
            let id = request.meta.snapshot_id;
            return Ok(Err(InstallSnapshotError::SnapshotMismatch(SnapshotMismatch {
                expect: SnapshotSegmentId { id: id.clone(), offset: 0 },
                got: SnapshotSegmentId { id, offset: request.offset },
            })));
        }
        parts.bytes.truncate(offset);
        parts.bytes.extend(&request.data);
        if !request.done {
            return Ok(Ok(InstallSnapshotResponse { vote: local.vote }));
        }
        let Some(Arriving { meta, bytes, .. }) = arriving.take() else {
            return Err(Refusal::TooMuch.into());
        };
        // Heartbeats of the leader must not wait for the installation.
        drop(arriving);
        let last = meta.last_log_id.map_or(0, |last| last.index);
        let judged = tokio::task::spawn_blocking(move || match snapshot::restore(&bytes) {
            Ok(content) if content.registry.last_epoch() >> 16 <= last => Some(bytes),
            _ => None,
        });
        let bytes = judged.await.ok().flatten().ok_or(Refusal::Body)?;
        let snapshot = Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) };
        let answer = self.raft.install_full_snapshot(request.vote, snapshot).await?;
        Ok(Ok(InstallSnapshotResponse { vote: answer.vote }))
    }

    /// Checks a batch of commands that another gateway forwards.
    pub(crate) fn check_forwarded(&self, batch: &Batch) -> Result<(), Refusal> {
        if batch.commands.len() > MAX_COMMANDS { Err(Refusal::TooMuch) } else { Ok(()) }
    }
}
