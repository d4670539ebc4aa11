//! The protocol on sockets, timers and tasks.
//!
//! Two tasks per connection: the reader takes what arrives, calls
//! [`Events`](crate::Events) and writes what it sends there and then; the writer takes
//! what has to wait in the [`outbox`]. They share the [`Connection`](crate::Connection)
//! and nothing else.

mod accept;
pub mod batch;
pub mod caller_stats;
pub mod cork;
mod dial;
mod epmd;
mod exchange;
pub mod item;
mod link;
pub mod notices;
pub mod outbox;
mod polling;
mod reader;
pub mod shared;
mod window;
mod writer;

pub use accept::accept;
pub use dial::{carry_out, connect, keep, resolve};
pub use epmd::{Registration, register, stay};
pub use link::start as established;
