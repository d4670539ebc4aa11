//! Dispatches the events of connections to services. The only state of the router is the table of
//! registered names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use gater_dist::gen_server::{self, Request};
use gater_dist::{
    Chain, Connection, DialError, DownReason, Events, HandshakeError, Lane, Loss, Message, Target,
};
use gater_term::{Atom, LocalPid, Pid};

use super::mesh::Mesh;
use super::peers::{PeerRef, Peers};
use super::tuning::Tuning;
use super::unreached::{Failure, Unreached};
use crate::observe::drops::Drops;
use crate::observe::durations::Durations;
use crate::observe::lost::LostConnections;
use crate::observe::telemetry::{Event, Telemetry};
use crate::registry::cluster::{Cluster, wire};
use crate::registry::directory::Directory;
use crate::services::census::Census;
use crate::services::channel::remote::Relays;
use crate::services::channel::{Channels, message};
use crate::services::cluster::{self, ClusterService};
use crate::services::observer::{self, Observer};
use crate::services::registry::{self, Registry};
use crate::services::rpc::Rex;
use crate::services::session::{self, Sessions};
use crate::services::unknown_request;

/// The parts to which a router passes events.
pub struct Router {
    pub(crate) peers: Arc<Peers>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) registry: Registry,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) cluster_service: ClusterService,
    pub(crate) relays: Arc<Relays>,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) rex: Arc<Rex>,
    pub(crate) tuning: Arc<Tuning>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) observer: Observer,
    pub(crate) lost: Arc<LostConnections>,
    pub(crate) read_time: Arc<Durations>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) census: Arc<Census>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) unreached: Unreached,
}

impl Router {
    /// Forgets the subscriptions and sessions of an incarnation of a node.
    pub fn forget(&self, peer: &PeerRef) {
        for channel in self.channels.all() {
            channel.remove_peer(peer);
        }
        self.sessions.peer_gone(peer);
    }

    /// Forgets an incarnation of a node that is gone for good.
    pub fn gone(&self, peer: &PeerRef) {
        tracing::info!(node = %peer.node(), creation = peer.creation(), "the node's processes are gone");
        self.forget(peer);
        // Nothing is written for the many nodes that connect and disconnect without ever having a
        // worker. A registration in progress makes the incarnation known again, and it is then lost
        // again.
        if self.directory.has_workers(peer) {
            self.registry.purge(peer);
        }
    }

    /// Returns the number of nodes that are connected to any gateway, and the number of gateways.
    fn counts(&self) -> (usize, usize) {
        (self.census.count(), self.cluster.gateways().len())
    }

    fn request(&self, caller: &Arc<Connection>, name: &str, request: Request) {
        match (name, request) {
            (_, Request::System { from, request }) => {
                caller.reply(&from, gen_server::system_refused(&request));
            }
            (registry::NAME, Request::Call { from, request }) => {
                self.registry.call(caller, from, &request);
            }
            (registry::NAME, Request::Cast(request)) => self.registry.cast(caller, &request),
            (cluster::NAME, Request::Call { from, request }) => {
                self.cluster_service.call(caller, from, &request);
            }
            (session::NAME, Request::Call { from, request }) => {
                self.sessions.call(caller, from, &request);
            }
            (observer::NAME, Request::Call { from, request }) => {
                self.observer.call(caller, from, &request);
            }
            (wire::NAME, Request::Other(term)) => self.cluster.message(caller, &term),
            (message::NAME, Request::Other(term)) => self.relays.message(caller, &term),
            (name, request) => match (self.channels.find(name), request) {
                (Some(channel), Request::Call { from, request }) => {
                    self.channels.call(channel, caller, from, &request);
                }
                (Some(channel), Request::Cast(request)) => {
                    self.channels.cast(channel, caller, &request);
                }
                (None, Request::Call { from, request }) => {
                    caller.reply(&from, unknown_request(&request));
                }
                _ => tracing::debug!(peer = %caller.peer().name, name, "message ignored"),
            },
        }
    }
}

impl Events for Router {
    fn knows(&self, name: &str) -> bool {
        matches!(
            name,
            registry::NAME
                | session::NAME
                | cluster::NAME
                | observer::NAME
                | wire::NAME
                | message::NAME
        ) || self.channels.find(name).is_some()
    }

    fn up(&self, connection: &Arc<Connection>) {
        self.unreached.reached(&connection.peer().name);
        let joined = self.peers.joined(connection);
        for peer in &joined.replaced {
            self.directory.down(peer);
            self.gone(peer);
        }
        self.directory.up(&joined.peer);
        self.cluster.up(connection);
        self.mesh.changed(connection);
        self.tuning.up(connection);
        joined.peer.announce();
        if !self.cluster.trust().knows(connection.peer().name.as_str()) {
            self.relays.node_up(joined.peer.node());
        }
        self.telemetry.node(Event::NodeUp, joined.peer.node(), || self.counts());
    }

    fn down(&self, connection: &Arc<Connection>, reason: &DownReason) {
        self.lost.down(&connection.peer().name, reason, connection.stats().age);
        self.cluster.down(connection);
        self.mesh.changed(connection);
        self.relays.lost(connection);
        if let Some(peer) = self.peers.left(connection) {
            self.directory.down(&peer);
            self.relays.node_down(peer.node());
            self.telemetry.node(Event::NodeDown, peer.node(), || self.counts());
        }
    }

    fn message(&self, caller: &Arc<Connection>, message: Message<'_>) {
        match message.to {
            Target::Name(name) => {
                self.request(caller, name, gen_server::parse(&message.payload));
            }
            Target::Pid(pid) if self.relays.takes(&pid) => {
                self.relays.relayed(caller, &message.payload);
            }
            Target::Pid(pid) if self.rex.takes(&pid) => self.rex.message(&message.payload),
            // No other process of the gateway receives messages.
            Target::Pid(_) | Target::Alias(_) => {}
        }
    }

    fn exited(&self, _connection: &Arc<Connection>, pid: &Pid, _reason: Bytes) {
        let Some(peer) = self.peers.find(pid) else { return };
        let local = LocalPid::from(pid);
        let interests = peer.take(local);
        if interests.subscriber > 0 {
            for channel in self.channels.all() {
                channel.remove_process(&peer, local);
            }
        }
        if interests.session > 0 {
            self.sessions.ended(&peer, local);
        }
        if interests.worker > 0 {
            self.registry.exited(pid.clone());
        }
    }

    fn refused(&self, address: SocketAddr, name: Option<&Atom>, error: &HandshakeError) {
        self.lost.refused(address, name, error);
    }

    fn read_by(&self, _peer: &Arc<Connection>, took: Duration) {
        self.read_time.add(took);
    }

    fn unreachable(&self, node: &Atom, error: &DialError) {
        self.lost.dialled(node, error);
        let failure = self.unreached.failed(node, &Chain(error).to_string(), Instant::now());
        if let Some(Failure { attempts, left_out }) = failure {
            let stage = error.stage().as_str();
            tracing::info!(
                %node, stage, error = %Chain(error), attempts, left_out,
                "node not reached; it is tried again"
            );
        }
    }

    fn dropped(&self, connection: &Arc<Connection>, lane: Lane, loss: &Loss) {
        // Only `{channel_message, Channel, ...}` is reported. Other messages are the gateway's own,
        // and reporting an event that could not be reported would never end.
        let channel = loss.prefix.as_ref().and_then(|prefix| prefix.atoms().get(1));
        let Some(channel) = channel else { return };
        let node = &connection.peer().name;
        self.drops.count(channel, node, lane, loss.reason.into(), loss.messages.into());
    }
}
