//! Raft over the distribution connections between gateways.

use std::io;
use std::sync::Arc;
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

use super::rpc::{AskError, Rpc, Told};
use super::wire::{Answer, Question};
use crate::registry::replica::guard::{self, Refusal};
use crate::registry::replica::{
    Batch, Forward, ForwardError, Forwarded, Member, NodeId, TypeConfig,
};

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

/// The pause before another attempt to reach a gateway that is not connected.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// The time within which the leader must write a forwarded batch. The caller is answered sooner if
/// another gateway becomes the leader.
const WRITE_WITHIN: Duration = Duration::from_secs(4);

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
}

impl Way {
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
        Way { rpc: self.rpc.clone(), target, name: node.name.clone() }
    }
}

impl RaftNetwork<TypeConfig> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let question = Question::Append(self.target, request.clone());
        let answer = self.ask(question, option.hard_ttl()).await?;
        let answer =
            self.result(if let Answer::Append(result) = answer { Some(result) } else { None })?;
        sound(&self.name, guard::append_response(&request, &answer), answer)
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
