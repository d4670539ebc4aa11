//! The report as it is sent, shown and read: plain values with names, for JSON.
//!
//! A field that does not apply is `null`. Times are seconds since the Unix epoch, durations say
//! their unit in their name, and a rate is per second over the last ten seconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything a gateway tells about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The gateway in short.
    pub status: Status,
    /// The gateways that keep one registry.
    pub cluster: ClusterReport,
    /// The nodes it is connected to or remembers.
    pub peers: Page<PeerReport>,
    /// The stores that have workers.
    pub stores: Page<StoreReport>,
    /// The channels.
    pub channels: Page<ChannelReport>,
    /// The nodes that do not keep up.
    pub slow: Page<SlowNode>,
    /// What needs somebody's attention.
    pub alarms: Vec<Alarm>,
    /// The last connections that were lost or did not come about, the latest first.
    pub lost_connections: Page<LostConnection>,
}

/// Some items of a list, and how many there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The number of items there are.
    pub total: usize,
    /// The first of them, in the order that was asked for.
    pub items: Vec<T>,
}

/// A gateway in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The name of its node.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
    /// The incarnation of the node.
    pub creation: u32,
    /// When it was asked.
    pub now: u64,
    /// When it started.
    pub started_at: u64,
    /// For how long it has been running.
    pub uptime_seconds: u64,
    /// Whether it takes part in everything: every check of `checks` holds.
    pub ready: bool,
    /// What has to hold for that.
    pub checks: Vec<Check>,
    /// How it is configured, without its secrets.
    pub config: ConfigReport,
    /// What it holds and has done.
    pub totals: Totals,
    /// What it does.
    pub rates: Rates,
    /// The operating system's view of the process.
    pub process: ProcessReport,
    /// What it is in its cluster: `leader`, `follower`, `candidate`, `learner`, `waiting` or
    /// `removed`.
    pub role: String,
    /// The node name of the gateway that leads.
    pub leader: Option<String>,
    /// `healthy`, `degraded` or `no_quorum`.
    pub health: String,
    /// The number of alarms that are raised.
    pub alarms: usize,
}

/// A condition that a gateway meets when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name: `registry`, `quorum`, `disk` or `draining`.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// Why it does not hold; empty if it does.
    pub reason: String,
}

/// The configuration, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// The port that nodes connect to; 0 if the gateway is reached by its BEAM alone.
    pub port: u16,
    /// Where HTTP is served, if it is.
    pub http: Option<String>,
    /// Where the registry is kept; `null` if it is in memory.
    pub data_dir: Option<String>,
    /// The nodes of a BEAM cluster that are followed.
    pub join: Vec<String>,
    /// The gateways that are listed as members of the cluster.
    pub members: Vec<String>,
    /// Whether gateways prove a key to each other.
    pub cluster_key: bool,
    /// Nodes that may be known at a time.
    pub max_nodes: usize,
    /// The time after which a silent node is disconnected.
    pub net_ticktime_seconds: u64,
    /// How long a node may be away before its workers are given up.
    pub lost_grace_seconds: u64,
    /// How long a signed message is good.
    pub message_ttl_seconds: u64,
    /// `disabled`, `optional` or `required`.
    pub capabilities: String,
    /// Whether BEAMs are asked to read and write more at a time.
    pub tune_peers: bool,
    /// What is logged.
    pub log: String,
    /// Whether the secret was drawn at random, for want of a configured one.
    pub random_secret: bool,
}

/// Numbers since the start, and what is held now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Nodes that are connected, gateways among them.
    pub peers: usize,
    /// Other gateways that are connected.
    pub gateways: usize,
    /// Stores with workers.
    pub stores: usize,
    /// Registrations.
    pub registrations: usize,
    /// Subscriptions; those behind another gateway count as one a topic.
    pub subscriptions: usize,
    /// Topics with subscribers, added up over the channels.
    pub topics: usize,
    /// Shims that are linked.
    pub sessions: usize,
    /// Messages that were published here.
    pub published: u64,
    /// Messages that came from other gateways for subscribers here.
    pub relayed: u64,
    /// Messages that were handed to connections: one for each subscriber.
    pub delivered: u64,
    /// Messages that did not reach a subscriber.
    pub dropped: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Messages between gateways that were refused.
    pub gateway_messages_refused: u64,
    /// Log lines that could not be written.
    pub log_lines_lost: u64,
    /// Connections that were lost or did not come about.
    pub connections_lost: u64,
}

