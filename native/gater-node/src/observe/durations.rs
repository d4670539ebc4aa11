//! How long something takes, counted in buckets that many threads add to without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds. What is above the last one is in a bucket of
/// its own.
pub const BOUNDS_MICROS: [u64; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
    500_000, 2_000_000, 10_000_000,
];

/// Durations by bucket.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BOUNDS_MICROS.len()],
    above: AtomicU64,
    sum_nanos: AtomicU64,
}

/// The content of [`Durations`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How many there were at most as long as each of [`BOUNDS_MICROS`] and longer than the bound
    /// before it.
    pub buckets: [u64; BOUNDS_MICROS.len()],
    /// How many took longer than the last bound.
    pub above: u64,
    /// All of them together.
    pub sum: Duration,
}

impl Durations {
    /// Something took so long.
    pub fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| bound.saturating_mul(1000) < nanos);
        self.buckets.get(bucket).unwrap_or(&self.above).fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }

    /// What was added so far.
    pub fn snapshot(&self) -> Snapshot {
        let mut buckets = [0; BOUNDS_MICROS.len()];
        for (copy, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *copy = bucket.load(Relaxed);
        }
        let sum = Duration::from_nanos(self.sum_nanos.load(Relaxed));
        Snapshot { buckets, above: self.above.load(Relaxed), sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_of_the_first_bound_that_is_not_below_it() {
        let durations = Durations::default();
        for micros in [0, 1, 2, 3, 5, 10_000_000, 10_000_001] {
            durations.add(Duration::from_micros(micros));
        }
        let found = durations.snapshot();
        assert_eq!(found.buckets[..3], [2, 1, 2]);
        assert_eq!((found.buckets[18], found.above), (1, 1));
        assert_eq!(found.sum, Duration::from_micros(20_000_012));
    }
}
