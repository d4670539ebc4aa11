//! What passes through a channel, counted on the way of the messages.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::durations::Durations;

/// One publication of so many is timed: reading the clock twice costs a fair part of publishing.
const TIMED: u64 = 16;

/// Numbers of one channel since the start.
#[derive(Debug, Default)]
pub struct Traffic {
    published: AtomicU64,
    relayed: AtomicU64,
    delivered: AtomicU64,
    publish_time: Durations,
}

/// The numbers at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were published at this gateway.
    pub published: u64,
    /// Messages that came from other gateways.
    pub relayed: u64,
    /// Messages that were handed to connections, one for each subscriber.
    pub delivered: u64,
}

impl Traffic {
    /// When the publication began that begins now, if it is one of those that are timed.
    pub fn begin(&self) -> Option<Instant> {
        self.published.load(Relaxed).is_multiple_of(TIMED).then(Instant::now)
    }

    /// A publication that began with `begun` is over: it was handed to so many subscribers.
    pub fn published(&self, begun: Option<Instant>, subscribers: usize) {
        self.published.fetch_add(1, Relaxed);
        self.delivered.fetch_add(subscribers as u64, Relaxed);
        if let Some(begun) = begun {
            self.publish_time.add(begun.elapsed());
        }
    }

    /// A message of another gateway was handed to so many subscribers.
    pub fn relayed(&self, subscribers: usize) {
        self.relayed.fetch_add(1, Relaxed);
        self.delivered.fetch_add(subscribers as u64, Relaxed);
    }

    /// Returns the numbers so far.
    pub fn counts(&self) -> Counts {
        Counts {
            published: self.published.load(Relaxed),
            relayed: self.relayed.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
        }
    }

    /// Returns how long publications took, from the request that was read to the last connection
    /// that the message was handed to.
    pub fn publish_time(&self) -> &Durations {
        &self.publish_time
    }
}
