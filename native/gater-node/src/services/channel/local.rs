//! One channel: its subscriptions, and the delivery of published messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use gater_core::capability::Unauthorized;
use gater_core::channel::{Hmac, Policy, Priority, Subscribers, Topic};
use gater_core::limit::RateLimiter;
use gater_core::sign;
use gater_dist::{Connection, Draft, Lane, Payload, Prefix};
use gater_term::{Atom, LocalPid, Pid, encode};
use parking_lot::{Mutex, RwLock};
use tokio::task::yield_now;

use super::gateway::{Gateway, TOPICS_AT_A_TIME, Told};
use super::keepers::{Keeper, Keepers};
use super::last::LastValues;
use crate::clock;
use crate::observe::drops::{Drops, Reason};
use crate::observe::traffic::Traffic;
use crate::services::secret::Secret;
use crate::transport::peers::{Interest, PeerRef, Peers};

/// The greatest number of topics per channel whose rate is remembered; the least recently used are
/// forgotten first.
const MAX_RATED_TOPICS: usize = 100_000;

/// The greatest memory of the subscriptions of one channel: 4,000,000 of topics with short names.
const MAX_SUBSCRIPTION_BYTES: usize = 400_000_000;

/// The number of subscriptions of ended processes that are removed while other tasks wait for the
/// table, which takes about a millisecond.
const ENDED_AT_A_TIME: usize = 1024;

/// The cost of delivering a message to a node, and to each subscriber there: the message is written
/// into frames, or the number of the subscriber is copied.
/// frames at once, or its number is copied.
const NODE: usize = 300;
const SUBSCRIBER: usize = 10;

/// A channel of the gateway.
pub struct Channel {
    name: Atom,
    policy: Policy,
    drops: Arc<Drops>,
    /// The start of every message, `{channel_message, Channel, `.
    prefix: Arc<Prefix>,
    table: RwLock<Table>,
    limiter: Option<Mutex<RateLimiter>>,
    traffic: Traffic,
    last: Option<Mutex<LastValues>>,
}

/// The receivers of messages.
#[derive(Default)]
struct Table {
    /// The subscribed processes, and for each other gateway the process that receives messages for
    /// its subscribers.
    subscribers: Subscribers<PeerRef>,
    /// The connected other gateways.
    gateways: Vec<Arc<Gateway>>,
    /// The processes that are about to be subscribed, by topic.
    expected: HashMap<Topic, Vec<Expected>>,
    last_ticket: u64,
    /// Whether subscriptions of ended processes are being removed.
    ending: bool,
    /// The relays that keep subscriptions, and the subscriptions that were ended.
    keepers: Keepers,
}

/// The state of a channel that another gateway still has to be told.
#[derive(Default)]
pub struct Introduction {
    /// The topics that are desired at this gateway.
    pub topics: Vec<Topic>,
    /// The last messages with their times of publication.
    pub last: Vec<(u64, Payload)>,
}

/// A process that is about to be subscribed.
struct Expected {
    ticket: u64,
    peer: PeerRef,
    local: LocalPid,
}

impl Table {
    /// Returns whether a process that does not belong to another gateway is subscribed.
    fn has_own(&self, topic: &[u8]) -> bool {
        self.subscribers.get(topic).any(|(peer, _)| !peer.is_gateway())
    }

    fn wants(&self, topic: &[u8]) -> bool {
        self.has_own(topic) || self.expected.contains_key(topic)
    }

    /// Removes the expected subscriptions for which `are` is true. Returns whether there were any.
    fn no_more(&mut self, topic: &[u8], are: impl Fn(&Expected) -> bool) -> bool {
        let Some(expected) = self.expected.get_mut(topic) else { return false };
        let before = expected.len();
        expected.retain(|process| !are(process));
        let left = expected.len();
        if left == 0 {
            self.expected.remove(topic);
        }
        left < before
    }
}

