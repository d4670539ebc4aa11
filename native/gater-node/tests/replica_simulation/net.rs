//! Raft over datagrams: they are late, overtake each other and get lost.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gater_node::registry::replica::{
    Batch, Forward, ForwardError, Forwarded, Member, NodeId, TypeConfig, Written,
};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{Raft, RaftNetwork, RaftNetworkFactory};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use turmoil::net::UdpSocket;

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

/// The port of all hosts.
pub const PORT: u16 = 4000;
const ANSWER_WITHIN: Duration = Duration::from_millis(400);

#[derive(Serialize, Deserialize)]
enum Packet {
    Ask(u64, Question),
    Tell(u64, Answer),
}

#[derive(Serialize, Deserialize)]
enum Question {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<NodeId>),
    Forward(Batch),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Append(Result<AppendEntriesResponse<NodeId>, RaftError<NodeId>>),
    Vote(Result<VoteResponse<NodeId>, RaftError<NodeId>>),
    Forward(Result<Written, ForwardError>),
}

/// One host's end of the network.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

struct Shared {
    socket: UdpSocket,
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    /// When the leader was last heard.
    heard: Mutex<Instant>,
}

impl Net {
    /// Opens it; questions are counted from `first`, so that answers to those of an earlier
    /// life are not mistaken.
    pub async fn open(first: u64) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            socket: UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, PORT)).await?,
            last: AtomicU64::new(first),
            waiting: Mutex::default(),
            heard: Mutex::new(Instant::now()),
        })))
    }

    /// For how long no leader was heard.
    pub fn silence(&self) -> Duration {
        self.0.heard.lock().elapsed()
    }

    /// Answers the others for as long as it is polled.
    pub async fn serve(self, raft: Raft<TypeConfig>) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((length, from)) = self.0.socket.recv_from(&mut buffer).await {
            match postcard::from_bytes(&buffer[..length]).unwrap() {
                Packet::Tell(number, answer) => {
                    if let Some(asked) = self.0.waiting.lock().remove(&number) {
                        let _ = asked.send(answer);
                    }
                }
                Packet::Ask(number, question) => {
                    let (net, raft) = (self.clone(), raft.clone());
                    tokio::spawn(async move {
                        let answer = net.answer(&raft, question).await;
                        let packet = postcard::to_allocvec(&Packet::Tell(number, answer)).unwrap();
                        let _ = net.0.socket.send_to(&packet, from).await;
                    });
                }
            }
        }
    }

    async fn answer(&self, raft: &Raft<TypeConfig>, question: Question) -> Answer {
        match question {
            Question::Append(request) => {
                *self.0.heard.lock() = Instant::now();
                Answer::Append(raft.append_entries(request).await)
            }
            Question::Vote(request) => Answer::Vote(raft.vote(request).await),
            Question::Forward(batch) => Answer::Forward(match raft.client_write(batch).await {
                Ok(response) => {
                    Ok(Written { index: response.log_id.index, applied: response.data })
                }
                Err(error) if error.forward_to_leader().is_some() => Err(ForwardError::NotLeader),
                Err(_) => Err(ForwardError::Lost),
            }),
        }
    }

    async fn ask(&self, host: &str, question: Question) -> Result<Answer, io::Error> {
        let number = self.0.last.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.0.waiting.lock().insert(number, sender);
        let packet = postcard::to_allocvec(&Packet::Ask(number, question)).unwrap();
        let address = (turmoil::lookup(host), PORT);
        self.0.socket.send_to(&packet, address).await?;
        let answer = timeout(ANSWER_WITHIN, answer).await;
        self.0.waiting.lock().remove(&number);
        answer.ok().and_then(Result::ok).ok_or_else(|| io::Error::other("lost"))
    }
}

pub struct Destination {
    net: Net,
    target: NodeId,
    host: String,
}

impl RaftNetworkFactory<TypeConfig> for Net {
    type Network = Destination;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Destination {
        Destination { net: self.clone(), target, host: node.name.clone() }
    }
}

impl RaftNetwork<TypeConfig> for Destination {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        match self.net.ask(&self.host, Question::Append(request)).await {
            Ok(Answer::Append(result)) => {
                result.map_err(|error| RemoteError::new(self.target, error).into())
            }
            Ok(_) => unreachable!(),
            Err(error) => Err(NetworkError::new(&error).into()),
        }
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        unreachable!("no snapshot is ever taken")
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        match self.net.ask(&self.host, Question::Vote(request)).await {
            Ok(Answer::Vote(result)) => {
                result.map_err(|error| RemoteError::new(self.target, error).into())
            }
            Ok(_) => unreachable!(),
            Err(error) => Err(NetworkError::new(&error).into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(50)))
    }
}

impl Forward for Net {
    fn forward(&self, leader: &Member, batch: &Batch) -> Forwarded {
        let (net, host, batch) = (self.clone(), leader.name.clone(), batch.clone());
        Box::pin(async move {
            match net.ask(&host, Question::Forward(batch)).await {
                Ok(Answer::Forward(result)) => result,
                _ => Err(ForwardError::Lost),
            }
        })
    }
}
