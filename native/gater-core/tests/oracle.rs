//! Compares terms with OTP: a real BEAM makes them, encodes them, compares them and says which of
//! them it would decode. `GATER_ERL` names its `escript`.

use std::cmp::Ordering;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gater_core::sign::{self, KeyRing, SignError};
use gater_term::canonical::{self, Atoms};
use gater_term::order::{self, Order, Pair};
use gater_term::{Reader, Scanner, encode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A BEAM that answers questions; see `oracle.erl`.
struct Oracle {
    child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

impl Oracle {
    /// Starts the oracle. Returns `None`, and says so, where there is no Erlang.
    fn start() -> Option<Self> {
        let program = std::env::var("GATER_ERL").unwrap_or_else(|_| "escript".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle.erl");
        let spawned =
            Command::new(&program).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                // The line bypasses the capture of test output: `tests/run` counts these lines as
                // skipped tests.
                let said = "SKIPPED: no Erlang to compare with";
                let line = format!("{said} ({program}: {error})\n");
                std::io::stderr().write_all(line.as_bytes()).unwrap();
                return None;
            }
        };
        let questions = child.stdin.take().unwrap();
        let answers = child.stdout.take().unwrap();
        Some(Self { child, questions, answers })
    }

    fn ask(&mut self, what: u8, term: &[u8]) -> Vec<u8> {
        let mut question = (term.len() as u32 + 1).to_be_bytes().to_vec();
        question.push(what);
        question.extend_from_slice(term);
        self.questions.write_all(&question).unwrap();
        self.questions.flush().unwrap();
        let mut length = [0; 4];
        self.answers.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.answers.read_exact(&mut answer).unwrap();
        answer
    }

    /// Returns a random map.
    fn map(&mut self, seed: u32, size: u8) -> Vec<u8> {
        let mut question = Vec::new();
        encode::tuple(&mut question, 2);
        encode::uint(&mut question, seed.into());
        encode::uint(&mut question, size.into());
        self.ask(b'g', &question)
    }

    fn decodes(&mut self, term: &[u8]) -> bool {
        self.ask(b'd', term) == [1]
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn for_terms(cases: u32, mut test: impl FnMut(&mut Oracle, Vec<u8>, u32)) {
    let Some(mut oracle) = Oracle::start() else { return };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let oracle = std::cell::RefCell::new(&mut oracle);
    let test = std::cell::RefCell::new(&mut test);
    let outcome = runner.run(&(any::<u32>(), 0_u8..60), |(seed, size)| {
        let mut oracle = oracle.borrow_mut();
        let term = oracle.map(seed, size);
        test.borrow_mut()(&mut oracle, term, seed);
        Ok(())
    });
    outcome.unwrap();
}

fn pairs(map: &[u8]) -> Vec<Pair<'_>> {
    let mut reader = Reader::new(map);
    let count = reader.map().unwrap();
    (0..count)
        .map(|_| Pair { key: reader.skip().unwrap(), value: reader.skip().unwrap() })
        .collect()
}

fn canonical(map: &[u8], atoms: Atoms) -> Vec<u8> {
    let mut out = Vec::new();
    canonical::write(&mut out, &mut pairs(map), atoms).unwrap();
    out
}

#[test]
fn every_term_of_otp_is_accepted_whole() {
    for_terms(600, |_, term, _| {
        assert_eq!(Scanner::default().scan(&term, 0), Ok(term.len()));
        let mut reader = Reader::new(&term);
        assert_eq!(reader.skip().unwrap().len(), term.len());
    });
}

#[test]
fn the_canonical_form_is_that_of_otp() {
    for_terms(600, |oracle, term, seed| {
        assert_eq!(canonical(&term, Atoms::Utf8), oracle.ask(b'c', &term), "seed {seed}");
        assert_eq!(canonical(&term, Atoms::Latin1), oracle.ask(b'l', &term), "seed {seed}");
    });
}

#[test]
fn the_canonical_form_does_not_depend_on_the_encoding() {
    for_terms(200, |_, term, _| {
        let once = canonical(&term, Atoms::Utf8);
        let mut reversed = pairs(&term);
        reversed.reverse();
        let mut again = Vec::new();
        canonical::write(&mut again, &mut reversed, Atoms::Utf8).unwrap();
        assert_eq!(once, again);
    });
}

#[test]
fn terms_compare_as_in_otp() {
    for_terms(200, |oracle, term, _| {
        let pairs = pairs(&term);
        let parts: Vec<_> = pairs.iter().flat_map(|pair| [pair.key, pair.value]).take(12).collect();
        for a in &parts {
            for b in &parts {
                let mut both = Vec::new();
                encode::tuple(&mut both, 2);
                encode::raw(&mut both, a);
                encode::raw(&mut both, b);
                for (what, order) in [(b'<', Order::General), (b'k', Order::Keys)] {
                    let expected = match oracle.ask(what, &both).as_slice() {
                        b"<" => Ordering::Less,
                        b"=" => Ordering::Equal,
                        _ => Ordering::Greater,
                    };
                    assert_eq!(order::compare(a, b, order), Ok(expected), "{order:?} {both:?}");
                }
            }
        }
    });
}

#[test]
fn what_is_accepted_after_damage_still_decodes() {
    let (mut accepted, mut refused) = (0, 0);
    for_terms(400, |oracle, term, seed| {
        // Pids of the oracle's own node have narrower bounds than those of other nodes.
        if term.windows(13).any(|part| part == b"nonode@nohost") {
            return;
        }
        for change in 0..20_u32 {
            let mut damaged = term.clone();
            let random = seed.wrapping_mul(2_654_435_761).wrapping_add(change * 40_503);
            let at = random as usize % damaged.len();
            damaged[at] ^= 1 << (change % 8);
            match Scanner::default().scan(&damaged, 0) {
                Ok(len) => {
                    accepted += 1;
                    assert!(
                        oracle.decodes(&damaged[..len]),
                        "byte {at} of {}: {:?}",
                        term.len(),
                        &damaged[at.saturating_sub(40)..damaged.len().min(at + 20)]
                    );
                }
                Err(_) => refused += 1,
            }
        }
    });
    assert!(accepted == 0 && refused == 0 || accepted > 100 && refused > 100);
}

/// Returns a fun of module `m` and a reference, made of the parts that may differ.
fn fun_and_reference(parts: [u8; 6]) -> [Vec<u8>; 2] {
    let [arity, md5, index, old_index, old_unique, creator] = parts;
    let mut fun = vec![112, 0, 0, 0, 0, arity];
    fun.extend([md5; 16]);
    fun.extend([0, 0, 0, index, 0, 0, 0, 0]);
    encode::atom(&mut fun, "m");
    encode::uint(&mut fun, old_index.into());
    encode::uint(&mut fun, old_unique.into());
    fun.push(88);
    encode::atom(&mut fun, "a@h");
    fun.extend([0, 0, 0, creator, 0, 0, 0, 0, 0, 0, 0, 1]);
    let size = fun.len() as u8 - 1;
    fun[4] = size;
    let mut reference = vec![90, 0, 1 + arity * 2];
    encode::atom(&mut reference, "a@h");
    reference.extend([0, 0, 0, 1]);
    for word in [md5, index, old_index, old_unique, creator].iter().take(1 + 2 * arity as usize) {
        reference.extend([0, 0, 0, *word]);
    }
    [fun, reference]
}

#[test]
fn keys_that_are_one_to_otp_are_one_to_the_scanner() {
    let Some(mut oracle) = Oracle::start() else { return };
    let parts = |bits: u8| fun_and_reference(std::array::from_fn(|at| bits >> at & 1));
    let (mut accepted, mut refused) = (0, 0);
    for bits in 0..64 {
        for kind in 0..2 {
            for large in [false, true] {
                // Maps of more than 32 keys have another representation in the runtime.
                let mut map = Vec::new();
                encode::map(&mut map, if large { 40 } else { 2 });
                for key in [&parts(0)[kind], &parts(bits)[kind]] {
                    encode::raw(&mut map, key);
                    encode::nil(&mut map);
                }
                for key in 0..if large { 38 } else { 0 } {
                    encode::uint(&mut map, key);
                    encode::nil(&mut map);
                }
                match Scanner::default().scan(&map, 0) {
                    Ok(_) => {
                        accepted += 1;
                        assert!(oracle.decodes(&map), "{bits:06b} of {kind}: {map:?}");
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(accepted > 50 && refused > 10, "{accepted} {refused}");
}

#[test]
fn what_is_signed_verifies_and_what_is_changed_does_not() {
    let ring = KeyRing::new(b"a secret");
    for_terms(60, |oracle, term, seed| {
        let mut signed = Vec::new();
        match sign::sign(&term, ring.current(), 1_000_000, &mut signed) {
            // Some of the terms contain a local fun.
            Err(SignError::LocalFun) => return,
            outcome => outcome.unwrap(),
        }
        assert_eq!(Scanner::default().scan(&signed, 0), Ok(signed.len()));
        assert_eq!(sign::verify(&signed, &ring, 1_000_000, 300), Ok(()));
        // OTP writes its own encoding of the same map, with its pairs in another order.
        let reencoded = oracle.ask(b'e', &signed);
        assert_eq!(sign::verify(&reencoded, &ring, 1_000_000, 300), Ok(()));
        for step in 0..40_u32 {
            let mut forged = signed.clone();
            let at = seed.wrapping_add(step * 7919) as usize % forged.len();
            forged[at] ^= 1 << (step % 8);
            if Scanner::default().scan(&forged, 0) != Ok(forged.len()) {
                continue;
            }
            // The forged term is the same term in another encoding.
            let equal = canonical(&forged, Atoms::Utf8) == canonical(&signed, Atoms::Utf8);
            let verdict = sign::verify(&forged, &ring, 1_000_000, 300);
            assert!(equal || verdict.is_err(), "byte {at}");
        }
    });
}
