//! The replicated registry, whose registrations survive a `kill -9` of the gateway.
//!
//! Commands go through a Raft log ([`openraft`]) that is on the disk before a command is answered;
//! the registry itself is in memory. A gateway without others is a cluster of one. The data
//! directory contains
//!
//! - `registry.lock`: locked by the process that has opened the registry, so that two gateways
//!   cannot share a directory.
//! - `registry-NUMBER.log`: the log, the vote, and the random id of this node, in several files of
//!   4 MiB.
//! - `registry.snapshot`: the registry as of a position of the log. Earlier entries are removed.
//!
//! A gateway that an application runs for itself has no such directory; its log and snapshot are in
//! memory ([`Replica::open_in_memory`]).
//!
//! A damaged file is an error at the start. A disk that fails later stops the registry for good
//! (see [`Replica::failed`]): it still answers look-ups but accepts no commands.

mod coalescer;
pub(crate) mod codec;
mod departed;
mod error;
pub(crate) mod form;
mod forward;
pub(crate) mod guard;
mod intake;
mod log;
mod machine;
mod members;
mod network;
mod progress;
pub mod recover;
mod snapshot;
mod types;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::{Change, Command, Outcome, State};
use openraft::{Raft, RaftNetworkFactory, SnapshotPolicy};
use tokio::time::{Instant, timeout};

pub use self::coalescer::{Coalescer, Destination};
pub use self::error::{OpenError, ProposeError};
pub use self::forward::{Forward, ForwardError, Forwarded, Written};
use self::intake::Intake;
pub(crate) use self::intake::IntakeError;
pub use self::log::space::Space;
pub use self::log::{Disk, DiskFile, Folder, LogStore, Memory};
pub use self::machine::Machine;
pub use self::members::{ClusterView, MemberError, Positions, Role};
pub use self::network::NoNetwork;
pub use self::progress::Progress;
pub use self::snapshot::SnapshotFile;
pub use self::types::{Applied, Batch, LogId, Member, NodeId, TypeConfig, Vote};

/// Receives changes in the order in which they are applied.
pub type OnChange = Box<dyn Fn(&[Change]) + Send + Sync>;

const SNAPSHOT_FILE: &str = "registry.snapshot";
/// The time within which a gateway without others must lead itself. Only a very slow disk takes
/// long.
const LEAD_WITHIN: Duration = Duration::from_secs(60);

/// The settings with which a replica is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The time after which a command that is not written is answered with `NoQuorum`. It is below
    /// the 5 s after which a `gen_server:call` times out.
    pub propose_within: Duration,
    /// The greatest number of waiting commands; further ones are answered with `Overloaded`.
    pub max_waiting: usize,
    /// Whether a new directory becomes a cluster of one. Otherwise it waits until it is
    /// bootstrapped together with others ([`Replica::found`]) or added to them.
    pub found_alone: bool,
    /// The number of log entries after which a snapshot is taken.
    pub snapshot_after: u64,
    /// The number of entries that are kept for others to catch up although a snapshot contains
    /// them.
    pub keep_entries: u64,
    /// Who decides when heartbeats go out and how long a leader may be silent.
    pub pace: Pace,
}

/// Who decides when heartbeats go out and how long a leader may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The consensus library, by fixed timers. Answers must come within a heartbeat's interval,
    /// 250 ms.
    Fixed,
    /// The caller, who calls [`Replica::beat`] and [`Replica::campaign`] and knows how long a round
    /// trip takes. The timers of the consensus library are a last resort.
    Measured,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            propose_within: Duration::from_secs(4),
            max_waiting: 65_536,
            found_alone: true,
            snapshot_after: 5_000,
            keep_entries: 1_000,
            pace: Pace::Fixed,
        }
    }
}

/// The replica of the registry on this gateway.
pub struct Replica {
    raft: Raft<TypeConfig>,
    machine: Machine,
    log: LogStore,
    coalescer: Coalescer,
    intake: Intake,
    /// Locked during a change of the members, so that changes are made one after the other.
    changing: tokio::sync::Mutex<()>,
    began: Progress,
    /// When a leader was heard last, or this gateway was started.
    leader_heard: parking_lot::Mutex<Instant>,
}

