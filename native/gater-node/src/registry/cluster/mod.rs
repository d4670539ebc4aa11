//! Several gateways that replicate one registry and relay messages for each other.
//!
//! They communicate over their own distribution connections ([`wire`], [`rpc`]), over which Raft
//! runs ([`network`]). New gateways bootstrap a cluster together or ask for admission ([`joining`],
//! [`bootstrap`]). A leader whose connection breaks is replaced at once ([`campaign`]). [`trust`]
//! decides who may speak as a gateway, and gateways that meet tell each other how far they have come
//! (`greeting`). The leader adds and removes gateways (`membership`). The gateways decide together
//! whose workers are given up (`liveness`), and [`health`] reports the state of the cluster.

pub mod bootstrap;
pub mod campaign;
mod consensus;
mod greeting;
pub mod health;
pub mod joining;
pub mod key;
pub mod links;
mod liveness;
mod membership;
pub mod network;
pub mod pace;
pub mod past;
mod promotion;
pub mod refusals;
pub mod rpc;
pub mod trust;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gater_dist::{Connection, Lane};
use gater_term::Atom;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::bootstrap::{Bootstrap, ClusterId};
use self::greeting::ROLLED_BACK;
use self::key::{ClusterKey, KeyMessage};
use self::links::Links;
use self::past::{Past, Witnesses};
use self::refusals::Reason;
use self::rpc::{Rpc, Told};
use self::trust::{Rank, Trust};
use self::wire::{Answer, Content, Envelope, NAME, Question};
use crate::registry::replica::guard::Refusal;
use crate::registry::replica::recover::{MetadataValue, RecoverError, Recovered};
use crate::registry::replica::{self, ClusterView, IntakeError, NodeId, OpenError, Replica, Role};
use crate::supervise::supervise;
use crate::transport::peers::Peers;

/// The name of the cluster id among the metadata of the data directory.
const CLUSTER_NOTE: &str = "cluster";
/// The name of the owner among the metadata of the data directory.
const NAME_NOTE: &str = "name";
/// The greatest number of questions of other gateways that are handled at a time.
const MAX_QUESTIONS: usize = 4096;
/// The greatest number of changes of the cluster that are handled at a time. Each may take minutes.
const MAX_CHANGES: usize = 8;
/// The time within which the leader must write a batch that was forwarded to it.
const WRITE_WITHIN: Duration = Duration::from_secs(4);
/// The time within which a new member must catch up.
pub const ADD_WITHIN: Duration = Duration::from_secs(120);

/// The interval at which the progress that gateways have reported is written to the disk.
const REMEMBER_EVERY: Duration = Duration::from_secs(2);
/// The settings of a cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the registry.
    pub data_dir: PathBuf,
    /// The value of `cluster.lost_grace_seconds`.
    pub lost_grace: Duration,
}

/// Makes the stopped gateway `name`, whose data directory is `directory`, a cluster of one, whatever
/// became of the others. The cluster gets a new id: members of the old one are strangers to it.
pub async fn recover(directory: &Path, name: &str) -> Result<Recovered, RecoverError> {
    let cluster: ClusterId =
        getrandom::u64().map_err(|error| openraft::AnyError::error(error.to_string()))?;
    let notes = [
        (CLUSTER_NOTE, &MetadataValue::Number(cluster)),
        (NAME_NOTE, &MetadataValue::Text(name.to_owned())),
    ];
    replica::recover::recover(directory, name, &notes).await
}

/// Writes the progress that gateways have reported to the disk from time to time.
async fn remember(cluster: Arc<Cluster>) {
    loop {
        cluster.heard.notified().await;
        if let Err(error) = cluster.witnesses.keep().await {
            cluster.no_disk(&error, ());
        }
        tokio::time::sleep(REMEMBER_EVERY).await;
    }
}

/// The gateway that asks a question.
struct Asker {
    connection: Arc<Connection>,
    id: NodeId,
    /// The cluster to which it belongs.
    cluster: Option<ClusterId>,
}

