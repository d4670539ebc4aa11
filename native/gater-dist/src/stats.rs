//! What a connection tells about itself.

use std::time::Duration;

use crate::Lane;

/// What waits in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneDepth {
    /// Messages; one for several receivers counts as that many.
    pub messages: u64,
    /// Bytes.
    pub bytes: usize,
}

/// The state of a connection at one moment. Taking it costs one lock and no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionStats {
    /// Time since the connection was made.
    pub age: Duration,
    /// Time since something has arrived, a tick or anything else.
    pub silence: Duration,
    /// Bytes that have arrived.
    pub bytes_in: u64,
    /// Bytes that were put into frames to be sent, ticks left out.
    pub bytes_out: u64,
    /// What waits, in the order of [`Lane::ALL`].
    pub lanes: [LaneDepth; Lane::ALL.len()],
    /// Bytes that were sent below the critical lane and that the peer has not shown to have read.
    pub unread: usize,
    /// For how long lower lanes have been waiting for the peer to read, if they do.
    pub held: Option<Duration>,
    /// How long the peer took to answer the last probe, if it has answered one.
    pub round_trip: Option<Duration>,
}
