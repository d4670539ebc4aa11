//! The order of terms is an order: the other way round it is reversed, and a
//! term equals itself.
#![no_main]

use gater_term::order::{Order, compare};
use gater_term::Scanner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut scanner = Scanner::default();
    let Ok(first) = scanner.scan(input, 0) else { return };
    let (a, rest) = input.split_at(first);
    let Ok(second) = scanner.scan(rest, 0) else { return };
    let b = &rest[..second];
    for order in [Order::General, Order::Keys] {
        if let Ok(outcome) = compare(a, b, order) {
            assert_eq!(compare(b, a, order), Ok(outcome.reverse()));
        }
        if let Ok(outcome) = compare(a, a, order) {
            assert!(outcome.is_eq());
        }
    }
});
