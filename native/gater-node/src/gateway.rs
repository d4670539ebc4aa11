//! A running gateway: its parts are assembled, started and stopped here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gater_core::registry::Change;
use gater_dist::{Connection, Node, Peer, Settings};
use gater_term::{Atom, Pid};
use parking_lot::Mutex;
use secrecy::SecretSlice;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::observe::clocks;
use crate::observe::drops::Drops;
use crate::observe::durations::Durations;
use crate::observe::http::{HttpError, HttpServer};
use crate::observe::logs::LogFilter;
use crate::observe::lost::LostConnections;
use crate::observe::otlp::{Exporter, Tracer};
use crate::observe::refusals::Refusals;
use crate::observe::report::{Collector, ConfigReport, Parts};
use crate::observe::telemetry::{Event, Telemetry};
use crate::registry::cluster::key::ClusterKey;
use crate::registry::cluster::network::Network;
use crate::registry::cluster::rpc::Rpc;
use crate::registry::cluster::{self, Cluster};
use crate::registry::directory::Directory;
use crate::registry::replica::{self, Replica};
use crate::registry::store_limit::StoreLimit;
use crate::services::census::Census;
use crate::services::channel::local::Channel;
use crate::services::channel::remote::Relays;
use crate::services::channel::{Authority, Channels};
use crate::services::cluster::ClusterService;
use crate::services::observer::Observer;
use crate::services::observer::admin_key::AdminKey;
use crate::services::registry::Registry;
use crate::services::rpc::Rex;
use crate::services::secret::Secret;
use crate::services::session::{Observed, Sessions};
use crate::supervise::supervise;
use crate::transport::descriptors;
use crate::transport::mesh::Mesh;
use crate::transport::peers::{Interest, Peers};
use crate::transport::router::Router;
use crate::transport::tuning::Tuning;
use crate::transport::unreached::Unreached;

/// The time for which a start waits for the nodes of restored workers before it reports readiness.
const REJOIN_WITHIN: Duration = Duration::from_secs(2);
/// The interval of the search for nodes that stay disconnected.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long the end waits for a collector to take the last spans and metrics.
const EXPORT_WITHIN: Duration = Duration::from_secs(2);
/// The commit the program was built from, see `build.rs`.
pub(crate) const COMMIT: &str = env!("ESDB_GATER_BUILD_COMMIT");

/// The creation of a node that is known only to the BEAM that runs it.
const PIPED_CREATION: u32 = 1;

/// The node name that a BEAM without a name writes into its own pids and references.
const NAMELESS: &str = "nonode@nohost";

/// A running gateway.
pub struct Gateway {
    node: Node,
    replica: Arc<Replica>,
    secret: Arc<Secret>,
    stop: CancellationToken,
    collector: Arc<Collector>,
    /// Cancelled when an operator has told it to stop.
    drain: CancellationToken,
    /// The task that sends spans and metrics.
    exporting: Mutex<Option<JoinHandle<()>>>,
}

