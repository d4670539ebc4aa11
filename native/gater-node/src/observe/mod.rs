//! Observability: logs, telemetry events, and counts of dropped messages and refused requests.

pub mod alarms;
pub mod drops;
pub mod durations;
pub mod history;
pub mod logs;
pub mod lost;
pub mod process;
pub mod refusals;
pub mod report;
pub mod telemetry;
pub mod traffic;
