//! Whether the cluster works, as far as this gateway can tell, and log lines about what changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Cluster;
use crate::registry::replica::{NodeId, Role, Standing};

/// A leader that a majority has not answered for this long has lost it: several heartbeats, and
/// short enough to be told within 5 s.
const QUORUM_SILENT_FOR: Duration = Duration::from_secs(2);
/// How often it is looked for changes that are worth a line.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// All of its gateways are there.
    Healthy,
    /// Commands are carried out, but a gateway is missing.
    Degraded,
    /// No command is carried out, as far as this gateway can tell.
    NoQuorum,
}

impl Health {
    /// The name operators see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::NoQuorum => "no_quorum",
        }
    }
}

impl Cluster {
    /// How the cluster is.
    pub fn health(&self, standing: &Standing) -> Health {
        if self.is_removed() || !self.has_quorum(standing) {
            return Health::NoQuorum;
        }
        let missing = standing.members.keys().any(|id| !self.is_member_connected(standing, *id));
        let learning = standing.members.values().any(|(_, votes)| !votes);
        if missing || learning || !self.unseen(standing).is_empty() {
            return Health::Degraded;
        }
        Health::Healthy
    }

    /// The gateways that are listed and were never members: a name that is misspelt, or one that
    /// was not started yet. The cluster does not count on them.
    pub fn unseen(&self, standing: &Standing) -> Vec<String> {
        let members = names(standing);
        let unseen = |name: &&String| {
            *name != self.name()
                && !members.contains(*name)
                && !self.replica.has_departed(name.as_str())
        };
        self.listed.iter().filter(unseen).cloned().collect()
    }

    /// Whether a member is connected; this gateway is, to itself.
    pub fn is_member_connected(&self, standing: &Standing, id: NodeId) -> bool {
        id == standing.id || standing.name_of(id).is_some_and(|name| self.is_connected(name))
    }

    fn has_quorum(&self, standing: &Standing) -> bool {
        let voters = standing.voters().count();
        if standing.role == Role::Waiting || voters == 0 {
            return false;
        }
        if voters == 1 && standing.votes() {
            return true;
        }
        match standing.leader {
            Some(leader) if leader == standing.id => {
                let reached =
                    standing.voters().filter(|id| self.is_member_connected(standing, *id)).count();
                reached > voters / 2
                    && self
                        .replica
                        .quorum_silence()
                        .is_some_and(|silence| silence < QUORUM_SILENT_FOR)
            }
            Some(leader) => self.is_member_connected(standing, leader),
            None => false,
        }
    }
}

fn names(standing: &Standing) -> BTreeSet<String> {
    standing.members.values().map(|(member, _)| member.name.clone()).collect()
}

/// Logs who leads, who is a member and whether there is a quorum, whenever that has changed since
/// the last look: an election that flaps is a line a second, with the number of terms.
pub async fn watch(cluster: Arc<Cluster>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut members = names(&cluster.standing());
    let mut led: Option<(Option<NodeId>, u64)> = None;
    let mut quorum = true;
    loop {
        ticks.tick().await;
        let standing = cluster.standing();
        let now = names(&standing);
        if now != members {
            if now.len() > 1 || members.len() > 1 {
                tracing::info!(members = ?now, "the members of the cluster have changed");
            }
            members = now;
        }
        // One that is alone leads itself, which is not worth a line.
        if standing.members.len() <= 1 || cluster.is_removed() {
            continue;
        }
        if led.is_none_or(|(leader, _)| leader != standing.leader) {
            let terms = led.map_or(0, |(_, term)| standing.term.saturating_sub(term));
            match standing.leader {
                Some(leader) => {
                    let name = standing.name_of(leader).unwrap_or("one that is no member any more");
                    tracing::info!(leader = name, term = standing.term, terms, "a gateway leads");
                }
                None if led.is_some() => {
                    tracing::warn!(
                        term = standing.term,
                        "no gateway leads: an election is under way"
                    );
                }
                None => {}
            }
            led = Some((standing.leader, standing.term));
        }
        let has_quorum = cluster.has_quorum(&standing);
        if has_quorum != quorum {
            if has_quorum {
                tracing::info!("a majority of the gateways is there: commands are carried out");
            } else {
                let missing: Vec<_> = standing
                    .members
                    .keys()
                    .filter(|id| !cluster.is_member_connected(&standing, **id))
                    .filter_map(|id| standing.name_of(*id))
                    .collect();
                tracing::warn!(
                    ?missing,
                    "no majority of the gateways is reached: commands are refused, look-ups go on"
                );
            }
            quorum = has_quorum;
        }
    }
}
