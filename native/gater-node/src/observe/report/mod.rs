//! One report of what a gateway is, holds and does, for the command line, the page and metrics.
//!
//! Nothing is gathered until somebody asks ([`Collector`]): what the way of a message costs is a
//! counter. Every list is a page with a limit.

mod collect;
mod query;
mod types;

pub use self::collect::{Collector, Parts};
pub use self::query::{DEFAULT_LIMIT, MAX_LIMIT, Options, Section, Sort};
pub use self::types::{
    Alarm, ChannelNode, ChannelReport, Check, ClusterReport, ConfigReport, HistoryReport,
    LaneReport, LogReport, LostConnection, MemberReport, Page, PeerReport, ProcessReport, Quorum,
    Rates, Report, SlowNode, Status, StoreReport, SubscriberReport, TopicReport, Totals,
    WorkerReport,
};
