//! A BEAM cluster that the gateway joins (`--join`), whose nodes it discovers and follows.
//!
//! A hidden node is not part of any mesh by itself. The gateway therefore asks one node of the
//! cluster after another for `erlang:nodes()`, once a second, and immediately when a node connects
//! or disconnects, and dials every node that is named. The nodes to join are dialled for ever, and
//! the others as long as some node of the cluster names them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gater_dist::{Chain, Connection, Node};
use gater_term::{Atom, Reader, encode};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::config::is_node_name;
use crate::services::rpc::Rex;

/// The interval at which one node of the cluster is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two requests, however many nodes connect and disconnect.
const ASK_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// The first and the longest pause between two dials of a node.
const REDIAL_MIN: Duration = Duration::from_millis(250);
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// The time after which a node is forgotten that is not connected and that no node has named.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// The known nodes of the cluster.
#[derive(Debug)]
struct View {
    max_nodes: usize,
    nodes: BTreeMap<Atom, Known>,
    /// The node that was asked last.
    asked: Option<Atom>,
}

#[derive(Debug)]
struct Known {
    /// Whether the node is configured, in which case it is never forgotten.
    seed: bool,
    /// The last time at which a node of the cluster named it or it was connected.
    seen: Instant,
    dial_at: Instant,
    pause: Duration,
}

impl Known {
    fn new(seed: bool, now: Instant) -> Self {
        Self { seed, seen: now, dial_at: now, pause: REDIAL_MIN }
    }
}

impl View {
    fn new(seeds: impl IntoIterator<Item = Atom>, max_nodes: usize, now: Instant) -> Self {
        let nodes = seeds.into_iter().map(|seed| (seed, Known::new(true, now))).collect();
        Self { max_nodes, nodes, asked: None }
    }

    /// Records nodes that a node of the cluster has named. Nodes beyond the limit are ignored.
    fn named(&mut self, nodes: impl IntoIterator<Item = Atom>, now: Instant) {
        for node in nodes {
            if let Some(known) = self.nodes.get_mut(&node) {
                known.seen = now;
            } else if self.nodes.len() < self.max_nodes {
                self.nodes.insert(node, Known::new(false, now));
            }
        }
    }

    /// Returns the node to ask next, in turn among the connected nodes.
    fn next_to_ask(&mut self, connected: impl Fn(&Atom) -> bool) -> Option<Atom> {
        let after = self.asked.take();
        let later = self.nodes.keys().filter(|node| Some(*node) > after.as_ref());
        self.asked = later.chain(self.nodes.keys()).find(|node| connected(node)).cloned();
        self.asked.clone()
    }

    /// Returns the nodes to dial now, and for each whether this is the first dial since it was
    /// connected. Forgets the nodes that are no longer named.
    fn dial_now(&mut self, connected: impl Fn(&Atom) -> bool, now: Instant) -> Vec<(Atom, bool)> {
        let mut dial = Vec::new();
        self.nodes.retain(|node, known| {
            if connected(node) {
                *known = Known::new(known.seed, now);
                return true;
            }
            if !known.seed && now.duration_since(known.seen) >= FORGET_AFTER {
                return false;
            }
            if now >= known.dial_at {
                dial.push((node.clone(), known.pause == REDIAL_MIN));
                known.dial_at = now + known.pause;
                known.pause = (known.pause * 2).min(REDIAL_MAX);
            }
            true
        });
        dial
    }
}

/// The gateway's membership in a BEAM cluster.
pub struct Mesh {
    own: Atom,
    view: Mutex<View>,
    rex: Arc<Rex>,
    bell: Notify,
}

impl Mesh {
    /// Returns the membership of the node `own` in the cluster of `seeds`. At most `max_nodes`
    /// nodes are followed.
    pub fn new(own: Atom, seeds: Vec<Atom>, max_nodes: usize, rex: Arc<Rex>) -> Self {
        let view = Mutex::new(View::new(seeds, max_nodes, Instant::now()));
        Self { own, view, rex, bell: Notify::new() }
    }

    /// Follows the cluster for as long as it is polled. Returns immediately if there is nothing to
    /// join.
    pub async fn follow(self: Arc<Self>, node: Node) {
        if self.view.lock().nodes.is_empty() {
            return;
        }
        loop {
            let connected = |name: &Atom| node.connection(name.as_str()).is_some();
            let asked = self.view.lock().next_to_ask(connected);
            if let Some(name) = asked
                && let Some(connection) = node.connection(name.as_str())
                && let Some(nodes) = self.ask(&connection).await
            {
                let named = nodes.into_iter().filter(|name| *name != self.own).chain([name]);
                self.view.lock().named(named, Instant::now());
            }
            for (name, first) in self.view.lock().dial_now(connected, Instant::now()) {
                let node = node.clone();
                tokio::spawn(async move {
                    // One log line per node suffices.
                    if let Err(error) = node.connect(&name).await
                        && first
                    {
                        tracing::info!(node = %name, error = %Chain(&error), "a node of the cluster is not reached");
                    }
                });
            }
            sleep(ASK_AT_MOST_EVERY).await;
            // Both the end of the interval and a notification lead to the next request.
            let _ = timeout(ASK_EVERY, self.bell.notified()).await;
        }
    }

