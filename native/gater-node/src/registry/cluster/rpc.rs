//! Questions to other gateways, and the way of their answers back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foldhash::HashMap;
use gater_dist::{Connection, Lane, Node};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::bootstrap::ClusterId;
use super::key::KeyMessage;
use super::trust::Trust;
use super::wire::{Answer, Content, Envelope, NAME, Question};
use crate::registry::replica::NodeId;

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection.
    #[error("it is not connected")]
    NotConnected,
    /// The connection broke meanwhile.
    #[error("the connection broke")]
    Broken,
    /// It took too long.
    #[error("it does not answer")]
    Silent,
    /// The question does not fit in a message, or the answer is of another kind.
    #[error("it does not speak the same language")]
    Language,
}

/// An answer, and who gives it.
pub struct Told {
    /// The id of the gateway that answers.
    pub from: NodeId,
    /// The cluster it belongs to.
    pub cluster: Option<ClusterId>,
    /// The connection it came over.
    pub over: Arc<Connection>,
    /// What it says.
    pub answer: Answer,
}

/// An answer that is waited for.
struct Waiting {
    /// The connection the question went over.
    over: Arc<Connection>,
    answer: oneshot::Sender<Told>,
}

/// Asks other gateways.
pub struct Rpc {
    node: Node,
    trust: OnceLock<Arc<Trust>>,
    cluster: ArcSwapOption<ClusterId>,
    last: AtomicU64,
    /// Whether this gateway asks nothing of consensus any more.
    has_withdrawn: AtomicBool,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// Forgets a question when nobody waits for its answer any more.
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
    /// Asks over the connections of `node`.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            trust: OnceLock::new(),
            cluster: ArcSwapOption::empty(),
            last: AtomicU64::new(0),
            has_withdrawn: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    /// Hands over who decides which gateways may be spoken to; nobody is before.
    pub fn trust(&self, trust: Arc<Trust>) {
        // The cluster is opened once; the first stays.
        let _ = self.trust.set(trust);
    }

    /// The node over whose connections this asks.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The cluster this gateway belongs to.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.load().as_deref().copied()
    }

    /// This gateway belongs to `cluster` from now on.
    pub fn belong(&self, cluster: ClusterId) {
        self.cluster.store(Some(Arc::new(cluster)));
    }

    /// Asks nothing of consensus any more: this gateway must not take part.
    pub fn withdraw(&self) {
        self.has_withdrawn.store(true, Ordering::Relaxed);
    }

    /// The connection to the gateway `name`, if it stands and the gateway has proved the key of
    /// the cluster.
    pub fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        let trust = self.trust.get()?;
        self.any_connection(name).filter(|connection| trust.has_proved(connection))
    }

    /// The connection to the node `name`, if it stands.
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

    /// Asks the gateway `name`, in the lane above all messages.
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
        let envelope =
            Envelope { cluster: self.cluster(), from, number, content: Content::Ask(question) };
        let payload = envelope.encode().map_err(|_| AskError::Language)?;
        let (sender, answer) = oneshot::channel();
        let asked = Asked { rpc: self, number };
        self.waiting.lock().insert(number, Waiting { over: over.clone(), answer: sender });
        over.send_name(Lane::Control, NAME, &payload);
        // It may have closed before it was put down as waited for.
        if over.is_closed() {
            return Err(AskError::Broken);
        }
        let answer = timeout(within, answer).await;
        drop(asked);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Broken),
            Err(_) => Err(AskError::Silent),
        }
    }

    /// An answer has come over `connection`.
    pub fn answered(&self, connection: &Arc<Connection>, number: u64, answer: Told) {
        let mut waiting = self.waiting.lock();
        // Only who was asked may answer.
        if waiting.get(&number).is_some_and(|asked| Arc::ptr_eq(&asked.over, connection))
            && let Some(asked) = waiting.remove(&number)
        {
            drop(waiting);
            // Who asked may have given up.
            let _ = asked.answer.send(answer);
        }
    }

    /// A connection is gone: what was asked over it has no answer.
    pub fn broken(&self, connection: &Arc<Connection>) {
        self.waiting.lock().retain(|_, asked| !Arc::ptr_eq(&asked.over, connection));
    }
}
