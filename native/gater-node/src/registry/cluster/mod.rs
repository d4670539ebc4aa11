//! Several gateways that keep one registry and relay for each other.
//!
//! They talk over their own distribution connections ([`wire`], [`rpc`]). Raft runs over
//! that ([`network`]); new gateways found a cluster together or ask to be let in
//! ([`joining`], [`bootstrap`]); a leader whose connection breaks is followed by another at
//! once ([`campaign`]). Whose workers are given up they decide together (`liveness`), and how the
//! cluster is can be asked ([`health`]).

pub mod bootstrap;
pub mod campaign;
mod consensus;
pub mod health;
pub mod joining;
pub mod links;
mod liveness;
pub mod network;
pub mod rpc;
pub mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gater_dist::{Chain, Connection, Lane};
use gater_term::Atom;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::bootstrap::{ClusterId, Founder};
use self::health::Departed;
use self::links::Links;
use self::rpc::Rpc;
use self::wire::{Answer, Content, Envelope, Hello, NAME, Question};
use crate::registry::replica::{Member, MemberError, OpenError, Replica, Role, Standing};
use crate::supervise::supervise;
use crate::transport::peers::Peers;

/// The name under which the data directory remembers the cluster.
const CLUSTER_NOTE: &str = "cluster";
/// The name under which the data directory remembers whose it is.
const NAME_NOTE: &str = "name";
/// Questions of other gateways that are dealt with at a time.
const MAX_QUESTIONS: usize = 4096;
/// Changes of the cluster that are dealt with at a time: each may take minutes.
const MAX_CHANGES: usize = 8;
/// How long the leader may take over a batch that was forwarded to it.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// How long it may take to bring a new member up to date.
pub const ADD_WITHIN: Duration = Duration::from_secs(120);

/// This gateway's part in a cluster; that of a gateway alone as well.
pub struct Cluster {
    own_name: Atom,
    /// The names that were configured, this gateway's own among them or not.
    listed: BTreeSet<String>,
    replica: Arc<Replica>,
    peers: Arc<Peers>,
    rpc: Arc<Rpc>,
    founder: Founder,
    links: Links,
    departed: Departed,
    /// The other members have told that this gateway is none any more.
    removed: AtomicBool,
    lost_grace: Duration,
    questions: Arc<Semaphore>,
    changes: Semaphore,
}

impl Cluster {
    /// The part of the gateway `own_name`, whose cluster is to consist of `listed`, or
    /// that is alone if nobody is listed. Blocks for a moment.
    pub fn open(
        own_name: Atom,
        listed: &[String],
        replica: Arc<Replica>,
        peers: Arc<Peers>,
        rpc: Arc<Rpc>,
        lost_grace: Duration,
    ) -> Result<Arc<Self>, OpenError> {
        let unreadable = |error: openraft::AnyError| OpenError::Raft(error.to_string());
        let departed = Departed::open(replica.log()).map_err(unreadable)?;
        let founder = Founder::open(replica.log().clone()).map_err(unreadable)?;
        let noted: Option<ClusterId> = replica.log().noted(CLUSTER_NOTE).map_err(unreadable)?;
        let noted_name: Option<String> = replica.log().noted(NAME_NOTE).map_err(unreadable)?;
        let standing = replica.standing();
        // A member is known to the others by the name in the log; one that is alone goes by the
        // name that it had when it ran last.
        let known_as = match standing.members.len() {
            0 | 1 => noted_name,
            _ => standing.name_of(standing.id).map(str::to_owned),
        };
        match known_as {
            Some(name) if name != own_name.as_str() => {
                if standing.members.len() > 1 {
                    return Err(OpenError::OtherName { name, own: own_name.as_str().to_owned() });
                }
                tracing::warn!(
                    was = name,
                    "the data directory was used by a gateway of another name: its registrations \
                     are taken over"
                );
            }
            _ => {}
        }
        // A gateway that founded a cluster of its own named it after itself.
        let founded = !replica.standing().members.is_empty();
        if let Some(cluster) = noted.or(founded.then(|| replica.node_id())) {
            rpc.belong(cluster);
        }
        let others = listed.iter().filter(|name| *name != own_name.as_str()).cloned().collect();
        Ok(Arc::new(Self {
            listed: listed.iter().cloned().collect(),
            own_name,
            replica,
            peers,
            rpc,
            founder,
            links: Links::new(others),
            departed,
            removed: AtomicBool::new(false),
            lost_grace,
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            changes: Semaphore::new(MAX_CHANGES),
        }))
    }