    /// Notes that a connection was established or lost, so that the cluster may have changed.
    pub fn changed(&self, connection: &Connection) {
        if !connection.peer().hidden {
            self.bell.notify_one();
        }
    }

    /// Asks a node for `erlang:nodes()`. Returns `None` without a valid answer.
    async fn ask(&self, connection: &Connection) -> Option<Vec<Atom>> {
        let answer = self.rex.call(connection, ("erlang", "nodes"), encode::nil).await?;
        let max_nodes = self.view.lock().max_nodes;
        read(&answer, max_nodes)
    }
}

/// Reads `[Node]` with at most `max_nodes` names. Elements that are not names are skipped.
pub(super) fn read(term: &[u8], max_nodes: usize) -> Option<Vec<Atom>> {
    let mut reader = Reader::new(term);
    let count = usize::try_from(reader.list().ok()?).ok()?;
    let mut nodes = Vec::new();
    for _ in 0..count.min(max_nodes) {
        let name = reader.atom().ok()?;
        if is_node_name(&name) {
            nodes.extend(Atom::new(&name));
        }
    }
    Some(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(name: &str) -> Atom {
        Atom::new(name).unwrap()
    }

    fn atoms(names: &[&str]) -> Vec<Atom> {
        names.iter().map(|name| atom(name)).collect()
    }

    #[test]
    fn connected_nodes_are_asked_in_turns() {
        let now = Instant::now();
        let mut view = View::new(atoms(&["b@h"]), 10, now);
        view.named(atoms(&["a@h", "c@h", "d@h"]), now);
        let connected = |node: &Atom| *node != atom("c@h");
        let asked: Vec<_> = (0..5).filter_map(|_| view.next_to_ask(connected)).collect();
        assert_eq!(asked, atoms(&["a@h", "b@h", "d@h", "a@h", "b@h"]));
        assert_eq!(view.next_to_ask(|_| false), None);
    }

    #[test]
    fn who_is_not_reached_is_dialled_ever_more_rarely_and_forgotten_unless_configured() {
        let start = Instant::now();
        let mut view = View::new(atoms(&["seed@h"]), 10, start);
        view.named(atoms(&["a@h"]), start);
        let mut dials = Vec::new();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let now = view.dial_now(|_| false, now);
            dials.extend(now.into_iter().map(|(node, _)| (second, node)));
        }
        assert!(view.nodes.contains_key(&atom("seed@h")));
        assert!(!view.nodes.contains_key(&atom("a@h")));
        assert!(dials.iter().all(|(second, node)| *second < 30 || *node == atom("seed@h")));
        let seed = dials.iter().filter(|(_, node)| *node == atom("seed@h")).count();
        assert!((100..130).contains(&seed), "{seed}");
    }

    #[test]
    fn a_node_that_was_connected_is_dialled_at_once_when_it_is_lost() {
        let start = Instant::now();
        let mut view = View::new(atoms(&["seed@h"]), 10, start);
        let _ = view.dial_now(|_| false, start);
        assert_eq!(view.dial_now(|_| true, start), []);
        assert_eq!(view.dial_now(|_| false, start), [(atom("seed@h"), true)]);
    }

    #[test]
    fn no_more_nodes_are_followed_than_may_be() {
        let now = Instant::now();
        let mut view = View::new(atoms(&["seed@h"]), 3, now);
        view.named((0..100).map(|n| atom(&format!("n{n}@h"))), now);
        assert_eq!(view.nodes.len(), 3);
    }

    #[test]
    fn an_answer_is_read_with_care() {
        let mut out = Vec::new();
        encode::list_of(&mut out, ["a@h", "no name", "b@h", "c@h"].iter(), |out, name| {
            encode::atom(out, name);
        });
        assert_eq!(read(&out, 3), Some(atoms(&["a@h", "b@h"])));
        assert_eq!(read(&out, 10), Some(atoms(&["a@h", "b@h", "c@h"])));
        assert_eq!(read(&out[..out.len() - 2], 10), None);
        assert_eq!(read(&[], 10), None);
    }
}