/// The subscribers that a publication is for.
#[derive(Clone, Copy)]
pub enum Audience<'a> {
    /// All subscribers.
    All,
    /// All subscribers except those of the relay of the node at this connection, to which the
    /// publisher itself has sent the message.
    Elsewhere(&'a Connection),
}

impl Audience<'_> {
    /// Returns whether the relay of the node at `link` needs no copy.
    fn has_served(self, link: &Arc<Connection>) -> bool {
        match self {
            Self::All => false,
            Self::Elsewhere(publisher) => std::ptr::eq(Arc::as_ptr(link), publisher),
        }
    }
}

/// The reason why a process was not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSubscribed {
    /// The channel has the greatest number of subscriptions.
    TooMany,
    /// The subscription was ended after it was made, or while it waited.
    Ended,
}

impl NotSubscribed {
    /// Returns the reason as callers see it in `{error, Reason}`.
    pub fn as_atom(self) -> &'static str {
        match self {
            Self::TooMany => "overloaded",
            Self::Ended => "ended",
        }
    }
}

/// The reason why a message was not published, or a process not subscribed because of its
/// capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The rate of the topic is exhausted.
    RateLimited,
    /// The channel accepts signed messages only.
    SignatureRequired,
    /// The signature is not valid.
    Signature(sign::VerifyError),
    /// The capability token is missing or does not allow the request.
    Unauthorized(Unauthorized),
}

impl Refusal {
    /// Returns the reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::SignatureRequired => "signature_required",
            Self::Signature(error) => error.as_atom(),
            Self::Unauthorized(reason) => reason.as_atom(),
        }
    }
}

impl Channel {
    /// Returns a channel without subscribers. `tag` is the first element of its messages.
    pub fn new(tag: &Atom, name: Atom, policy: Policy, drops: Arc<Drops>) -> Self {
        Self {
            prefix: Arc::new(Prefix::tuple(4, &[tag.clone(), name.clone()])),
            name,
            table: RwLock::default(),
            limiter: policy
                .max_rate
                .map(|rate| Mutex::new(RateLimiter::new(rate, MAX_RATED_TOPICS))),
            traffic: Traffic::default(),
            last: policy.replay_last.then(Mutex::default),
            policy,
            drops,
        }
    }

    /// Returns the registered name of the channel, as an atom.
    pub fn atom(&self) -> &Atom {
        &self.name
    }

    /// Returns the registered name of the channel.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns the priority, the rate and the signature rule of the channel.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Prepares the subscription of a process: the topic is announced to the other gateways that do
    /// not know it to be desired. Returns a ticket for [`Channel::subscribe`] and the
    /// announcements, or `None` if there are none, unless the subscription `waits` for something
    /// else.
    pub fn expect(
        &self,
        topic: &Topic,
        (peer, local): (&PeerRef, LocalPid),
        waits: bool,
    ) -> Option<(u64, Told)> {
        // Channels that keep last messages receive every message anyway.
        let untold = |table: &Table| {
            self.last.is_none() && !table.gateways.is_empty() && !table.has_own(topic.as_bytes())
        };
        if !waits && !untold(&self.table.read()) {
            return None;
        }
        let mut table = self.table.write();
        let told = if untold(&table) {
            let tell = |gateway: &Arc<Gateway>| (gateway.clone(), self.tell(gateway, topic));
            table.gateways.iter().map(tell).collect()
        } else {
            Told::new()
        };
        table.last_ticket += 1;
        let ticket = table.last_ticket;
        let process = Expected { ticket, peer: peer.clone(), local };
        table.expected.entry(topic.clone()).or_default().push(process);
        Some((ticket, told))
    }

    fn tell(&self, gateway: &Gateway, topic: &Topic) -> u64 {
        gateway.wants(self.name(), vec![topic.as_bytes().to_vec()], false)
    }