    /// Has the data directory remember the name of this gateway.
    pub async fn note_name(&self) -> Result<(), OpenError> {
        let failed = |error: openraft::AnyError| OpenError::Raft(error.to_string());
        let log = self.replica.log();
        let noted: Option<String> = log.noted(NAME_NOTE).map_err(failed)?;
        if noted.is_some_and(|name| name == self.own_name.as_str()) {
            return Ok(());
        }
        log.note(NAME_NOTE, &self.own_name.as_str()).await.map_err(failed)
    }

    /// Connects to the other gateways, now and whenever that is needed, until `stop`.
    pub fn start(self: &Arc<Self>, stop: &CancellationToken) {
        let of = self.clone();
        supervise("gateways are kept connected", stop, move || links::keep(of.clone()));
        let of = self.clone();
        supervise("the leader is watched", stop, move || campaign::watch(of.clone()));
        let of = self.clone();
        supervise("the cluster is joined", stop, move || joining::join(of.clone()));
        let of = self.clone();
        supervise("the cluster's health is watched", stop, move || health::watch(of.clone()));
    }

    /// The name of this gateway.
    pub fn name(&self) -> &str {
        self.own_name.as_str()
    }

    /// The registry.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The cluster as this gateway knows it.
    pub fn standing(&self) -> Standing {
        self.replica.standing()
    }

    /// The names of all gateways of the cluster, this one among them, in order.
    pub fn gateways(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<_> = self
            .standing()
            .members
            .into_values()
            .map(|(member, _)| member.name)
            .filter(|name| !name.is_empty())
            .collect();
        // One that is alone may be known under the name it had before.
        if names.len() <= 1 {
            names.clear();
        }
        names.insert(self.own_name.as_str().to_owned());
        names
    }

    /// Whether this gateway was a member and is none any more.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Whether the gateway `name` is connected; it is to itself.
    pub fn is_connected(&self, name: &str) -> bool {
        name == self.own_name.as_str() || self.rpc.connection(name).is_some()
    }

    /// Whether the node `name` is one of the other gateways.
    pub fn is_other(&self, name: &str) -> bool {
        self.links.is_one(name)
    }

    /// A connection has come up.
    pub fn up(&self, connection: &Connection) {
        if self.links.is_one(connection.peer().name.as_str()) {
            self.links.changed();
        }
    }

    /// A connection is gone.
    pub fn down(&self, connection: &Arc<Connection>) {
        self.rpc.broken(connection);
        let name = connection.peer().name.as_str();
        if self.links.is_one(name) {
            self.links.lost(name);
            self.links.changed();
        }
    }

    /// A message of another gateway has come.
    pub fn message(self: &Arc<Self>, from: &Arc<Connection>, term: &[u8]) {
        let Some(envelope) = Envelope::decode(term) else {
            tracing::warn!(peer = %from.peer().name, "a message of no gateway's language is ignored");
            return;
        };
        match envelope.content {
            Content::Tell(answer) => self.rpc.answered(from, envelope.number, answer),
            Content::Ask(question) => {
                // Who asks without end gets no answers, which is what a busy gateway gives.
                let Ok(permit) = self.questions.clone().try_acquire_owned() else { return };
                let (cluster, from) = (self.clone(), from.clone());
                tokio::spawn(async move {
                    let answer = cluster.answer(&from, envelope.cluster, question).await;
                    let envelope = Envelope {
                        cluster: cluster.rpc.cluster(),
                        number: envelope.number,
                        content: Content::Tell(answer),
                    };
                    match envelope.encode() {
                        Ok(payload) => from.send_name(Lane::Control, NAME, &payload),
                        Err(error) => tracing::error!(%error, "an answer was not encoded"),
                    }
                    drop(permit);
                });
            }
        }
    }

