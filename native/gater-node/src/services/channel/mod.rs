//! The service of channels: requests to them, the subscribers on connected nodes ([`local`]), and
//! those at other gateways ([`remote`]).

mod authority;
pub mod broadcasts;
mod gateway;
mod keepers;
mod last;
pub mod local;
pub mod message;
pub mod remote;

use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use gater_core::capability::{Action, Unauthorized};
use gater_core::channel::{Hmac, Topic};
use gater_dist::Connection;
use gater_dist::gen_server::From;
use gater_term::{LocalPid, Pid, Reader, encode};
use tokio::sync::Semaphore;

pub use self::authority::Authority;
use self::broadcasts::Broadcast;
use self::keepers::Keeper;
use self::local::{Audience, Channel, Refusal};
use self::remote::Relays;
use super::secret::Secret;
use super::{OK, error, error_with, unknown_request};
use crate::observe::otlp::{Kind, Tracer, span};
use crate::observe::refusals::Refusals;
use crate::transport::peers::{PeerRef, Peers};

/// The length of the longest request whose signature is verified on the task of its connection.
const VERIFIED_AT_ONCE: usize = 4 << 10;
/// The number of subscribers that can be listed in about a millisecond.
const MANY: usize = 10_000;
/// Locked while the subscribers at several gateways are merged.
static MERGING: Semaphore = Semaphore::const_new(1);
/// The cost of subscribing or unsubscribing.
const SUBSCRIPTION: usize = 2_000;
/// The greatest cost of a byte whose signature is verified.
const VERIFIED_BYTE: usize = 100;

/// The service behind the names of all channels.
pub struct Channels {
    peers: Arc<Peers>,
    relays: Arc<Relays>,
    secret: Arc<Secret>,
    refusals: Arc<Refusals>,
    authority: Authority,
    by_name: HashMap<String, Arc<Channel>>,
    tracer: Tracer,
}

impl Channels {
    /// Returns the service of the given channels.
    pub fn new(
        peers: Arc<Peers>,
        relays: Arc<Relays>,
        secret: Arc<Secret>,
        refusals: Arc<Refusals>,
        authority: Authority,
        channels: Vec<Arc<Channel>>,
    ) -> Self {
        let by_name = channels.into_iter().map(|c| (c.name().to_owned(), c)).collect();
        Self { peers, relays, secret, refusals, authority, by_name, tracer: Tracer::default() }
    }

