use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn rate(per_second: u32) -> NonZeroU32 {
    NonZeroU32::new(per_second).unwrap()
}

fn topic(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

#[test]
fn a_burst_of_the_rate_passes_and_no_more() {
    for per_second in [1, 2, 3, 7, 100, 10_000] {
        let mut limiter = RateLimiter::new(rate(per_second), 10);
        let passed = (0..per_second + 10).filter(|_| limiter.check(b"t", 5)).count();
        assert_eq!(passed, per_second as usize);
    }
}

#[test]
fn tokens_come_back_at_the_rate() {
    let mut limiter = RateLimiter::new(rate(100), 10);
    while limiter.check(b"t", 0) {}
    assert!(!limiter.check(b"t", 9_999_999));
    assert!(limiter.check(b"t", 10_000_000));
    assert!(!limiter.check(b"t", 10_000_000));
    let passed = (0..200).filter(|_| limiter.check(b"t", 10_000_000_000)).count();
    assert_eq!(passed, 100);
}

#[test]
fn the_rate_is_kept_over_time_and_never_exceeded() {
    for per_second in [1, 3, 7, 999, 10_000] {
        let mut limiter = RateLimiter::new(rate(per_second), 10);
        while limiter.check(b"t", 0) {}
        let passed = (0..30_000_u64).filter(|n| limiter.check(b"t", n * 1_000_000 / 3)).count();
        let possible = (per_second as usize * 10).min(30_000);
        assert!(passed <= possible, "{per_second}: {passed}");
        assert!(passed * 1000 >= possible * 998 - 1000, "{per_second}: {passed}");
    }
}

#[test]
fn topics_do_not_share_a_bucket() {
    let mut limiter = RateLimiter::new(rate(1), 10);
    assert!(limiter.check(b"a", 0));
    assert!(limiter.check(b"b", 0));
    assert!(!limiter.check(b"a", 0));
}

#[test]
fn idle_topics_are_forgotten() {
    let mut limiter = RateLimiter::new(rate(10), 1_000_000);
    for n in 0..1000 {
        limiter.check(&topic(n), 0);
    }
    assert_eq!(limiter.len(), 1000);
    limiter.check(b"t", 1_000_000_000);
    limiter.check(b"t", 2_000_000_000);
    assert_eq!(limiter.len(), 1);
}

#[test]
fn no_more_topics_are_remembered_than_allowed() {
    for max in [2, 3, 10, 1000] {
        let mut limiter = RateLimiter::new(rate(1), max);
        for n in 0..10_000 {
            limiter.check(&topic(n), 0);
            assert!(limiter.len() <= max);
        }
    }
}

#[test]
fn a_busy_topic_stays_limited_however_many_others_come_and_go() {
    let mut limiter = RateLimiter::new(rate(5), 100);
    let mut passed = 0;
    for n in 0..100_000 {
        limiter.check(&topic(n), 0);
        passed += usize::from(limiter.check(b"busy", 0));
    }
    assert_eq!(passed, 5);
}

#[test]
fn the_extremes_of_rate_and_clock_do_not_overflow() {
    for per_second in [1, u32::MAX] {
        let bucket = Gcra::new(rate(per_second));
        for now in [0, 1, u64::MAX / 2, u64::MAX] {
            for state in [0, 1, u64::MAX] {
                let _ = bucket.step(state, now);
            }
        }
    }
}

/// A textbook token bucket. The level counts nanoseconds: a token is worth the nanoseconds in which
/// it is gained.
struct Bucket {
    level: u64,
    seen_at: u64,
}

impl Bucket {
    fn take(&mut self, rate: u32, now: u64) -> bool {
        let token = NANOS_PER_SECOND.div_ceil(u64::from(rate));
        let most = token * u64::from(rate);
        self.level = (self.level + (now - self.seen_at)).min(most);
        self.seen_at = now;
        let left = self.level >= token;
        if left {
            self.level -= token;
        }
        left
    }
}

proptest! {
    #[test]
    fn it_answers_like_a_token_bucket_per_topic(
        per_second in prop_oneof![1_u32..20, 1_u32..100_000],
        steps in prop::collection::vec(
            (0_u32..4, prop_oneof![Just(0_u64), 0_u64..100_000, 0_u64..2_000_000_000], 1_u32..30),
            0..200,
        ),
    ) {
        let mut limiter = RateLimiter::new(rate(per_second), 1000);
        let mut buckets = BTreeMap::new();
        let mut now = 0;
        for (name, pause, times) in steps {
            now += pause;
            for _ in 0..times {
                let full = || Bucket { level: u64::MAX / 2, seen_at: now };
                let expected = buckets.entry(name).or_insert_with(full).take(per_second, now);
                prop_assert_eq!(limiter.check(&topic(name), now), expected);
            }
        }
    }

    #[test]
    fn a_clock_that_steps_back_never_lets_more_through(
        times in prop::collection::vec(0_u64..3_000_000_000, 1..300),
    ) {
        let bucket = Gcra::new(rate(3));
        let (mut state, mut passed) = (0, 0);
        for now in &times {
            if let Some(next) = bucket.step(state, *now) {
                state = next;
                passed += 1;
            }
        }
        // The bound is the burst and the tokens that are gained in the longest possible span.
        prop_assert!(passed <= 3 + 9);
    }
}
