//! Rate limits.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use gater_core::limit::RateLimiter;
use rustc_hash::FxHasher;
use rustler::{Binary, Resource, ResourceArc};

/// Parts of a limiter with a lock each, so that schedulers seldom meet and what
/// is forgotten at once is little.
const SHARDS: usize = 16;

/// The buckets of one channel.
struct Limiter {
    begun: Instant,
    shards: [Mutex<RateLimiter>; SHARDS],
}

#[rustler::resource_impl]
impl Resource for Limiter {}

impl Limiter {
    fn check(&self, topic: &[u8], now_nanos: u64) -> bool {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(topic);
        // The upper bits: the table inside a shard goes by the lower ones.
        let Some(shard) = self.shards.get((hash >> 32) as usize % SHARDS) else { return true };
        shard.lock().unwrap_or_else(PoisonError::into_inner).check(topic, now_nanos)
    }
}

/// `limiter(Rate, MaxTopics) -> Limiter`: so many messages per second and topic.
#[rustler::nif]
fn limiter(rate: u32, max_topics: u32) -> Option<ResourceArc<Limiter>> {
    let rate = NonZeroU32::new(rate)?;
    let per_shard = (max_topics as usize).div_ceil(SHARDS);
    Some(ResourceArc::new(Limiter {
        begun: Instant::now(),
        shards: std::array::from_fn(|_| Mutex::new(RateLimiter::new(rate, per_shard))),
    }))
}

/// `check(Limiter, Topic) -> boolean()`: takes a token now.
#[rustler::nif]
fn check(limiter: ResourceArc<Limiter>, topic: Binary<'_>) -> bool {
    let now = u64::try_from(limiter.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    limiter.check(&topic, now)
}

/// `check(Limiter, Topic, NowNanos) -> boolean()`: takes a token at a time that does
/// not go backwards.
#[rustler::nif(name = "check")]
fn check_at(limiter: ResourceArc<Limiter>, topic: Binary<'_>, now_nanos: u64) -> bool {
    limiter.check(&topic, now_nanos)
}