/// The reason why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The registry's data could not be opened.
    #[error("cannot open the registry")]
    Registry(#[from] replica::OpenError),
    /// The distribution node could not be started.
    #[error("cannot start the node")]
    Node(#[from] gater_dist::StartError),
    /// The connection over standard input and output could not be established.
    #[error("cannot use standard input and output")]
    Pipe(#[source] std::io::Error),
    /// The operating system allows too few file descriptors.
    #[error(transparent)]
    Descriptors(#[from] descriptors::TooFew),
    /// HTTP cannot be served where it was asked for.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A name in the configuration is not an atom.
    #[error("{0:?} is not a node name")]
    Name(String),
}

impl Gateway {
    /// Starts a gateway: restores the registry, starts the node, reconnects to the nodes of
    /// restored workers, and accepts connections on `listen`. The gateway is ready when this
    /// returns.
    pub async fn start(
        config: &Config,
        listen: SocketAddr,
        log: LogFilter,
    ) -> Result<Self, StartError> {
        let own_name = atom(&config.name)?;
        let settings = node_settings(config, listen, descriptors::claim()?);
        let prepared = if config.piped {
            Node::unlisted(settings, PIPED_CREATION)?
        } else {
            Node::prepare(settings).await?
        };
        let node = prepared.handle();
        let peers = Arc::new(Peers::new(node.clone(), config.max_nodes));
        let directory = Arc::new(Directory::default());
        let telemetry = Arc::new(Telemetry::default());
        let drops = Arc::new(Drops::new(telemetry.clone()));
        let refusals = Arc::new(Refusals::default());
        let secret = Arc::new(Secret::new(config.secret_bytes(), config.message_ttl.as_secs()));

        let names = Arc::new(StoreLimit::new(config.store_names));
        let follower = Arc::new(Follower {
            peers: peers.clone(),
            directory: directory.clone(),
            telemetry: telemetry.clone(),
            names: names.clone(),
        });
        let follow = follower.clone();
        let rpc = Arc::new(Rpc::new(node.clone()));
        let settings = replica::Settings {
            found_alone: config.cluster.is_empty(),
            pace: replica::Pace::Measured,
            ..replica::Settings::default()
        };
        let network = Network::new(rpc.clone());
        let on_change = Box::new(move |changes: &[Change]| {
            for change in changes {
                follow.changed(change);
            }
        });
        let replica = if config.in_memory {
            Replica::open_in_memory(settings, network, on_change).await?
        } else {
            Replica::open_with(&config.data_dir, settings, network, on_change).await?
        };
        // The registrations that were on disk are not reported as changes.
        replica.follow(|state| {
            for (store, epoch, pid) in state.iter() {
                follower.registered(store, pid, epoch);
            }
        });
        let replica = Arc::new(replica);
        let cluster = Cluster::open(
            own_name.clone(),
            &config.cluster,
            replica.clone(),
            peers.clone(),
            rpc,
            config.cluster_key.as_ref().map(ClusterKey::new),
            &cluster::Settings { data_dir: config.data_dir.clone(), lost_grace: config.lost_grace },
        )
        .await?;
        cluster.note_name().await?;

        let tag = atom("channel_message")?;
        let channels: Vec<_> = config
            .channels
            .iter()
            .map(|(name, policy)| {
                Ok(Arc::new(Channel::new(&tag, atom(name)?, *policy, drops.clone())))
            })
            .collect::<Result<_, StartError>>()?;
        let census = Arc::new(Census::default());
        let relays = Relays::new(
            &node,
            peers.clone(),
            cluster.trust().clone(),
            secret.clone(),
            telemetry.clone(),
            census.clone(),
            &channels,
        );
        let (tracer, spans) = Tracer::new(config.otlp.as_ref().map_or(0.0, |otlp| otlp.share));
        let relays = Arc::new(relays.traced(tracer.clone()));
        let sessions = Arc::new(Sessions::new(
            own_name.clone(),
            directory.clone(),
            peers.clone(),
            Observed {
                telemetry: telemetry.clone(),
                drops: drops.clone(),
                refusals: refusals.clone(),
            },
            relays.clone(),
            channels.clone(),
            config.capabilities.mode,
        ));
        let lost = Arc::new(LostConnections::default());
        let read_time = Arc::new(Durations::default());
        let http = HttpServer::bind(&config.http).await?;
        let collector = Arc::new(Collector::new(
            Parts {
                node: node.clone(),
                peers: peers.clone(),
                directory: directory.clone(),
                cluster: cluster.clone(),
                channels: channels.clone(),
                sessions: sessions.clone(),
                drops: drops.clone(),
                refusals: refusals.clone(),
                lost: lost.clone(),
                read_time: read_time.clone(),
                log: log.clone(),
                config: config_report(config, &node, http.as_ref()),
            },
            COMMIT,
        ));
        let drain = CancellationToken::new();
        let observer = Observer::new(collector.clone(), log, drain.clone(), admin_keys(config));
        let registry = Registry::new(
            replica.clone(),
            directory.clone(),
            peers.clone(),
            own_name.clone(),
            names,
        )
        .traced(tracer.clone());
        let seeds = config.join.iter().map(|name| atom(name)).collect::<Result<_, _>>()?;
        let rex = Arc::new(Rex::new(&node));
        let mesh = Arc::new(Mesh::new(own_name.clone(), seeds, config.max_nodes, rex.clone()));
        let tuning = Arc::new(Tuning::new(own_name, rex.clone(), config.tune_peers));
        let services = Channels::new(
            peers.clone(),
            relays.clone(),
            secret.clone(),
            refusals,
            Authority::new(config.capabilities.clone()),
            channels,
        )
        .traced(tracer);
        let router = Arc::new(Router {
            peers: peers.clone(),
            cluster_service: ClusterService::new(cluster.clone(), directory.clone()),
            cluster: cluster.clone(),
            relays,
            mesh: mesh.clone(),
            rex: rex.clone(),
            tuning,
            directory,
            registry,
            sessions,
            observer,
            lost,
            read_time,
            telemetry,
            census,
            drops,
            channels: Arc::new(services),
            unreached: Unreached::default(),
        });

        let node = prepared.run(router.clone());
        let stop = CancellationToken::new();
        cluster.start(&stop);
        let own = node.clone();
        supervise("the cluster of BEAMs is followed", &stop, move || {
            mesh.clone().follow(own.clone())
        });
        // The first look-up after a restart shall have the same result as the last one before it.
        let _ = timeout(REJOIN_WITHIN, peers.all_online()).await;

        let told = router.clone();
        supervise("shims are told of gateways", &stop, move || tell_gateways(told.clone()));
        let counting = router.relays.clone();
        supervise("the recipients of publications are counted", &stop, move || {
            let relays = counting.clone();
            async move { relays.count_broadcasts().await }
        });
        let lost_grace = config.lost_grace;
        if let Some(http) = http {
            // Connections end with it, however they end.
            tokio::spawn(http.run(collector.clone(), stop.clone()));
        }
        let exporting = config.otlp.clone().map(|settings| {
            let exporter = Exporter::new(settings, collector.clone());
            tokio::spawn(exporter.run(spans, stop.clone()))
        });
        let watching = collector.clone();
        let told = router.clone();
        supervise("samples are taken and alarms judged", &stop, move || {
            let telemetry = told.telemetry.clone();
            watching.clone().watch(move |changes| {
                changes.iter().for_each(|change| telemetry.alarm(change));
            })
        });
        let (asking, told) = (collector.clone(), router.clone());
        supervise("clocks are compared", &stop, move || {
            clocks::compare(asking.clone(), told.rex.clone())
        });
        supervise("nodes that stay away are given up", &stop, move || {
            sweep(router.clone(), lost_grace)
        });
        let exporting = Mutex::new(exporting);
        Ok(Self { node, replica, secret, stop, collector, drain, exporting })
    }

    /// Returns the name of the node.
    pub fn name(&self) -> &Atom {
        self.node.name()
    }

    /// Returns the port on which connections are accepted.
    pub fn port(&self) -> u16 {
        self.node.port()
    }

    /// Changes the secret of this gateway. The previous secret verifies for a limited time.
    pub fn set_secret(&self, secret: &[u8]) {
        self.secret.rotate(secret);
    }

    /// Adopts `socket` as a connection with the BEAM that runs this program and has no name. Its
    /// pids are those of `nonode@nohost`.
    pub fn adopt_nameless(&self, socket: UnixStream) -> Result<Arc<Connection>, StartError> {
        let peer = Peer::without_handshake(atom(NAMELESS)?, 0);
        self.node.adopt(socket, peer).map_err(StartError::Pipe)
    }

    /// Uses `cookie` for connections that are established from now on.
    pub fn set_cookie(&self, cookie: SecretSlice<u8>) {
        self.node.set_cookie(cookie);
        tracing::info!("the cookie was changed");
    }

    /// Returns a future that resolves with the reason when the registry can no longer be written.
    pub fn failed(&self) -> impl Future<Output = String> + Send + use<> {
        self.replica.failed()
    }

    /// Resolves when an operator has told the gateway to stop.
    pub fn told_to_stop(&self) -> impl Future<Output = ()> + Send + use<> {
        self.drain.clone().cancelled_owned()
    }

    /// Stops the gateway: accepts no new work, and writes queued messages for at most `deadline`.
    pub async fn drain(&self, deadline: Duration) {
        self.collector.set_draining();
        self.stop.cancel();
        self.node.shutdown(deadline).await;
        self.replica.shutdown().await;
        let exporting = self.exporting.lock().take();
        if let Some(exporting) = exporting {
            // A collector that does not answer holds up nobody.
            let _ = timeout(EXPORT_WITHIN, exporting).await;
        }
    }
}

/// Passes the changes of the replicated registry to the parts that follow it.
struct Follower {
    peers: Arc<Peers>,
    directory: Arc<Directory>,
    telemetry: Arc<Telemetry>,
    names: Arc<StoreLimit>,
}

impl Follower {
    fn changed(&self, change: &Change) {
        match change {
            Change::Registered { store, pid, epoch } => {
                self.registered(store, pid, *epoch);
                self.telemetry.worker(Event::WorkerRegistered, store, pid);
            }
            Change::Unregistered { store, pid, epoch } => {
                self.directory.unregistered(store, *epoch);
                if let Some(peer) = self.peers.find(pid) {
                    self.peers.unwatch(&peer, pid.into(), Interest::Worker);
                }
                self.telemetry.worker(Event::WorkerUnregistered, store, pid);
            }
        }
    }

    fn registered(&self, store: &Atom, pid: &Pid, epoch: u64) {
        self.names.seen(store);
        let peer = self.peers.known(pid);
        self.directory.registered(store, epoch, &peer, pid.into());
        self.peers.watch(&peer, pid.into(), Interest::Worker);
    }
}

/// The configuration, without its secrets.
fn config_report(config: &Config, node: &Node, http: Option<&HttpServer>) -> ConfigReport {
    ConfigReport {
        port: node.port(),
        http: http.map(|http| http.address().to_string()),
        data_dir: (!config.in_memory).then(|| config.data_dir.display().to_string()),
        join: config.join.clone(),
        members: config.cluster.clone(),
        cluster_key: config.cluster_key.is_some(),
        max_nodes: config.max_nodes,
        net_ticktime_seconds: config.net_ticktime.as_secs(),
        lost_grace_seconds: config.lost_grace.as_secs(),
        message_ttl_seconds: config.message_ttl.as_secs(),
        capabilities: config.capabilities.mode.name().to_owned(),
        tune_peers: config.tune_peers,
        log: config.log.clone(),
        random_secret: config.random_secret,
    }
}

/// The keys that orders of operators are sealed with.
fn admin_keys(config: &Config) -> Vec<AdminKey> {
    let mut keys: Vec<_> = config.cluster_key.iter().map(AdminKey::new).collect();
    if !config.in_memory {
        match AdminKey::open(&config.data_dir) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::warn!(
                %error,
                "no key for orders in the data directory: esdb-gater drain and log are refused \
                 unless cluster.key is set"
            ),
        }
    }
    keys
}

fn atom(name: &str) -> Result<Atom, StartError> {
    Atom::new(name).map_err(|_| StartError::Name(name.to_owned()))
}

fn node_settings(config: &Config, listen: SocketAddr, share: descriptors::Share) -> Settings {
    let mut settings = Settings::new(config.name.clone(), config.cookie.clone());
    settings.listen = listen;
    settings.tick_time = config.net_ticktime;
    settings.max_connections = share.connections;
    settings.max_handshakes = share.handshakes;
    settings.max_dials = share.dials;
    settings.max_unfinished = config.unfinished_bytes;
    settings
}

/// Gives up nodes that no gateway has reached for the grace time.
async fn sweep(router: Arc<Router>, lost_grace: Duration) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let lost = router.peers.take_lost(lost_grace);
        for peer in &lost.forgotten {
            router.forget(peer);
        }
        router.sessions.sweep();
        router.cluster.give_up(&lost.with_workers).await;
    }
}

/// Tells the shims which gateways exist whenever this changes, and greets the members.
async fn tell_gateways(router: Arc<Router>) {
    let replica = router.cluster.replica();
    let mut changes = replica.changes();
    let mut bell = router.cluster.listen();
    let mut told = None;
    loop {
        let names = router.cluster.gateways();
        if told.as_ref() != Some(&names) {
            // A member's name was checked to be a node name when it became a member.
            router.sessions.set_gateways(names.iter().filter_map(|name| atom(name).ok()).collect());
            told = Some(names);
        }
        for connection in router.cluster.connected_members() {
            router.relays.greet(&connection);
        }
        tokio::select! {
            () = replica.changed(&mut changes) => {}
            // The cluster holds the sender, so this never fails.
            _ = bell.changed() => {}
            // A member may have been greeted before it knew this gateway to be one, so it is
            // greeted again.
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}
