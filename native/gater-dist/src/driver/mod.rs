//! The protocol on sockets, timers and tasks.
//!
//! Each connection has two tasks. The reader handles the bytes that arrive, calls
//! [`Events`](crate::Events), and writes immediate replies itself; the writer sends the messages
//! that wait in the [`outbox`]. They share only the [`Connection`](crate::Connection).

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
mod places;
mod polling;
mod reader;
mod resolver;
pub mod shared;
mod slots;
mod unfinished;
mod window;
pub mod work;
mod writer;

pub use accept::accept;
pub use dial::{carry_out, connect, keep};
pub use epmd::{Registration, register, stay};
pub use link::start as established;
pub use resolver::resolve;