    /// Subscribes a process and acknowledges the subscription. On channels that keep the last
    /// message of a topic, a process that was not subscribed before then receives that message.
    ///
    /// No message is published on the channel during the call, so the last message is older than
    /// all messages that follow, and is not sent twice. A subscription with a `ticket` that was
    /// ended in the meantime is not made.
    ///
    /// A subscription with a `keeper` is acknowledged with a stamp, and refused if it was ended
    /// after the stamp that the keeper knows. A relay that subscribes itself is told of the
    /// subscriptions of processes of its node that were ended in the meantime.
    pub fn subscribe(
        &self,
        peers: &Peers,
        topic: &Topic,
        (peer, local): (&PeerRef, LocalPid),
        ticket: Option<u64>,
        keeper: Option<&Keeper>,
        acknowledge: impl FnOnce(u64),
    ) -> Result<(), NotSubscribed> {
        // The table and the watch change under one lock, so that a subscribe and an unsubscribe of
        // the same process cannot interleave between the two.
        let mut table = self.table.write();
        if let Some(ticket) = ticket
            && !table.no_more(topic.as_bytes(), |process| process.ticket == ticket)
        {
            if keeper.is_some() {
                return Err(NotSubscribed::Ended);
            }
            acknowledge(0);
            return Ok(());
        }
        if table.subscribers.bytes() >= MAX_SUBSCRIPTION_BYTES {
            return Err(NotSubscribed::TooMany);
        }
        let stamp = match keeper {
            None => 0,
            Some(keeper) => {
                let now = clock::unix_micros();
                table.keepers.announce(keeper, now);
                if keeper.peer != *peer {
                    let pid = peer.pid(local);
                    if keeper.stamp > 0 && table.keepers.ended_after(topic, &pid, keeper.stamp) {
                        return Err(NotSubscribed::Ended);
                    }
                    table.keepers.keep(topic, (peer.clone(), local), &keeper.peer);
                } else if keeper.relay == local {
                    for (pid, ended) in table.keepers.ended_on(topic, peer) {
                        tell_ended(keeper, topic, &pid, ended);
                    }
                }
                table.keepers.stamp(now)
            }
        };
        let untold = ticket.is_none() && self.last.is_none() && !table.gateways.is_empty();
        if untold && !table.wants(topic.as_bytes()) {
            for gateway in &table.gateways {
                self.tell(gateway, topic);
            }
        }
        let new = table.subscribers.subscribe(topic, peer.clone(), local);
        if new {
            peers.watch(peer, local, Interest::Subscriber);
        }
        acknowledge(stamp);
        if new
            && let Some(last) = &self.last
            && let Some(payload) = last.lock().get(topic.as_bytes())
            && let Some(link) = &*peer.link()
        {
            link.send(self.lane(), local, &payload);
        }
        Ok(())
    }

    /// Ends the subscription of a process, whichever process made it and at whichever gateway. The
    /// relays that keep it and the other gateways are told. Returns the stamp of the ending and the
    /// announcements to the other gateways.
    ///
    /// `by` is the relay that requests this, if one does, which has ended the subscription itself.
    pub fn end(&self, peers: &Peers, topic: &Topic, pid: &Pid, by: Option<&Keeper>) -> (u64, Told) {
        let mut table = self.table.write();
        let now = clock::unix_micros();
        if let Some(by) = by {
            table.keepers.announce(by, now);
        }
        if let Some(peer) = peers.find(pid)
            && table.keepers.is_relay(&peer, pid.into())
        {
            self.take_out(&mut table, peers, topic.as_bytes(), (&peer, pid.into()));
            table.keepers.weigh(topic, &peer, 1);
            return (table.keepers.stamp(now), Told::new());
        }
        let stamp = table.keepers.stamp(now);
        let end = Ending { topic, pid, stamp, remember: by.is_none() };
        self.end_here(&mut table, peers, &end, by);
        let gateways = table.gateways.iter();
        let told = gateways.map(|g| (g.clone(), g.ended(self.name(), &end))).collect();
        (stamp, told)
    }

