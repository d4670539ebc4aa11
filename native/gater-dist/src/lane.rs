//! Lanes of a connection.

/// The priority of a queued message on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Replies, protocol signals, cluster traffic.
    Control,
    /// Critical messages.
    Critical,
    /// High priority.
    High,
    /// Normal priority.
    Normal,
    /// Low priority.
    Low,
}

/// How much one lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLimits {
    /// Bytes.
    pub bytes: usize,
    /// Messages.
    pub messages: u32,
}

/// A pid without its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPid {
    /// The process number.
    pub id: u32,
    /// The high part of the process number.
    pub serial: u32,
    /// The incarnation of the node.
    pub creation: u32,
}
