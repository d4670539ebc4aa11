//! Raft over the distribution connections between gateways.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory};
use parking_lot::Mutex;

use super::rpc::{AskError, Rpc, Told};
use super::wire::{Answer, Question};
use crate::registry::replica::guard::{self, Refusal};
use crate::registry::replica::{
    Batch, Forward, ForwardError, Forwarded, LogId, Member, NodeId, TypeConfig, Vote,
};

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

/// The pause before another attempt to reach a gateway that is not connected.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// The time within which the leader must write a forwarded batch. The caller is answered sooner if
/// another gateway becomes the leader.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// How long a message without entries may take to be answered.
const PULSE_WITHIN: Duration = Duration::from_secs(2);
/// The most messages without entries to one gateway that are under way.
const MAX_PULSES: usize = 64;

/// The Raft network of a gateway in a cluster.
#[derive(Clone)]
pub struct Network {
    rpc: Arc<Rpc>,
}

impl Network {
    /// Returns the network that asks through `rpc`.
    pub fn new(rpc: Arc<Rpc>) -> Self {
        Self { rpc }
    }
}

/// The Raft connection to one other gateway.
pub struct Way {
    rpc: Arc<Rpc>,
    target: NodeId,
    name: String,
    /// The vote under which the gateway has entries, and the last one that it has.
    matched: Option<(Vote, LogId)>,
    pulses: Arc<Pulses>,
}

/// Messages without entries that are under way, and what came of those before.
#[derive(Default)]
struct Pulses {
    under_way: AtomicUsize,
    trouble: Mutex<Option<Trouble>>,
}

/// Why a message without entries was not acknowledged.
enum Trouble {
    /// Another leader has a later vote.
    HigherVote(Vote),
    /// There is no answer, or none that helps.
    Unanswered,
}

impl Way {
    /// Whether the gateway is known to have the entry that `request` builds upon.
    fn has_matched(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let Some((vote, last)) = &self.matched else { return false };
        *vote == request.vote && request.prev_log_id.is_some_and(|before| before <= *last)
    }