    /// Ends the subscription of a process at this gateway alone, because its relay has changed to
    /// another gateway.
    pub fn forget(&self, peers: &Peers, topic: &Topic, pid: &Pid) {
        let Some(peer) = peers.find(pid) else { return };
        self.take_out(&mut self.table.write(), peers, topic.as_bytes(), (&peer, pid.into()));
    }

    /// Handles the end of a subscription at another gateway.
    pub fn ended_elsewhere(&self, peers: &Peers, end: &Ending<'_>) {
        let mut table = self.table.write();
        table.keepers.observe(end.stamp, clock::unix_micros());
        self.end_here(&mut table, peers, end, None);
    }

    fn end_here(&self, table: &mut Table, peers: &Peers, end: &Ending<'_>, by: Option<&Keeper>) {
        let Ending { topic, pid, stamp, remember } = *end;
        if remember {
            table.keepers.end(topic, pid, stamp);
        }
        let Some(peer) = peers.find(pid) else { return };
        self.take_out(table, peers, topic.as_bytes(), (&peer, pid.into()));
        for keeper in table.keepers.tell(topic, &peer, pid.into()) {
            let asks = by.is_some_and(|by| by.peer == keeper.peer);
            // A subscription that a relay ends for a process of its own node is already ended
            // there.
            if !asks && (remember || keeper.peer != peer) {
                tell_ended(&keeper, topic, pid, stamp);
            }
        }
    }

    fn take_out(
        &self,
        table: &mut Table,
        peers: &Peers,
        topic: &[u8],
        (peer, local): (&PeerRef, LocalPid),
    ) {
        let expected =
            table.no_more(topic, |process| process.peer == *peer && process.local == local);
        let known = table.subscribers.unsubscribe(topic, peer, local);
        if known {
            peers.unwatch(peer, local, Interest::Subscriber);
        }
        if (known || expected) && !table.gateways.is_empty() && !table.wants(topic) {
            for gateway in &table.gateways {
                gateway.gone(self.name(), topic);
            }
        }
    }

    /// Adds another gateway. It is told the desired topics, as far as they fit into one part, and
    /// all later changes. Returns the state that it still has to be told.
    pub fn attach(&self, gateway: &Arc<Gateway>) -> Introduction {
        let mut table = self.table.write();
        table.gateways.push(gateway.clone());
        let mut left = Introduction::default();
        match &self.last {
            Some(last) => last.lock().each(|at, payload| left.last.push((at, payload.clone()))),
            None => {
                let names = table.subscribers.names();
                let own = names.filter(|topic| table.has_own(topic.as_bytes()));
                let topics: BTreeSet<_> = own.chain(table.expected.keys()).collect();
                let mut topics = topics.into_iter();
                let first = topics.by_ref().take(TOPICS_AT_A_TIME);
                let first = first.map(|topic| topic.as_bytes().to_vec()).collect();
                gateway.wants(self.name(), first, true);
                left.topics.extend(topics.cloned());
            }
        }
        left
    }

    /// Announces these topics to `gateway`, as far as they are still desired. Returns the number
    /// whose acknowledgement is to be awaited.
    pub fn tell_of(&self, gateway: &Gateway, topics: &[Topic]) -> u64 {
        let table = self.table.read();
        let topics = topics.iter().map(Topic::as_bytes).filter(|topic| table.wants(topic));
        gateway.wants(self.name(), topics.map(<[u8]>::to_vec).collect(), false)
    }

    /// Removes another gateway whose connection has ended.
    pub fn detach(&self, connection: &Arc<Connection>) {
        self.table.write().gateways.retain(|gateway| !gateway.is_at(connection));
    }