    async fn answer(
        self: &Arc<Self>,
        from: &Connection,
        theirs: Option<ClusterId>,
        question: Question,
    ) -> Answer {
        let raft = self.replica.raft();
        match question {
            Question::Hello => Answer::Hello(self.hello()),
            Question::Prepare(ballot) => match self.founder.prepare(ballot).await {
                Ok(promise) => Answer::Prepared(promise),
                Err(error) => self.no_disk(&error, Answer::Prepared(None)),
            },
            Question::Accept(founding) => match self.founder.accept(founding).await {
                Ok(accepted) => Answer::Flag(accepted),
                Err(error) => self.no_disk(&error, Answer::Flag(false)),
            },
            Question::Admit { id, name } => Answer::Done(self.in_turn(self.admit(id, name)).await),
            Question::Add(name) => Answer::Done(self.in_turn(self.add_here(&name)).await),
            Question::Remove(name) => Answer::Done(self.in_turn(self.remove_here(&name)).await),
            Question::Reached(nodes) => Answer::Flags(
                nodes
                    .iter()
                    .map(|(node, creation)| self.peers.reached(node, *creation, self.lost_grace))
                    .collect(),
            ),
            _ if question.addressee().is_some_and(|id| id != self.replica.node_id()) => {
                Answer::Stranger
            }
            _ if !self.belongs_with(from, theirs).await => Answer::Stranger,
            Question::Vote(_, request) => Answer::Vote(raft.vote(request).await),
            Question::Append(_, request) => Answer::Append(raft.append_entries(request).await),
            Question::Snapshot(_, request) => {
                Answer::Snapshot(raft.install_snapshot(request).await)
            }
            Question::Forward(batch) => {
                Answer::Forward(self.replica.write_as_leader(batch, WRITE_WITHIN).await)
            }
            Question::Leaderless => Answer::Flag(campaign::is_leaderless(self)),
        }
    }

    /// Whether `from` may take part in this gateway's log. One that belongs nowhere yet
    /// belongs where it is first asked to take part.
    async fn belongs_with(&self, from: &Connection, theirs: Option<ClusterId>) -> bool {
        match (self.rpc.cluster(), theirs) {
            (Some(ours), Some(theirs)) if ours == theirs => true,
            (None, Some(theirs)) => match self.belong(theirs).await {
                Ok(()) => true,
                Err(error) => self.no_disk(&error, false),
            },
            _ => {
                tracing::warn!(
                    gateway = %from.peer().name,
                    "it belongs to another cluster: check both data directories and --cluster"
                );
                false
            }
        }
    }

    async fn belong(&self, cluster: ClusterId) -> Result<(), openraft::AnyError> {
        self.replica.log().note(CLUSTER_NOTE, &cluster).await?;
        self.rpc.belong(cluster);
        Ok(())
    }

    fn no_disk<T>(&self, error: &openraft::AnyError, answer: T) -> T {
        tracing::error!(%error, "nothing was promised to another gateway");
        answer
    }

    fn hello(&self) -> Hello {
        let standing = self.standing();
        Hello {
            id: standing.id,
            founded: standing.role != Role::Waiting,
            led: standing.leader.is_some(),
            members: standing
                .members
                .into_iter()
                .map(|(id, (member, _))| (id, member.name))
                .collect(),
        }
    }

    /// Adds the gateway `name` to the cluster, through whoever leads. The error is for people.
    pub async fn add(self: &Arc<Self>, name: &str) -> Result<(), String> {
        self.in_turn(self.through_leader(Question::Add(name.to_owned()))).await
    }

    /// Removes the gateway `name` from the cluster, through whoever leads.
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<(), String> {
        self.in_turn(self.through_leader(Question::Remove(name.to_owned()))).await
    }

