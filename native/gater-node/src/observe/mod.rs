//! Observability: logs, telemetry events, and counts of dropped messages and refused requests.

pub mod drops;
pub mod logs;
pub mod refusals;
pub mod telemetry;
