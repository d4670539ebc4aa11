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

/// How often every connection is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a gateway may take to answer a short question.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A connection over which nothing is answered for this long is cut and made anew: what is
/// in a broken network is not worth waiting for.
const SILENT_FOR: Duration = Duration::from_secs(6);
/// How long a gateway may take to prove the key of the cluster, if there is one.
const PROVED_WITHIN: Duration = Duration::from_secs(5);
/// How long a dial may take.
const DIAL_WITHIN: Duration = Duration::from_secs(2);

/// Which nodes are gateways of the cluster, and a bell that rings when one of them
/// connects or goes.
pub struct Links {
    started: Instant,
    names: Mutex<BTreeSet<String>>,
    /// When the last connection to a gateway went.
    lost: Mutex<HashMap<String, Instant>>,
    bell: watch::Sender<u64>,
}

impl Links {
    /// The connections to the other gateways, of which these are known by name.
    pub fn new(names: BTreeSet<String>) -> Self {
        Self {
            started: Instant::now(),
            names: Mutex::new(names),
            lost: Mutex::default(),
            bell: watch::Sender::default(),
        }
    }

    /// The connection to the gateway `name` is gone.
    pub fn lost(&self, name: &str) {
        self.lost.lock().insert(name.to_owned(), Instant::now());
    }

    /// For how long the gateway `name`, which is not connected, has not been.
    pub fn away_for(&self, name: &str) -> Duration {
        self.lost.lock().get(name).unwrap_or(&self.started).elapsed()
    }

    /// Whether the node `name` is one of the other gateways.
    pub fn is_one(&self, name: &str) -> bool {
        self.names.lock().contains(name)
    }

    /// The gateway `name` is to be connected as well.
    pub fn also(&self, name: &str) {
        self.names.lock().insert(name.to_owned());
    }

    /// A connection to a gateway came or went.
    pub fn changed(&self) {
        self.bell.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    /// Hears the bell from now on.
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
        // `heard` is when the connection was in order last.
        match cluster.rpc.any_connection(&name) {
            None => {
                // A refusal shows in the log of whoever refuses; it is tried again.
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
