//! Makes a gateway with a new data directory a member.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bootstrap::{Founding, majority, proposal};
use super::rpc::Told;
use super::wire::{Answer, Hello, Question};
use super::{ADD_WITHIN, Cluster, links::ANSWER_WITHIN};
use crate::registry::replica::{Member, Role};

/// The time for which a gateway that is not a member waits for a connection before it tries again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The same time while a bootstrap is in progress, in which gateways wait for each other.
const BALLOT_AGAIN: Duration = Duration::from_millis(200);
/// The time for which the connected gateways wait for the others before they bootstrap without
/// them.
const WAIT_FOR_ALL: Duration = Duration::from_secs(2);
/// The additional time for which each waits for those before it, by name, to propose.
const YIELD_TO_EARLIER: Duration = Duration::from_millis(700);
/// The duration of a bootstrap after which the log reports what it waits for, and the interval of
/// these reports.
const SAY_AFTER: Duration = Duration::from_secs(10);
const SAY_EVERY: Duration = Duration::from_secs(60);
/// The time without a leader after which a member asks whether it still is one.
const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// Bootstraps a cluster with the others or asks for admission, if that is still to be done; then
/// monitors whether this gateway still is a member.
pub async fn join(cluster: Arc<Cluster>) {
    let mut since = Instant::now();
    let mut said = String::new();
    let mut slow = SlowBootstrap::default();
    let mut bell = cluster.links.listen();
    let mut changes = cluster.replica.changes();
    while cluster.view().role == Role::Waiting {
        let pause = match attempt(&cluster, since).await {
            Ok(Attempt::TooFew(missing)) => {
                since = Instant::now();
                slow.waits_for(&missing);
                TRY_AGAIN
            }
            Ok(Attempt::Open) => {
                slow.is_open(&cluster).await;
                BALLOT_AGAIN
            }
            Err(reason) => {
                // A reason is logged once and not with every attempt.
                if reason != said {
                    tracing::warn!(reason, "not a member of the cluster");
                    said = reason;
                }
                TRY_AGAIN
            }
        };
        tokio::select! {
            // The cluster holds the sender, so this never fails.
            _ = bell.changed() => {}
            () = cluster.replica.changed(&mut changes) => {}
            () = sleep(pause) => {}
        }
    }
    let view = cluster.view();
    if view.members.len() > 1 {
        tracing::info!(id = view.id, members = ?cluster.gateways(), "member of the cluster");
    }
    stay(&cluster).await;
}

/// Logs what a slow bootstrap waits for.
struct SlowBootstrap {
    since: Instant,
    said: Option<Instant>,
}

impl Default for SlowBootstrap {
    fn default() -> Self {
        Self { since: Instant::now(), said: None }
    }
}

impl SlowBootstrap {
    /// Returns whether it is time for a report.
    fn is_due(&mut self) -> bool {
        let is_due = self.since.elapsed() >= SAY_AFTER
            && self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
        if is_due {
            self.said = Some(Instant::now());
        }
        is_due
    }

    fn waits_for(&mut self, missing: &[String]) {
        if self.is_due() {
            tracing::warn!(
                ?missing,
                "not a member of a cluster yet: fewer than half of the gateways of --cluster are \
                 here. Start the missing ones; with cluster.key, the same everywhere"
            );
        }
    }

    async fn is_open(&mut self, cluster: &Cluster) {
        if self.is_due() {
            let (promised, accepted) = cluster.founder.state().await;
            let seconds = self.since.elapsed().as_secs();
            tracing::warn!(
                seconds,
                ballot = ?promised,
                cluster = ?accepted,
                "the bootstrap of the cluster takes long. The ballot names the id of the gateway \
                 that began it: if that is none of yours, somebody else uses its name; set \
                 cluster.key on all gateways"
            );
        }
    }
}

/// The outcome of an attempt to join that did not fail.
enum Attempt {
    /// Fewer than a majority are connected; these listed gateways are missing.
    TooFew(Vec<String>),
    /// The bootstrap is in progress.
    Open,
}

async fn attempt(cluster: &Arc<Cluster>, since: Instant) -> Result<Attempt, String> {
    let own_name = cluster.own_name.as_str();
    let hellos = hellos(cluster).await;
    if let Some((name, _)) = hellos.iter().find(|(_, hello)| hello.founded) {
        let question = Question::Admit { id: cluster.replica.node_id(), name: own_name.to_owned() };
        return match cluster.rpc.ask(name, question, ADD_WITHIN).await {
            Ok(Told { answer: Answer::Done(done), .. }) => done.map(|()| Attempt::Open),
            Ok(_) => {
                Err(format!("{name} belongs to another cluster, or does not know this gateway"))
            }
            Err(error) => Err(format!("{name}: {error}")),
        };
    }
    if !cluster.listed.contains(own_name) {
        return Err(format!("{own_name} is not in --cluster: a member has to add it"));
    }
    let present = hellos.len() + 1;
    if present < majority(cluster.listed.len()) {
        let missing = cluster
            .listed
            .iter()
            .filter(|name| name.as_str() != own_name && !hellos.contains_key(name.as_str()));
        return Ok(Attempt::TooFew(missing.cloned().collect()));
    }
    let earlier = hellos.keys().filter(|name| name.as_str() < own_name).count();
    let mut wait = YIELD_TO_EARLIER * u32::try_from(earlier).unwrap_or(u32::MAX);
    if present < cluster.listed.len() {
        wait += WAIT_FOR_ALL;
    }
    if since.elapsed() >= wait {
        found(cluster, &hellos).await.map_err(|error| error.to_string())?;
    }
    Ok(Attempt::Open)
}