    /// Handles the announcement that the gateway `peer` desires `topics`, or with `alone` only
    /// these. Its process `taker` receives their messages.
    pub fn wanted(
        self: &Arc<Self>,
        peer: &PeerRef,
        taker: LocalPid,
        topics: impl Iterator<Item = Topic>,
        alone: bool,
    ) {
        let mut table = self.table.write();
        if alone && table.subscribers.remove_peer(peer) {
            self.end_leaving(&mut table);
        }
        for topic in topics {
            if table.subscribers.bytes() >= MAX_SUBSCRIPTION_BYTES {
                tracing::warn!(
                    channel = self.name(),
                    "too many subscriptions: \
                    messages for topics of another gateway do not reach it"
                );
                return;
            }
            table.subscribers.subscribe(&topic, peer.clone(), taker);
        }
    }

    /// Handles the announcement that the gateway `peer` no longer desires a topic.
    pub fn unwanted(&self, peer: &PeerRef, taker: LocalPid, topic: &[u8]) {
        self.table.write().subscribers.unsubscribe(topic, peer, taker);
    }

    /// Delivers a message that was published at another gateway to the subscribers of this gateway.
    pub fn relay(&self, from: &Gateway, topic: &[u8], term: &Bytes) {
        let payload = self.payload(topic, term);
        {
            let table = self.table.read();
            let mut delivered = 0;
            let mut wanted = self.last.is_some() || table.expected.contains_key(topic);
            for (peer, locals) in table.subscribers.get(topic).filter(|(p, _)| !p.is_gateway()) {
                wanted = true;
                match &*peer.link() {
                    Some(link) => {
                        link.send_many(self.lane(), locals, &payload);
                        delivered += locals.len();
                    }
                    None => self.undelivered(peer, locals),
                }
            }
            self.traffic.relayed(delivered);
            if let Some(last) = &self.last {
                last.lock().put(topic, clock::unix_millis(), payload);
            }
            if wanted {
                return;
            }
        }
        // The subscribers have died. Nobody subscribes between the look and the word.
        let table = self.table.write();
        if !table.wants(topic) {
            from.gone(self.name(), topic);
        }
    }

    /// Records the last message of a topic, published `at`, that another gateway knows.
    pub fn last_was(&self, topic: &[u8], at: u64, term: &Bytes) {
        if let Some(last) = &self.last
            && Topic::check(topic).is_ok()
        {
            let _order = self.table.read();
            let mut last = last.lock();
            if last.published(topic).is_none_or(|known| known < at) {
                last.put(topic, at, self.payload(topic, term));
            }
        }
    }

    /// Returns the number of processes that are subscribed to a topic at this gateway, and of
    /// gateways.
    pub fn count(&self, topic: &[u8]) -> usize {
        self.table.read().subscribers.get(topic).map(|(_, locals)| locals.len()).sum()
    }

    /// Returns the processes that are subscribed to a topic at this gateway.
    pub fn subscribers(&self, topic: &[u8]) -> Vec<Pid> {
        let table = self.table.read();
        table
            .subscribers
            .get(topic)
            .filter(|(peer, _)| !peer.is_gateway())
            .flat_map(|(peer, locals)| locals.iter().map(|local| peer.pid(*local)))
            .collect()
    }

    /// Returns the counts of the channel's messages.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Returns the number of topics that have subscribers.
    pub fn topics(&self) -> usize {
        self.table.read().subscribers.topics()
    }

    /// Returns the number of topics with subscribers that `matches` accepts, and `limit` of them with
    /// the number of processes that are subscribed here.
    pub fn matching_topics(
        &self,
        matches: impl Fn(&[u8]) -> bool,
        limit: usize,
    ) -> (usize, Vec<(Topic, usize)>) {
        let table = self.table.read();
        let (mut total, mut found) = (0, Vec::new());
        for topic in table.subscribers.names().filter(|topic| matches(topic.as_bytes())) {
            total += 1;
            if found.len() < limit {
                let own = table.subscribers.get(topic.as_bytes());
                let own = own.filter(|(peer, _)| !peer.is_gateway());
                found.push((topic.clone(), own.map(|(_, locals)| locals.len()).sum()));
            }
        }
        (total, found)
    }

