//! What is wrong with a configuration.

use std::fmt;

/// A value that cannot be used, or one that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key as it stands in the file, such as `security.message_ttl_seconds`.
    pub key: String,
    /// Where the value comes from; empty if there is none.
    pub origin: String,
    /// What is wrong, after "KEY ".
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