/// Returns the listed gateways that answer, by name.
async fn hellos(cluster: &Arc<Cluster>) -> BTreeMap<String, Hello> {
    let mut asked = tokio::task::JoinSet::new();
    for name in cluster.listed.iter().filter(|name| *name != cluster.own_name.as_str()) {
        let (rpc, name) = (cluster.rpc.clone(), name.clone());
        asked.spawn(async move {
            let answer = rpc.ask(&name, Question::Hello, ANSWER_WITHIN).await;
            (name, answer)
        });
    }
    let mut hellos = BTreeMap::new();
    while let Some(answered) = asked.join_next().await {
        if let Ok((name, Ok(told))) = answered {
            cluster.hear(&told).await;
            if let Answer::Hello(hello) = told.answer
                && hello.id == told.from
            {
                hellos.insert(name, hello);
            }
        }
    }
    hellos
}

/// Runs one ballot of the bootstrap. Whatever its outcome, an earlier decision holds.
async fn found(
    cluster: &Arc<Cluster>,
    hellos: &BTreeMap<String, Hello>,
) -> Result<(), openraft::AnyError> {
    let own_id = cluster.replica.node_id();
    let needed = majority(cluster.listed.len());
    let ballot = cluster.founder.next_ballot(own_id).await;
    let mut promises: Vec<_> = cluster.founder.prepare(ballot).await?.into_iter().collect();
    for name in hellos.keys() {
        let answer = cluster.rpc.ask(name, Question::Prepare(ballot), ANSWER_WITHIN).await;
        let Ok(Told { answer: Answer::Prepared(Some(accepted)), .. }) = answer else { continue };
        // An accepted proposal that no gateway can have made is not counted as a promise.
        match &accepted {
            Some(founding) if !founding.is_sound(&cluster.listed, &[]) => {
                tracing::warn!(gateway = name, "its answer about the bootstrap is not taken");
            }
            _ => promises.push(accepted),
        }
    }
    if promises.len() < needed {
        return Ok(());
    }
    let mut members = BTreeMap::from([(own_id, cluster.own_name.as_str().to_owned())]);
    members.extend(hellos.iter().map(|(name, hello)| (hello.id, name.clone())));
    let own = Founding {
        ballot,
        cluster: getrandom::u64().map_err(|error| openraft::AnyError::error(error.to_string()))?,
        members,
    };
    let founding = proposal(&promises, own);
    let mut accepted = usize::from(cluster.founder.accept(founding.clone()).await?);
    for name in hellos.keys() {
        let question = Question::Accept(founding.clone());
        let answer = cluster.rpc.ask(name, question, ANSWER_WITHIN).await;
        accepted += usize::from(matches!(answer, Ok(Told { answer: Answer::Flag(true), .. })));
    }
    if accepted < needed || !founding.members.contains_key(&own_id) {
        return Ok(());
    }
    tracing::info!(members = ?founding.members.values(), "the cluster is founded");
    cluster.belong(founding.cluster).await?;
    let members = founding.members.into_iter().map(|(id, name)| (id, Member { name })).collect();
    if let Err(error) = cluster.replica.found(members).await {
        tracing::error!(%error, "the cluster was not founded");
    }
    Ok(())
}

/// Monitors whether this gateway was removed while it was disconnected.
async fn stay(cluster: &Arc<Cluster>) {
    let mut led = Instant::now();
    loop {
        sleep(DOUBT_AFTER / 3).await;
        let view = cluster.view();
        if view.leader.is_some_and(|leader| leader == view.id) || view.members.len() <= 1 {
            led = Instant::now();
        }
        if led.elapsed() < DOUBT_AFTER {
            continue;
        }
        let others = hellos_of_members(cluster).await;
        let removed = others
            .iter()
            .any(|hello| hello.led && !hello.members.iter().any(|(id, _)| *id == view.id));
        if removed {
            tracing::warn!(
                "this gateway was removed from the cluster: it serves what it knows and takes no \
                 commands; stop it, or have it added again with an empty data directory"
            );
            cluster.removed.store(true, Ordering::Relaxed);
            cluster.replica.retire();
            return;
        }
        led = Instant::now();
    }
}

async fn hellos_of_members(cluster: &Arc<Cluster>) -> Vec<Hello> {
    let mut hellos = Vec::new();
    for name in cluster.gateways() {
        if let Ok(Told { answer: Answer::Hello(hello), .. }) =
            cluster.rpc.ask(&name, Question::Hello, ANSWER_WITHIN).await
        {
            hellos.push(hello);
        }
    }
    hellos
}
