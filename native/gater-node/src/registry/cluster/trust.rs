//! Who may speak as a gateway.
//!
//! The cookie lets any node connect. What gateways say to each other is taken from gateways only:
//! the name of the node on the connection, the id in the message and the membership have to agree,
//! and one connection speaks for one id. Where a cluster has a [`ClusterKey`], both ends have to
//! have proved that they know it first, and nothing is asked of a gateway that has not.
//!
//! A gateway whose knowledge is old may meet a member that it does not know yet. It believes the
//! members it does know: they tell who the members are ([`Trust::vouch`]).

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

/// Members that one gateway may vouch for.
const MAX_VOUCHED: usize = 256;
/// How long an operator's wish to let a gateway in stands.
const INVITED_FOR: Duration = Duration::from_secs(30);
/// Messages that are no part of consensus, from one connection: so many at once, and so many a
/// second.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 50.0;

/// What a gateway is to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It is a member of this gateway's cluster.
    Member,
    /// This gateway belongs to no cluster yet, and the other is one of those it may belong to
    /// one with.
    Founder,
    /// Its name is known, and its id is not: it may ask to be let in.
    Applicant,
    /// It is no gateway.
    Stranger,
}

/// One connection to a gateway.
struct Seat {
    connection: Arc<Connection>,
    /// The id it speaks for.
    id: Option<NodeId>,
    own_nonce: Nonce,
    their_nonce: Option<Nonce>,
    /// Whether it was sent a proof.
    answered: bool,
    proof: Proved,
    /// Whether it has told what it remembers of this gateway.
    is_introduced: bool,
    /// What is left of its messages, and as of when.
    budget: (f64, Instant),
}

/// How far a connection has come in proving the key.
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
    /// Who the members are, by the id of the member that says so.
    vouched: Mutex<BTreeMap<NodeId, Vec<(NodeId, String)>>>,
    /// Which cluster the listed gateways belong to that belong to one.
    heard: Mutex<BTreeMap<String, ClusterId>>,
    /// Who is being let in by an operator, and since when.
    invited: Mutex<BTreeMap<String, Instant>>,
    refusals: Refusals,
}

impl Trust {
    /// The judgement of the gateway with this name and incarnation, whose cluster is to consist
    /// of `listed`.
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

    /// The id of this gateway.
    pub fn own_id(&self) -> NodeId {
        self.replica.node_id()
    }

    /// Counts a message of the node at the other end of `connection` that is refused.
    pub fn refuse(&self, reason: Reason, connection: &Connection, detail: &dyn Display) {
        self.refusals.count(reason, connection.peer().name.as_str(), detail);
    }

    /// How many messages were refused.
    pub fn refused(&self) -> u64 {
        self.refusals.total()
    }

    /// Whether a node of that name may be a gateway, whatever its id.
    pub fn knows(&self, name: &str) -> bool {
        name != self.own_name
            && (self.listed.contains(name)
                || self.replica.has_member(|_, member| member == name)
                || self.vouched(|_, member| member == name)
                || self.is_invited(name))
    }

    /// An operator lets the gateway `name` in: for a while it may say who it is.
    pub fn invite(&self, name: &str) {
        let mut invited = self.invited.lock();
        invited.retain(|_, since| since.elapsed() < INVITED_FOR);
        invited.insert(name.to_owned(), Instant::now());
    }

    fn is_invited(&self, name: &str) -> bool {
        self.invited.lock().get(name).is_some_and(|since| since.elapsed() < INVITED_FOR)
    }

    /// What the gateway `name` with the id `id` is to this one.
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

    /// Whether the other end of `connection`, as `id`, is a member and has proved the key.
    pub fn is_member(&self, connection: &Arc<Connection>, id: NodeId) -> bool {
        self.rank(connection.peer().name.as_str(), id) == Rank::Member
            && self.has_proved(connection)
            && self.speaks_for(connection, id)
    }

    /// Whether the names that bootstrap messages may come from include `name`.
    pub fn lists(&self, name: &str) -> bool {
        self.listed.contains(name)
    }

    /// The gateway `by` says who the members are; counts if it is a member itself, or one of
    /// those that this gateway may belong to a cluster with.
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
            // Whoever was a member may be none any more.
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

    /// The listed gateway `name` belongs to `cluster`.
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

    /// Whether `cluster` is the one that this gateway, which belongs to none, is to belong to:
    /// all listed gateways that belong to one say so.
    pub fn expects(&self, cluster: ClusterId) -> bool {
        let heard = self.heard.lock();
        !heard.is_empty() && heard.values().all(|of_other| *of_other == cluster)
    }

    /// Whether the other end of `connection` has proved that it knows the key, if there is one.
    pub fn has_proved(&self, connection: &Arc<Connection>) -> bool {
        self.key.is_none()
            || self.with_seat(connection, |seat| seat.proof == Proved::Right).unwrap_or(false)
    }

    /// Whether the other end of `connection` has the id `id`: it keeps the first it names.
    pub fn speaks_for(&self, connection: &Arc<Connection>, id: NodeId) -> bool {
        self.sit(connection);
        self.with_seat(connection, |seat| *seat.id.get_or_insert(id) == id).unwrap_or(false)
    }

    /// The other end of `connection` has told what it remembers of this gateway.
    pub fn introduce(&self, connection: &Arc<Connection>) {
        self.sit(connection);
        self.with_seat(connection, |seat| seat.is_introduced = true);
    }

    /// Whether the other end of `connection` has told what it remembers of this gateway.
    pub fn is_introduced(&self, connection: &Arc<Connection>) -> bool {
        self.with_seat(connection, |seat| seat.is_introduced).unwrap_or(false)
    }

    /// Whether the other end of `connection` may send one more message that is no part of
    /// consensus now.
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

    /// Asks the other end of `connection`, a gateway, for a proof of the key, if there is a key
    /// and it was not asked before. Returns what to send.
    pub fn challenge(&self, connection: &Arc<Connection>) -> Option<KeyMessage> {
        self.key.as_ref()?;
        let own = self.sit(connection)?;
        Some(KeyMessage::Challenge(own))
    }

    /// A message about the key has come from a gateway. Returns what to answer, and whether the
    /// other end has proved the key just now.
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
                // Its challenge may have come before it knew this gateway for one, and so may
                // the one of this gateway have gone before the other knew it.
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

    /// This end of a connection and the other one.
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

    /// Remembers a connection to a gateway. Returns what was drawn for it if it is new.
    fn sit(&self, connection: &Arc<Connection>) -> Option<Nonce> {
        let mut seats = self.seats.lock();
        let is_known = seats.iter().any(|seat| Arc::ptr_eq(&seat.connection, connection));
        if is_known || connection.is_closed() {
            return None;
        }
        let mut own_nonce = Nonce::default();
        // Without random bytes there is no seat, and nothing is taken from the connection.
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

    /// A connection is gone.
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
