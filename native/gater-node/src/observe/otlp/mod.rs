//! OpenTelemetry: spans and metrics by OTLP, in protobuf over HTTP.
//!
//! The forms are those of the crate `opentelemetry-proto`. Nothing here holds up a message: one of
//! so many is followed ([`span`]), what is followed waits in a queue of a fixed length, and a task
//! of its own sends it ([`export`]). What does not fit or cannot be sent is dropped and counted.

mod client;
mod encode;
pub mod export;
pub mod span;

pub use self::export::Exporter;
pub use self::span::{Kind, Tracer};
