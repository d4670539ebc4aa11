//! The health of the cluster as far as this gateway can tell, and log lines about its changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Cluster;
use crate::registry::replica::{ClusterView, NodeId, Role};

/// The time without an answer of a majority after which a leader has lost it. It is several
/// heartbeats, and short enough to be reported within 5 s.
const QUORUM_SILENT_FOR: Duration = Duration::from_secs(2);
/// The interval at which changes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The health of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// All gateways are connected.
    Healthy,
    /// Commands are carried out, but a gateway is missing.
    Degraded,
    /// No command is carried out, as far as this gateway can tell.
    NoQuorum,
}

impl Health {
    /// Returns the name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::NoQuorum => "no_quorum",
        }
    }
}

impl Cluster {
    /// Returns the health of the cluster.
    pub fn health(&self, view: &ClusterView) -> Health {
        if self.is_removed() || self.is_rolled_back() || !self.has_quorum(view) {
            return Health::NoQuorum;
        }
        let is_missing =
            |id: &NodeId| !self.is_member_connected(view, *id) || self.runs_on_old_copy(*id);
        let missing = view.members.keys().any(is_missing);
        let learning = view.members.values().any(|(_, votes)| !votes);
        if missing || learning || !self.unseen(view).is_empty() {
            return Health::Degraded;
        }
        Health::Healthy
    }

    /// Returns sentences for people about what the cluster lacks, as far as this gateway can tell.
    pub fn missing(&self, view: &ClusterView) -> Vec<String> {
        let mut missing = Vec::new();
        if self.is_rolled_back() {
            missing.push(format!("{} runs with an older copy of its data directory", self.name()));
        } else if view.role == Role::Waiting {
            missing.push(format!("{} is no member of a cluster yet", self.name()));
        } else if view.leader.is_none() {
            missing.push("no gateway leads".to_owned());
        }
        if self.replica.is_changing() {
            missing.push("a change of the members is under way".to_owned());
        }
        for (id, (member, votes)) in &view.members {
            let name = if *id == view.id { self.name() } else { member.name.as_str() };
            if !self.is_member_connected(view, *id) {
                missing.push(format!("{name} is not connected"));
            } else if self.runs_on_old_copy(*id) {
                missing.push(format!("{name} runs with an older copy of its data directory"));
            } else if !votes {
                missing.push(match self.replica.lag(*id) {
                    Some(lag) => format!("{name} does not vote yet: it lacks {lag} entries"),
                    None => format!("{name} does not vote yet"),
                });
            }
        }
        let unseen = self.unseen(view).into_iter();
        missing.extend(unseen.map(|name| format!("{name} is in --cluster and was never a member")));
        missing
    }

    /// Returns the listed gateways that were never members: a name may be misspelt, or the gateway
    /// was not started yet. The cluster does not count on them.
    pub fn unseen(&self, view: &ClusterView) -> Vec<String> {
        let members = names(view);
        let unseen = |name: &&String| {
            *name != self.name()
                && !members.contains(*name)
                && !self.replica.has_departed(name.as_str())
        };
        self.listed.iter().filter(unseen).cloned().collect()
    }

    /// Returns whether a member is connected. This gateway is always connected to itself.
    pub fn is_member_connected(&self, view: &ClusterView, id: NodeId) -> bool {
        // Another one may have the name of a member that is lost.
        let is_it = |name| {
            self.rpc
                .connection(name)
                .is_some_and(|connection| !self.trust.is_another(&connection, id))
        };
        id == view.id || view.name_of(id).is_some_and(is_it)
    }

    fn has_quorum(&self, view: &ClusterView) -> bool {
        let voters = view.voters().count();
        if view.role == Role::Waiting || voters == 0 {
            return false;
        }
        if voters == 1 && view.votes() {
            return true;
        }
        let longest = QUORUM_SILENT_FOR + self.round_trip(view);
        match view.leader {
            Some(leader) if leader == view.id => {
                let reached =
                    view.voters().filter(|id| self.is_member_connected(view, *id)).count();
                reached > voters / 2
                    && self.quorum_silence(view).is_some_and(|silence| silence < longest)
            }
            Some(leader) => self.is_member_connected(view, leader),
            None => false,
        }
    }
}

fn names(view: &ClusterView) -> BTreeSet<String> {
    view.members.values().map(|(member, _)| member.name.clone()).collect()
}

/// Logs the leader, the members and the quorum whenever they have changed since the last look. An
/// election that flaps causes one line a second, with the number of terms.
pub async fn watch(cluster: Arc<Cluster>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut members = names(&cluster.view());
    let mut led: Option<(Option<NodeId>, u64)> = None;
    let mut quorum = true;
    loop {
        ticks.tick().await;
        let view = cluster.view();
        let now = names(&view);
        if now != members {
            if now.len() > 1 || members.len() > 1 {
                tracing::info!(members = ?now, "the members of the cluster have changed");
            }
            members = now;
        }
        // A gateway without others always leads itself, which needs no log line.
        if view.members.len() <= 1 || cluster.is_removed() {
            continue;
        }
        if led.is_none_or(|(leader, _)| leader != view.leader) {
            let terms = led.map_or(0, |(_, term)| view.term.saturating_sub(term));
            match view.leader {
                Some(leader) => {
                    let name = view.name_of(leader).unwrap_or("one that is no member any more");
                    tracing::info!(leader = name, term = view.term, terms, "a gateway leads");
                }
                None if led.is_some() => {
                    tracing::warn!(term = view.term, "no gateway leads: an election is under way");
                }
                None => {}
            }
            led = Some((view.leader, view.term));
        }
        let has_quorum = cluster.has_quorum(&view);
        if has_quorum != quorum {
            if has_quorum {
                tracing::info!("a majority of the gateways is there: commands are carried out");
            } else {
                let missing: Vec<_> = view
                    .members
                    .keys()
                    .filter(|id| !cluster.is_member_connected(&view, **id))
                    .filter_map(|id| view.name_of(*id))
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