    /// The same with publications followed.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Returns the channel of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Channel>> {
        self.by_name.get(name)
    }

    /// Returns all channels.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.by_name.values()
    }

    /// Carries out a `gen_server:cast` to a channel.
    pub fn cast(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        caller: &Arc<Connection>,
        request: &Bytes,
    ) {
        if takes_long(channel, request) {
            let (channels, channel) = (self.clone(), channel.clone());
            let (connection, request) = (caller.clone(), request.clone());
            return caller
                .run_blocking(move || channels.carry_out(&channel, &connection, &request));
        }
        self.carry_out(channel, caller, request);
    }

    fn carry_out(&self, channel: &Arc<Channel>, caller: &Connection, request: &Bytes) {
        // A cast has no answer, so the outcome is ignored.
        match self.operate(channel, caller, request) {
            Ok(Done::Subscribe(subscription)) => self.subscribe(channel, subscription, None),
            Ok(Done::End(end)) => self.end(channel, &end, None),
            Ok(Done::Weigh(topic, keeper, processes)) => channel.weigh(&topic, &keeper, processes),
            _ => {}
        }
    }

    /// Answers a `gen_server:call` to a channel. A slow request is handled on another thread,
    /// before any further request of the caller's node.
    pub fn call(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        caller: &Arc<Connection>,
        from: From,
        request: &Bytes,
    ) {
        if takes_long(channel, request) {
            let (channels, channel) = (self.clone(), channel.clone());
            let (connection, request) = (caller.clone(), request.clone());
            return caller
                .run_blocking(move || channels.answer(&channel, &connection, from, &request));
        }
        self.answer(channel, caller, from, request);
    }

    fn answer(
        &self,
        channel: &Arc<Channel>,
        caller: &Arc<Connection>,
        from: From,
        request: &Bytes,
    ) {
        match self.operate(channel, caller, request) {
            Ok(Done::Nothing) => caller.reply(&from, OK),
            Ok(Done::Subscribe(subscription)) => {
                self.subscribe(channel, subscription, Some((caller.clone(), from)));
            }
            Ok(Done::End(end)) => self.end(channel, &end, Some((caller.clone(), from))),
            Ok(Done::Weigh(topic, keeper, processes)) => {
                channel.weigh(&topic, &keeper, processes);
                caller.reply(&from, OK);
            }
            Ok(Done::List(topic)) => subscribers(channel, &self.relays, topic, caller, from),
            Err(answer) => caller.reply(&from, answer),
        }
    }

    /// Subscribes a process and answers `from`. The answer waits until the node of the process is
    /// connected, if it can be, and until the other gateways know the topic, so that no message is
    /// lost because of a dial in progress or at another gateway.
    fn subscribe(
        &self,
        channel: &Arc<Channel>,
        subscription: Subscription,
        from: Option<(Arc<Connection>, From)>,
    ) {
        let Subscription { topic, peer, local, keeper } = subscription;
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
            let replays = channel.policy().replay_last;
            let acknowledge = |stamp| match &keeper {
                None => reply(OK.into()),
                Some(_) => reply(kept(stamp, replays).into()),
            };
            let outcome =
                channel.subscribe(&peers, &topic, process, ticket, keeper.as_ref(), acknowledge);
            if let Err(refused) = outcome {
                reply(error(refused.as_atom()).into());
            }
        };
        let Some(told) = told else { return subscribe() };
        tokio::spawn(async move {
            gateway::known(told).await;
            if let Some(reached) = reached {
                reached.await;
            }
            subscribe();
        });
    }

    /// Ends a subscription, and answers `from` when the other gateways know.
    fn end(&self, channel: &Channel, end: &End, from: Option<(Arc<Connection>, From)>) {
        let (stamp, told) = channel.end(&self.peers, &end.topic, &end.pid, end.by.as_ref());
        let Some((caller, from)) = from else { return };
        let answer: Bytes = match end.by {
            None => OK.into(),
            Some(_) => kept(stamp, channel.policy().replay_last).into(),
        };
        if told.is_empty() {
            return caller.reply(&from, answer);
        }
        tokio::spawn(async move {
            gateway::known(told).await;
            caller.reply(&from, answer);
        });
    }

    /// Carries out one request to a channel, except for subscribing. The error is the encoded
    /// answer.
    fn operate(
        &self,
        channel: &Channel,
        caller: &Connection,
        request: &Bytes,
    ) -> Result<Done, Vec<u8>> {
        let mut reader = Reader::new(request);
        let unknown = || unknown_request(request);
        let arity = reader.tuple().map_err(|_| unknown())?;
        let name = reader.atom().map_err(|_| unknown())?;
        let known = matches!(
            (&*name, arity),
            ("publish" | "publish_elsewhere" | "subscribe", 3 | 4)
                | ("acknowledge", 1)
                | ("unsubscribe", 3)
                | ("get_subscribers", 2)
                | ("keep", 5 | 6)
                | ("leave" | "forget" | "weigh", 4)
        );
        if !known {
            return Err(unknown());
        }
        if arity == 1 {
            return Ok(Done::Nothing);
        }
        let bad = |reason: &str| error_with("bad_topic", |out| encode::atom(out, reason));
        let topic_and_more = reader.rest();
        let topic = topic_of(&mut reader).map_err(bad)?;
        match &*name {
            "publish" | "publish_elsewhere" => {
                // The message extends to the end unless a token follows, so it need not be parsed.
                let message = match arity {
                    4 => reader.skip().map_err(|_| unknown())?,
                    _ => std::mem::replace(&mut reader, Reader::new(&[])).rest(),
                };
                let body = topic_and_more.len() - reader.rest().len();
                let body = request.slice_ref(topic_and_more.get(..body).unwrap_or(topic_and_more));
                let token = (arity == 4).then_some(reader);
                self.authorize(channel, caller, topic, Action::Publish, token)?;
                let audience = match &*name {
                    "publish" => Audience::All,
                    _ => Audience::Elsewhere(caller),
                };
                self.publish(channel, caller, (topic, message), &body, audience)?;
                Ok(Done::Nothing)
            }
            "get_subscribers" => Ok(Done::List(topic.to_vec())),
            "weigh" => {
                let topic = Topic::new(topic).map_err(|error| bad(error.as_atom()))?;
                let keeper = self.keeper(caller, arity, &mut reader)?;
                let processes = reader.integer().ok().and_then(|n| u32::try_from(n).ok());
                Ok(Done::Weigh(topic, keeper, processes.ok_or_else(|| error("badarg"))?))
            }
            subscription => {
                caller.charge(SUBSCRIPTION);
                let topic = Topic::new(topic).map_err(|error| bad(error.as_atom()))?;
                let pid = reader.pid().map_err(|_| error("badarg"))?;
                let by = match subscription {
                    "subscribe" | "unsubscribe" => None,
                    _ => Some(self.keeper(caller, arity, &mut reader)?),
                };
                if subscription == "forget" {
                    channel.forget(&self.peers, &topic, &pid);
                    return Ok(Done::Nothing);
                }
                if matches!(subscription, "unsubscribe" | "leave") {
                    return Ok(Done::End(End { topic, pid, by }));
                }
                let token = matches!(arity, 4 | 6).then_some(reader);
                self.authorize(channel, caller, topic.as_bytes(), Action::Subscribe, token)?;
                let peer =
                    self.peers.of(&pid, &caller.peer().name).map_err(|_| error("overloaded"))?;
                let local = LocalPid::from(&pid);
                Ok(Done::Subscribe(Subscription { topic, peer, local, keeper: by }))
            }
        }
    }

    /// Reads the relay that keeps a subscription and, in `{keep, …}`, the stamp that it knows. The
    /// relay must be on the node that asks.
    fn keeper(
        &self,
        caller: &Connection,
        arity: u32,
        reader: &mut Reader<'_>,
    ) -> Result<Keeper, Vec<u8>> {
        let relay = reader.pid().map_err(|_| error("badarg"))?;
        let from = caller.peer();
        if (&relay.node, relay.creation) != (&from.name, from.creation) {
            return Err(error("badarg"));
        }
        let stamp = match arity {
            5 | 6 => reader.integer().map_err(|_| error("badarg"))?.unsigned_abs(),
            _ => 0,
        };
        let peer = self.peers.of(&relay, &from.name).map_err(|_| error("overloaded"))?;
        Ok(Keeper { peer, relay: LocalPid::from(&relay), stamp })
    }

    /// Authorizes a request by the token that `token` is about to read, if the request has one.
    fn authorize(
        &self,
        channel: &Channel,
        caller: &Connection,
        topic: &[u8],
        action: Action,
        token: Option<Reader<'_>>,
    ) -> Result<(), Vec<u8>> {
        // A term that is not a binary is treated as an empty token, which is malformed.
        let token = token.map(|mut reader| reader.binary().unwrap_or_default());
        let authorized = self.authority.authorize(channel.name(), topic, action, token);
        authorized.map_err(|reason: Unauthorized| {
            let refusal = Refusal::Unauthorized(reason);
            self.refusals.count(channel.atom(), &caller.peer().name, refusal);
            error_with("unauthorized", |out| encode::atom(out, reason.as_atom()))
        })
    }

    fn publish(
        &self,
        channel: &Channel,
        caller: &Connection,
        (topic, message): (&[u8], &[u8]),
        body: &Bytes,
        audience: Audience<'_>,
    ) -> Result<(), Vec<u8>> {
        if channel.policy().hmac == Hmac::Required {
            caller.charge(message.len().saturating_mul(VERIFIED_BYTE));
        }
        let span = self.tracer.begin();
        let published = channel.publish(&self.secret, (topic, message), body, audience);
        caller.charge(published.unwrap_or_default());
        if let Some(span) = span {
            let error = published.err().map(|refusal| refusal.as_atom());
            span.end("publish", Kind::Producer, described(channel, topic, caller), error);
        }
        published.map_err(|refusal| {
            self.refusals.count(channel.atom(), &caller.peer().name, refusal);
            error(refusal.as_atom())
        })?;
        if self.relays.broadcast_wanted() {
            let recipients = channel.recipients(topic) as u64;
            let (channel, topic) = (channel.name().to_owned(), topic.to_vec());
            self.relays.published(Broadcast { channel, topic, recipients });
        }
        Ok(())
    }
}

