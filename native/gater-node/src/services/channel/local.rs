//! One channel: subscriptions, and the way of a published message.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use gater_core::channel::{Hmac, Policy, Priority, Subscribers, Topic};
use gater_core::limit::RateLimiter;
use gater_core::sign;
use gater_dist::{Connection, Draft, Lane, Opening, Payload};
use gater_term::{Atom, LocalPid, Pid, encode};
use parking_lot::{Mutex, RwLock};

use super::gateway::{Gateway, TOPICS_AT_A_TIME, Told};
use super::last::LastValues;
use crate::clock;
use crate::observe::drops::{Drops, Reason};
use crate::services::secret::Secret;
use crate::transport::peers::{Interest, PeerRef, Peers};

/// Topics whose rate is remembered per channel; the idlest go first.
const MAX_RATED_TOPICS: usize = 100_000;

/// Subscriptions of one channel, some 100 bytes each.
const MAX_SUBSCRIPTIONS: usize = 4_000_000;

/// A channel of the gateway.
pub struct Channel {
    name: Atom,
    policy: Policy,
    drops: Arc<Drops>,
    /// `{channel_message, Channel, ` without what follows: the same for every message.
    opening: Arc<Opening>,
    table: RwLock<Table>,
    limiter: Option<Mutex<RateLimiter>>,
    last: Option<Mutex<LastValues>>,
}

/// Who is to get messages.
#[derive(Default)]
struct Table {
    /// Processes, and for other gateways the process there that takes messages for theirs.
    subscribers: Subscribers<PeerRef>,
    /// The other gateways that are connected.
    gateways: Vec<Arc<Gateway>>,
    /// Processes that are about to be subscribed, by topic.
    expected: HashMap<Topic, Vec<Expected>>,
    last_ticket: u64,
}

/// What another gateway is still to be told of a channel.
#[derive(Default)]
pub struct Introduction {
    /// Topics that are wanted here.
    pub topics: Vec<Topic>,
    /// Last messages, and when they were published.
    pub last: Vec<(u64, Payload)>,
}

/// A process that is about to be subscribed.
struct Expected {
    ticket: u64,
    peer: PeerRef,
    local: LocalPid,
}

impl Table {
    /// Whether a process that is not of another gateway is subscribed.
    fn has_own(&self, topic: &[u8]) -> bool {
        self.subscribers.get(topic).any(|(peer, _)| !peer.is_gateway())
    }

    fn wants(&self, topic: &[u8]) -> bool {
        self.has_own(topic) || self.expected.contains_key(topic)
    }

    /// Those that `are` it are not about to be subscribed any more; whether there were any.
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

/// The channel has as many subscriptions as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySubscriptions;

/// Why a message was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The topic's rate is used up.
    RateLimited,
    /// The channel takes signed messages only.
    SignatureRequired,
    /// The signature is there but does not hold.
    Signature(sign::VerifyError),
}

impl Refusal {
    /// The reason as callers see it in `{error, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::SignatureRequired => "signature_required",
            Self::Signature(error) => error.as_atom(),
        }
    }
}

impl Channel {
    /// A channel without subscribers; `tag` is the first element of its messages.
    pub fn new(tag: &Atom, name: Atom, policy: Policy, drops: Arc<Drops>) -> Self {
        Self {
            opening: Arc::new(Opening::tuple(4, &[tag.clone(), name.clone()])),
            name,
            table: RwLock::default(),
            limiter: policy
                .max_rate
                .map(|rate| Mutex::new(RateLimiter::new(rate, MAX_RATED_TOPICS))),
            last: policy.replay_last.then(Mutex::default),
            policy,
            drops,
        }
    }

    /// The registered name of the channel, as an atom.
    pub fn atom(&self) -> &Atom {
        &self.name
    }

