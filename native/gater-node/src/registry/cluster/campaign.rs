//! Replaces a leader at once when its connections break.
//!
//! A process that dies closes its connections, which the others notice long before its heartbeats
//! are missed. When a majority of the voters has lost the leader, they campaign. A single candidate
//! would be refused while the others still trust the leader's last heartbeat, so all of them
//! campaign: this ends their trust, and of two votes in one term the greater wins. A gateway that
//! alone has lost the leader does not campaign.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Cluster;
use super::rpc::Told;
use super::wire::{Answer, Question};
use crate::registry::replica::ClusterView;

/// The time within which the others must answer whether they have lost the leader, too.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The shortest time between two elections, and the greatest random addition to it.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const AGAIN_JITTER_MS: u64 = 100;
/// The shortest time between two looks at a leader that is silent.
const SHORTEST: Duration = Duration::from_millis(20);

/// Campaigns whenever the leader is lost, for as long as it is polled.
pub async fn watch(cluster: Arc<Cluster>) {
    let mut bell = cluster.links.listen();
    let mut changes = cluster.replica.changes();
    loop {
        if has_lost_leader(&cluster, &cluster.view()) {
            if others_agree(&cluster).await && has_lost_leader(&cluster, &cluster.view()) {
                tracing::info!("the leader is gone: stands for election");
                cluster.replica.campaign().await;
            }
            // Votes that are under way must arrive before the next election.
            let jitter = getrandom::u64().unwrap_or(0) % AGAIN_JITTER_MS;
            let share = u32::try_from(jitter * 100 / AGAIN_JITTER_MS).unwrap_or(0);
            let round_trip = cluster.round_trip(&cluster.view());
            let pause = AGAIN_AFTER + round_trip * 3 + round_trip * share / 100;
            sleep(pause + Duration::from_millis(jitter)).await;
            continue;
        }
        let view = cluster.view();
        let follows = view.leader.is_some_and(|leader| leader != view.id) && view.votes();
        let left = cluster.patience(&view).saturating_sub(cluster.replica.leader_silence());
        tokio::select! {
            () = sleep(left.max(SHORTEST)), if follows => {}
            // The cluster holds the sender, so this never fails.
            _ = bell.changed() => {}
            () = cluster.replica.changed(&mut changes) => {}
        }
    }
}

/// Returns whether this gateway is a voter without a connection to a leader.
fn has_lost_leader(cluster: &Cluster, view: &ClusterView) -> bool {
    let others = view.voters().any(|id| id != view.id);
    view.votes() && others && !cluster.is_rolled_back() && !sees_leader(cluster, view)
}

fn sees_leader(cluster: &Cluster, view: &ClusterView) -> bool {
    let Some(leader) = view.leader else { return false };
    let is_heard = leader == view.id || cluster.replica.leader_silence() < cluster.patience(view);
    is_heard && cluster.is_member_connected(view, leader)
}

/// Returns the answer to another gateway that has lost its leader. The terms are not compared: a
/// gateway that campaigns already is in a later term, and needs the other to campaign as well.
pub fn is_leaderless(cluster: &Cluster) -> bool {
    let view = cluster.view();
    view.votes() && !sees_leader(cluster, &view)
}

/// Returns whether a majority of the voters has lost the leader.
async fn others_agree(cluster: &Arc<Cluster>) -> bool {
    let view = cluster.view();
    let voters = view.voters().count();
    let within = ANSWER_WITHIN + cluster.round_trip(&view) * 2;
    let mut asked = tokio::task::JoinSet::new();
    for id in view.voters().filter(|id| *id != view.id) {
        let Some(name) = view.name_of(id).map(str::to_owned) else { continue };
        let rpc = cluster.rpc.clone();
        asked.spawn(async move {
            let answer = rpc.ask(&name, Question::Leaderless, within).await;
            // A gateway with the name of a member that waits for admission has no say.
            matches!(answer, Ok(Told { answer: Answer::Flag(true), from, .. }) if from == id)
        });
    }
    let count = async {
        let mut agreed = 1;
        while agreed <= voters / 2 {
            match asked.join_next().await {
                Some(Ok(true)) => agreed += 1,
                Some(_) => {}
                None => return false,
            }
        }
        true
    };
    timeout(within, count).await.unwrap_or(false)
}
