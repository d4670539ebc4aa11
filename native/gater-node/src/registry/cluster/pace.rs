//! How fast the other gateways answer, and the timers that follow from it.
//!
//! Gateways may be a millisecond apart or most of a second. A leader's heartbeats are sent at a fixed
//! pace and are not waited for; everything that is waited for, or that a silence is judged by, allows
//! for the longest of the measured round trips.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::Cluster;
use crate::registry::replica::{ClusterView, NodeId, Role};

/// The pause between the heartbeats of a leader.
const BEAT_EVERY: Duration = Duration::from_millis(250);
/// The time after which a silent leader is lost, where a round trip takes no time.
const SILENT_FOR: Duration = Duration::from_millis(2_000);
/// The longest round trip that is allowed for. Answers to longer ones are not waited for.
const LONGEST: Duration = Duration::from_millis(1_200);

/// What is known of how fast gateways answer.
#[derive(Default)]
pub struct Paces {
    /// The time from question to answer, smoothed, by the name of the gateway.
    round_trips: Mutex<HashMap<String, Duration>>,
    /// When the gateway with this id last acknowledged what this one, as its leader, sent.
    acknowledged: Mutex<HashMap<NodeId, Instant>>,
}

impl Paces {
    /// A question to the gateway `name` was answered after `took`.
    pub fn measured(&self, name: &str, took: Duration) {
        let mut round_trips = self.round_trips.lock();
        let known = round_trips.entry(name.to_owned()).or_insert(took);
        // A gateway that is busy for a moment is no farther away: what is longer counts little.
        *known = if took < *known { took } else { (*known * 7 + took) / 8 };
    }

    /// The longest round trip to one of the gateways `names`, as far as it is allowed for.
    pub fn round_trip<'a>(&self, names: impl Iterator<Item = &'a str>) -> Duration {
        let round_trips = self.round_trips.lock();
        let longest = names.filter_map(|name| round_trips.get(name)).max().copied();
        longest.unwrap_or_default().min(LONGEST)
    }

    /// The gateway `id` has acknowledged what this one sent as its leader.
    pub fn acknowledged(&self, id: NodeId) {
        self.acknowledged.lock().insert(id, Instant::now());
    }

    /// For how long the gateway `id` has acknowledged nothing. `None` if it never has.
    pub fn silence(&self, id: NodeId) -> Option<Duration> {
        self.acknowledged.lock().get(&id).map(Instant::elapsed)
    }
}

impl Cluster {
    /// The longest round trip to a member that votes.
    pub fn round_trip(&self, view: &ClusterView) -> Duration {
        let names = view.voters().filter(|id| *id != view.id).filter_map(|id| view.name_of(id));
        self.rpc.paces().round_trip(names)
    }

    /// The time after which a leader that is not heard is lost.
    pub fn patience(&self, view: &ClusterView) -> Duration {
        SILENT_FOR + self.round_trip(view) * 2
    }

    /// For how long no majority has acknowledged anything to this gateway, which leads. `None` if a
    /// majority never has.
    pub fn quorum_silence(&self, view: &ClusterView) -> Option<Duration> {
        let silence = |id: NodeId| {
            if id == view.id { Some(Duration::ZERO) } else { self.rpc.paces().silence(id) }
        };
        let mut silences: Vec<_> = view.voters().map(silence).collect();
        // Those that have never acknowledged anything come last.
        silences.sort_by_key(|silence| silence.unwrap_or(Duration::MAX));
        silences.get(silences.len() / 2).copied().flatten()
    }
}

/// Sends the heartbeats of a leader that has others to send them to.
pub async fn beat(cluster: Arc<Cluster>) {
    let mut changes = cluster.replica.changes();
    loop {
        let view = cluster.view();
        if view.role != Role::Leader || view.members.len() <= 1 {
            cluster.replica.changed(&mut changes).await;
            continue;
        }
        cluster.replica.beat().await;
        sleep(BEAT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_follows_what_is_measured_and_is_bounded() {
        let ms = Duration::from_millis;
        let paces = Paces::default();
        assert_eq!(paces.round_trip(["a@h"].into_iter()), Duration::ZERO);
        paces.measured("a@h", ms(100));
        paces.measured("b@h", ms(300));
        assert_eq!(paces.round_trip(["a@h", "b@h"].into_iter()), ms(300));
        // One slow answer is no long way.
        paces.measured("a@h", ms(900));
        assert_eq!(paces.round_trip(["a@h"].into_iter()), ms(200));
        paces.measured("a@h", ms(80));
        assert_eq!(paces.round_trip(["a@h"].into_iter()), ms(80));
        paces.measured("c@h", ms(60_000));
        assert_eq!(paces.round_trip(["c@h"].into_iter()), LONGEST);
    }
}
