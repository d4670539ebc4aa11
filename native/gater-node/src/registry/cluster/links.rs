//! The connections between gateways.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use gater_term::Atom;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Cluster;
use super::refusals::Reason;
use super::rpc::AskError;
use super::wire::Question;

/// The interval at which every connection is checked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The time within which a gateway must answer a short question.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The time without an answer after which a connection is cut and established anew, since messages
/// in a broken network are not worth waiting for.
const SILENT_FOR: Duration = Duration::from_secs(6);
/// The time within which a gateway must prove the key of the cluster, if there is a key.
const PROVED_WITHIN: Duration = Duration::from_secs(5);
/// The time limit of a dial.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// The names of the other gateways, and a notification when one of them connects or disconnects.
pub struct Links {
    started: Instant,
    names: Mutex<BTreeSet<String>>,
    /// The times at which the last connections to gateways ended.
    lost: Mutex<HashMap<String, Instant>>,
    bell: watch::Sender<u64>,
}

impl Links {
    /// Returns the connections to the other gateways, which are known by `names`.
    pub fn new(names: BTreeSet<String>) -> Self {
        Self {
            started: Instant::now(),
            names: Mutex::new(names),
            lost: Mutex::default(),
            bell: watch::Sender::default(),
        }
    }

    /// Records the end of the connection to the gateway `name`.
    pub fn lost(&self, name: &str) {
        self.lost.lock().insert(name.to_owned(), Instant::now());
    }

    /// Returns the time for which the gateway `name` has been disconnected.
    pub fn away_for(&self, name: &str) -> Duration {
        self.lost.lock().get(name).unwrap_or(&self.started).elapsed()
    }

    /// Returns whether the node `name` is one of the other gateways.
    pub fn is_one(&self, name: &str) -> bool {
        self.names.lock().contains(name)
    }

    /// Adds the gateway `name` to those that are kept connected.
    pub fn also(&self, name: &str) {
        self.names.lock().insert(name.to_owned());
    }

    /// Notifies the listeners that a connection to a gateway was established or lost.
    pub fn changed(&self) {
        self.bell.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    /// Returns a receiver of notifications from now on.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }
}

/// Keeps all other gateways connected.
pub async fn keep(cluster: Arc<Cluster>) {
    let mut tended: HashMap<String, AbortHandle> = HashMap::default();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let mut names = cluster.gateways();
        names.extend(cluster.listed.iter().cloned());
        names.remove(cluster.own_name.as_str());
        *cluster.links.names.lock() = names.clone();
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("what keeps a gateway connected failed and begins again");
                tended.retain(|_, task: &mut AbortHandle| !task.is_finished());
            }
        }
        tended.retain(|name, task| {
            let wanted = names.contains(name);
            if !wanted {
                task.abort();
            }
            wanted
        });
        for name in names {
            tended.entry(name.clone()).or_insert_with(|| tasks.spawn(tend(cluster.clone(), name)));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Keeps one gateway connected.
async fn tend(cluster: Arc<Cluster>, name: String) {
    let Ok(node) = Atom::new(&name) else { return };
    let mut heard = Instant::now();
    loop {
        if let Some(connection) = cluster.rpc.any_connection(&name) {
            cluster.challenge(&connection);
        }
        // `heard` is the time at which the connection last worked.
        match cluster.rpc.any_connection(&name) {
            None => {
                // A refusal is logged by the gateway that refuses. The dial is repeated.
                let _ = timeout(DIAL_WITHIN, cluster.rpc.node().connect(&node)).await;
                heard = Instant::now();
            }
            Some(connection) => {
                match cluster.rpc.ask(&name, Question::Hello, ANSWER_WITHIN).await {
                    Ok(told) => {
                        heard = Instant::now();
                        cluster.hear(&told).await;
                    }
                    Err(AskError::NotConnected)
                        if !connection.is_closed() && heard.elapsed() > PROVED_WITHIN =>
                    {
                        cluster.trust.refuse(Reason::NotProved, &connection, &"no proof came");
                        connection.close("it has not proved cluster.key");
                        heard = Instant::now();
                    }
                    Err(AskError::NotConnected) => {}
                    Err(_) if heard.elapsed() > SILENT_FOR => {
                        tracing::warn!(gateway = name, "does not answer: its connection is cut");
                        connection.close("it does not answer");
                        heard = Instant::now();
                    }
                    Err(_) => {}
                }
            }
        }
        sleep(LOOK_EVERY).await;
    }
}
