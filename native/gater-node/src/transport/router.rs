//! From what a connection reports to the service it concerns. The router holds
//! no state but the table of registered names.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use gater_core::channel::Topic;
use gater_dist::gen_server::{self, From, Request};
use gater_dist::{Connection, DialError, DownReason, Events, Lane, Loss, Message, Target};
use gater_term::{Atom, LocalPid, Pid, Reader, encode};

use crate::clock;
use crate::observe::drops::Drops;
use crate::observe::telemetry::{Event, Telemetry};
use crate::registry::cluster::{Cluster, wire};
use crate::registry::directory::Directory;
use crate::services::channel::local::{self, Channel, TooManySubscriptions};
use crate::services::channel::remote::{self, Relays};
use crate::services::cluster::ClusterService;
use crate::services::registry::Registry;
use crate::services::rpc::Rex;
use crate::services::secret::Secret;
use crate::services::session::Sessions;
use crate::services::{OK, error, error_with, unknown_request};
use crate::transport::mesh::Mesh;
use crate::transport::peers::{PeerRef, Peers};
use crate::transport::tuning::Tuning;

/// The registered name of the registry.
pub const REGISTRY: &str = "esdb_gater_worker_registry";
/// The registered name of the session service.
pub const SESSION: &str = "esdb_gater_session";
/// The registered name of the cluster service.
pub const CLUSTER: &str = "esdb_gater_cluster";

/// The parts a router hands events to.
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
    pub(crate) sessions: Sessions,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) secret: Arc<Secret>,
    pub(crate) channels: HashMap<String, Arc<Channel>>,
}

impl Router {
    /// Subscriptions and sessions of an incarnation of a node are forgotten.
    pub fn forget(&self, peer: &PeerRef) {
        for channel in self.channels.values() {
            channel.remove_peer(peer);
        }
        self.sessions.peer_gone(peer);
    }

    /// An incarnation of a node is gone for good: nothing of it stays.
    pub fn gone(&self, peer: &PeerRef) {
        tracing::info!(node = %peer.node(), creation = peer.creation(), "the node's processes are gone");
        self.forget(peer);
        // Nothing is written for the many nodes that come, go and never had a worker. A
        // registration under way makes the incarnation known anew, to be lost again.
        if self.directory.has_workers(peer) {
            self.registry.purge(peer.node().clone(), peer.creation());
        }
    }

    fn request(&self, caller: &Arc<Connection>, name: &str, request: Request) {
        match (name, request) {
            (REGISTRY, Request::Call { from, request }) => {
                self.registry.call(caller, from, &request);
            }
            (REGISTRY, Request::Cast(request)) => self.registry.cast(caller, &request),
            (CLUSTER, Request::Call { from, request }) => {
                self.cluster_service.call(caller, from, &request);
            }
            (SESSION, Request::Call { from, request }) => {
                self.sessions.call(caller, from, &request);
            }
            (wire::NAME, Request::Other(term)) => self.cluster.message(caller, &term),
            (remote::NAME, Request::Other(term)) => self.relays.message(caller, &term),
            (name, request) => match (self.channels.get(name), request) {
                (Some(channel), Request::Call { from, request }) => {
                    self.channel_call(channel, caller, from, &request);
                }
                (Some(channel), Request::Cast(request)) => {
                    // A cast has nobody to tell the outcome to.
                    if let Ok(Done::Subscribe(subscription)) = self.operate(channel, &request) {
                        self.subscribe(channel, subscription, None);
                    }
                }
                (None, Request::Call { from, request }) => {
                    caller.reply(&from, unknown_request(&request));
                }
                _ => tracing::debug!(peer = %caller.peer().name, name, "message ignored"),
            },
        }
    }

