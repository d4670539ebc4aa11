//! The network between the gateways of a cluster.
//!
//! The replica accepts any [`openraft::RaftNetworkFactory`] over [`TypeConfig`]. The implementation
//! over distribution connections makes a cluster; [`NoNetwork`] is the null implementation for a
//! gateway without others, which runs the same code without peers.

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

/// The network of a gateway without others, in which all peers are unreachable.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

/// The connection of [`NoNetwork`] to another gateway, which always fails.
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
