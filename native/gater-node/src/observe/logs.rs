//! Logs: on standard error, as text for a person and as JSON for a machine.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that says what is logged.
pub const VARIABLE: &str = "ESDB_GATER_LOG";
/// What is logged without it. Openraft tells at `info` what matters to its authors.
const DEFAULT: &str = "info,openraft=warn";

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The variable cannot be understood.
    #[error("{VARIABLE} must be a level or a filter such as info or gater_dist=debug,info: {0}")]
    Filter(String),
    /// It was started already.
    #[error("logging is started already")]
    Started,
}

/// Starts to log what `filter` lets through, the value of [`VARIABLE`] if it is set.
pub fn start(filter: Option<&str>) -> Result<(), LogError> {
    let filter = match filter {
        None | Some("") => DEFAULT.to_owned(),
        // A level alone is for the gateway; who wants to see openraft's names it.
        Some(text) if text.contains("openraft") => text.to_owned(),
        Some(text) => format!("openraft=warn,{text}"),
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| LogError::Filter(error.to_string()))?;
    let builder = fmt().with_env_filter(filter).with_writer(stderr);
    let started = if stderr().is_terminal() {
        builder.finish().try_init()
    } else {
        builder.json().flatten_event(true).finish().try_init()
    };
    started.map_err(|_| LogError::Started)
}
