//! Signing any map gives a map that verifies; judging any bytes gives an answer.
#![no_main]

use gater_term::Scanner;
use gater_core::sign::{self, KeyRing, SignError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let ring = KeyRing::new(b"secret");
    let _ = sign::verify(input, &ring, 1_000, 300);
    let _ = sign::has_signature(input);
    let Ok(len) = Scanner::default().scan(input, 0) else { return };
    let mut signed = Vec::new();
    match sign::sign(&input[..len], ring.current(), 1_000, &mut signed) {
        Ok(()) => {
            assert_eq!(sign::verify(&signed, &ring, 1_000, 300), Ok(()));
            assert_eq!(Scanner::default().scan(&signed, 0), Ok(signed.len()));
        }
        Err(SignError::NotAMap | SignError::LocalFun | SignError::Term(_)) => {}
    }
});
