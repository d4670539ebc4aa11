//! One telemetry event for each publication, on every node with a handler, with the number of
//! processes that receive the message at all gateways.
//!
//! A gateway knows its own recipients. It asks the other gateways for theirs, with several
//! publications in one question, and only while there is a listener. Gateways with listeners of
//! their own are sent the event, so it does not matter at which gateway a message is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::HashMap;
use gater_term::encode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::gateway::Gateway;
use super::message::RelayMessage;
use crate::observe::telemetry::{Event, Telemetry};

/// The number of publications that wait to be counted. Events of further publications are dropped,
/// as are those for which the lane of events is full.
const QUEUED: usize = 4096;
/// The number of publications in one question.
const AT_A_TIME: usize = 256;
/// The time within which other gateways must count. Those that do not answer are counted as zero.
const COUNTED_WITHIN: Duration = Duration::from_secs(1);

/// A publication, and the number of processes that receive it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broadcast {
    /// The channel.
    pub channel: String,
    /// The topic.
    pub topic: Vec<u8>,
    /// The number of processes that are sent the message, as far as the sender of this value knows.
    pub recipients: u64,
}

/// The events of publications.
pub struct Broadcasts {
    telemetry: Arc<Telemetry>,
    queue: mpsc::Sender<Broadcast>,
    /// Locked by the task that runs [`Broadcasts::run`].
    queued: tokio::sync::Mutex<mpsc::Receiver<Broadcast>>,
    counting: Mutex<HashMap<u64, oneshot::Sender<Vec<u64>>>>,
    last_number: AtomicU64,
}

impl Broadcasts {
    /// Returns a value that sends events to the listeners of `telemetry`.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        let (queue, queued) = mpsc::channel(QUEUED);
        Self {
            telemetry,
            queue,
            queued: tokio::sync::Mutex::new(queued),
            counting: Mutex::default(),
            last_number: AtomicU64::new(0),
        }
    }

    /// Returns whether there is a listener, at this gateway or at one of `gateways`.
    pub fn wanted(&self, gateways: &[Arc<Gateway>]) -> bool {
        self.is_heard_here() || gateways.iter().any(|gateway| gateway.listens())
    }

    /// Returns whether there is a listener at this gateway.
    pub fn is_heard_here(&self) -> bool {
        self.telemetry.wants(Event::Broadcast)
    }

    /// Queues the event of a message that was published at this gateway.
    pub fn published(&self, broadcast: Broadcast, gateways: &[Arc<Gateway>]) {
        if gateways.is_empty() {
            self.emit(&broadcast);
        } else {
            // A full queue drops the event, as the lane of events would.
            let _ = self.queue.try_send(broadcast);
        }
    }

    /// Sends the event to the listeners at this gateway.
    pub fn emit(&self, broadcast: &Broadcast) {
        self.telemetry.emit(Event::Broadcast, |out| {
            encode::map(out, 1);
            encode::atom(out, "recipient_count");
            encode::uint(out, broadcast.recipients);
            encode::map(out, 2);
            encode::atom(out, "channel");
            encode::atom(out, &broadcast.channel);
            encode::atom(out, "topic");
            encode::binary(out, &broadcast.topic);
        });
    }

    /// Handles the counts of another gateway.
    pub fn counted(&self, number: u64, counts: Vec<u64>) {
        if let Some(waits) = self.counting.lock().remove(&number) {
            // The task that asked may have stopped waiting.
            let _ = waits.send(counts);
        }
    }

    /// Has all `gateways` count the recipients of messages that are published here, and sends the
    /// events to the listeners, for as long as it is polled.
    pub async fn run(&self, gateways: impl Fn() -> Vec<Arc<Gateway>>) {
        let mut queued = self.queued.lock().await;
        let mut batch = Vec::new();
        while queued.recv_many(&mut batch, AT_A_TIME).await > 0 {
            let gateways = gateways();
            self.count(&mut batch, &gateways).await;
            for broadcast in &batch {
                self.emit(broadcast);
            }
            for gateway in gateways.iter().filter(|gateway| gateway.listens()) {
                gateway.say(&RelayMessage::Broadcasts(batch.clone()));
            }
            batch.clear();
        }
    }

    async fn count(&self, batch: &mut [Broadcast], gateways: &[Arc<Gateway>]) {
        let of: Vec<_> = batch.iter().map(|b| (b.channel.clone(), b.topic.clone())).collect();
        let mut asked = Vec::new();
        for gateway in gateways {
            let number = self.last_number.fetch_add(1, Ordering::Relaxed);
            let (sender, counts) = oneshot::channel();
            self.counting.lock().insert(number, sender);
            gateway.say(&RelayMessage::Count { number, of: of.clone() });
            asked.push((number, counts));
        }
        let until = Instant::now() + COUNTED_WITHIN;
        for (number, counts) in asked {
            match timeout_at(until, counts).await {
                Ok(Ok(counts)) => {
                    for (broadcast, count) in batch.iter_mut().zip(counts) {
                        broadcast.recipients = broadcast.recipients.saturating_add(count);
                    }
                }
                _ => drop(self.counting.lock().remove(&number)),
            }
        }
    }
}