impl Replica {
    /// Opens the registry of a gateway without others in the directory `path`, which is created
    /// (for its owner alone) if it does not exist.
    ///
    /// When this returns, everything that was ever acknowledged is in the state
    /// ([`Replica::read`]), and commands are accepted. `on_change` is **not** called for
    /// registrations that were restored from the disk: read the state once after opening. It is
    /// called for all later changes: after the state has changed and before the command is
    /// answered, in order, one call at a time, on a thread of the runtime. It must not block.
    pub async fn open(path: &Path, on_change: OnChange) -> Result<Self, OpenError> {
        let replica = Self::open_with(path, Settings::default(), NoNetwork, on_change).await?;
        replica.follow(|_| ());
        Ok(replica)
    }

    /// Does the same as [`Replica::open`], with settings and with a `network` to other gateways.
    /// Nothing is reported to `on_change` before [`Replica::follow`].
    ///
    /// In a cluster, commands that were acknowledged but are not known here to be committed are
    /// reported to `on_change` as soon as a leader says so.
    pub async fn open_with(
        path: &Path,
        settings: Settings,
        network: impl RaftNetworkFactory<TypeConfig> + Forward + Clone,
        on_change: OnChange,
    ) -> Result<Self, OpenError> {
        let directory = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open_files(&directory, on_change)).await;
        let (log, machine) = opened
            .map_err(|error| OpenError::Io { path: path.to_owned(), error: error.into() })??;
        Self::open_stores(log, machine, settings, network).await.map_err(|error| match error {
            OpenError::Raft(_) => {
                OpenError::Unusable { path: path.to_owned(), reason: error.to_string() }
            }
            error => error,
        })
    }

    /// Does the same as [`Replica::open_with`] with everything in memory: registrations end with
    /// the process. No file is read or written.
    pub async fn open_in_memory(
        settings: Settings,
        network: impl RaftNetworkFactory<TypeConfig> + Forward + Clone,
        on_change: OnChange,
    ) -> Result<Self, OpenError> {
        let (log, machine) = open_memory(on_change)?;
        Self::open_stores(log, machine, settings, network).await
    }

    /// Does the same as [`Replica::open_with`] for a log and a state machine that are open already.
    pub async fn open_stores(
        log: LogStore,
        machine: Machine,
        settings: Settings,
        network: impl RaftNetworkFactory<TypeConfig> + Forward + Clone,
    ) -> Result<Self, OpenError> {
        let leader = Arc::new(network.clone());
        let began = log.opened_at(machine.applied());
        match start(&log, &machine, &settings, network, leader.clone()).await {
            Ok(raft) => {
                let destination = Destination {
                    raft: raft.clone(),
                    machine: machine.clone(),
                    leader,
                    space: log.space().clone(),
                };
                let within = settings.propose_within;
                let coalescer = Coalescer::start(destination, settings.max_waiting, within);
                let (intake, changing) = (Intake::default(), tokio::sync::Mutex::default());
                let leader_heard = parking_lot::Mutex::new(Instant::now());
                Ok(Self { raft, machine, log, coalescer, intake, changing, began, leader_heard })
            }
            Err(error) => {
                close(log).await;
                Err(error)
            }
        }
    }

    /// Calls `restored` with the present registry, and reports changes from then on. Each change is
    /// either in what `restored` sees or is reported later, and none is in both.
    pub fn follow(&self, restored: impl FnOnce(&State)) {
        self.machine.go_live(restored);
    }

    /// Queues `command` at once, whether or not the future is polled. The future resolves with its
    /// outcome once the command is on the disks of a majority. Commands take effect in the order of
    /// these calls.
    pub fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send + use<> {
        self.coalescer.propose(command)
    }

    /// Does the same as [`Replica::propose`], and calls `answer` with the outcome on a thread of
    /// the runtime. It must not block.
    pub fn propose_then(
        &self,
        command: Command,
        answer: impl FnOnce(Result<Outcome, ProposeError>) + Send + 'static,
    ) {
        self.coalescer.propose_then(command, Box::new(answer));
    }

    /// Calls `look` with the registry as it is known here, without asking other gateways. Writes
    /// wait for the call, so it should be short.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.machine.read(look)
    }

    /// Returns whether the gateway `name` was removed from the cluster and has not returned.
    pub fn has_departed(&self, name: &str) -> bool {
        self.machine.has_departed(name)
    }

    /// Writes `batch` for another gateway, if this gateway leads.
    pub(crate) async fn write_as_leader(
        &self,
        batch: Batch,
        within: Duration,
    ) -> Result<Written, ForwardError> {
        match timeout(within, self.raft.client_write(batch)).await {
            Ok(Ok(response)) => {
                Ok(Written { index: response.log_id.index, applied: response.data })
            }
            Ok(Err(error)) if error.forward_to_leader().is_some() => Err(ForwardError::NotLeader),
            Ok(Err(error)) => {
                tracing::error!(%error, "a forwarded batch of registry commands was not written");
                Err(ForwardError::Lost)
            }
            Err(_) => Err(ForwardError::Lost),
        }
    }

    /// Returns the log, which also stores metadata.
    pub(crate) fn log(&self) -> &LogStore {
        &self.log
    }

    /// Returns the id of this node, which was drawn at random when its data directory was created.
    pub fn node_id(&self) -> NodeId {
        self.log.node_id()
    }

    /// Returns a future that resolves with the reason when the registry has stopped by itself
    /// because its disk failed. It accepts no more commands, and the process should end. Otherwise
    /// the future never resolves.
    pub fn failed(&self) -> impl Future<Output = String> + Send + use<> {
        let (metrics, mut server) = (self.raft.metrics(), self.raft.server_metrics());
        async move {
            // Consensus drops its senders when it stops. Other metrics change with every entry.
            while server.changed().await.is_ok() {}
            match &metrics.borrow().running_state {
                Err(openraft::error::Fatal::Stopped) => {}
                Err(error) => return error.to_string(),
                Ok(()) => return "consensus ended without a reason".into(),
            }
            std::future::pending().await
        }
    }

    /// Answers the accepted commands, accepts no more, and closes the files. Acknowledged commands
    /// are on the disk even without this call.
    pub async fn shutdown(&self) {
        self.coalescer.stop().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "consensus did not end in order");
        }
        close(self.log.clone()).await;
    }
}

