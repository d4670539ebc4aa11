//! The rules for the messages of a channel.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// The order in which messages leave when a connection is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// These messages leave before all others.
    Critical,
    /// These messages leave before those of normal priority.
    High,
    /// The default priority.
    Normal,
    /// These messages leave after all others.
    Low,
}

/// Whether messages must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hmac {
    /// Messages without a valid signature are refused.
    Required,
    /// Signatures are not verified.
    Optional,
}

/// The rules of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The priority of the channel, which decides the lane of its messages.
    pub priority: Priority,
    /// The greatest number of messages per second and topic; `None` means unlimited.
    pub max_rate: Option<NonZeroU32>,
    /// Whether messages must be signed.
    pub hmac: Hmac,
    /// Whether a new subscriber is sent the last message of its topic.
    pub replay_last: bool,
}

impl Policy {
    /// Returns a policy without a rate limit, signatures or a kept last message.
    pub const fn new(priority: Priority) -> Self {
        Self { priority, max_rate: None, hmac: Hmac::Optional, replay_last: false }
    }

    /// Whether a message may be refused for its rate or its signature.
    pub const fn refuses(&self) -> bool {
        self.max_rate.is_some() || matches!(self.hmac, Hmac::Required)
    }

    const fn rate(self, per_second: u32) -> Self {
        Self { max_rate: NonZeroU32::new(per_second), ..self }
    }

    const fn signed(self) -> Self {
        Self { hmac: Hmac::Required, ..self }
    }

    const fn replaying(self) -> Self {
        Self { replay_last: true, ..self }
    }
}

/// The channels of every gateway, unless its configuration changes them.
pub const DEFAULTS: [(&str, Policy); 10] = [
    ("esdb_channel_alerts", Policy::new(Priority::Critical).signed()),
    ("esdb_channel_security", Policy::new(Priority::Critical).signed()),
    ("esdb_channel_events", Policy::new(Priority::High)),
    ("esdb_channel_health", Policy::new(Priority::High).rate(100).replaying()),
    ("esdb_channel_system", Policy::new(Priority::Normal)),
    ("esdb_channel_metrics", Policy::new(Priority::Normal).rate(10_000)),
    ("esdb_channel_audit", Policy::new(Priority::Normal)),
    ("esdb_channel_lifecycle", Policy::new(Priority::Normal)),
    ("esdb_channel_logging", Policy::new(Priority::Low).rate(1_000)),
    ("esdb_channel_diagnostics", Policy::new(Priority::Low).rate(100)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn default_of(name: &str) -> Policy {
        DEFAULTS.iter().find(|(known, _)| *known == name).unwrap().1
    }

    #[test]
    fn critical_channels_are_signed_and_unlimited() {
        for (name, policy) in DEFAULTS {
            let critical = policy.priority == Priority::Critical;
            assert_eq!(policy.hmac == Hmac::Required, critical, "{name}");
            assert!(!critical || policy.max_rate.is_none(), "{name}");
        }
    }

    #[test]
    fn rates_are_those_of_the_original() {
        let rated: Vec<_> = DEFAULTS
            .iter()
            .filter_map(|(name, policy)| Some((*name, policy.max_rate?.get())))
            .collect();
        assert_eq!(
            rated,
            [
                ("esdb_channel_health", 100),
                ("esdb_channel_metrics", 10_000),
                ("esdb_channel_logging", 1_000),
                ("esdb_channel_diagnostics", 100),
            ]
        );
    }

    #[test]
    fn only_health_replays_its_last_message() {
        for (name, policy) in DEFAULTS {
            assert_eq!(policy.replay_last, name == "esdb_channel_health", "{name}");
        }
        assert_eq!(default_of("esdb_channel_health").priority, Priority::High);
    }
}
