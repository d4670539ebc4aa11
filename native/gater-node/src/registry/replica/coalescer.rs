//! Combines the commands of many callers into few log entries.
//!
//! One batch is written at a time, and the commands that arrive during the write form the next
//! batch. Batches therefore grow with the load, and a single command never waits for others.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::{Command, Origin, Outcome};
use openraft::Raft;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::ProposeError;
use super::forward::{Forward, Written};
use super::log::space::Space;
use super::machine::Machine;
use super::types::{Batch, TypeConfig};

/// The greatest number of commands in a batch. It must be less than 65,536, so that the epochs of
/// entries do not overlap.
const MAX_BATCH: usize = 1024;

/// The pause before a leader that did not accept a batch is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// How often it is seen whether a write that takes long waits for room on the disk.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Receives the outcome of a command.
type Answer = Box<dyn FnOnce(Result<Outcome, ProposeError>) + Send>;

/// A command, and the receiver of its outcome.
struct Proposal {
    command: Command,
    deadline: Instant,
    answer: Answer,
}

/// Accepts commands and writes them in batches.
pub struct Coalescer {
    proposals: mpsc::Sender<Proposal>,
    within: Duration,
    stop: CancellationToken,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Coalescer {
    /// Starts a task that writes commands to `destination`. At most `waiting` of them wait, and
    /// each is answered `within` that time.
    pub fn start(destination: Destination, waiting: usize, within: Duration) -> Self {
        let (proposals, queue) = mpsc::channel(waiting.max(1));
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(destination, queue, stop.clone()));
        Self { proposals, within, stop, task: parking_lot::Mutex::new(Some(task)) }
    }

    /// Queues a command at once. The future resolves with its outcome.
    pub fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send + use<> {
        let (answer, outcome) = oneshot::channel();
        // The caller may have stopped waiting.
        self.propose_then(command, Box::new(|result| drop(answer.send(result))));
        async move { outcome.await.unwrap_or(Err(ProposeError::Stopped)) }
    }

    /// Queues a command at once, and calls `answer` with its outcome.
    pub fn propose_then(&self, command: Command, answer: Answer) {
        let deadline = Instant::now() + self.within;
        match self.proposals.try_send(Proposal { command, deadline, answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(late)) => (late.answer)(Err(ProposeError::Overloaded)),
            Err(TrySendError::Closed(late)) => (late.answer)(Err(ProposeError::Stopped)),
        }
    }

    /// Accepts no more commands, and returns when the accepted ones are answered.
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

/// The parts that writing a batch requires.
pub struct Destination {
    /// The consensus of this gateway.
    pub raft: Raft<TypeConfig>,
    /// The registry on this gateway.
    pub machine: Machine,
    /// Forwards batches to the leader, if another gateway leads.
    pub leader: Arc<dyn Forward>,
    /// Whether there is room on the disk.
    pub space: Arc<Space>,
}

async fn run(
    destination: Destination,
    mut queue: mpsc::Receiver<Proposal>,
    stop: CancellationToken,
) {
    // The proposer is drawn at every start, so that batches of an earlier life are not mistaken for
    // these.
    let proposer = getrandom::u64().unwrap_or_else(|_| RandomState::new().hash_one(0));
    let mut number = 0;
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
        let mut waiting = Waiting::default();
        let mut commands = Vec::with_capacity(taken);
        let now = Instant::now();
        let full = destination.space.is_full();
        for Proposal { command, deadline, answer } in proposals.drain(..) {
            if full {
                answer(Err(ProposeError::DiskFull));
            } else if deadline > now {
                commands.push(command);
                waiting.answers.push(Some((deadline, answer)));
            } else {
                answer(Err(ProposeError::NoQuorum));
            }
        }
        let Some(last) = waiting.deadlines().max() else { continue };
        number += 1;
        let batch = Batch { origin: Some(Origin { proposer, number }), commands: commands.into() };
        let mut write = std::pin::pin!(destination.write(batch, last));
        let result = loop {
            // A caller whose time is over is answered in time; the write continues for the others.
            let Some(first) = waiting.deadlines().min() else {
                break Err(ProposeError::NoQuorum);
            };
            match timeout_at(first.min(Instant::now() + LOOK_AGAIN), &mut write).await {
                Ok(result) => break result,
                Err(_) if destination.space.is_full() => break Err(ProposeError::DiskFull),
                Err(_) => waiting.give_up(Instant::now()),
            }
        };
        waiting.tell(result);
    }
}

/// The callers that wait for the outcome of a batch: one place for each command, empty once it is
/// answered.
#[derive(Default)]
struct Waiting {
    answers: Vec<Option<(Instant, Answer)>>,
}

impl Waiting {
    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.answers.iter().flatten().map(|(deadline, _)| *deadline)
    }

    /// Answers the callers whose deadline has passed.
    fn give_up(&mut self, now: Instant) {
        for place in &mut self.answers {
            if let Some((_, answer)) = place.take_if(|(deadline, _)| *deadline <= now) {
                answer(Err(ProposeError::NoQuorum));
            }
        }
    }

    fn tell(self, result: Result<Vec<Outcome>, ProposeError>) {
        // Answers to callers on one node are written together.
        let _cork = gater_dist::cork();
        let mut outcomes = result.map(Vec::into_iter);
        for place in self.answers {
            let outcome = match &mut outcomes {
                Ok(outcomes) => outcomes.next().ok_or(ProposeError::Stopped),
                Err(error) => Err(*error),
            };
            if let Some((_, answer)) = place {
                answer(outcome);
            }
        }
    }
}

impl Destination {
    /// Writes one batch, on this gateway or through the leader, whichever gateway that becomes
    /// before `deadline`. Returns one outcome for each command.
    ///
    /// When the answer of a leader is lost the batch is written again. Its [`Origin`] ensures that
    /// it is carried out once, and not after a later batch.
    pub async fn write(
        &self,
        batch: Batch,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let mut metrics = self.raft.server_metrics();
        let write = async {
            loop {
                match self.raft.client_write(batch.clone()).await {
                    Ok(response) => return Ok(response.data.0),
                    Err(RaftError::Fatal(error)) => {
                        tracing::error!(%error, "the registry is stopped");
                        return Err(ProposeError::Stopped);
                    }
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader))) => {
                        if let (Some(id), Some(member)) = (leader.leader_id, leader.leader_node)
                            && id != metrics.borrow_and_update().id
                        {
                            let written = tokio::select! {
                                written = self.leader.forward(&member, &batch) => written.ok(),
                                _ = metrics.wait_for(|now| now.current_leader != Some(id)) => None,
                            };
                            if let Some(Written { index, applied }) = written {
                                // A caller that is answered finds the change in the registry of
                                // this gateway.
                                self.machine.has_told(index).await;
                                return Ok(applied.0);
                            }
                        }
                    }
                    Err(RaftError::APIError(error)) => {
                        tracing::error!(%error, "a batch of registry commands was refused");
                        return Err(ProposeError::NoQuorum);
                    }
                }
                // The loop continues with another leader, or with the same one after a pause.
                let known = metrics.borrow_and_update().current_leader;
                let _ =
                    timeout(ASK_AGAIN, metrics.wait_for(|now| now.current_leader != known)).await;
            }
        };
        timeout_at(deadline, write).await.unwrap_or(Err(ProposeError::NoQuorum))
    }
}