/// Opens a log and a snapshot in memory, which are empty at every start.
fn open_memory(on_change: OnChange) -> Result<(LogStore, Machine), OpenError> {
    let log = LogStore::open_disk(Memory::default())?;
    let file = SnapshotFile::in_memory(log.node_id());
    let path = file.path().to_owned();
    let machine = Machine::new(file, None, on_change)
        .map_err(|error| OpenError::Corrupt { path, reason: error.to_string() })?;
    Ok((log, machine))
}

fn open_files(directory: &Path, on_change: OnChange) -> Result<(LogStore, Machine), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| OpenError::Directory { path: directory.to_owned(), error })?;
    // The log is opened first, since its lock also protects the snapshot.
    let log = LogStore::open(directory)?;
    let (file, stored) = SnapshotFile::open(&directory.join(SNAPSHOT_FILE), log.node_id())?;
    let snapshot_path = file.path().to_owned();
    let stored = match stored {
        Ok(stored) => stored,
        // A complete log makes up for a lost snapshot.
        Err(error) if log.purged().is_none() && log.has_entries() => {
            tracing::warn!(path = %snapshot_path.display(), %error, "damaged snapshot set aside");
            file.set_aside()
                .map_err(|error| OpenError::Io { path: snapshot_path.clone(), error })?;
            None
        }
        Err(error) => {
            return Err(OpenError::Corrupt { path: snapshot_path, reason: error.to_string() });
        }
    };
    if let Some(purged) = log.purged()
        && stored.as_ref().and_then(|stored| stored.meta.last_log_id) < Some(purged)
    {
        let reason =
            format!("the log begins after {purged}, and no snapshot holds what was before");
        return Err(OpenError::Corrupt { path: snapshot_path, reason });
    }
    let machine = Machine::new(file, stored, on_change)
        .map_err(|error| OpenError::Corrupt { path: snapshot_path, reason: error.to_string() })?;
    Ok((log, machine))
}

