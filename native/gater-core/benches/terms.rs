//! Measures scanning, writing the canonical form, signing and verifying, beside the alternatives:
//! decoding the term (eetf) and the MAC alone.
//!
//! `cargo bench -p gater-core` prints the median of several rounds, in nanoseconds.

use std::hint::black_box;
use std::io::Cursor;
use std::time::Instant;

use erl_dist::term::Term;
use gater_core::sign::{self, Key, KeyRing};
use gater_term::canonical::{self, Atoms};
use gater_term::order::Pair;
use gater_term::{Reader, Scanner, encode};

const ROUNDS: usize = 9;
const ROUND_NANOS: u128 = 30_000_000;

fn measure<R>(name: &str, mut run: impl FnMut() -> R) {
    let mut times = 1_u32;
    let mut round = |times: u32| {
        let begun = Instant::now();
        (0..times).for_each(|_| drop(black_box(run())));
        begun.elapsed().as_nanos()
    };
    while round(times) < ROUND_NANOS {
        times *= 2;
    }
    let mut nanos: Vec<_> = (0..ROUNDS).map(|_| round(times) as f64 / f64::from(times)).collect();
    nanos.sort_by(f64::total_cmp);
    println!("{name:44} {:>10.0} ns", nanos[ROUNDS / 2]);
}

/// `{publish, <<"orders">>, <<64 bytes>>}`
fn small() -> Vec<u8> {
    let mut out = Vec::new();
    encode::tuple(&mut out, 3);
    encode::atom(&mut out, "publish");
    encode::binary(&mut out, b"orders");
    encode::binary(&mut out, &[7; 64]);
    out
}

/// A map of five atoms, in order or not.
fn message(names: [&str; 5]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::map(&mut out, 5);
    for name in names {
        encode::atom(&mut out, name);
        encode::atom(&mut out, "critical");
    }
    out
}

/// Returns `#{key(N) => #{a => [...], b => 1.0}}` with `keys` keys in no particular order.
fn large(keys: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::map(&mut out, keys as u32);
    for key in 0..keys {
        encode::atom(&mut out, &format!("key_{}", key * 7919 % keys));
        encode::map(&mut out, 2);
        encode::atom(&mut out, "b");
        encode::float(&mut out, 1.0);
        encode::atom(&mut out, "a");
        encode::list_of(&mut out, 0..4_u32, |out, n| encode::uint(out, u64::from(n) * 1000));
    }
    out
}

fn pairs(map: &[u8]) -> Vec<Pair<'_>> {
    let mut reader = Reader::new(map);
    let count = reader.map().expect("a map");
    let mut next = || reader.skip().expect("a term");
    (0..count).map(|_| Pair { key: next(), value: next() }).collect()
}

fn decode(term: &[u8]) -> Term {
    let versioned = [&[131], term].concat();
    Term::decode(Cursor::new(versioned)).expect("a term")
}

fn main() {
    let ring = KeyRing::new(b"a secret");
    let key = Key::new(b"a secret");
    let sorted = message(["level", "region", "source", "type", "version"]);
    let shuffled = message(["type", "version", "level", "source", "region"]);
    let terms = [
        ("{publish, Topic, 64 B}", small()),
        ("map of 5", sorted.clone()),
        ("map of 1000 maps", large(1000)),
    ];
    for (name, term) in &terms {
        let mut scanner = Scanner::default();
        measure(&format!("scan {name}, {} B", term.len()), || scanner.scan(term, 0));
        measure(&format!("  eetf decode {name}"), || decode(term));
    }
    let mut out = Vec::new();
    for (name, map) in [
        ("map of 5", &sorted),
        ("map of 5, shuffled", &shuffled),
        ("map of 1000 maps", &large(1000)),
    ] {
        measure(&format!("canonical {name}"), || {
            out.clear();
            canonical::write(&mut out, &mut pairs(map), Atoms::Utf8)
        });
        let canonical = out.clone();
        measure(&format!("sign {name}"), || {
            out.clear();
            sign::sign(map, ring.current(), 1000, &mut out)
        });
        let signed = out.clone();
        assert_eq!(sign::verify(&signed, &ring, 1000, 300), Ok(()));
        measure(&format!("verify {name}"), || sign::verify(&signed, &ring, 1000, 300));
        measure("  the MAC of the canonical form alone", || key.mac(&canonical));
    }
}
