//! Decides who may speak as a gateway.
//!
//! The cookie allows any node to connect. Messages between gateways are accepted from gateways
//! only: the name of the node on the connection, the id in the message and the membership have to
//! agree, and one connection speaks for one id. Where a cluster has a [`ClusterKey`], both ends
//! first have to prove that they know it, and a gateway that has not proved it is asked nothing.
//!
//! A gateway with outdated knowledge may meet a member that it does not know yet. It believes the
//! members that it does know, which report the members ([`Trust::vouch`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gater_dist::Connection;
use parking_lot::Mutex;

use super::bootstrap::ClusterId;
use super::key::{ClusterKey, End, KeyMessage, Nonce, Proof};
use super::refusals::{Reason, Refusals};
use crate::config::is_node_name;
use crate::registry::replica::{NodeId, Replica};

/// The greatest number of members for which one gateway may vouch.
const MAX_VOUCHED: usize = 256;
/// The time for which an operator's request to admit a gateway stands.
const INVITED_FOR: Duration = Duration::from_secs(30);
/// The limit of messages from one connection that do not belong to consensus: the number at once,
/// and the number per second.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 50.0;

/// The relation of another gateway to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// The other gateway is a member of this gateway's cluster.
    Member,
    /// This gateway belongs to no cluster yet, and the other is one of those with which it may
    /// bootstrap one.
    Founder,
    /// The name is known but the id is not, so the gateway may ask for admission.
    Applicant,
    /// The node is not a gateway.
    Stranger,
}

/// One connection to a gateway.
struct Seat {
    connection: Arc<Connection>,
    /// The id for which the connection speaks.
    id: Option<NodeId>,
    own_nonce: Nonce,
    their_nonce: Option<Nonce>,
    /// Whether a proof was sent.
    answered: bool,
    proof: Proved,
    /// Whether the other end has reported what it remembers of this gateway.
    is_introduced: bool,
    /// The remaining messages of the connection, and the time to which this number applies.
    budget: (f64, Instant),
}

/// The state of the proof of the key on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proved {
    NotYet,
    Right,
    Wrong,
}

/// Decides who may speak as a gateway.
pub struct Trust {
    own_name: String,
    listed: BTreeSet<String>,
    key: Option<ClusterKey>,
    replica: Arc<Replica>,
    creation: u32,
    seats: Mutex<Vec<Seat>>,
    /// The members, by the id of the member that reports them.
    vouched: Mutex<BTreeMap<NodeId, Vec<(NodeId, String)>>>,
    /// The clusters to which listed gateways belong.
    heard: Mutex<BTreeMap<String, ClusterId>>,
    /// The gateways that an operator is admitting, and the time of the request.
    invited: Mutex<BTreeMap<String, Instant>>,
    refusals: Refusals,
}

impl Trust {
    /// Returns the decisions of the gateway with this name and incarnation, whose cluster is to
    /// consist of `listed`.
    pub fn new(
        (own_name, creation): (&str, u32),
        listed: BTreeSet<String>,
        key: Option<ClusterKey>,
        replica: Arc<Replica>,
    ) -> Self {
        Self {
            own_name: own_name.to_owned(),
            listed,
            key,
            replica,
            creation,
            seats: Mutex::default(),
            vouched: Mutex::default(),
            heard: Mutex::default(),
            invited: Mutex::default(),
            refusals: Refusals::default(),
        }
    }

    /// Returns the id of this gateway.
    pub fn own_id(&self) -> NodeId {
        self.replica.node_id()
    }

    /// Counts a refused message of the node at the other end of `connection`.
    pub fn refuse(&self, reason: Reason, connection: &Connection, detail: &dyn Display) {
        self.refusals.count(reason, connection.peer().name.as_str(), detail);
    }

    /// Returns the number of refused messages.
    pub fn refused(&self) -> u64 {
        self.refusals.total()
    }

    /// Returns whether a node of that name may be a gateway, whatever its id.
    pub fn knows(&self, name: &str) -> bool {
        name != self.own_name
            && (self.listed.contains(name)
                || self.replica.has_member(|_, member| member == name)
                || self.vouched(|_, member| member == name)
                || self.is_invited(name))
    }

    /// Allows the gateway `name` to introduce itself for a limited time, since an operator admits
    /// it.
    pub fn invite(&self, name: &str) {
        let mut invited = self.invited.lock();
        invited.retain(|_, since| since.elapsed() < INVITED_FOR);
        invited.insert(name.to_owned(), Instant::now());
    }

    fn is_invited(&self, name: &str) -> bool {
        self.invited.lock().get(name).is_some_and(|since| since.elapsed() < INVITED_FOR)
    }

