//! Questions to other gateways, and the way of their answers back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use foldhash::HashMap;
use gater_dist::{Connection, Lane, Node};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::bootstrap::ClusterId;
use super::wire::{Answer, Content, Envelope, NAME, Question};

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

/// An answer that is waited for.
struct Waiting {
    /// The connection the question went over.
    over: Arc<Connection>,
    answer: oneshot::Sender<Answer>,
}

/// Asks other gateways.
pub struct Rpc {
    node: Node,
    cluster: ArcSwapOption<ClusterId>,
    last: AtomicU64,
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
            cluster: ArcSwapOption::empty(),
            last: AtomicU64::new(0),
            waiting: Mutex::default(),
        }
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

    /// The connection to the gateway `name`, if it stands.
    pub fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        self.node.connection(name).filter(|connection| !connection.is_closed())
    }

    /// Asks the gateway `name`, in the lane above all messages.
    pub async fn ask(
        &self,
        name: &str,
        question: Question,
        within: Duration,
    ) -> Result<Answer, AskError> {
        let over = self.connection(name).ok_or(AskError::NotConnected)?;
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let envelope =
            Envelope { cluster: self.cluster(), number, content: Content::Ask(question) };
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
    pub fn answered(&self, connection: &Arc<Connection>, number: u64, answer: Answer) {
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
