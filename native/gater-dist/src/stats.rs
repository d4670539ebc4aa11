//! The statistics of a connection.

use std::time::Duration;

use crate::Lane;

/// The waiting items of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneDepth {
    /// The number of messages. A message for several receivers counts once for each.
    pub messages: u64,
    /// The number of bytes.
    pub bytes: usize,
}

/// The state of a connection at one moment. Taking it costs one lock and no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionStats {
    /// The time since the connection was established.
    pub age: Duration,
    /// The time since bytes last arrived, including ticks.
    pub silence: Duration,
    /// The number of bytes that have arrived.
    pub bytes_in: u64,
    /// The number of bytes that were put into frames to be sent, without ticks.
    pub bytes_out: u64,
    /// The waiting items, in the order of [`Lane::ALL`].
    pub lanes: [LaneDepth; Lane::ALL.len()],
    /// The number of bytes below the critical lane that were sent and that the peer has not shown
    /// to have read.
    pub unread: usize,
    /// The time for which lower lanes have been waiting for the peer to read, if they are.
    pub held: Option<Duration>,
    /// The time that the peer took to answer the last probe, if it has answered one.
    pub round_trip: Option<Duration>,
}
