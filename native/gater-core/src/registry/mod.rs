//! The replicated registry of workers, as a state machine without I/O or clock.
//!
//! Gateways agree on a log of batches of [`Command`]s. Each gateway applies them to its own
//! [`State`] in the same order and therefore holds the same registrations.

mod command;
mod proposers;
mod snapshot;
mod state;
mod stores;
mod unregistered;

pub use command::{Change, Command, Outcome, Refusal};
pub use proposers::{Origin, Proposers};
pub use snapshot::{Snapshot, SnapshotError};
pub use state::{MAX_REGISTRATIONS, State};