    /// Returns the nodes with subscribers, and for each the numbers of subscriptions and of
    /// processes.
    pub fn nodes(&self) -> Vec<(PeerRef, usize, usize)> {
        let table = self.table.read();
        let nodes = table.subscribers.peers();
        nodes.map(|(peer, topics, processes)| (peer.clone(), topics, processes)).collect()
    }

    /// Returns the number of processes that are subscribed to a topic here, and `limit` of them:
    /// the node, the process, and the number of processes that receive messages through it.
    pub fn topic_subscribers(
        &self,
        topic: &[u8],
        limit: usize,
    ) -> (usize, Vec<(PeerRef, LocalPid, u32)>) {
        let table = self.table.read();
        let own = || table.subscribers.get(topic).filter(|(peer, _)| !peer.is_gateway());
        let total = own().map(|(_, locals)| locals.len()).sum();
        let each = own().flat_map(|(peer, locals)| {
            let weight = table.keepers.weight(topic, peer);
            locals.iter().map(move |local| {
                let processes = weight.filter(|(relay, _)| relay == local).map_or(1, |(_, n)| n);
                (peer.clone(), *local, processes)
            })
        });
        (total, each.take(limit).collect())
    }

    /// Returns the number of subscriptions. Those of another gateway to one topic count as one.
    pub fn subscriptions(&self) -> usize {
        self.table.read().subscribers.len()
    }

    /// Removes a process that has ended.
    pub fn remove_process(self: &Arc<Self>, peer: &PeerRef, local: LocalPid) {
        let mut table = self.table.write();
        table.keepers.remove_process(peer, local);
        if table.subscribers.remove_process(peer, local) {
            self.end_leaving(&mut table);
        }
    }

    /// Removes all processes of an incarnation of a node.
    pub fn remove_peer(self: &Arc<Self>, peer: &PeerRef) {
        let mut table = self.table.write();
        table.keepers.remove_peer(peer);
        if table.subscribers.remove_peer(peer) {
            self.end_leaving(&mut table);
        }
    }

    /// Removes subscriptions of ended processes: a few at once, and if there are many the others in
    /// the background, between which other tasks use the table.
    fn end_leaving(self: &Arc<Self>, table: &mut Table) {
        if !table.subscribers.go_on(ENDED_AT_A_TIME) || std::mem::replace(&mut table.ending, true) {
            return;
        }
        let channel = self.clone();
        tokio::spawn(async move {
            while channel.end_some() {
                yield_now().await;
            }
        });
    }

    /// Removes further subscriptions of ended processes. Returns whether there are more.
    fn end_some(&self) -> bool {
        let mut table = self.table.write();
        table.ending = table.subscribers.go_on(ENDED_AT_A_TIME);
        table.ending
    }

    /// Records the number of processes of its node to which a relay passes a topic on.
    pub fn weigh(&self, topic: &Topic, keeper: &Keeper, processes: u32) {
        let mut table = self.table.write();
        table.keepers.announce(keeper, clock::unix_micros());
        table.keepers.weigh(topic, &keeper.peer, processes);
    }

    /// Returns the number of processes that receive messages of a topic through this gateway: those
    /// that are subscribed here, and those to which relays pass the messages on.
    pub fn recipients(&self, topic: &[u8]) -> usize {
        let table = self.table.read();
        let all = table.subscribers.get(topic);
        let own = all.filter(|(peer, _)| !peer.is_gateway() && peer.online());
        own.map(|(peer, locals)| match table.keepers.weight(topic, peer) {
            Some((relay, processes)) if locals.contains(&relay) => {
                locals.len() - 1 + processes as usize
            }
            _ => locals.len(),
        })
        .sum()
    }

