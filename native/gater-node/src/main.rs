//! esdb-gater: the gateway program.

fn main() {}
