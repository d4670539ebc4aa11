//! Messages of consensus to a gateway that leads a cluster of its own.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| gater_node::fuzzing::consensus(input));
