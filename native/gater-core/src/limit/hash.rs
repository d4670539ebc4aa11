//! The hash by which a shared limiter identifies its topics.

use std::hash::{BuildHasher, RandomState};

/// The number of 8-byte words in the longest topic, which has 255 bytes.
const MAX_WORDS: usize = 32;

/// Hashes topics with a random key of its own.
///
/// The hash is multilinear (Dietzfelbinger 1996): the sum of the products of every word and a
/// random number of 128 bits, of which the upper half is used. The hashes of any two topics that
/// are chosen without the key are independent and equal with a probability of 2^-64. An attacker
/// who chooses topics sees no hashes, only whether two topics share a bucket, and therefore learns
/// nothing before that happens. The hash is faster than SipHash, since no product depends on the
/// previous one.
///
/// The sums of topics that differ in a few digits lie in steps of a few sizes, which for some keys
/// fall on few buckets. The last step is a bijection that scatters them.
#[derive(Debug)]
pub struct TopicHasher {
    keys: Box<Keys>,
    /// The hasher of texts that are longer than [`MAX_WORDS`] words.
    long: RandomState,
}

#[derive(Debug)]
struct Keys {
    offset: u128,
    length: u128,
    words: [u128; MAX_WORDS],
}

impl TopicHasher {
    /// Returns a hasher with a new random key.
    pub fn new() -> Self {
        let random = RandomState::new();
        // The standard library seeds `RandomState` from the system's entropy, and its SipHash
        // expands the seed.
        let half = |n: usize| u128::from(random.hash_one(n));
        let key = |n: usize| half(2 * n) << 64 | half(2 * n + 1);
        let words = std::array::from_fn(|n| key(n + 2));
        Self {
            keys: Box::new(Keys { offset: key(0), length: key(1), words }),
            long: RandomState::new(),
        }
    }

    /// Returns the hash of a topic.
    #[inline]
    pub fn hash(&self, topic: &[u8]) -> u64 {
        if topic.len() > MAX_WORDS * 8 {
            return self.long.hash_one(topic);
        }
        let sum =
            |sum: u128, key: &u128, word: u64| sum.wrapping_add(key.wrapping_mul(u128::from(word)));
        let Keys { offset, length, words: keys } = &*self.keys;
        let mut total = sum(*offset, length, topic.len() as u64);
        let (words, rest) = topic.as_chunks::<8>();
        let mut keys = keys.iter();
        for (word, key) in words.iter().zip(&mut keys) {
            total = sum(total, key, u64::from_le_bytes(*word));
        }
        if let (false, Some(key)) = (rest.is_empty(), keys.next()) {
            // The length is hashed too, so that the bytes that are read twice do not make different
            // topics equal.
            let last = match topic.last_chunk::<8>() {
                Some(last) => u64::from_le_bytes(*last),
                None => rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
            };
            total = sum(total, key, last);
        }
        scatter((total >> 64) as u64)
    }
}

/// Maps every sum to a different value, without preserving the order of the sums.
#[inline]
fn scatter(sum: u64) -> u64 {
    // The product with an odd number modulo 2^64 can be inverted, and so can the shift; the mapping
    // is therefore one-to-one.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    (sum ^ sum >> 32).wrapping_mul(ODD)
}

impl Default for TopicHasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn topics_of_any_length_differ() {
        let hasher = TopicHasher::new();
        let mut seen = HashSet::new();
        for length in 0..600 {
            for change in 0..=length {
                let mut topic = vec![0_u8; length];
                if let Some(byte) = topic.get_mut(change) {
                    *byte = 1;
                }
                assert!(seen.insert(hasher.hash(&topic)), "{length} {change}");
            }
        }
    }

    #[test]
    fn equal_topics_have_equal_hashes_and_other_keys_other_ones() {
        let (one, other) = (TopicHasher::new(), TopicHasher::new());
        for topic in [&b""[..], b"a", b"events.user.created", &[7; 255], &[7; 1000]] {
            assert_eq!(one.hash(topic), one.hash(topic));
            assert_ne!(one.hash(topic), other.hash(topic));
        }
    }

    #[test]
    fn topics_that_differ_in_digits_spread_with_every_key() {
        for _ in 0..200 {
            let hasher = TopicHasher::new();
            let hash = |n| hasher.hash(format!("topic.{n}").as_bytes());
            let hashes: Vec<u64> = (0..4096).map(hash).collect();
            // 4096 throws into as many places hit 2589 of them on average, give or take 31.
            for shift in [32, 40, 52] {
                let places: HashSet<u64> = hashes.iter().map(|hash| hash >> shift & 4095).collect();
                assert!((2300..2900).contains(&places.len()), "{} at {shift}", places.len());
            }
        }
    }
}