    /// Publishes a message, the encoded `term`, to the subscribers of `topic`, unless it is
    /// refused. `topic_and_term` contains both, encoded.
    ///
    /// Subscribers receive `{channel_message, Channel, ` followed by these bytes unchanged. Returns
    /// the cost of the delivery; see [`Connection::charge`].
    pub fn publish(
        &self,
        secret: &Secret,
        (topic, term): (&[u8], &[u8]),
        topic_and_term: &Bytes,
        audience: Audience<'_>,
    ) -> Result<usize, Refusal> {
        let begun = self.traffic.begin();
        let signed = self.policy.hmac == Hmac::Required;
        if signed && !sign::has_signature(term) {
            return Err(Refusal::SignatureRequired);
        }
        if let Some(limiter) = &self.limiter
            && !limiter.lock().check(topic, clock::monotonic_nanos())
        {
            return Err(Refusal::RateLimited);
        }
        if signed {
            secret.verify(term).map_err(Refusal::Signature)?;
        }
        let draft = Draft::new(&self.prefix, topic_and_term);
        let mut delivered = 0;
        let mut work = 0_usize;
        {
            let table = self.table.read();
            for (peer, locals) in table.subscribers.get(topic) {
                work = work.saturating_add(NODE + locals.len() * SUBSCRIBER);
                let Some(link) = &*peer.link() else {
                    self.undelivered(peer, locals);
                    continue;
                };
                if audience.has_served(link)
                    && let Some(relay) = table.keepers.relay(peer)
                {
                    let others: Vec<_> = locals.iter().copied().filter(|l| *l != relay).collect();
                    if !others.is_empty() {
                        link.send_draft(self.lane(), &others, &draft);
                    }
                    delivered += others.len();
                    continue;
                }
                link.send_draft(self.lane(), locals, &draft);
                delivered += locals.len();
            }
            if let Some(last) = &self.last {
                let payload = draft.payload();
                for gateway in &table.gateways {
                    gateway.send(self.lane(), payload);
                }
                last.lock().put(topic, clock::unix_millis(), payload.clone());
            }
        }
        self.traffic.published(begun, delivered);
        Ok(work)
    }

    /// Counts a message to subscribers on a node that is not connected.
    fn undelivered(&self, peer: &PeerRef, locals: &[LocalPid]) {
        let lane = self.lane();
        let (reason, messages) = (Reason::NotConnected, locals.len() as u64);
        self.drops.count(&self.name, peer.node(), lane, reason, messages);
    }

    /// Returns the lane of the channel's messages.
    fn lane(&self) -> Lane {
        match self.policy.priority {
            Priority::Critical => Lane::Critical,
            Priority::High => Lane::High,
            Priority::Normal => Lane::Normal,
            Priority::Low => Lane::Low,
        }
    }

    fn payload(&self, topic: &[u8], term: &Bytes) -> Payload {
        let mut head = Vec::with_capacity(5 + topic.len());
        encode::binary(&mut head, topic);
        Payload::new(&self.prefix, head, term.clone())
    }
}

/// The end of the subscription of a process.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// The topic of the subscription.
    pub topic: &'a Topic,
    /// The process.
    pub pid: &'a Pid,
    /// The stamp of the ending, which is greater than the stamps of the subscriptions that it ends.
    pub stamp: u64,
    /// Whether the ending is remembered for disconnected relays.
    pub remember: bool,
}

/// Sends `{esdb_gater_ended, Topic, Pid, Stamp}` to the relay of a node, before all messages that
/// are published from now on.
fn tell_ended(keeper: &Keeper, topic: &Topic, pid: &Pid, stamp: u64) {
    let Some(link) = &*keeper.peer.link() else { return };
    let mut out = Vec::with_capacity(128 + topic.as_bytes().len());
    encode::tuple(&mut out, 4);
    encode::atom(&mut out, "esdb_gater_ended");
    encode::binary(&mut out, topic.as_bytes());
    encode::pid(&mut out, pid);
    encode::uint(&mut out, stamp);
    link.send(Lane::Control, keeper.relay, &Payload::from(out));
}