    /// Returns the relation of the gateway `name` with the id `id` to this one.
    pub fn rank(&self, name: &str, id: NodeId) -> Rank {
        if name == self.own_name || id == self.own_id() {
            return Rank::Stranger;
        }
        let is_it = |other: NodeId, member: &str| other == id && member == name;
        if self.replica.has_member(is_it) || self.vouched(is_it) {
            return Rank::Member;
        }
        let is_waiting = !self.replica.has_member(|_, _| true);
        match self.knows(name) {
            true if is_waiting => Rank::Founder,
            true => Rank::Applicant,
            false => Rank::Stranger,
        }
    }

    /// Returns whether the other end of `connection`, as `id`, is a member and has proved the key.
    pub fn is_member(&self, connection: &Arc<Connection>, id: NodeId) -> bool {
        self.rank(connection.peer().name.as_str(), id) == Rank::Member
            && self.has_proved(connection)
            && self.speaks_for(connection, id)
    }

    /// Returns whether `name` is among the names from which bootstrap messages may come.
    pub fn lists(&self, name: &str) -> bool {
        self.listed.contains(name)
    }

    /// Records the members that the gateway `by` reports. The report counts if `by` is a member
    /// itself, or one of those with which this gateway may belong to a cluster.
    pub fn vouch(&self, name: &str, by: NodeId, members: &[(NodeId, String)]) {
        let is_known = self.replica.has_member(|id, member| id == by && member == name);
        let is_waiting = !self.replica.has_member(|_, _| true);
        let counts = is_known || is_waiting && self.listed.contains(name);
        if !counts {
            return;
        }
        let members = members
            .iter()
            .filter(|(_, name)| is_node_name(name))
            .take(MAX_VOUCHED)
            .cloned()
            .collect();
        let mut vouched = self.vouched.lock();
        if !is_waiting {
            // A gateway that was a member when it vouched may no longer be one.
            vouched.retain(|by, _| self.replica.has_member(|id, _| id == *by));
        }
        if vouched.len() < MAX_VOUCHED {
            vouched.insert(by, members);
        }
    }

    fn vouched(&self, is_it: impl Fn(NodeId, &str) -> bool) -> bool {
        let vouched = self.vouched.lock();
        vouched.values().flatten().any(|(id, name)| is_it(*id, name))
    }

    /// Records that the listed gateway `name` belongs to `cluster`.
    pub fn hear(&self, name: &str, cluster: Option<ClusterId>) {
        if !self.listed.contains(name) {
            return;
        }
        let mut heard = self.heard.lock();
        match cluster {
            Some(cluster) => heard.insert(name.to_owned(), cluster),
            None => heard.remove(name),
        };
    }

    /// Returns whether `cluster` is the one to which this gateway, which belongs to none, is to
    /// belong: all listed gateways that belong to a cluster name it.
    pub fn expects(&self, cluster: ClusterId) -> bool {
        let heard = self.heard.lock();
        !heard.is_empty() && heard.values().all(|of_other| *of_other == cluster)
    }

    /// Returns whether the other end of `connection` has proved that it knows the key. Without a
    /// key this is always true.
    pub fn has_proved(&self, connection: &Arc<Connection>) -> bool {
        self.key.is_none()
            || self.with_seat(connection, |seat| seat.proof == Proved::Right).unwrap_or(false)
    }

    /// Returns whether the other end of `connection` has the id `id`. A connection keeps the first
    /// id that it names.
    pub fn speaks_for(&self, connection: &Arc<Connection>, id: NodeId) -> bool {
        self.sit(connection);
        self.with_seat(connection, |seat| *seat.id.get_or_insert(id) == id).unwrap_or(false)
    }

    /// Whether the other end of `connection` has another id than `id`, as far as it has told.
    pub fn is_another(&self, connection: &Arc<Connection>, id: NodeId) -> bool {
        self.with_seat(connection, |seat| seat.id.is_some_and(|other| other != id)).unwrap_or(false)
    }

    /// Records that the other end of `connection` has reported what it remembers of this gateway.
    pub fn introduce(&self, connection: &Arc<Connection>) {
        self.sit(connection);
        self.with_seat(connection, |seat| seat.is_introduced = true);
    }

    /// Returns whether the other end of `connection` has reported what it remembers of this
    /// gateway.
    pub fn is_introduced(&self, connection: &Arc<Connection>) -> bool {
        self.with_seat(connection, |seat| seat.is_introduced).unwrap_or(false)
    }

