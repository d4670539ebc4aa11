//! Promotes members without a vote, and completes changes of the members that their leader did not
//! complete.
//!
//! A gateway becomes a member without a vote, catches up, and is then given a vote. The leader that
//! began this may be lost before the last step, or may have stopped waiting. Every leader therefore
//! continues: a member without a vote is being added, unless another gateway with its name votes
//! and answers under that name.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Cluster;
use super::links::ANSWER_WITHIN;
use super::wire::Question;
use crate::registry::replica::{ClusterView, NodeId, Role};

/// The interval at which the leader looks for members without a vote.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The time limit of one change of the members.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Completes unfinished changes for as long as this gateway leads.
pub async fn watch(cluster: Arc<Cluster>) {
    let mut changes = cluster.replica.changes();
    loop {
        let view = cluster.view();
        let is_complete =
            view.members.values().all(|(_, votes)| *votes) && !cluster.replica.is_changing();
        if is_complete || view.role != Role::Leader {
            cluster.replica.changed(&mut changes).await;
            continue;
        }
        complete(&cluster, &view).await;
        sleep(LOOK_EVERY).await;
    }
}

async fn complete(cluster: &Arc<Cluster>, view: &ClusterView) {
    if cluster.replica.is_changing() {
        // The outcome is visible at the next look.
        let _ = timeout(CHANGE_WITHIN, cluster.replica.complete_change()).await;
    }
    for (id, (member, votes)) in &view.members {
        if !votes && cluster.replica.may_vote(*id) {
            go_on(cluster, view, *id, &member.name).await;
        }
    }
}

/// Gives a member a vote, or removes it if another gateway has its name now.
async fn go_on(cluster: &Arc<Cluster>, view: &ClusterView, id: NodeId, name: &str) {
    let Ok(told) = cluster.rpc.ask(name, Question::Hello, ANSWER_WITHIN).await else { return };
    let changed = if told.from == id {
        timeout(CHANGE_WITHIN, cluster.replica.promote(id)).await
    } else if view.is_voter(told.from) {
        timeout(CHANGE_WITHIN, cluster.replica.remove_learner(id)).await
    } else {
        return;
    };
    match changed {
        Ok(Ok(())) if told.from == id => tracing::info!(gateway = name, "the gateway votes now"),
        Ok(Ok(())) => tracing::info!(gateway = name, id, "its lost directory is no member now"),
        // There is a new leader, or the majority is missing. The change is tried again.
        Ok(Err(error)) => tracing::debug!(gateway = name, %error, "the members are not changed"),
        Err(_) => {}
    }
}
