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
    /// A page of [`TopicReport`](super::TopicReport).
    Topics {
        /// The channel.
        channel: String,
        /// What the topics match, see [`matches`].
        pattern: Vec<u8>,
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

/// Returns whether `text` matches `pattern`, in which `*` stands for any bytes, also for none.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_at, mut text_at) = (0, 0);
    // Where the last star stands, and up to where it has taken the text.
    let mut star: Option<(usize, usize)> = None;
    while text_at < text.len() {
        match pattern.get(pattern_at) {
            Some(b'*') => {
                star = Some((pattern_at, text_at));
                pattern_at += 1;
            }
            Some(byte) if text.get(text_at) == Some(byte) => {
                pattern_at += 1;
                text_at += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    pattern_at = at + 1;
                    text_at = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(pattern_at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_bytes() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a"),
            ("a.*", "a.b"),
            ("a.*", "a."),
            ("*.b", "a.b.b"),
            ("a*c*e", "abcde"),
            ("a", "a"),
            ("**", "x"),
            ("", ""),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("a.*", "b.a"), ("a", "ab"), ("a*c", "ab"), ("", "a"), ("b*", "")] {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        // Not worse than the product of the lengths.
        let pattern = [b"*a".repeat(100), vec![b'b']].concat();
        assert!(!matches(&pattern, &[b'a'; 255]));
    }
}
