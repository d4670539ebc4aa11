//! The parts of `esdb-gater`, a gateway node in front of erl-esdb event stores.

pub mod admin;
pub mod cli;
mod clock;
pub mod cluster;
pub mod config;
mod directory;
mod drops;
mod gateway;
pub mod log;
mod mesh;
mod peers;
pub mod replica;
mod rex;
mod router;
pub mod run;
mod secret;
mod service;
mod telemetry;
mod tuning;
