//! What a gateway tells by HTTP: metrics, readiness, its status as JSON, and a page.
//!
//! It is read-only and bounded: whatever clients do, they cost the gateway no more than a report a
//! second (`server` has the limits).

mod limits;
pub mod metrics;
mod routes;
mod server;
mod table;

pub use self::server::{HttpError, HttpServer};
pub use self::table::{METRICS, Metric, reference};