/// What is written to the log at each start.
const STARTED_NOTE: &str = "started";

/// Starts consensus. When this returns, a gateway without others leads and has applied its log.
async fn start(
    log: &LogStore,
    machine: &Machine,
    settings: &Settings,
    network: impl RaftNetworkFactory<TypeConfig>,
    leader: Arc<dyn Forward>,
) -> Result<Raft<TypeConfig>, OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());
    // In milliseconds. An append that is not answered within the interval is sent again: the round
    // trip has to be shorter.
    let (heartbeat_interval, election_timeout_min, election_timeout_max) = match settings.pace {
        Pace::Fixed => (250, 750, 1_500),
        Pace::Measured => (1_500, 1_750, 2_500),
    };
    let config = openraft::Config {
        cluster_name: "esdb_gater_registry".into(),
        heartbeat_interval,
        election_timeout_min,
        election_timeout_max,
        // An append and a part of a snapshot stay well below the length of the longest message.
        max_payload_entries: 64,
        snapshot_max_chunk_size: 1 << 20,
        install_snapshot_timeout: 5_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_after),
        max_in_snapshot_log_to_keep: settings.keep_entries,
        ..openraft::Config::default()
    };
    let config = Arc::new(config.validate().map_err(|error| failed(&error))?);
    let id = log.node_id();
    let raft = Raft::new(id, config, network, log.clone(), machine.clone())
        .await
        .map_err(|error| failed(&error))?;
    raft.runtime_config().heartbeat(settings.pace == Pace::Fixed);

    // A gateway that is ready can write its log: one whose disk is full waits here.
    log.set_metadata(STARTED_NOTE, &()).await.map_err(|error| failed(&error))?;
    // This happens once in the life of a data directory: openraft refuses it when there is a log or
    // a vote.
    if settings.found_alone && !raft.is_initialized().await.map_err(|error| failed(&error))? {
        let members = BTreeMap::from([(id, Member::default())]);
        raft.initialize(members).await.map_err(|error| failed(&error))?;
    }
    let alone = raft
        .with_raft_state(move |state| {
            let mut voters = state.membership_state.effective().voter_ids();
            voters.next() == Some(id) && voters.next().is_none()
        })
        .await
        .map_err(|error| failed(&error))?;
    if alone {
        lead(&raft, id).await.map_err(|error| failed(&error))?;
        // An entry of this term commits all entries before it, whichever leader wrote them.
        let destination = Destination {
            raft: raft.clone(),
            machine: machine.clone(),
            leader,
            space: log.space().clone(),
        };
        let deadline = Instant::now() + LEAD_WITHIN;
        let nothing = Batch { origin: None, commands: Arc::new([]) };
        destination.write(nothing, deadline).await.map_err(|error| failed(&error))?;
    }
    Ok(raft)
}

/// Leads a cluster of one, without waiting for the heartbeats of a leader that cannot exist.
async fn lead(raft: &Raft<TypeConfig>, id: NodeId) -> Result<(), String> {
    let leads = raft.metrics().borrow().current_leader == Some(id);
    if !leads {
        raft.trigger().elect().await.map_err(|error| error.to_string())?;
    }
    raft.wait(Some(LEAD_WITHIN))
        .current_leader(id, "the only gateway leads")
        .await
        .map_err(|error| error.to_string())?;
    Ok(())
}

async fn close(log: LogStore) {
    if let Err(error) = tokio::task::spawn_blocking(move || log.close()).await {
        tracing::error!(%error, "the log was not closed in order");
    }
}
