//! An Erlang hidden node as a library.
//!
//! A [`Node`] registers with EPMD, accepts connections from BEAM nodes and dials them. Messages of
//! peers arrive through [`Events`]; messages to peers are queued on a [`Connection`]. The crate
//! knows nothing of channels, workers or any other service.
//!
//! There are two layers. Programs use [`process`], which offers pids with mailboxes, calls,
//! monitors and links, and owned terms. The layer in this module is for programs that pass messages
//! on: encoded terms come in, shared bytes go out, and nothing is decoded or copied.

mod connection;
#[cfg(feature = "internals")]
pub mod driver;
#[cfg(not(feature = "internals"))]
mod driver;
mod error;
mod events;
pub mod gen_server;
mod lanes;
mod node;
mod payload;
pub mod probe;
pub mod process;
pub mod protocol;
mod settings;
mod stage;
mod stats;
mod term;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bytes;
pub use connection::{Connection, Peer};
pub use driver::cork::{Cork, begin as cork};
pub use driver::outbox::{Loss, LossReason};
pub use error::{
    Chain, DialError, DownReason, EpmdError, HandshakeError, ProtocolError, StartError,
};
pub use events::{Events, Message, Target};
#[cfg(feature = "serde")]
pub use gater_term::convert;
pub use gater_term::{self, LocalPid, term};
pub use lanes::{Lane, LaneLimits};
pub use node::{Node, PreparedNode};
pub use payload::{Draft, Payload, Prefix};
pub use secrecy;
pub use settings::{DEFAULT_EPMD_PORT, Settings};
pub use stage::Stage;
pub use stats::{ConnectionStats, LaneDepth};
pub use term::{Atoms, SharedTerm};