/// The channel, the topic and the node of a message, for who follows it.
fn described(
    channel: &Channel,
    topic: &[u8],
    caller: &Connection,
) -> Vec<(&'static str, span::Value)> {
    vec![
        ("messaging.system", span::text(b"esdb_gater")),
        ("messaging.destination.name", span::text(channel.name().as_bytes())),
        ("esdb_gater.topic", span::text(topic)),
        ("network.peer.node", span::text(caller.peer().name.as_str().as_bytes())),
    ]
}

/// Returns whether verifying the signature of a request may take more than a millisecond. The cost
/// depends on the number of keys in its maps, and is at most 300 ns per byte.
fn takes_long(channel: &Channel, request: &[u8]) -> bool {
    channel.policy().hmac == Hmac::Required && request.len() > VERIFIED_AT_ONCE
}

/// Answers with the subscribers of a topic, including those at other gateways.
fn subscribers(
    channel: &Arc<Channel>,
    relays: &Arc<Relays>,
    topic: Vec<u8>,
    caller: &Arc<Connection>,
    from: From,
) {
    let theirs = relays.subscribers(channel.name(), &topic);
    let (connection, list) = (caller.clone(), channel.clone());
    match theirs {
        None if channel.count(&topic) < MANY => {
            caller.reply(&from, pids(&channel.subscribers(&topic)));
        }
        None => {
            caller.run_blocking(move || connection.reply(&from, pids(&list.subscribers(&topic))));
        }
        Some(theirs) => drop(tokio::spawn(async move {
            let theirs = theirs.await;
            let many = list.count(&topic) + theirs.len() >= MANY;
            let merge =
                move || connection.reply(&from, pids(&merged(list.subscribers(&topic), theirs)));
            // Many subscribers are merged on another thread, for one caller at a time.
            if !many {
                return merge();
            }
            let Ok(_turn) = MERGING.acquire().await else { return };
            if tokio::task::spawn_blocking(merge).await.is_err() {
                tracing::error!("the subscribers of a topic could not be listed");
            }
        })),
    }
}

