//! The parts of `esdb-gater`, a gateway node in front of erl-esdb event stores.

pub mod cli;
mod clock;
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gateway;
pub mod hosted;
mod listen;
pub mod observe;
pub mod registry;
pub mod run;
mod service_manager;
mod services;
mod supervise;
mod transport;

pub use services::observer::admin_key;

#[cfg(test)]
#[path = "../tests/vectors/mod.rs"]
mod vectors;
