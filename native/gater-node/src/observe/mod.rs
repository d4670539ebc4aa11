//! Observability: logs, telemetry events, and counts of dropped messages and refused requests.

pub mod alarms;
pub mod clocks;
pub mod drops;
pub mod durations;
pub mod history;
pub mod http;
pub mod logs;
pub mod lost;
pub mod otlp;
pub mod process;
pub mod refusals;
pub mod report;
pub mod telemetry;
pub mod traffic;
