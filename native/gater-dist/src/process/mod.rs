//! Processes on a hidden node: the layer for programs.
//!
//! [`Node::start`] joins a cluster, [`Node::spawn`] creates a [`Process`] with a pid and a mailbox,
//! and [`Node::call`] calls a `gen_server` on any node. [`Node::serve`] runs a [`GenServer`]. Terms
//! are values of [`Term`], which [`term!`](crate::term!) builds.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use gater_dist::Settings;
//! use gater_dist::process::Node;
//! use gater_dist::term;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start(Settings::new("rust@127.0.0.1", Vec::from("secret").into())).await?;
//! let counter = ("counter", "beam@127.0.0.1");
//! let count = node.call(counter, term!({add, 5}), Duration::from_secs(5)).await?;
//! println!("{count}");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees and limits
//!
//! * **Order.** Messages and signals between two processes arrive in the order in which they were
//!   sent, as long as the connection lasts and each send is awaited before the next one.
//! * **Loss.** Messages in transit may be lost when a connection ends. Monitors and links report
//!   the end with the reason `noconnection`, and calls with [`CallError::NoConnection`].
//! * **Exit signals** never end a process by themselves. Each of them arrives as
//!   [`Received::Exit`], as if the process trapped exits, even with the reason `kill`.
//! * **Mailboxes are bounded** by [`Limits`]. A message that finds its mailbox full is dropped and
//!   counted in [`Process::dropped`]; the first one is logged. `DOWN` and exit signals of monitors
//!   and links are never dropped.
//! * **Back-pressure.** Sending does not wait for the receiver. If a peer reads more slowly than it
//!   is sent data, sends fail with [`SendError::Busy`] once its queue is half full (32 MiB unless
//!   [`Settings::lanes`](crate::Settings) says otherwise).
//! * **Drop.** Dropping a [`Process`] ends it with the reason `normal`, or `panic` while its thread
//!   panics, and its links and monitors are told. When the last handle is dropped ([`Node`],
//!   [`Process`] or [`Caller`]), the node unregisters from EPMD and closes its connections; a
//!   server keeps its node running. [`Node::shutdown`] waits until queued messages are written.
//! * **Limits.** A message has at most [`Settings::max_message`](crate::Settings) bytes. A received
//!   term is nested at most [`MAX_DECODED_DEPTH`](gater_term::MAX_DECODED_DEPTH) deep; terms that
//!   are nested deeper are dropped and counted. A process has at most [`MAX_WATCHERS`] monitors and
//!   links of other processes.
//! * **Foreign nodes** without monitors, as those of C's `ei`, report the end of a process only by
//!   the end of the connection.

mod call;
mod destination;
mod dispatch;
mod error;
mod gen_server;
mod inner;
mod local;
mod mailbox;
mod node;
mod node_events;
mod state;
mod wire;

pub use call::Caller;
pub use destination::{Destination, Target};
pub use error::{CallError, RegisterError, SendError};
pub use gater_term::{Atom, Pid, Reference, Term};
pub use gen_server::{GenServer, Next, Server};
pub use local::{Process, Received};
pub use mailbox::Limits;
pub use node::Node;
pub use node_events::{NodeEvent, NodeEvents};
pub use state::MAX_WATCHERS;
