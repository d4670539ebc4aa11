//! Requests to the registry, the sessions and the cluster.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| gater_node::fuzzing::requests(input));
