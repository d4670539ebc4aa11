//! One channel: subscriptions, and the way of a published message.

use std::sync::Arc;

use bytes::Bytes;
use gater_core::channel::{Hmac, LocalPid, Policy, Subscribers, Topic};
use gater_core::etf::{Atom, Pid, Reader, encode};
use gater_core::limit::RateLimiter;
use gater_core::sign;
use gater_dist::{Opening, Payload};
use parking_lot::{Mutex, RwLock};

use super::last::LastValues;
use crate::clock;
use crate::peers::{Interest, PeerRef, Peers};
use crate::secret::Secret;

/// Topics whose rate is remembered per channel; the idlest go first.
const MAX_RATED_TOPICS: usize = 100_000;

/// Subscriptions of one channel, some 100 bytes each.
const MAX_SUBSCRIPTIONS: usize = 4_000_000;

/// A channel of the gateway.
pub struct Channel {
    name: Atom,
    policy: Policy,
    /// `{channel_message, Channel, ` without what follows: the same for every message.
    opening: Arc<Opening>,
    subscribers: RwLock<Subscribers<PeerRef>>,
    limiter: Option<Mutex<RateLimiter>>,
    last: Option<Mutex<LastValues>>,
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
    pub fn new(tag: &Atom, name: Atom, policy: Policy) -> Self {
        Self {
            opening: Arc::new(Opening::tuple(4, &[tag.clone(), name.clone()])),
            name,
            subscribers: RwLock::default(),
            limiter: policy
                .max_rate
                .map(|rate| Mutex::new(RateLimiter::new(rate, MAX_RATED_TOPICS))),
            last: policy.replay_last.then(Mutex::default),
            policy,
        }
    }

    /// The registered name of the channel.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Priority, rate and signature rule.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Subscribes a process, and has it acknowledged. On channels that keep the last
    /// message of a topic, a process that was not subscribed is sent that then.
    ///
    /// No message is published on the channel meanwhile: what is sent is older than all
    /// that follows, and is not sent twice.
    pub fn subscribe(
        &self,
        peers: &Peers,
        topic: &Topic,
        peer: &PeerRef,
        local: LocalPid,
        acknowledge: impl FnOnce(),
    ) -> Result<(), TooManySubscriptions> {
        // Table and watch change under one lock: a subscribe and an unsubscribe of
        // the same process must not cross between the two.
        let mut subscribers = self.subscribers.write();
        if subscribers.len() >= MAX_SUBSCRIPTIONS {
            return Err(TooManySubscriptions);
        }
        let new = subscribers.subscribe(topic, peer.clone(), local);
        if new {
            peers.watch(peer, local, Interest::Subscriber);
        }
        acknowledge();
        if new
            && let Some(last) = &self.last
            && let Some(payload) = last.lock().get(topic.as_bytes())
            && let Some(link) = &*peer.link()
        {
            link.send(self.policy.priority.into(), local, &payload);
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
        let mut subscribers = self.subscribers.write();
        let known = subscribers.unsubscribe(topic, peer, local);
        if known {
            peers.unwatch(peer, local, Interest::Subscriber);
        }
        known
    }

    /// The subscribers of a topic.
    pub fn subscribers(&self, topic: &[u8]) -> Vec<Pid> {
        let subscribers = self.subscribers.read();
        subscribers
            .get(topic)
            .flat_map(|(peer, locals)| locals.iter().map(|local| peer.pid(*local)))
            .collect()
    }

    /// The number of subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.subscribers.read().len()
    }

    /// A process is gone.
    pub fn remove_process(&self, peer: &PeerRef, local: LocalPid) {
        self.subscribers.write().remove_process(peer, local);
    }

    /// All processes of a node's incarnation are gone.
    pub fn remove_peer(&self, peer: &PeerRef) {
        self.subscribers.write().remove_peer(peer);
    }

    /// Publishes a message, `term` of the wire, to the subscribers of `topic`;
    /// to how many, if it may be published.
    ///
    /// The message is encoded once, whatever the number of subscribers.
    pub fn publish(&self, secret: &Secret, topic: &[u8], term: &Bytes) -> Result<usize, Refusal> {
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
        let payload = self.payload(topic, term);
        let mut recipients = 0;
        {
            let subscribers = self.subscribers.read();
            for (peer, locals) in subscribers.get(topic) {
                if let Some(link) = &*peer.link() {
                    link.send_many(self.policy.priority.into(), locals, &payload);
                    recipients += locals.len();
                }
            }
            if let Some(last) = &self.last {
                last.lock().put(topic, payload);
            }
        }
        Ok(recipients)
    }

    fn payload(&self, topic: &[u8], term: &Bytes) -> Payload {
        let mut head = Vec::with_capacity(5 + topic.len());
        encode::binary(&mut head, topic);
        Payload::new(&self.opening, head, term.clone())
    }
}

/// Reads a topic: a binary of 1 to 255 bytes, else the encoded `{bad_topic, Reason}`.
pub fn topic<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], &'static str> {
    match reader.binary() {
        Ok(bytes) => Topic::check(bytes).map_err(|error| error.as_atom()),
        Err(_) => Err("not_binary"),
    }
}