    /// The registered name of the channel.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Priority, rate and signature rule.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A process is about to be subscribed: the other gateways are told, if they do not know
    /// that the topic is wanted. Gives a ticket for [`Channel::subscribe`] and what they were told;
    /// or nothing if there is nobody to tell, unless the subscription `waits` for something else.
    pub fn expect(
        &self,
        topic: &Topic,
        (peer, local): (&PeerRef, LocalPid),
        waits: bool,
    ) -> Option<(u64, Told)> {
        // Channels with last messages get every message.
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

    /// Subscribes a process, and has it acknowledged. On channels that keep the last
    /// message of a topic, a process that was not subscribed is sent that then.
    ///
    /// No message is published on the channel meanwhile: what is sent is older than all
    /// that follows, and is not sent twice. One with a `ticket` that was unsubscribed since stays so.
    pub fn subscribe(
        &self,
        peers: &Peers,
        topic: &Topic,
        (peer, local): (&PeerRef, LocalPid),
        ticket: Option<u64>,
        acknowledge: impl FnOnce(),
    ) -> Result<(), TooManySubscriptions> {
        // Table and watch change under one lock: a subscribe and an unsubscribe of
        // the same process must not cross between the two.
        let mut table = self.table.write();
        if let Some(ticket) = ticket
            && !table.no_more(topic.as_bytes(), |process| process.ticket == ticket)
        {
            acknowledge();
            return Ok(());
        }
        if table.subscribers.len() >= MAX_SUBSCRIPTIONS {
            return Err(TooManySubscriptions);
        }
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
        acknowledge();
        if new
            && let Some(last) = &self.last
            && let Some(payload) = last.lock().get(topic.as_bytes())
            && let Some(link) = &*peer.link()
        {
            link.send(self.lane(), local, &payload);
        }
        Ok(())
    }

    /// Ends a subscription; whether there was one.
    pub fn unsubscribe(
        &self,
        peers: &Peers,
        topic: &[u8],
        peer: &PeerRef,
        local: LocalPid,
    ) -> bool {
        let mut table = self.table.write();
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
        known || expected
    }

    /// Another gateway is connected. It is told what is wanted here, as far as that goes in one
    /// part, and all that changes from now on; what is left to be told is given back.
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

    /// Tells `gateway` that these topics are wanted, too, as far as they still are. The number
    /// to wait for.
    pub fn tell_of(&self, gateway: &Gateway, topics: &[Topic]) -> u64 {
        let table = self.table.read();
        let topics = topics.iter().map(Topic::as_bytes).filter(|topic| table.wants(topic));
        gateway.wants(self.name(), topics.map(<[u8]>::to_vec).collect(), false)
    }

    /// Another gateway's connection is gone.
    pub fn detach(&self, connection: &Arc<Connection>) {
        self.table.write().gateways.retain(|gateway| !gateway.is_at(connection));
    }

    /// The gateway `peer` wants `topics` as well, or `alone`. Its process `taker` gets them.
    pub fn wanted(
        &self,
        peer: &PeerRef,
        taker: LocalPid,
        topics: impl Iterator<Item = Topic>,
        alone: bool,
    ) {
        let mut table = self.table.write();
        if alone {
            table.subscribers.remove_peer(peer);
        }
        for topic in topics {
            if table.subscribers.len() >= MAX_SUBSCRIPTIONS {
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

    /// The gateway `peer` does not want a topic any more.
    pub fn unwanted(&self, peer: &PeerRef, taker: LocalPid, topic: &[u8]) {
        self.table.write().subscribers.unsubscribe(topic, peer, taker);
    }

    /// A message that was published at another gateway: for the processes that are subscribed here.
    pub fn relay(&self, from: &Gateway, topic: &[u8], term: &Bytes) {
        let payload = self.payload(topic, term);
        {
            let table = self.table.read();
            let mut wanted = self.last.is_some() || table.expected.contains_key(topic);
            for (peer, locals) in table.subscribers.get(topic).filter(|(p, _)| !p.is_gateway()) {
                wanted = true;
                match &*peer.link() {
                    Some(link) => link.send_many(self.lane(), locals, &payload),
                    None => self.undelivered(peer, locals),
                }
            }
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

    /// Another gateway knows this as the last message of a topic, published `at`.
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

    /// The processes that are subscribed to a topic at this gateway.
    pub fn subscribers(&self, topic: &[u8]) -> Vec<Pid> {
        let table = self.table.read();
        table
            .subscribers
            .get(topic)
            .filter(|(peer, _)| !peer.is_gateway())
            .flat_map(|(peer, locals)| locals.iter().map(|local| peer.pid(*local)))
            .collect()
    }

    /// The number of subscriptions, those of other gateways counted as one a topic.
    pub fn subscriptions(&self) -> usize {
        self.table.read().subscribers.len()
    }

    /// A process is gone.
    pub fn remove_process(&self, peer: &PeerRef, local: LocalPid) {
        self.table.write().subscribers.remove_process(peer, local);
    }

    /// All processes of a node's incarnation are gone.
    pub fn remove_peer(&self, peer: &PeerRef) {
        self.table.write().subscribers.remove_peer(peer);
    }

    /// Publishes a message, `term` of the wire, to the subscribers of `topic`;
    /// to how many of this gateway's own, if it may be published. `topic_and_term` are
    /// the two, encoded.
    ///
    /// What subscribers get is `{channel_message, Channel, ` and these bytes as they are.
    pub fn publish(
        &self,
        secret: &Secret,
        topic: &[u8],
        term: &[u8],
        topic_and_term: &Bytes,
    ) -> Result<usize, Refusal> {
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
        let draft = Draft::new(&self.opening, topic_and_term);
        let mut recipients = 0;
        {
            let table = self.table.read();
            for (peer, locals) in table.subscribers.get(topic) {
                let Some(link) = &*peer.link() else {
                    self.undelivered(peer, locals);
                    continue;
                };
                link.send_draft(self.lane(), locals, &draft);
                if !peer.is_gateway() {
                    recipients += locals.len();
                }
            }
            if let Some(last) = &self.last {
                let payload = draft.payload();
                for gateway in &table.gateways {
                    gateway.send(self.lane(), payload);
                }
                last.lock().put(topic, clock::unix_millis(), payload.clone());
            }
        }
        Ok(recipients)
    }

    /// The node of these subscribers cannot be reached now.
    fn undelivered(&self, peer: &PeerRef, locals: &[LocalPid]) {
        let lane = self.lane();
        let (reason, messages) = (Reason::NotConnected, locals.len() as u64);
        self.drops.count(&self.name, peer.node(), lane, reason, messages);
    }

    /// The lane on which the channel's messages leave.
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
        Payload::new(&self.opening, head, term.clone())
    }
}
