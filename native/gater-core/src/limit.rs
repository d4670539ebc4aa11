//! Rate limits with a token bucket per topic.
//!
//! The state of a bucket is one number, the *theoretical arrival time* of the generic cell rate
//! algorithm (ITU-T I.371), which is the time at which the bucket will be full again. A full bucket
//! needs no memory at all.

mod shared;

use std::num::NonZeroU32;

use foldhash::HashMap;

pub use self::shared::SharedLimiter;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The parameters of a token bucket whose capacity is the number of tokens that it gains in a
/// second.
///
/// The state of a bucket is a `u64` that starts at 0. It fits an atomic, so it can be advanced
/// without a lock: load the state, call [`Gcra::step`], then compare and exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gcra {
    /// The nanoseconds until one token is gained, rounded up so that the rate is never exceeded.
    interval: u64,
    /// The greatest time in nanoseconds by which the state may be ahead of the clock while a token
    /// is left.
    tolerance: u64,
}

impl Gcra {
    /// Returns a bucket of `rate` tokens that gains `rate` tokens per second.
    pub const fn new(rate: NonZeroU32) -> Self {
        let rate = rate.get() as u64;
        let interval = NANOS_PER_SECOND.div_ceil(rate);
        Self { interval, tolerance: interval * (rate - 1) }
    }

    /// Takes one token at `now_nanos` of a monotonic clock. Returns the state that follows `state`,
    /// or `None` if the bucket is empty.
    pub const fn step(&self, state: u64, now_nanos: u64) -> Option<u64> {
        let full_at = if state > now_nanos { state } else { now_nanos };
        if full_at - now_nanos > self.tolerance {
            return None;
        }
        Some(full_at.saturating_add(self.interval))
    }

    /// Returns the nanoseconds after which a bucket is full again, whatever was taken from it.
    pub const fn fills_within(&self) -> u64 {
        self.tolerance + self.interval
    }
}

/// Token buckets by topic, for one rate.
///
/// Topics are remembered in two generations. A topic that was not used for as long as its bucket
/// takes to fill is forgotten, which has no effect. When more topics are in use than may be
/// remembered, the least recently used ones are forgotten early and start with a full bucket when
/// they are used again.
#[derive(Debug)]
pub struct RateLimiter {
    bucket: Gcra,
    /// The number of topics in one generation.
    generation_size: usize,
    /// The start of the current generation, in nanoseconds of the clock.
    begun_at: u64,
    /// The topics that were used in the current generation.
    current: HashMap<Box<[u8]>, u64>,
    /// The topics that were used in the previous generation and not since.
    previous: HashMap<Box<[u8]>, u64>,
}

impl RateLimiter {
    /// Returns a limiter that allows `rate` messages per second and topic, and as many at once
    /// after a pause. It remembers at most `max_topics` topics (at least 2).
    pub fn new(rate: NonZeroU32, max_topics: usize) -> Self {
        Self {
            bucket: Gcra::new(rate),
            generation_size: (max_topics / 2).max(1),
            begun_at: 0,
            current: HashMap::default(),
            previous: HashMap::default(),
        }
    }

    /// Returns whether a message may be published on `topic` at `now_nanos` of a monotonic clock.
    /// An allowed message is counted.
    pub fn check(&mut self, topic: &[u8], now_nanos: u64) -> bool {
        if now_nanos.saturating_sub(self.begun_at) >= self.bucket.fills_within() {
            self.next_generation(now_nanos);
        }
        if let Some(state) = self.current.get_mut(topic) {
            return match self.bucket.step(*state, now_nanos) {
                Some(next) => {
                    *state = next;
                    true
                }
                None => false,
            };
        }
        let (key, state) =
            self.previous.remove_entry(topic).unwrap_or_else(|| (Box::from(topic), 0));
        let next = self.bucket.step(state, now_nanos);
        if self.current.len() >= self.generation_size {
            self.next_generation(now_nanos);
        }
        self.current.insert(key, next.unwrap_or(state));
        next.is_some()
    }

    /// Returns the number of topics remembered.
    pub fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    /// Returns whether no topic is remembered.
    pub fn is_empty(&self) -> bool {
        self.current.is_empty() && self.previous.is_empty()
    }

    fn next_generation(&mut self, now_nanos: u64) {
        self.begun_at = now_nanos;
        // The new table has the size that is in use now, so that memory for one busy second is
        // freed.
        let next = HashMap::with_capacity_and_hasher(self.current.len() / 2, Default::default());
        self.previous = std::mem::replace(&mut self.current, next);
    }
}

#[cfg(test)]
mod tests;
