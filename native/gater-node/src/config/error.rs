//! Errors of a configuration.

use std::fmt;

/// A value that is invalid or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key in the configuration file, such as `security.message_ttl_seconds`.
    pub key: String,
    /// The source of the value, or an empty text if it is missing.
    pub origin: String,
    /// The problem, as the end of a sentence that begins with the key.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(key: &str, origin: &str, problem: impl Into<String>) -> Self {
        Self { key: key.into(), origin: origin.into(), problem: problem.into() }
    }

    pub(super) fn missing(key: &str, advice: &str) -> Self {
        Self::new(key, "", format!("is missing: {advice}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.origin.is_empty() {
            write!(f, " (from {})", self.origin)?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}