/// What happens in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Messages published.
    pub published: f64,
    /// Messages handed to connections.
    pub delivered: f64,
    /// Messages dropped.
    pub dropped: f64,
    /// Requests refused.
    pub refused: f64,
}

/// The process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Its id.
    pub pid: u32,
    /// Bytes of memory that are resident.
    pub memory_bytes: Option<u64>,
    /// Bytes that it may have, if that is limited.
    pub memory_limit_bytes: Option<u64>,
    /// Files that are open.
    pub descriptors: Option<u64>,
    /// Files that may be open.
    pub descriptor_limit: Option<u64>,
    /// Bytes that are free where the registry is kept.
    pub disk_free_bytes: Option<u64>,
    /// Bytes that there are in all.
    pub disk_total_bytes: Option<u64>,
}

/// The gateways that keep one registry, as this one knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The name of this gateway's node.
    pub node: String,
    /// Its id, as text: it does not fit into the numbers of JavaScript.
    pub id: String,
    /// See [`Status::role`].
    pub role: String,
    /// See [`Status::health`].
    pub health: String,
    /// The term of the consensus.
    pub term: u64,
    /// Who leads.
    pub leader: Option<String>,
    /// How many of the voters are reached, and how many are needed.
    pub quorum: Quorum,
    /// Where the log stands.
    pub log: LogReport,
    /// All members.
    pub members: Vec<MemberReport>,
    /// The gateways that are listed and were never members.
    pub never_seen: Vec<String>,
    /// Messages between gateways that were refused since the start.
    pub refused: u64,
}

/// The voters of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Members that vote.
    pub voters: usize,
    /// Those that this gateway reaches, itself among them.
    pub reached: usize,
    /// How many it takes to carry out a command.
    pub needed: usize,
    /// Whether commands are carried out, as far as this gateway can tell.
    pub held: bool,
    /// For how long no majority has answered this gateway, if it leads.
    pub silent_ms: Option<u64>,
}

/// Positions in the registry's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The last entry there is.
    pub last: u64,
    /// The last entry that is known to be on the disks of a majority and is in the registry.
    pub applied: u64,
    /// The last entry that the snapshot holds.
    pub snapshot: u64,
    /// The last entry that was removed.
    pub purged: u64,
}

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The name of its node.
    pub node: String,
    /// Its id.
    pub id: String,
    /// `voter` or `learner`.
    pub role: String,
    /// Whether this gateway is connected to it, or is it.
    pub connected: bool,
    /// The last entry that it is known to have, if this gateway leads.
    pub matched: Option<u64>,
}

/// A node that is connected or remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub node: String,
    /// `gateway`, `beam`, or `other` for a program that is no BEAM.
    pub kind: String,
    /// Its incarnation.
    pub creation: u32,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since: u64,
    /// Processes that are watched on it: workers, subscribers and links.
    pub processes: usize,
    /// What waits to be written, lane by lane, the first to be served first.
    pub lanes: Vec<LaneReport>,
    /// Bytes that wait in all lanes.
    pub waiting_bytes: u64,
    /// Bytes that have arrived over the connection.
    pub bytes_in: u64,
    /// Bytes that were sent over it.
    pub bytes_out: u64,
    /// Messages that did not reach a subscriber there.
    pub dropped: u64,
    /// Time since something has arrived.
    pub silent_ms: Option<u64>,
    /// How long it took to answer the last question whether it has read all.
    pub round_trip_us: Option<u64>,
    /// For how long messages wait for it to read, if they do.
    pub held_ms: Option<u64>,
}