    /// Sends a heartbeat, or news of what is committed, and does not wait for the answer: entries that
    /// come next would have to wait as well, for as long as a round trip takes. That the gateway has
    /// the entry before is known; anything else that it answers is what the next call returns.
    #[expect(clippy::result_large_err, reason = "the error of openraft's trait")]
    fn pulse(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        match self.pulses.trouble.lock().take() {
            Some(Trouble::HigherVote(higher)) if higher > request.vote => {
                return Ok(AppendEntriesResponse::HigherVote(higher));
            }
            Some(_) => {
                // The next one is waited for.
                self.matched = None;
                return Err(Unreachable::new(&AskError::Silent).into());
            }
            None => {}
        }
        if self.pulses.under_way.load(Ordering::Relaxed) >= MAX_PULSES {
            return Err(Unreachable::new(&AskError::Silent).into());
        }
        self.pulses.under_way.fetch_add(1, Ordering::Relaxed);
        let (rpc, name, target) = (self.rpc.clone(), self.name.clone(), self.target);
        let pulses = self.pulses.clone();
        tokio::spawn(async move {
            let question = Question::Append(target, request.clone());
            let told = rpc.ask(&name, question, PULSE_WITHIN).await;
            let answer = match told {
                Ok(Told { from, answer: Answer::Append(Ok(answer)), .. }) if from == target => {
                    Some(answer)
                }
                _ => None,
            };
            let is_sound = |answer: &AppendEntriesResponse<NodeId>| {
                guard::append_response(&request, answer).is_ok()
            };
            let trouble = match answer.filter(is_sound) {
                Some(AppendEntriesResponse::Success) => {
                    rpc.paces().acknowledged(target);
                    None
                }
                Some(AppendEntriesResponse::HigherVote(higher)) => {
                    Some(Trouble::HigherVote(higher))
                }
                _ => Some(Trouble::Unanswered),
            };
            if trouble.is_some() {
                *pulses.trouble.lock() = trouble;
            }
            pulses.under_way.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(AppendEntriesResponse::Success)
    }

    async fn ask<E: std::error::Error>(
        &self,
        question: Question,
        within: Duration,
    ) -> Result<Answer, RPCError<NodeId, Member, E>> {
        match self.rpc.ask(&self.name, question, within).await {
            Ok(told) if told.from == self.target => Ok(told.answer),
            Ok(_) => Ok(Answer::Stranger),
            Err(error @ (AskError::NotConnected | AskError::Broken)) => {
                Err(Unreachable::new(&error).into())
            }
            Err(error) => Err(NetworkError::new(&error).into()),
        }
    }

    #[expect(clippy::result_large_err, reason = "the error of openraft's trait")]
    fn result<T, E: std::error::Error>(
        &self,
        result: Option<Result<T, E>>,
    ) -> Result<T, RPCError<NodeId, Member, E>> {
        match result {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(RemoteError::new(self.target, error).into()),
            // The other gateway, which has refused the request, has logged the reason.
            None => {
                let text = format!("{} has another data directory or cluster", self.name);
                Err(Unreachable::new(&io::Error::other(text)).into())
            }
        }
    }
}

/// Returns the answer if an honest gateway can give it; any other answer is treated as a missing
/// one.
#[expect(clippy::result_large_err, reason = "the error of openraft's trait")]
fn sound<T, E: std::error::Error>(
    name: &str,
    checked: Result<(), Refusal>,
    answer: T,
) -> Result<T, RPCError<NodeId, Member, E>> {
    checked.map(|()| answer).map_err(|refusal| {
        tracing::warn!(gateway = name, %refusal, "the answer of a gateway is not taken");
        Unreachable::new(&refusal).into()
    })
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Way {
        let (rpc, name) = (self.rpc.clone(), node.name.clone());
        Way { rpc, target, name, matched: None, pulses: Arc::default() }
    }
}

impl RaftNetwork<TypeConfig> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        if request.entries.is_empty() && self.has_matched(&request) {
            return self.pulse(request);
        }
        let question = Question::Append(self.target, request.clone());
        let answer = self.ask(question, option.hard_ttl()).await?;
        let answer =
            self.result(if let Answer::Append(result) = answer { Some(result) } else { None })?;
        let answer = sound(&self.name, guard::append_response(&request, &answer), answer)?;
        match &answer {
            AppendEntriesResponse::Success => {
                let last = request.entries.last().map(|entry| entry.log_id);
                self.matched = last.or(request.prev_log_id).map(|last| (request.vote, last));
                self.rpc.paces().acknowledged(self.target);
            }
            AppendEntriesResponse::PartialSuccess(_) => self.rpc.paces().acknowledged(self.target),
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {
                self.matched = None;
            }
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        let vote = request.vote;
        let answer = self.ask(Question::Snapshot(self.target, request), option.hard_ttl()).await?;
        let answer =
            self.result(if let Answer::Snapshot(result) = answer { Some(result) } else { None })?;
        sound(&self.name, guard::snapshot_response(&vote, &answer.vote), answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        let question = Question::Vote(self.target, request.clone());
        let answer = self.ask(question, option.hard_ttl()).await?;
        let answer =
            self.result(if let Answer::Vote(result) = answer { Some(result) } else { None })?;
        sound(&self.name, guard::vote_response(&request, &answer), answer)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(TRY_AGAIN))
    }
}

impl Forward for Network {
    fn forward(&self, leader: &Member, batch: &Batch) -> Forwarded {
        let (rpc, name, batch) = (self.rpc.clone(), leader.name.clone(), batch.clone());
        let batch_len = batch.commands.len();
        Box::pin(async move {
            match rpc.ask(&name, Question::Forward(batch), WRITE_WITHIN).await {
                Ok(Told { answer: Answer::Forward(result), .. }) => match result {
                    // An answer without exactly one outcome for each command is invalid.
                    Ok(written) if written.applied.0.len() != batch_len => Err(ForwardError::Lost),
                    result => result,
                },
                Ok(_) | Err(AskError::NotConnected) => Err(ForwardError::NotLeader),
                Err(_) => Err(ForwardError::Lost),
            }
        })
    }
}
