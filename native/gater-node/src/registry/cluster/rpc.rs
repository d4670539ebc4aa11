//! Questions to other gateways, and their answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foldhash::HashMap;
use gater_dist::{Connection, Lane, Node};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::bootstrap::ClusterId;
use super::key::KeyMessage;
use super::pace::Paces;
use super::trust::Trust;
use super::wire::{Answer, Content, Envelope, NAME, Question};
use crate::registry::replica::NodeId;

/// The reason why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The gateway is not connected.
    #[error("it is not connected")]
    NotConnected,
    /// The connection broke during the question.
    #[error("the connection broke")]
    Broken,
    /// The answer took too long.
    #[error("it does not answer")]
    Silent,
    /// The question does not fit in a message, or the answer is of another kind.
    #[error("it does not speak the same language")]
    Language,
}

/// An answer and its sender.
pub struct Told {
    /// The id of the gateway that answers.
    pub from: NodeId,
    /// The cluster to which it belongs.
    pub cluster: Option<ClusterId>,
    /// The connection on which the answer arrived.
    pub over: Arc<Connection>,
    /// The answer.
    pub answer: Answer,
}

/// An answer that is waited for.
struct Waiting {
    /// The connection on which the question was sent.
    over: Arc<Connection>,
    answer: oneshot::Sender<Told>,
}

/// Asks other gateways.
pub struct Rpc {
    node: Node,
    trust: OnceLock<Arc<Trust>>,
    cluster: ArcSwapOption<ClusterId>,
    last: AtomicU64,
    /// Whether this gateway sends no more questions of consensus.
    has_withdrawn: AtomicBool,
    paces: Paces,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// Removes a question from the table when its caller stops waiting.
struct Asked<'a> {
    rpc: &'a Rpc,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.rpc.waiting.lock().remove(&self.number);
    }
}

impl Rpc {
    /// Returns a value that asks over the connections of `node`.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            trust: OnceLock::new(),
            cluster: ArcSwapOption::empty(),
            last: AtomicU64::new(0),
            has_withdrawn: AtomicBool::new(false),
            paces: Paces::default(),
            waiting: Mutex::default(),
        }
    }

    /// Sets the decisions about which gateways may be asked. Before this, none may be.
    pub fn trust(&self, trust: Arc<Trust>) {
        // The cluster is opened once, and the first value stays.
        let _ = self.trust.set(trust);
    }

    /// Returns the node over whose connections questions are asked.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the cluster to which this gateway belongs.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.load().as_deref().copied()
    }

    /// Sets the cluster to which this gateway belongs from now on.
    pub fn belong(&self, cluster: ClusterId) {
        self.cluster.store(Some(Arc::new(cluster)));
    }

    /// Stops asking questions of consensus, since this gateway must not take part.
    pub fn withdraw(&self) {
        self.has_withdrawn.store(true, Ordering::Relaxed);
    }

    /// Returns the connection to the gateway `name`, if it is established and the gateway has
    /// proved the key of the cluster.
    pub fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        let trust = self.trust.get()?;
        self.any_connection(name).filter(|connection| trust.has_proved(connection))
    }

    /// Returns the connection to the node `name`, if it is established.
    pub fn any_connection(&self, name: &str) -> Option<Arc<Connection>> {
        self.node.connection(name).filter(|connection| !connection.is_closed())
    }

    /// Sends a message about the key of the cluster.
    pub fn send_key(&self, connection: &Connection, message: KeyMessage) {
        let Some(trust) = self.trust.get() else { return };
        let (from, content) = (trust.own_id(), Content::Key(message));
        let envelope = Envelope { cluster: None, from, number: 0, content };
        match envelope.encode() {
            Ok(payload) => {
                connection.send_name(Lane::Control, NAME, &payload);
            }
            Err(error) => tracing::error!(%error, "a message about the key was not encoded"),
        }
    }

    /// Returns how fast the other gateways answer.
    pub fn paces(&self) -> &Paces {
        &self.paces
    }

    /// Asks the gateway `name`, in the highest lane.
    pub async fn ask(
        &self,
        name: &str,
        question: Question,
        within: Duration,
    ) -> Result<Told, AskError> {
        let over = self.connection(name).ok_or(AskError::NotConnected)?;
        let trust = self.trust.get().ok_or(AskError::NotConnected)?;
        let may_take_part =
            !self.has_withdrawn.load(Ordering::Relaxed) && trust.is_introduced(&over);
        if question.takes_part() && !may_take_part {
            return Err(AskError::NotConnected);
        }
        let from = trust.own_id();
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let is_hello = matches!(question, Question::Hello);
        let envelope =
            Envelope { cluster: self.cluster(), from, number, content: Content::Ask(question) };
        let payload = envelope.encode().map_err(|_| AskError::Language)?;
        let (sender, answer) = oneshot::channel();
        let asked = Asked { rpc: self, number };
        self.waiting.lock().insert(number, Waiting { over: over.clone(), answer: sender });
        over.send_name(Lane::Control, NAME, &payload);
        // The connection may have ended before the question was entered in the table.
        if over.is_closed() {
            return Err(AskError::Broken);
        }
        let began = Instant::now();
        let answer = timeout(within, answer).await;
        drop(asked);
        if is_hello && let Ok(Ok(_)) = &answer {
            self.paces.measured(name, began.elapsed());
        }
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Broken),
            Err(_) => Err(AskError::Silent),
        }
    }

    /// Handles an answer that arrived on `connection`.
    pub fn answered(&self, connection: &Arc<Connection>, number: u64, answer: Told) {
        let mut waiting = self.waiting.lock();
        // Only the gateway that was asked may answer.
        if waiting.get(&number).is_some_and(|asked| Arc::ptr_eq(&asked.over, connection))
            && let Some(asked) = waiting.remove(&number)
        {
            drop(waiting);
            // The caller may have stopped waiting.
            let _ = asked.answer.send(answer);
        }
    }

    /// Handles the end of a connection: its questions have no answer.
    pub fn broken(&self, connection: &Arc<Connection>) {
        self.waiting.lock().retain(|_, asked| !Arc::ptr_eq(&asked.over, connection));
    }
}