    fn channel_call(
        &self,
        channel: &Arc<Channel>,
        caller: &Arc<Connection>,
        from: From,
        request: &Bytes,
    ) {
        match self.operate(channel, request) {
            Ok(Done::Nothing) => caller.reply(&from, OK),
            Ok(Done::Subscribe(subscription)) => {
                self.subscribe(channel, subscription, Some((caller.clone(), from)));
            }
            Ok(Done::List(topic)) => self.subscribers(channel, &topic, caller, from),
            Err(answer) => caller.reply(&from, answer),
        }
    }

    /// Subscribes, and answers `from`. Who waits for the answer finds that the node of
    /// the process is connected, if it can be, and that the other gateways know: no message
    /// is lost to a dial or published elsewhere in vain.
    fn subscribe(
        &self,
        channel: &Arc<Channel>,
        subscription: Subscription,
        from: Option<(Arc<Connection>, From)>,
    ) {
        let Subscription { topic, peer, local } = subscription;
        let reached = from.as_ref().and_then(|_| self.peers.reach(&peer));
        let process = (&peer, local);
        let expected =
            from.as_ref().and_then(|_| channel.expect(&topic, process, reached.is_some()));
        let (ticket, told) = expected.unzip();
        let (channel, peers) = (channel.clone(), self.peers.clone());
        let subscribe = move || {
            let reply = |answer: Bytes| {
                if let Some((caller, from)) = &from {
                    caller.reply(from, answer);
                }
            };
            let process = (&peer, local);
            let outcome = channel.subscribe(&peers, &topic, process, ticket, || reply(OK.into()));
            if let Err(TooManySubscriptions) = outcome {
                reply(error("overloaded").into());
            }
        };
        let Some(told) = told else { return subscribe() };
        tokio::spawn(async move {
            remote::known(told).await;
            if let Some(reached) = reached {
                reached.await;
            }
            subscribe();
        });
    }

    /// Answers with the subscribers of a topic, those at other gateways among them.
    fn subscribers(&self, channel: &Channel, topic: &[u8], caller: &Arc<Connection>, from: From) {
        let answer = |pids: &[Pid]| {
            let mut out = Vec::with_capacity(pids.len() * 40 + 8);
            encode::list_of(&mut out, pids.iter(), encode::pid);
            out
        };
        let mut pids = channel.subscribers(topic);
        match self.relays.subscribers(channel.name(), topic) {
            None => caller.reply(&from, answer(&pids)),
            Some(theirs) => {
                let caller = caller.clone();
                tokio::spawn(async move {
                    pids.extend(theirs.await);
                    // A process may be subscribed at several gateways.
                    let mut seen = HashSet::default();
                    pids.retain(|pid| seen.insert(pid.clone()));
                    caller.reply(&from, answer(&pids));
                });
            }
        }
    }

    /// Carries out one request to a channel, but for subscribing; the error is the
    /// encoded answer.
    fn operate(&self, channel: &Channel, request: &Bytes) -> Result<Done, Vec<u8>> {
        let mut reader = Reader::new(request);
        let unknown = || unknown_request(request);
        let arity = reader.tuple().map_err(|_| unknown())?;
        let name = reader.atom().map_err(|_| unknown())?;
        let known = matches!(
            (&*name, arity),
            ("publish" | "subscribe" | "unsubscribe", 3) | ("get_subscribers", 2)
        );
        if !known {
            return Err(unknown());
        }
        let bad = |reason: &str| error_with("bad_topic", |out| encode::atom(out, reason));
        let topic_and_message = reader.rest();
        let topic = local::topic(&mut reader).map_err(bad)?;
        match &*name {
            "publish" => {
                let body = request.slice_ref(topic_and_message);
                self.publish(channel, topic, reader.rest(), &body)?;
                Ok(Done::Nothing)
            }
            "get_subscribers" => Ok(Done::List(topic.to_vec())),
            subscription => {
                let pid = reader.pid().map_err(|_| error("badarg"))?;
                let local = LocalPid::from(&pid);
                if subscription == "unsubscribe" {
                    if let Some(peer) = self.peers.find(&pid) {
                        channel.unsubscribe(&self.peers, topic, &peer, local);
                    }
                    return Ok(Done::Nothing);
                }
                let topic = Topic::new(topic).map_err(|error| bad(error.as_atom()))?;
                let peer = self.peers.of(&pid).map_err(|_| error("overloaded"))?;
                Ok(Done::Subscribe(Subscription { topic, peer, local }))
            }
        }
    }

