//! Which part of a report is wanted, in which order and how much of it.

/// Items of a list that are returned unless the query says otherwise.
pub const DEFAULT_LIMIT: usize = 100;
/// Items of a list that are returned at the most.
pub const MAX_LIMIT: usize = 1000;

/// A part of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// All of it, as [`Report`](super::Report).
    All,
    /// [`Status`](super::Status).
    Status,
    /// [`ClusterReport`](super::ClusterReport).
    Cluster,
    /// A page of [`PeerReport`](super::PeerReport).
    Peers,
    /// A page of [`StoreReport`](super::StoreReport).
    Stores,
    /// A page of [`WorkerReport`](super::WorkerReport) of this store.
    Workers(String),
    /// A page of [`ChannelReport`](super::ChannelReport).
    Channels,
    /// A page of [`SubscriberReport`](super::SubscriberReport).
    Subscribers {
        /// The channel.
        channel: String,
        /// The topic.
        topic: Vec<u8>,
    },
    /// A page of [`SlowNode`](super::SlowNode).
    Slow,
    /// A list of [`Alarm`](super::Alarm).
    Alarms,
    /// A page of [`LostConnection`](super::LostConnection).
    LostConnections,
    /// [`HistoryReport`](super::HistoryReport).
    History,
}

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// What matters most first: see each section.
    #[default]
    Relevance,
    /// By name, from a to z.
    Name,
    /// The greatest number of lost messages first.
    Drops,
    /// The most waiting bytes first.
    Waiting,
    /// The most bytes in and out first.
    Bytes,
    /// The latest first.
    Latest,
    /// The most workers or subscriptions first.
    Size,
    /// The most messages a second first.
    Rate,
}

impl Sort {
    /// All orders.
    pub const ALL: [Self; 8] = [
        Self::Relevance,
        Self::Name,
        Self::Drops,
        Self::Waiting,
        Self::Bytes,
        Self::Latest,
        Self::Size,
        Self::Rate,
    ];

    /// Returns the name of the order in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relevance => "relevance",
            Self::Name => "name",
            Self::Drops => "drops",
            Self::Waiting => "waiting",
            Self::Bytes => "bytes",
            Self::Latest => "latest",
            Self::Size => "size",
            Self::Rate => "rate",
        }
    }

    /// Returns the order of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.as_str() == name)
    }
}

/// How much of a list, and in which order. An order that makes no sense for a list is that of
/// relevance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Items at most.
    pub limit: usize,
    /// The order.
    pub sort: Sort,
}

impl Default for Options {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, sort: Sort::default() }
    }
}
