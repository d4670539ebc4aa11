//! What a gateway tells about itself: logs, events and counts of what was dropped.

pub mod drops;
pub mod logs;
pub mod refusals;
pub mod telemetry;