/// This gateway's part in a cluster. A gateway without others has one, too.
pub struct Cluster {
    own_name: Atom,
    /// The configured names, which may or may not include this gateway's own.
    listed: BTreeSet<String>,
    replica: Arc<Replica>,
    peers: Arc<Peers>,
    rpc: Arc<Rpc>,
    founder: Bootstrap,
    links: Links,
    /// Whether the other members have reported that this gateway is no longer a member.
    removed: AtomicBool,
    past: Past,
    witnesses: Witnesses,
    /// Notified when a gateway has reported its progress.
    heard: Notify,
    /// The members that run with an older copy of their data directory, according to their own
    /// reports.
    rolled_back: Mutex<BTreeMap<NodeId, String>>,

    trust: Arc<Trust>,
    lost_grace: Duration,
    questions: Arc<Semaphore>,
    changes: Semaphore,
}

impl Cluster {
    /// Opens the part of the gateway `own_name`, whose cluster consists of `listed`, or which has
    /// no others if the list is empty. Records this start in the data directory.
    pub async fn open(
        own_name: Atom,
        listed: &[String],
        replica: Arc<Replica>,
        peers: Arc<Peers>,
        rpc: Arc<Rpc>,
        key: Option<ClusterKey>,
        settings: &Settings,
    ) -> Result<Arc<Self>, OpenError> {
        let unreadable = |error: openraft::AnyError| OpenError::Unusable {
            path: settings.data_dir.clone(),
            reason: error.to_string(),
        };
        let founder = Bootstrap::open(replica.log().clone()).map_err(unreadable)?;
        let noted: Option<ClusterId> = replica.log().metadata(CLUSTER_NOTE).map_err(unreadable)?;
        let noted_name: Option<String> = replica.log().metadata(NAME_NOTE).map_err(unreadable)?;
        let view = replica.view();
        // The others know a member by the name in the log. A gateway without others has the name of
        // its last run there.
        let known_as = match view.members.len() {
            0 | 1 => noted_name,
            _ => view.name_of(view.id).map(str::to_owned),
        };
        match known_as {
            Some(name) if name != own_name.as_str() => {
                if view.members.len() > 1 {
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
        // A gateway that bootstrapped a cluster of its own has named it after itself.
        let founded = !replica.view().members.is_empty();
        if let Some(cluster) = noted.or(founded.then(|| replica.node_id())) {
            rpc.belong(cluster);
        }
        let listed: BTreeSet<_> = listed.iter().cloned().collect();
        let own = (own_name.as_str(), rpc.node().creation());
        let trust = Trust::new(own, listed.clone(), key, replica.clone());
        let trust = Arc::new(trust);
        rpc.trust(trust.clone());
        let others = listed.iter().filter(|name| *name != own_name.as_str()).cloned().collect();
        let past = Past::begin(&replica).await.map_err(unreadable)?;
        let witnesses = Witnesses::open(replica.log().clone()).map_err(unreadable)?;
        if let Some(why) = past.verdict() {
            tracing::error!(why, "{}", ROLLED_BACK);
            rpc.withdraw();
            replica.retire();
        }
        Ok(Arc::new(Self {
            listed,
            trust,
            own_name,
            replica,
            peers,
            rpc,
            founder,
            links: Links::new(others),
            removed: AtomicBool::new(false),
            past,
            witnesses,
            heard: Notify::new(),
            rolled_back: Mutex::default(),
            lost_grace: settings.lost_grace,
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            changes: Semaphore::new(MAX_CHANGES),
        }))
    }

    /// Stores the name of this gateway in the data directory.
    pub async fn note_name(&self) -> Result<(), OpenError> {
        let failed = |error: openraft::AnyError| OpenError::Raft(error.to_string());
        let log = self.replica.log();
        let noted: Option<String> = log.metadata(NAME_NOTE).map_err(failed)?;
        if noted.is_some_and(|name| name == self.own_name.as_str()) {
            return Ok(());
        }
        log.set_metadata(NAME_NOTE, &self.own_name.as_str()).await.map_err(failed)
    }

    /// Connects to the other gateways, now and whenever that is necessary, until `stop` is
    /// cancelled.
    pub fn start(self: &Arc<Self>, stop: &CancellationToken) {
        let of = self.clone();
        supervise("gateways are kept connected", stop, move || links::keep(of.clone()));
        let of = self.clone();
        supervise("heartbeats are sent", stop, move || pace::beat(of.clone()));
        let of = self.clone();
        supervise("the leader is watched", stop, move || campaign::watch(of.clone()));
        let of = self.clone();
        supervise("the cluster is joined", stop, move || joining::join(of.clone()));
        let of = self.clone();
        supervise("the cluster's health is watched", stop, move || health::watch(of.clone()));
        let of = self.clone();
        supervise("members are given a vote", stop, move || promotion::watch(of.clone()));
        let of = self.clone();
        supervise("progress of gateways is remembered", stop, move || remember(of.clone()));
    }

    /// Returns the name of this gateway.
    pub fn name(&self) -> &str {
        self.own_name.as_str()
    }

    /// Returns the registry.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Returns whether the log of this gateway cannot be written because its disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.replica.log().space().is_full()
    }

    /// Returns the cluster as this gateway knows it.
    pub fn view(&self) -> ClusterView {
        self.replica.view()
    }

    /// Returns the names of all gateways of the cluster, including this one, in order.
    pub fn gateways(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<_> = self
            .view()
            .members
            .into_values()
            .map(|(member, _)| member.name)
            .filter(|name| !name.is_empty())
            .collect();
        // A gateway without others may have had another name before.
        if names.len() <= 1 {
            names.clear();
        }
        names.insert(self.own_name.as_str().to_owned());
        names
    }

    /// Returns whether this gateway was a member and is no longer.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Returns whether this gateway has found that its data directory is an older copy.
    pub fn is_rolled_back(&self) -> bool {
        self.past.verdict().is_some()
    }

    /// Returns the number of entries that a member has on its disk, according to its own report.
    pub fn settled(&self, id: NodeId) -> u64 {
        if id == self.replica.node_id() {
            return self.replica.progress().settled;
        }
        self.witnesses.of(id).map_or(0, |statement| statement.progress().settled)
    }

    /// Returns whether a member reports that it runs with an older copy of its data directory.
    pub fn runs_on_old_copy(&self, id: NodeId) -> bool {
        self.rolled_back.lock().contains_key(&id)
    }

    /// Returns the connections to the other members, on which the key is proved if there is one.
    pub fn connected_members(&self) -> Vec<Arc<Connection>> {
        let is_other = |name: &String| name != self.own_name.as_str();
        let names = self.gateways().into_iter().filter(is_other);
        names.filter_map(|name| self.rpc.connection(&name)).collect()
    }

    /// Returns a receiver of notifications when a connection to a gateway is established, lost or
    /// proved.
    pub fn listen(&self) -> tokio::sync::watch::Receiver<u64> {
        self.links.listen()
    }

    /// Returns the decisions about who may speak as a gateway.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Handles a new connection.
    pub fn up(self: &Arc<Self>, connection: &Arc<Connection>) {
        if self.trust.knows(connection.peer().name.as_str()) {
            self.challenge(connection);
            self.greet(connection);
        }
    }

    /// Handles the end of a connection.
    pub fn down(&self, connection: &Arc<Connection>) {
        self.rpc.broken(connection);
        self.trust.leave(connection);
        let name = connection.peer().name.as_str();
        if self.links.is_one(name) {
            self.links.lost(name);
            self.links.changed();
        }
    }

    /// Handles a message of another gateway, or of a node that claims to be one.
    pub fn message(self: &Arc<Self>, from: &Arc<Connection>, term: &[u8]) {
        let name = from.peer().name.as_str();
        // Messages of strangers are not decoded.
        if !self.trust.knows(name) {
            return self.trust.refuse(Reason::NotGateway, from, &"its name is none of a gateway");
        }
        let Some(Envelope { cluster: theirs, from: id, number, content }) = Envelope::decode(term)
        else {
            return self.trust.refuse(Reason::Form, from, &"it cannot be read");
        };
        if let Content::Key(message) = content {
            return self.key_message(from, message);
        }
        if !self.trust.has_proved(from) {
            return self.trust.refuse(Reason::NotProved, from, &"no proof has come before it");
        }
        if id == self.replica.node_id() {
            self.trust.refuse(
                Reason::OwnId,
                from,
                &format_args!("its id is {id}, as is this one's"),
            );
            // The other gateway has to be told as well, so an answer is sent with the same number.
            if matches!(content, Content::Ask(_)) {
                self.tell(from, number, Answer::Stranger);
            }
            return;
        }
        if !self.trust.speaks_for(from, id) {
            return self.trust.refuse(Reason::NotMember, from, &"it changes its id");
        }
        match content {
            Content::Key(_) => {}
            Content::Tell(answer) => {
                self.rpc.answered(
                    from,
                    number,
                    Told { from: id, cluster: theirs, over: from.clone(), answer },
                );
            }
            Content::Ask(question) => {
                let asker = Asker { connection: from.clone(), id, cluster: theirs };
                if self.may_ask(&asker, &question) {
                    self.asked(asker, number, question);
                } else {
                    self.tell(from, number, Answer::Stranger);
                }
            }
        }
    }

    fn key_message(self: &Arc<Self>, from: &Arc<Connection>, message: KeyMessage) {
        let (answers, has_proved) = self.trust.key_message(from, message);
        for answer in answers {
            self.rpc.send_key(from, answer);
        }
        if has_proved {
            tracing::debug!(gateway = %from.peer().name, "the gateway knows the key of the cluster");
            self.greet(from);
        }
    }

    /// Returns whether the asker may ask a question. Refusals are counted.
    fn may_ask(&self, asker: &Asker, question: &Question) -> bool {
        let (connection, id) = (&asker.connection, asker.id);
        let name = connection.peer().name.as_str();
        let rank = self.trust.rank(name, id);
        if !question.is_of_consensus() && !self.trust.has_budget(connection) {
            self.trust.refuse(Reason::TooMany, connection, &"it asks too often");
            return false;
        }
        let allowed = match question {
            Question::Hello => rank != Rank::Stranger,
            Question::Admit { id: whom, name: named } => {
                rank == Rank::Member
                    || (rank == Rank::Applicant && (*whom, named.as_str()) == (id, name))
            }
            Question::Prepare(_) | Question::Accept(_) => {
                rank != Rank::Stranger && self.trust.lists(name)
            }
            Question::Add(_) | Question::Remove(_) => rank == Rank::Member,
            _ => matches!(rank, Rank::Member | Rank::Founder),
        };
        if !allowed {
            self.trust.refuse(Reason::NotMember, connection, &format_args!("its id is {id}"));
        }
        allowed
    }

    fn asked(self: &Arc<Self>, asker: Asker, number: u64, question: Question) {
        // Questions beyond the limit are not answered, as if the gateway were busy.
        let Ok(permit) = self.questions.clone().try_acquire_owned() else { return };
        let cluster = self.clone();
        tokio::spawn(async move {
            let answer = cluster.answer(&asker, question).await;
            cluster.tell(&asker.connection, number, answer);
            drop(permit);
        });
    }

    fn tell(&self, to: &Connection, number: u64, answer: Answer) {
        let (cluster, from) = (self.rpc.cluster(), self.replica.node_id());
        let envelope = Envelope { cluster, from, number, content: Content::Tell(answer) };
        match envelope.encode() {
            Ok(payload) => {
                to.send_name(Lane::Control, NAME, &payload);
            }
            Err(error) => tracing::error!(%error, "an answer was not encoded"),
        }
    }

    async fn answer(self: &Arc<Self>, asker: &Asker, question: Question) -> Answer {
        let id = asker.id;
        match question {
            Question::Hello => Answer::Hello(self.hello(id)),
            _ if question.takes_part() && !self.takes_part_with(asker) => Answer::Stranger,
            Question::Prepare(ballot) => self.prepare(asker, ballot).await,
            Question::Accept(founding) => self.accept(asker, founding).await,
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
            _ if !self.belongs_with(asker).await => Answer::Stranger,
            Question::Vote(_, request) => {
                let taken = self.replica.take_vote(id, request).await;
                self.taken(asker, taken, |answer| Answer::Vote(Ok(answer)))
            }
            Question::Append(_, request) => {
                let taken = self.replica.take_entries(id, request).await;
                self.taken(asker, taken, |answer| Answer::Append(Ok(answer)))
            }
            Question::Snapshot(_, request) => {
                let taken = self.replica.take_snapshot(id, request).await;
                let answer = |answer: Result<_, _>| {
                    Answer::Snapshot(answer.map_err(openraft::error::RaftError::APIError))
                };
                self.taken(asker, taken, answer)
            }
            Question::Forward(batch) => match self.replica.check_forwarded(&batch) {
                Ok(()) => Answer::Forward(self.replica.write_as_leader(batch, WRITE_WITHIN).await),
                Err(refusal) => {
                    self.trust.refuse(Reason::Content, &asker.connection, &refusal);
                    Answer::Stranger
                }
            },
            Question::Leaderless => Answer::Flag(campaign::is_leaderless(self)),
        }
    }

    /// Returns whether this gateway may take part in what another one requests: it knows what the
    /// other remembers of it, and that its own disk has not gone back in time since.
    fn takes_part_with(&self, asker: &Asker) -> bool {
        self.trust.is_introduced(&asker.connection) && !self.is_rolled_back()
    }

    /// Returns the answer to a request to consensus.
    fn taken<T>(
        &self,
        asker: &Asker,
        taken: Result<T, IntakeError>,
        answer: impl FnOnce(T) -> Answer,
    ) -> Answer {
        match taken {
            Ok(taken) => return answer(taken),
            Err(IntakeError::Refused(refusal)) => {
                let reason = match refusal {
                    Refusal::Rewrites { .. } => Reason::RolledBack,
                    _ => Reason::Content,
                };
                self.trust.refuse(reason, &asker.connection, &refusal);
            }
            // The program ends with this reason.
            Err(error @ (IntakeError::Stopped(_) | IntakeError::Log(_))) => {
                tracing::debug!(%error, "a question of another gateway is not answered");
            }
        }
        Answer::Stranger
    }

    /// Promises to take part in a ballot of the bootstrap, unless that is complete on this gateway.
    async fn prepare(&self, asker: &Asker, ballot: bootstrap::Ballot) -> Answer {
        if self.view().role != Role::Waiting {
            return Answer::Prepared(None);
        }
        if ballot.1 != asker.id || !self.founder.is_near(ballot).await {
            let detail = format!("ballot {} of {} is out of bounds", ballot.0, ballot.1);
            self.trust.refuse(Reason::Bootstrap, &asker.connection, &detail);
            return Answer::Stranger;
        }
        match self.founder.prepare(ballot).await {
            Ok(promise) => Answer::Prepared(promise),
            Err(error) => self.no_disk(&error, Answer::Prepared(None)),
        }
    }

    /// Accepts a proposed cluster, unless this gateway belongs to one.
    async fn accept(&self, asker: &Asker, founding: bootstrap::Founding) -> Answer {
        if self.view().role != Role::Waiting {
            return Answer::Flag(false);
        }
        let own = (self.replica.node_id(), self.own_name.as_str());
        let known = [own, (asker.id, asker.connection.peer().name.as_str())];
        if founding.ballot.1 != asker.id
            || !founding.is_sound(&self.listed, &known)
            || !self.founder.is_near(founding.ballot).await
        {
            let detail = format!("what ballot {} proposes is out of bounds", founding.ballot.0);
            self.trust.refuse(Reason::Bootstrap, &asker.connection, &detail);
            return Answer::Stranger;
        }
        match self.founder.accept(founding).await {
            Ok(accepted) => Answer::Flag(accepted),
            Err(error) => self.no_disk(&error, Answer::Flag(false)),
        }
    }

    /// Returns whether the asker may take part in this gateway's log. A gateway without a cluster
    /// belongs to that of the listed gateways, or to the one in which it was bootstrapped.
    async fn belongs_with(&self, asker: &Asker) -> bool {
        match (self.rpc.cluster(), asker.cluster) {
            (Some(ours), Some(theirs)) if ours == theirs => true,
            (None, Some(theirs)) => {
                let (_, accepted) = self.founder.state().await;
                if !self.trust.expects(theirs) && accepted != Some(theirs) {
                    // The asker asks again, when the listed gateways have reported their cluster.
                    return false;
                }
                match self.belong(theirs).await {
                    Ok(()) => true,
                    Err(error) => self.no_disk(&error, false),
                }
            }
            (ours, theirs) => {
                let detail = format!("{theirs:?} instead of {ours:?}");
                self.trust.refuse(Reason::OtherCluster, &asker.connection, &detail);
                false
            }
        }
    }

    async fn belong(&self, cluster: ClusterId) -> Result<(), openraft::AnyError> {
        self.replica.log().set_metadata(CLUSTER_NOTE, &cluster).await?;
        self.rpc.belong(cluster);
        Ok(())
    }

    fn no_disk<T>(&self, error: &openraft::AnyError, answer: T) -> T {
        tracing::error!(%error, "nothing was promised to another gateway");
        answer
    }
}
