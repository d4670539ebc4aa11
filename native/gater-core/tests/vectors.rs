//! The golden vectors in `tests/vectors`, written by OTP.

use gater_core::sign::{self, Key};
use gater_term::canonical::{self, Atoms};
use gater_term::order::Pair;
use gater_term::{Reader, Scanner};

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
fn every_message_has_the_canonical_form_and_signature_of_otp() {
    let key = Key::new(b"golden secret");
    let vectors = include_str!("../../../tests/vectors/messages.txt");
    assert!(vectors.lines().count() > 10);
    for line in vectors.lines() {
        let [name, term, expected, signature] =
            line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let term = unhex(term);
        assert_eq!(Scanner::default().scan(&term, 0), Ok(term.len()), "{name}");
        let mut reader = Reader::new(&term);
        let count = reader.map().unwrap();
        let mut pairs: Vec<_> = (0..count)
            .map(|_| Pair { key: reader.skip().unwrap(), value: reader.skip().unwrap() })
            .collect();
        let mut canonical = Vec::new();
        canonical::write(&mut canonical, &mut pairs, Atoms::Utf8).unwrap();
        assert_eq!(canonical, unhex(expected), "{name}");
        assert_eq!(sign::signature(&key, &canonical).as_slice(), signature.as_bytes(), "{name}");
    }
}
