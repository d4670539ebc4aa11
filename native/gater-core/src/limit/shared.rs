//! Token buckets that many threads use at once without a lock.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::quality::RandomState;

use super::Gcra;

/// The number of buckets in which a topic may be, which are two cache lines.
const WAYS: usize = 8;

/// A bucket: the hash of its topic (0 for none) and its state.
#[derive(Debug, Default)]
struct Bucket {
    owner: AtomicU64,
    state: AtomicU64,
}

/// Token buckets by topic, for one rate, in a table of fixed size.
///
/// A topic is identified by a hash of 64 bits, with a random key for each limiter. Two topics with
/// the same hash share a bucket. When all buckets for a topic are taken, it replaces the topic
/// whose bucket is, or will be, full first. The replaced topic starts with a full bucket when it is
/// used again.
#[derive(Debug)]
pub struct SharedLimiter {
    bucket: Gcra,
    hasher: RandomState,
    sets: Box<[[Bucket; WAYS]]>,
}

impl SharedLimiter {
    /// Returns a limiter that allows `rate` messages per second and topic, and as many at once
    /// after a pause. It remembers about `max_topics` topics and takes 32 bytes for each.
    pub fn new(rate: NonZeroU32, max_topics: usize) -> Self {
        // Half of the buckets are spare, so that all buckets of one set are seldom in use before
        // the table is full.
        let sets = (max_topics * 2).div_ceil(WAYS).next_power_of_two();
        Self {
            bucket: Gcra::new(rate),
            hasher: RandomState::default(),
            sets: std::iter::repeat_with(Default::default).take(sets).collect(),
        }
    }

    /// Returns whether a message may be published on the topic at `now_nanos` of a monotonic
    /// clock. An allowed message is counted.
    #[inline]
    pub fn check(&self, topic: &[u8], now_nanos: u64) -> bool {
        self.check_hashed(self.hasher.hash_one(topic), now_nanos)
    }

    #[inline]
    fn check_hashed(&self, hash: u64, now_nanos: u64) -> bool {
        let owner = hash | 1;
        // The upper bits choose the set, since the lowest bit is not kept in `owner`.
        let Some(set) = self.sets.get((hash >> 32) as usize & (self.sets.len() - 1)) else {
            return true;
        };
        loop {
            if let Some(bucket) = set.iter().find(|bucket| bucket.owner.load(Relaxed) == owner) {
                return self.take(bucket, now_nanos);
            }
            let first = set.iter().min_by_key(|bucket| bucket.state.load(Relaxed));
            let Some(bucket) = first else { return true };
            let before = bucket.owner.load(Relaxed);
            if bucket.owner.compare_exchange(before, owner, Relaxed, Relaxed).is_ok() {
                // A bucket that is full already needs no reset, since its state is the same for any
                // topic.
                if bucket.state.load(Relaxed) > now_nanos {
                    bucket.state.store(0, Relaxed);
                }
                return self.take(bucket, now_nanos);
            }
            // Another topic has taken the bucket in between, so the search starts again.
        }
    }

    fn take(&self, bucket: &Bucket, now_nanos: u64) -> bool {
        let step = |state| self.bucket.step(state, now_nanos);
        bucket.state.fetch_update(Relaxed, Relaxed, step).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(rate: u32, max_topics: usize) -> SharedLimiter {
        SharedLimiter::new(NonZeroU32::new(rate).unwrap(), max_topics)
    }

    #[test]
    fn a_topic_has_its_rate_and_as_many_at_once_after_a_pause() {
        let limiter = limiter(10, 100);
        let burst = |now| (0..100).filter(|_| limiter.check(b"t", now)).count();
        assert_eq!(burst(0), 10);
        assert_eq!(burst(SECOND / 2), 5);
        assert_eq!(burst(10 * SECOND), 10);
    }

    #[test]
    fn topics_do_not_share_a_rate() {
        let limiter = limiter(1, 1000);
        let check = |topic: u64| limiter.check(&topic.to_be_bytes(), 0);
        assert!((1..500).all(check));
        assert!(!(1..500).any(check));
    }

    #[test]
    fn who_loses_its_place_starts_with_a_full_bucket() {
        let limiter = limiter(1, 1);
        let topics: Vec<u64> = (1..=WAYS as u64 + 1).map(|topic| topic << 1).collect();
        assert!(topics.iter().all(|topic| limiter.check_hashed(*topic, 0)));
        assert!(limiter.check_hashed(topics[0], 0));
    }

    #[test]
    fn threads_together_get_no_more_than_the_rate() {
        let limiter = limiter(1000, 16);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| limiter.check(b"t", 0)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
