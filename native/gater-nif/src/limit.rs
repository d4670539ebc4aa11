//! Rate limits.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::time::Instant;

use gater_core::limit::SharedLimiter;
use rustler::{Binary, NifResult, Resource, ResourceArc, Term};

/// The buckets of one channel.
struct Limiter {
    begun: Instant,
    /// Nobody can find topics that share a bucket.
    hasher: RandomState,
    buckets: SharedLimiter,
}

#[rustler::resource_impl]
impl Resource for Limiter {}

/// `limiter(Rate, MaxTopics) -> Limiter`: so many messages per second and topic.
#[rustler::nif]
fn limiter(rate: u32, max_topics: u32) -> Option<ResourceArc<Limiter>> {
    let rate = NonZeroU32::new(rate)?;
    Some(ResourceArc::new(Limiter {
        begun: Instant::now(),
        hasher: RandomState::new(),
        buckets: SharedLimiter::new(rate, max_topics as usize),
    }))
}

/// `check(Limiter, Topic) -> boolean()`: takes a token now.
#[rustler::nif]
fn check(limiter: Term<'_>, topic: Binary<'_>) -> NifResult<bool> {
    // Borrowed from the caller: counting who holds it would cost more than the check.
    let limiter: &Limiter = limiter.decode()?;
    let now = u64::try_from(limiter.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(limiter.buckets.check(limiter.hasher.hash_one(&*topic), now))
}

/// `check(Limiter, Topic, NowNanos) -> boolean()`: takes a token at a time that does
/// not go backwards.
#[rustler::nif(name = "check")]
fn check_at(limiter: Term<'_>, topic: Binary<'_>, now_nanos: u64) -> NifResult<bool> {
    let limiter: &Limiter = limiter.decode()?;
    Ok(limiter.buckets.check(limiter.hasher.hash_one(&*topic), now_nanos))
}
