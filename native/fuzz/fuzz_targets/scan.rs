//! What the scanner accepts, the reader takes apart to the same end; what the
//! reader is given unscanned gives errors.
#![no_main]

use gater_term::{Reader, Scanner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let scanned = Scanner::default().scan(input, 0);
    let mut reader = Reader::new(input);
    let skipped = reader.skip().map(<[u8]>::len);
    if let Ok(len) = scanned {
        assert_eq!(skipped.ok(), Some(len));
    }
    let reader = Reader::new(input);
    let _ = { reader }.pid();
    let _ = { reader }.reference();
    let _ = { reader }.integer();
    let _ = { reader }.atom();
    let _ = { reader }.list();
});