    /// Does not begin while too many changes are under way.
    async fn in_turn(
        &self,
        change: impl Future<Output = Result<(), String>>,
    ) -> Result<(), String> {
        let Ok(_turn) = self.changes.try_acquire() else {
            return Err("too many changes of the cluster are under way".into());
        };
        change.await
    }

    async fn through_leader(self: &Arc<Self>, question: Question) -> Result<(), String> {
        let standing = self.standing();
        let Some(leader) = standing.leader else { return Err("no gateway leads".into()) };
        if leader == standing.id {
            return match question {
                Question::Add(name) => self.add_here(&name).await,
                Question::Remove(name) => self.remove_here(&name).await,
                Question::Admit { id, name } => self.admit(id, name).await,
                _ => Err("not a question for the leader".into()),
            };
        }
        let name = standing.name_of(leader).unwrap_or_default();
        match self.rpc.ask(name, question, ADD_WITHIN).await {
            Ok(Answer::Done(done)) => done,
            Ok(_) => Err(format!("{name} belongs to another cluster")),
            Err(error) => Err(format!("{name} leads: {error}")),
        }
    }

    /// Lets a new gateway in that was listed from the start.
    async fn admit(
        self: &Arc<Self>,
        id: crate::registry::replica::NodeId,
        name: String,
    ) -> Result<(), String> {
        let standing = self.standing();
        if standing.is_voter(id) {
            return Ok(());
        }
        if !self.listed.contains(&name) {
            return Err(format!(
                "it is not on the list of {}: `esdb-gater cluster add {name}` lets it in",
                self.own_name
            ));
        }
        if standing.members.iter().any(|(other, (member, _))| *other != id && member.name == name) {
            return Err(format!(
                "{name} is a member with another data directory: if that one is lost, \
                 `esdb-gater cluster add {name}` puts this one in its place"
            ));
        }
        if standing.leader != Some(standing.id) {
            return Box::pin(self.through_leader(Question::Admit { id, name })).await;
        }
        tracing::info!(gateway = name, "joins the cluster");
        self.enter(id, name).await
    }

    async fn add_here(&self, name: &str) -> Result<(), String> {
        let node = Atom::new(name).map_err(|_| format!("{name:?} is not a node name"))?;
        if node == self.own_name {
            return Ok(());
        }
        let dialled = self.rpc.node().connect(&node).await;
        dialled.map_err(|error| format!("{name} cannot be reached: {}", Chain(&error)))?;
        let hello = match self.rpc.ask(name, Question::Hello, links::ANSWER_WITHIN).await {
            Ok(Answer::Hello(hello)) => hello,
            _ => return Err(format!("{name} does not answer as a gateway does")),
        };
        if self.standing().is_voter(hello.id) {
            return Ok(());
        }
        if hello.founded {
            return Err(format!(
                "{name} has a registry of its own: start it with --cluster on an empty data directory"
            ));
        }
        tracing::info!(gateway = name, "is added to the cluster");
        self.enter(hello.id, name.to_owned()).await
    }

    async fn enter(
        &self,
        id: crate::registry::replica::NodeId,
        name: String,
    ) -> Result<(), String> {
        let entered = async {
            self.replica.take_name(self.own_name.as_str()).await?;
            self.links.also(&name);
            self.replica.add(id, Member { name }).await
        };
        match tokio::time::timeout(ADD_WITHIN, entered).await {
            Ok(result) => result.map_err(|error: MemberError| error.to_string()),
            Err(_) => Err("it did not catch up in time; it goes on trying".into()),
        }
    }

    async fn remove_here(&self, name: &str) -> Result<(), String> {
        let standing = self.standing();
        // One that is alone may be known under the name it had before, or none.
        let alone =
            standing.members.len() <= 1 && standing.votes() && self.own_name.as_str() == name;
        let removed = if alone { Err(MemberError::Last) } else { self.replica.remove(name).await };
        match removed {
            Ok(()) => {
                tracing::info!(gateway = name, "was removed from the cluster");
                Ok(())
            }
            Err(error) => {
                tracing::info!(gateway = name, %error, "was not removed from the cluster");
                Err(format!("{name} was not removed: {error}"))
            }
        }
    }
}