/// Returns all processes without duplicates, since a process may be subscribed at several gateways.
fn merged(mut all: Vec<Pid>, theirs: Vec<Pid>) -> Vec<Pid> {
    all.extend(theirs);
    let mut seen = HashSet::default();
    all.retain(|pid| seen.insert(pid.clone()));
    all
}

/// Returns an encoded list of pids.
fn pids(pids: &[Pid]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pids.len() * 40 + 8);
    encode::list_of(&mut out, pids.iter(), encode::pid);
    out
}

/// Returns `{ok, Stamp, Replays}`, encoded, which is the answer to the relay of a shim.
fn kept(stamp: u64, replays: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    encode::tuple(&mut out, 3);
    encode::atom(&mut out, "ok");
    encode::uint(&mut out, stamp);
    encode::atom(&mut out, if replays { "true" } else { "false" });
    out
}

/// A process and the topic to which it subscribes.
struct Subscription {
    topic: Topic,
    peer: PeerRef,
    local: LocalPid,
    keeper: Option<Keeper>,
}

/// A process and the topic from which it unsubscribes.
struct End {
    topic: Topic,
    pid: Pid,
    by: Option<Keeper>,
}

/// The outcome of a request to a channel.
enum Done {
    /// The answer is `ok`.
    Nothing,
    /// This subscription has to be made.
    Subscribe(Subscription),
    /// This subscription has to be ended.
    End(End),
    /// The relay passes the topic on to this number of processes.
    Weigh(Topic, Keeper, u32),
    /// The answer is the list of subscribers of this topic.
    List(Vec<u8>),
}

/// Reads a topic, which is a binary of 1 to 255 bytes. The error is the reason in `{bad_topic,
/// Reason}`.
fn topic_of<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], &'static str> {
    match reader.binary() {
        Ok(bytes) => Topic::check(bytes).map_err(|error| error.as_atom()),
        Err(_) => Err("not_binary"),
    }
}
