//! Three stores under one cluster, with a network of function calls: the log and
//! the state machine do what followers need.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::{Change, Command};
use gater_node::registry::replica::{
    Batch, LogStore, Machine, Member, NodeId, SnapshotFile, TypeConfig,
};
use gater_term::{Atom, Pid};
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{Config, Raft, RaftNetwork, RaftNetworkFactory, SnapshotPolicy};
use parking_lot::Mutex;
use tempfile::TempDir;

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

/// The nodes that can be reached.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<HashMap<NodeId, Raft<TypeConfig>>>>);

struct Destination {
    network: Network,
    target: NodeId,
}

impl Destination {
    fn raft(&self) -> Result<Raft<TypeConfig>, Unreachable> {
        let down = || Unreachable::new(&std::io::Error::other("down"));
        self.network.0.lock().get(&self.target).cloned().ok_or_else(down)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Destination;

    async fn new_client(&mut self, target: NodeId, _node: &Member) -> Destination {
        Destination { network: self.clone(), target }
    }
}

impl RaftNetwork<TypeConfig> for Destination {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let answer = self.raft()?.append_entries(request).await;
        answer.map_err(|error| RemoteError::new(self.target, error).into())
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        let answer = self.raft()?.install_snapshot(request).await;
        answer.map_err(|error| RemoteError::new(self.target, error).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        let answer = self.raft()?.vote(request).await;
        answer.map_err(|error| RemoteError::new(self.target, error).into())
    }
}

struct Node {
    id: NodeId,
    raft: Raft<TypeConfig>,
    log: LogStore,
    machine: Machine,
    told: Arc<Mutex<Vec<Change>>>,
    directory: TempDir,
}

impl Node {
    async fn start(network: &Network, directory: TempDir) -> Self {
        let log = LogStore::open(directory.path()).unwrap();
        let id = log.node_id();
        let path = directory.path().join("registry.snapshot");
        let (file, stored) = SnapshotFile::open(&path, id).unwrap();
        let told: Arc<Mutex<Vec<Change>>> = Arc::default();
        let follower = told.clone();
        let on_change =
            Box::new(move |changes: &[Change]| follower.lock().extend_from_slice(changes));
        let machine = Machine::new(file, stored.unwrap(), on_change).unwrap();
        let config = Config {
            heartbeat_interval: 50,
            election_timeout_min: 200,
            election_timeout_max: 400,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            ..Config::default()
        };
        let config = Arc::new(config.validate().unwrap());
        let raft = Raft::new(id, config, network.clone(), log.clone(), machine.clone());
        let raft = raft.await.unwrap();
        network.0.lock().insert(id, raft.clone());
        machine.go_live(|_| ());
        Self { id, raft, log, machine, told, directory }
    }

    async fn stop(self, network: &Network) -> TempDir {
        network.0.lock().remove(&self.id);
        self.raft.shutdown().await.unwrap();
        self.log.close();
        self.directory
    }

    fn workers(&self) -> BTreeSet<u32> {
        self.machine.read(|state| state.workers("orders").map(|(_, pid)| pid.id).collect())
    }

    /// What it was told after the first `known` changes, put upon `workers`.
    fn followed(&self, known: usize, mut workers: BTreeSet<u32>) -> BTreeSet<u32> {
        for change in self.told.lock().iter().skip(known) {
            match change {
                Change::Registered { pid, .. } => assert!(workers.insert(pid.id), "{change:?}"),
                Change::Unregistered { pid, .. } => assert!(workers.remove(&pid.id), "{change:?}"),
            }
        }
        workers
    }

    async fn register(&self, ids: std::ops::Range<u32>) {
        for id in ids {
            let command = Command::Register { store: Atom::new("orders").unwrap(), pid: pid(id) };
            self.write(command).await;
        }
    }

    async fn write(&self, command: Command) {
        let written = self.raft.client_write(Batch { origin: None, commands: Arc::new([command]) });
        tokio::time::timeout(Duration::from_secs(30), written).await.unwrap().unwrap();
    }
}

fn pid(id: u32) -> Pid {
    Pid { node: Atom::new("worker@host").unwrap(), id, serial: 0, creation: 9 }
}

async fn leader(nodes: &[Node]) -> usize {
    for _ in 0..6_000 {
        for (at, node) in nodes.iter().enumerate() {
            let known = node.raft.metrics().borrow().current_leader;
            if known == Some(node.id) && node.raft.ensure_linearizable().await.is_ok() {
                return at;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no leader");
}

async fn all_have(nodes: &[Node], workers: &BTreeSet<u32>) {
    for node in nodes {
        for _ in 0..6_000 {
            if node.workers() == *workers {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(node.workers(), *workers);
    }
}

/// Changes are told a moment after the state shows them.
async fn all_told(node: &Node, known: usize, before: &BTreeSet<u32>, expected: &BTreeSet<u32>) {
    for _ in 0..6_000 {
        if node.followed(known, before.clone()) == *expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.followed(known, before.clone()), *expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_catches_up_by_log_and_by_snapshot() {
    let network = Network::default();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start(&network, tempfile::tempdir().unwrap()).await);
    }
    let members: BTreeMap<_, _> =
        nodes.iter().map(|node| (node.id, Member { name: format!("g{}@h", node.id) })).collect();
    nodes[0].raft.initialize(members).await.unwrap();
    let leads = leader(&nodes).await;
    nodes[leads].register(0..50).await;
    all_have(&nodes, &(0..50).collect()).await;
    for node in &nodes {
        all_told(node, 0, &BTreeSet::new(), &(0..50).collect()).await;
    }

    // One is away; what it misses is in the log.
    let away = nodes.remove((leads + 1) % 3).stop(&network).await;
    let leads = leader(&nodes).await;
    nodes[leads].register(50..60).await;
    let back = Node::start(&network, away).await;
    nodes.push(back);
    all_have(&nodes, &(0..60).collect()).await;

    // It is away again, without losing its memory; what it misses is in a snapshot only.
    let leads = leader(&nodes).await;
    let at = nodes.iter().rposition(|node| node.id != nodes[leads].id).unwrap();
    let cut_off = nodes.remove(at);
    let (known, before) = (cut_off.told.lock().len(), cut_off.workers());
    network.0.lock().remove(&cut_off.id);
    let leads = leader(&nodes).await;
    let node = Atom::new("worker@host").unwrap();
    nodes[leads].write(Command::Purge { node, creation: 9 }).await;
    nodes[leads].register(55..70).await;
    let applied = nodes[leads].machine.applied().unwrap();
    nodes[leads].raft.trigger().snapshot().await.unwrap();
    let purged = nodes[leads].raft.wait(Some(Duration::from_secs(30)));
    purged.purged(Some(applied), "the log is in the snapshot").await.unwrap();
    assert_eq!(cut_off.workers(), before);
    network.0.lock().insert(cut_off.id, cut_off.raft.clone());
    nodes.push(cut_off);
    let expected: BTreeSet<u32> = (55..70).collect();
    all_have(&nodes, &expected).await;

    // Changes that a snapshot jumped over are told as differences.
    all_told(nodes.last().unwrap(), known, &before, &expected).await;
    for node in nodes {
        let directory = node.stop(&network).await;
        // What was installed survives a restart.
        let node = Node::start(&Network::default(), directory).await;
        assert_eq!(node.workers(), expected);
        node.stop(&Network::default()).await;
    }
}
