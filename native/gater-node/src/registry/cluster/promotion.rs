//! Members that do not vote yet, and changes of the members that their leader did not complete.
//!
//! A gateway becomes a member without a vote, catches up, and is given a vote. The leader that
//! began it may be gone before the last step, or may have given up waiting. Whoever leads goes on:
//! a member without a vote is on its way in, unless another one with its name votes and answers
//! under that name.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Cluster;
use super::links::ANSWER_WITHIN;
use super::wire::Question;
use crate::registry::replica::{ClusterView, NodeId, Role};

/// How often the leader looks for members without a vote.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one change of the members may take before another one is looked at.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Goes on with what is not complete, for as long as this gateway leads.
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
        // Whatever comes of it shows at the next look.
        let _ = timeout(CHANGE_WITHIN, cluster.replica.complete_change()).await;
    }
    for (id, (member, votes)) in &view.members {
        if !votes && cluster.replica.may_vote(*id) {
            go_on(cluster, view, *id, &member.name).await;
        }
    }
}

/// Gives a member a vote, or takes it out if another one has its name now.
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
        // A new leader, or a majority that is missing: it is tried again.
        Ok(Err(error)) => tracing::debug!(gateway = name, %error, "the members are not changed"),
        Err(_) => {}
    }
}
