//! Control messages and calls of a `gen_server`, from any bytes.
#![no_main]

use bytes::Bytes;
use gater_dist::gen_server;
use gater_dist::protocol::control;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = control::parse(input);
    let _ = gen_server::parse(&Bytes::copy_from_slice(input));
});
