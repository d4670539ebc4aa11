//! The parts of `esdb-gater`, a gateway node in front of erl-esdb event stores.

pub mod cli;
pub mod config;
pub mod log;
pub mod replica;
