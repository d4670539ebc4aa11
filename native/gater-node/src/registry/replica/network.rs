//! How gateways of a cluster reach each other.
//!
//! The replica takes any [`openraft::RaftNetworkFactory`] over [`TypeConfig`];
//! one over the distribution connections makes a cluster. [`NoNetwork`] is that of a
//! gateway without others: the same code, with nobody to send to.

use std::io;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory};

use super::types::{Member, NodeId, TypeConfig};

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

/// The network of a gateway that has no others: all are unreachable.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

/// The way from [`NoNetwork`] to another gateway: there is none.
#[derive(Debug)]
pub struct NoConnection(String);

impl NoConnection {
    fn unreachable(&self) -> Unreachable {
        let text = format!("this gateway runs alone and has no way to {:?}", self.0);
        Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, text))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoNetwork {
    type Network = NoConnection;

    async fn new_client(&mut self, _target: NodeId, node: &Member) -> NoConnection {
        NoConnection(node.name.clone())
    }
}

impl RaftNetwork<TypeConfig> for NoConnection {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        Err(RPCError::Unreachable(self.unreachable()))
    }
}
