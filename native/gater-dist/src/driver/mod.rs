//! The protocol on sockets, timers and tasks.
//!
//! Two tasks per connection: the reader takes what arrives and calls
//! [`Events`](crate::Events), the writer takes what waits in the
//! [`outbox`]. They share the [`Connection`](crate::Connection) and nothing else.

mod accept;
mod dial;
mod epmd;
mod exchange;
mod link;
pub mod outbox;
mod reader;
pub mod shared;
mod writer;

pub use accept::accept;
pub use dial::{connect, keep};
pub use epmd::{register, stay};