    /// Returns whether the other end of `connection` may send one more message now that does not
    /// belong to consensus.
    pub fn has_budget(&self, connection: &Arc<Connection>) -> bool {
        self.sit(connection);
        let spend = |seat: &mut Seat| {
            let now = Instant::now();
            let (left, at) = seat.budget;
            let left = now.duration_since(at).as_secs_f64().mul_add(PER_SECOND, left).min(BURST);
            let is_enough = left >= 1.0;
            seat.budget = (if is_enough { left - 1.0 } else { left }, now);
            is_enough
        };
        self.with_seat(connection, spend).unwrap_or(false)
    }

    /// Returns the challenge for the other end of `connection`, a gateway, if there is a key and it
    /// was not challenged before.
    pub fn challenge(&self, connection: &Arc<Connection>) -> Option<KeyMessage> {
        self.key.as_ref()?;
        let own = self.sit(connection)?;
        Some(KeyMessage::Challenge(own))
    }

    /// Handles a message about the key from a gateway. Returns the messages to answer with, and
    /// whether the other end has just proved the key.
    pub fn key_message(
        &self,
        connection: &Arc<Connection>,
        message: KeyMessage,
    ) -> (Vec<KeyMessage>, bool) {
        let Some(key) = &self.key else {
            self.refuse(Reason::NoKey, connection, &"cluster.key is not set");
            return (Vec::new(), false);
        };
        self.sit(connection);
        match message {
            KeyMessage::Challenge(theirs) => {
                let nonces = self.with_seat(connection, |seat| {
                    (seat.own_nonce, *seat.their_nonce.get_or_insert(theirs), seat.answered)
                });
                let Some((own, known, answered)) = nonces else { return (Vec::new(), false) };
                if known != theirs {
                    self.refuse(Reason::TooMany, connection, &"a second challenge");
                    return (Vec::new(), false);
                }
                let (own_end, other) = self.ends(connection, &own, &theirs);
                if answered {
                    return (Vec::new(), false);
                }
                self.with_seat(connection, |seat| seat.answered = true);
                let proof = KeyMessage::Proof(key.prove(own_end, other));
                // The other gateway's challenge may have arrived before it knew this one to be a
                // gateway, and this gateway's challenge may have been sent before the other knew
                // this one.
                (vec![KeyMessage::Challenge(own), proof], false)
            }
            KeyMessage::Proof(proof) => {
                let is_right = self.check(key, connection, &proof);
                if !is_right {
                    self.refuse(Reason::WrongProof, connection, &"its proof is wrong");
                }
                (Vec::new(), is_right)
            }
        }
    }

    fn check(&self, key: &ClusterKey, connection: &Arc<Connection>, proof: &Proof) -> bool {
        let nonces = self.with_seat(connection, |seat| {
            (seat.proof == Proved::NotYet).then_some((seat.own_nonce, seat.their_nonce))
        });
        let Some(Some((own, Some(theirs)))) = nonces else { return false };
        let (own, other) = self.ends(connection, &own, &theirs);
        let is_right = key.verify(other, own, proof);
        let proved = if is_right { Proved::Right } else { Proved::Wrong };
        self.with_seat(connection, |seat| seat.proof = proved);
        is_right
    }

    /// Returns this end of a connection and the other one.
    fn ends<'a>(
        &'a self,
        connection: &'a Connection,
        own: &'a Nonce,
        theirs: &'a Nonce,
    ) -> (End<'a>, End<'a>) {
        let peer = connection.peer();
        (
            End { name: &self.own_name, creation: self.creation, nonce: own },
            End { name: peer.name.as_str(), creation: peer.creation, nonce: theirs },
        )
    }

    /// Remembers a connection to a gateway. Returns the nonce that was drawn for it if it is new.
    fn sit(&self, connection: &Arc<Connection>) -> Option<Nonce> {
        let mut seats = self.seats.lock();
        let is_known = seats.iter().any(|seat| Arc::ptr_eq(&seat.connection, connection));
        if is_known || connection.is_closed() {
            return None;
        }
        let mut own_nonce = Nonce::default();
        // Without random bytes there is no seat, and no message of the connection is accepted.
        getrandom::fill(&mut own_nonce).ok()?;
        seats.push(Seat {
            connection: connection.clone(),
            id: None,
            own_nonce,
            their_nonce: None,
            answered: false,
            proof: Proved::NotYet,
            is_introduced: false,
            budget: (BURST, Instant::now()),
        });
        Some(own_nonce)
    }

    /// Handles the end of a connection.
    pub fn leave(&self, connection: &Arc<Connection>) {
        self.seats.lock().retain(|seat| !Arc::ptr_eq(&seat.connection, connection));
    }

    fn with_seat<R>(
        &self,
        connection: &Arc<Connection>,
        look: impl FnOnce(&mut Seat) -> R,
    ) -> Option<R> {
        let mut seats = self.seats.lock();
        seats.iter_mut().find(|seat| Arc::ptr_eq(&seat.connection, connection)).map(look)
    }
}
