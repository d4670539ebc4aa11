//! Commands of many callers, put together into few log entries.
//!
//! One batch is on its way at a time; what comes meanwhile makes the next. So
//! the batches grow with the load, and a lone command waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::{Command, Outcome};
use openraft::Raft;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::ProposeError;
use super::types::{Batch, TypeConfig};

/// The most commands in a batch. Less than 65,536, so that epochs of entries do not overlap.
const MAX_BATCH: usize = 1024;

/// A command, and where its outcome goes.
struct Proposal {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, ProposeError>>,
}

/// Takes commands in.
pub struct Coalescer {
    proposals: mpsc::Sender<Proposal>,
    within: Duration,
    stop: CancellationToken,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Coalescer {
    /// Starts to carry commands to `raft`: at most `waiting` of them, each answered `within`.
    pub fn start(raft: Raft<TypeConfig>, waiting: usize, within: Duration) -> Self {
        let (proposals, queue) = mpsc::channel(waiting.max(1));
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(raft, queue, within, stop.clone()));
        Self { proposals, within, stop, task: parking_lot::Mutex::new(Some(task)) }
    }

    /// Queues a command now; the future tells what came of it.
    pub fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send + use<> {
        let deadline = Instant::now() + self.within;
        let (answer, outcome) = oneshot::channel();
        let queued = self.proposals.try_send(Proposal { command, answer });
        async move {
            queued.map_err(|error| match error {
                TrySendError::Full(_) => ProposeError::Overloaded,
                TrySendError::Closed(_) => ProposeError::Stopped,
            })?;
            match timeout_at(deadline, outcome).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(ProposeError::Stopped),
                Err(_) => Err(ProposeError::NoQuorum),
            }
        }
    }

    /// Takes no more commands, and returns when those that were taken are answered.
    pub async fn stop(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the carrier of registry commands failed");
        }
    }
}

async fn run(
    raft: Raft<TypeConfig>,
    mut queue: mpsc::Receiver<Proposal>,
    within: Duration,
    stop: CancellationToken,
) {
    let mut proposals = Vec::new();
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            taken = queue.recv_many(&mut proposals, MAX_BATCH) => taken,
        };
        if taken == 0 {
            return;
        }
        let (commands, answers): (Vec<_>, Vec<_>) =
            proposals.drain(..).map(|proposal| (proposal.command, proposal.answer)).unzip();
        match write(&raft, commands.into(), within).await {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // Whoever asked may have gone.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error));
                }
            }
        }
    }
}

/// Writes one batch through consensus: one outcome for each command.
pub async fn write(
    raft: &Raft<TypeConfig>,
    batch: Arc<[Command]>,
    within: Duration,
) -> Result<Vec<Outcome>, ProposeError> {
    match timeout(within, raft.client_write(Batch(batch))).await {
        Ok(Ok(response)) => Ok(response.data.0),
        Ok(Err(RaftError::Fatal(error))) => {
            tracing::error!(%error, "the registry is stopped");
            Err(ProposeError::Stopped)
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader)))) => {
            tracing::debug!(leader = ?leader.leader_id, "another gateway leads");
            Err(ProposeError::NoQuorum)
        }
        Ok(Err(RaftError::APIError(error))) => {
            tracing::error!(%error, "a batch of registry commands was refused");
            Err(ProposeError::NoQuorum)
        }
        Err(_) => Err(ProposeError::NoQuorum),
    }
}