    fn publish(
        &self,
        channel: &Channel,
        topic: &[u8],
        message: &[u8],
        body: &Bytes,
    ) -> Result<(), Vec<u8>> {
        let recipients = channel
            .publish(&self.secret, topic, message, body)
            .map_err(|refusal| error(refusal.as_atom()))?;
        self.telemetry.emit(Event::Broadcast, |out| {
            encode::map(out, 1);
            encode::atom(out, "recipient_count");
            encode::uint(out, recipients as u64);
            encode::map(out, 2);
            encode::atom(out, "channel");
            encode::atom(out, channel.name());
            encode::atom(out, "topic");
            encode::binary(out, topic);
        });
        Ok(())
    }

    fn node_event(&self, event: Event, node: &Atom) {
        self.telemetry.emit(event, |out| {
            encode::map(out, 1);
            encode::atom(out, "system_time");
            encode::uint(out, clock::unix_millis());
            encode::map(out, 2);
            encode::atom(out, "node");
            encode::atom(out, node.as_str());
            encode::atom(out, "member_count");
            encode::uint(out, self.peers.online_count() as u64);
        });
    }
}

/// A process and the topic it wants.
struct Subscription {
    topic: Topic,
    peer: PeerRef,
    local: LocalPid,
}

/// What a request to a channel came to.
enum Done {
    /// The answer is `ok`.
    Nothing,
    /// This is to be made.
    Subscribe(Subscription),
    /// The answer is the subscribers of this topic.
    List(Vec<u8>),
}

impl Events for Router {
    fn knows(&self, name: &str) -> bool {
        matches!(name, REGISTRY | SESSION | CLUSTER | wire::NAME | remote::NAME)
            || self.channels.contains_key(name)
    }

    fn up(&self, connection: &Arc<Connection>) {
        let joined = self.peers.joined(connection);
        for peer in &joined.replaced {
            self.directory.down(peer);
            self.gone(peer);
        }
        self.directory.up(&joined.peer);
        self.cluster.up(connection);
        self.mesh.changed(connection);
        self.tuning.up(connection);
        if self.cluster.is_other(connection.peer().name.as_str()) {
            self.relays.greet(connection);
        }
        joined.peer.announce();
        self.node_event(Event::NodeUp, joined.peer.node());
    }

    fn down(&self, connection: &Arc<Connection>, _reason: &DownReason) {
        self.cluster.down(connection);
        self.mesh.changed(connection);
        self.relays.lost(connection);
        if let Some(peer) = self.peers.left(connection) {
            self.directory.down(&peer);
            self.node_event(Event::NodeDown, peer.node());
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
            // No other process of the gateway takes messages.
            Target::Pid(_) | Target::Alias(_) => {}
        }
    }

    fn exited(&self, _connection: &Arc<Connection>, pid: &Pid, _reason: Bytes) {
        let Some(peer) = self.peers.find(pid) else { return };
        let local = LocalPid::from(pid);
        let interests = peer.take(local);
        if interests.subscriber > 0 {
            for channel in self.channels.values() {
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

    fn unreachable(&self, node: &Atom, error: &DialError) {
        tracing::info!(%node, %error, "node not reached");
    }

    fn dropped(&self, connection: &Arc<Connection>, lane: Lane, loss: &Loss) {
        // `{channel_message, Channel, ...}`. All else is the gateway's own: to report that an
        // event could not be reported would be without end.
        let channel = loss.opening.as_ref().and_then(|opening| opening.atoms().get(1));
        let Some(channel) = channel else { return };
        let node = &connection.peer().name;
        self.drops.count(channel, node, lane, loss.reason.into(), loss.messages.into());
    }
}