/// What waits in a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    /// `control`, `critical`, `high`, `normal` or `low`.
    pub lane: String,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Its name.
    pub store: String,
    /// Workers that are registered.
    pub workers: usize,
    /// Those whose nodes are connected, which callers are offered.
    pub offered: usize,
}

/// A worker of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its node.
    pub node: String,
    /// Its pid, as its node prints it.
    pub pid: String,
    /// Its place in the order of registration.
    pub epoch: u64,
    /// Whether its node is connected, so that callers are offered it.
    pub offered: bool,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelReport {
    /// Its name.
    pub channel: String,
    /// `critical`, `high`, `normal` or `low`.
    pub priority: String,
    /// Messages a second and topic; `null` if there is no limit.
    pub max_rate: Option<u32>,
    /// `required` or `optional`.
    pub hmac: String,
    /// Whether a new subscriber gets the last message.
    pub replay_last: bool,
    /// Topics that have subscribers.
    pub topics: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// The nodes with the most subscriptions.
    pub nodes: Page<ChannelNode>,
    /// Messages that were published here.
    pub published: u64,
    /// Messages that came from other gateways.
    pub relayed: u64,
    /// Messages that were handed to connections.
    pub delivered: u64,
    /// Messages that did not reach a subscriber, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Requests that were refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What happens in a second.
    pub rates: Rates,
}

/// The subscribers of a channel on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelNode {
    /// The node.
    pub node: String,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Processes that have them.
    pub processes: usize,
}

/// A subscriber of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberReport {
    /// Its node.
    pub node: String,
    /// Its pid, as its node prints it.
    pub pid: String,
    /// The processes that get the message by way of it: more than one behind the relay of a shim.
    pub processes: u32,
    /// Whether its node is connected.
    pub connected: bool,
}

/// A topic with subscribers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReport {
    /// The topic; bytes that are no text are replaced.
    pub topic: String,
    /// Processes that are subscribed at this gateway; none if they are at others.
    pub subscriptions: usize,
}

/// A node that does not keep up, or to which messages were lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlowNode {
    /// Its name.
    pub node: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Whether messages to it have been lost in the last seconds.
    pub losing: bool,
    /// Messages that did not reach a subscriber there.
    pub dropped: u64,
    /// The same, by channel and then by reason.
    pub by_channel: BTreeMap<String, BTreeMap<String, u64>>,
    /// Messages that wait.
    pub waiting_messages: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// For how long messages wait for it to read, if they do.
    pub held_ms: Option<u64>,
    /// What to do.
    pub advice: String,
}

/// Something that needs attention, best before it does damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about, such as `disk_nearly_full`.
    pub name: String,
    /// `warning`, or `critical` if damage is done already.
    pub severity: String,
    /// The node, store or directory it is about, if it is about one of several.
    pub subject: Option<String>,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub next_step: String,
    /// When it was raised.
    pub since: u64,
}

/// A connection that was lost, or that did not come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostConnection {
    /// When.
    pub at: u64,
    /// The node, as far as it has said its name.
    pub node: Option<String>,
    /// The address it came from, if it came from one.
    pub address: Option<String>,
    /// `dialled` by this gateway, `accepted` by it, or `established` before it was lost.
    pub origin: String,
    /// How far it came: `name`, `resolve`, `epmd`, `tcp`, `handshake`, `authentication` or
    /// `established`.
    pub stage: String,
    /// Why it ended.
    pub reason: String,
    /// How often the same has happened one after the other.
    pub times: u64,
    /// For how long it stood.
    pub lasted_seconds: Option<u64>,
}

/// What happened in each of the last seconds, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// The time of the last second.
    pub until: u64,
    /// Messages published.
    pub published: Vec<u64>,
    /// Messages handed to connections.
    pub delivered: Vec<u64>,
    /// Messages dropped.
    pub dropped: Vec<u64>,
    /// Requests refused.
    pub refused: Vec<u64>,
}
