//! Where the content of a report comes from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use gater_core::channel::{Hmac, Priority, Topic};
use gater_dist::{Lane, Node};
use gater_term::{Atom, Pid};
use parking_lot::Mutex;

use super::query::{self, Options, Section, Sort};
use super::types::{
    Alarm, ChannelNode, ChannelReport, Check, ClusterReport, ConfigReport, HistoryReport,
    LaneReport, LogReport, LostConnection, MemberReport, Page, PeerReport, ProcessReport, Quorum,
    Rates, Report, SlowNode, Status, StoreReport, SubscriberReport, TopicReport, Totals,
    WorkerReport,
};
use crate::clock;
use crate::observe::alarms::{self, Alarms, Facts};
use crate::observe::drops::{DropCount, Drops};
use crate::observe::durations::Durations;
use crate::observe::history::{History, Sample};
use crate::observe::logs::{self, LogFilter};
use crate::observe::lost::LostConnections;
use crate::observe::process;
use crate::observe::refusals::Refusals;
use crate::registry::cluster::Cluster;
use crate::registry::cluster::health::Health;
use crate::registry::directory::Directory;
use crate::services::channel::local::Channel;
use crate::services::session::Sessions;
use crate::transport::peers::{PeerRef, Peers};

/// Nodes that are named for each channel.
const NODES_OF_A_CHANNEL: usize = 20;
/// How often the operating system is asked about the process.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The parts of a gateway that a report is about.
pub struct Parts {
    /// The distribution node.
    pub node: Node,
    /// The nodes it knows.
    pub peers: Arc<Peers>,
    /// The stores and their workers.
    pub directory: Arc<Directory>,
    /// The other gateways.
    pub cluster: Arc<Cluster>,
    /// The channels.
    pub channels: Vec<Arc<Channel>>,
    /// The links of shims.
    pub sessions: Arc<Sessions>,
    /// Messages that were dropped.
    pub drops: Arc<Drops>,
    /// Requests that were refused.
    pub refusals: Arc<Refusals>,
    /// Connections that were lost.
    pub lost: Arc<LostConnections>,
    /// How long nodes take to read what they are sent.
    pub read_time: Arc<Durations>,
    /// What is logged.
    pub log: LogFilter,
    /// The configuration, without its secrets.
    pub config: ConfigReport,
}

/// Gathers reports.
pub struct Collector {
    parts: Parts,
    commit: &'static str,
    started: Instant,
    started_at: u64,
    history: History,
    alarms: Alarms,
    process: Mutex<ProcessReport>,
    clock_differences: Mutex<BTreeMap<String, i64>>,
    draining: AtomicBool,
}

impl Collector {
    /// Reports about `parts`; `commit` is what the program was built from.
    pub fn new(parts: Parts, commit: &'static str) -> Self {
        Self {
            parts,
            commit,
            started: Instant::now(),
            started_at: clock::unix_seconds(),
            history: History::default(),
            alarms: Alarms::default(),
            process: Mutex::default(),
            clock_differences: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Returns the parts that are reported about.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns the alarms that are raised.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.alarms.raised()
    }

    /// The gateway stops: it is not ready from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The clocks of the other gateways are ahead by so many milliseconds.
    pub fn set_clock_differences(&self, ahead: BTreeMap<String, i64>) {
        *self.clock_differences.lock() = ahead;
    }

    /// Takes a sample a second and judges the alarms, for as long as it is polled. Returns after
    /// each second what has changed, by `changed`.
    pub async fn watch(self: Arc<Self>, changed: impl Fn(&[alarms::Change])) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked: Option<Instant> = None;
        loop {
            ticks.tick().await;
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                self.look().await;
            }
            self.sample();
            let changes = self.alarms.update(alarms::judge(&self.facts()), Instant::now());
            alarms::log(&changes);
            changed(&changes);
        }
    }

    /// Asks the operating system about the process, on a thread for what may block. A file system
    /// that hangs holds up the alarms with it, and nothing else.
    async fn look(&self) {
        let data_dir = self.parts.config.data_dir.clone().map(PathBuf::from);
        let looked = tokio::task::spawn_blocking(move || process::look(data_dir.as_deref())).await;
        match looked {
            Ok(found) => *self.process.lock() = found,
            Err(error) => tracing::error!(%error, "the process could not be looked at"),
        }
    }

    fn sample(&self) {
        let mut samples: HashMap<Atom, Sample> = HashMap::default();
        for channel in &self.parts.channels {
            let counts = channel.traffic().counts();
            let sample = Sample {
                published: counts.published,
                delivered: counts.delivered,
                ..Sample::default()
            };
            samples.insert(channel.atom().clone(), sample);
        }
        for drop in self.parts.drops.counts() {
            let sample = samples.entry(drop.channel).or_default();
            sample.dropped = sample.dropped.saturating_add(drop.messages);
        }
        for (channel, _, _, count) in self.parts.refusals.counts() {
            let sample = samples.entry(channel).or_default();
            sample.refused = sample.refused.saturating_add(count);
        }
        self.history.add(Instant::now(), clock::unix_seconds(), samples);
    }

    fn facts(&self) -> Facts {
        let cluster = self.cluster();
        let is_member = !matches!(cluster.role.as_str(), "waiting" | "removed");
        let missing = cluster.members.iter().filter(|member| !member.connected);
        let outages = self.parts.drops.outages().into_iter();
        Facts {
            process: self.process.lock().clone(),
            data_dir: self.parts.config.data_dir.clone(),
            quorum: (is_member && cluster.quorum.voters > 0).then_some(cluster.quorum),
            missing: missing.map(|member| member.node.clone()).collect(),
            never_seen: cluster.never_seen,
            random_secret: self.parts.config.random_secret,
            gateways: cluster.members.len(),
            clock_differences: self.clock_differences.lock().clone(),
            losing: outages.map(|(node, lost)| (node.as_str().to_owned(), lost)).collect(),
        }
    }

    /// Returns a section as JSON, or why it could not be written.
    pub fn json(&self, section: &Section, options: Options) -> Result<Vec<u8>, serde_json::Error> {
        match section {
            Section::All => serde_json::to_vec(&self.report(options)),
            Section::Status => serde_json::to_vec(&self.status()),
            Section::Cluster => serde_json::to_vec(&self.cluster()),
            Section::Peers => serde_json::to_vec(&self.peers(options)),
            Section::Stores => serde_json::to_vec(&self.stores(options)),
            Section::Workers(store) => serde_json::to_vec(&self.workers(store, options)),
            Section::Channels => serde_json::to_vec(&self.channels(options)),
            Section::Subscribers { channel, topic } => {
                serde_json::to_vec(&self.subscribers(channel, topic, options))
            }
            Section::Topics { channel, pattern } => {
                serde_json::to_vec(&self.topics(channel, pattern, options))
            }
            Section::Slow => serde_json::to_vec(&self.slow(options)),
            Section::Alarms => serde_json::to_vec(&self.alarms()),
            Section::LostConnections => serde_json::to_vec(&self.lost_connections(options)),
            Section::History => serde_json::to_vec(&self.history()),
        }
    }

    /// Everything.
    pub fn report(&self, options: Options) -> Report {
        Report {
            status: self.status(),
            cluster: self.cluster(),
            peers: self.peers(options),
            stores: self.stores(options),
            channels: self.channels(options),
            slow: self.slow(options),
            alarms: self.alarms(),
            lost_connections: self.lost_connections(options),
        }
    }

    /// Returns the gateway in short.
    pub fn status(&self) -> Status {
        let parts = &self.parts;
        let view = parts.cluster.view();
        let checks = self.checks();
        Status {
            node: parts.node.name().as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: self.commit.to_owned(),
            creation: parts.node.creation(),
            now: clock::unix_seconds(),
            started_at: self.started_at,
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: checks.iter().all(|check| check.ok),
            checks,
            config: ConfigReport { log: parts.log.text(), ..parts.config.clone() },
            totals: self.totals(),
            rates: self.history.rates(),
            process: self.process.lock().clone(),
            role: self.role(),
            leader: view.leader.map(|id| self.member_name(&view, id)),
            health: parts.cluster.health(&view).name().to_owned(),
            alarms: self.alarms.raised().len(),
        }
    }

    /// What has to hold for the gateway to be ready.
    pub fn checks(&self) -> Vec<Check> {
        let view = self.parts.cluster.view();
        let quorum = match self.parts.cluster.health(&view) {
            Health::NoQuorum => "no majority of the gateways is reached: commands are refused",
            Health::Healthy | Health::Degraded => "",
        };
        let draining = match self.draining.load(Ordering::Relaxed) {
            true => "the gateway was told to stop",
            false => "",
        };
        let is_full =
            self.parts.cluster.is_disk_full() || self.process.lock().disk_free_bytes == Some(0);
        let disk = if is_full { "the disk is full: registrations are refused" } else { "" };
        [("quorum", quorum), ("disk", disk), ("draining", draining)]
            .map(|(name, reason)| Check {
                name: name.to_owned(),
                ok: reason.is_empty(),
                reason: reason.to_owned(),
            })
            .into()
    }

    fn totals(&self) -> Totals {
        let parts = &self.parts;
        let peers = parts.peers.all();
        let online = peers.iter().filter(|peer| peer.online());
        let mut totals = Totals {
            gateways: online.clone().filter(|peer| self.is_gateway(peer)).count(),
            peers: online.count(),
            stores: parts.directory.store_count(),
            registrations: parts.directory.registrations(),
            sessions: parts.sessions.count(),
            dropped: parts.drops.counts().iter().map(|drop| drop.messages).sum(),
            refused: parts.refusals.counts().iter().map(|(_, _, _, count)| count).sum(),
            gateway_messages_refused: parts.cluster.trust().refused(),
            log_lines_lost: logs::lost(),
            connections_lost: parts.lost.total(),
            ..Totals::default()
        };
        for channel in &parts.channels {
            let counts = channel.traffic().counts();
            totals.subscriptions += channel.subscriptions();
            totals.topics += channel.topics();
            totals.published += counts.published;
            totals.relayed += counts.relayed;
            totals.delivered += counts.delivered;
        }
        totals
    }

    fn role(&self) -> String {
        let cluster = &self.parts.cluster;
        if cluster.is_removed() { "removed" } else { cluster.view().role.name() }.to_owned()
    }

    /// Returns the node name of a member. One that is alone may be known under the name it had
    /// before.
    fn member_name(&self, view: &crate::registry::replica::ClusterView, id: u64) -> String {
        let own = self.parts.cluster.name();
        let known = view.name_of(id).filter(|_| id != view.id);
        known.unwrap_or(if id == view.id { own } else { "unknown" }).to_owned()
    }

    /// Returns the gateways that keep one registry.
    pub fn cluster(&self) -> ClusterReport {
        let cluster = &self.parts.cluster;
        let view = cluster.view();
        let positions = cluster.replica().positions();
        let voters = view.voters().count();
        let reached = view.voters().filter(|id| cluster.is_member_connected(&view, *id)).count();
        let health = cluster.health(&view);
        let silence = cluster.quorum_silence(&view);
        let members = view.members.iter().map(|(id, (_, votes))| MemberReport {
            node: self.member_name(&view, *id),
            id: id.to_string(),
            role: if *votes { "voter" } else { "learner" }.to_owned(),
            connected: cluster.is_member_connected(&view, *id),
            matched: positions.matched.get(id).copied(),
        });
        ClusterReport {
            node: cluster.name().to_owned(),
            id: view.id.to_string(),
            role: self.role(),
            health: health.name().to_owned(),
            term: view.term,
            leader: view.leader.map(|id| self.member_name(&view, id)),
            quorum: Quorum {
                voters,
                reached,
                needed: if voters == 0 { 0 } else { voters / 2 + 1 },
                held: health != Health::NoQuorum,
                silent_ms: silence.map(millis),
            },
            log: LogReport {
                last: positions.last,
                applied: positions.applied,
                snapshot: positions.snapshot,
                purged: positions.purged,
            },
            members: members.collect(),
            never_seen: cluster.unseen(&view),
            refused: cluster.trust().refused(),
        }
    }

    fn is_gateway(&self, peer: &PeerRef) -> bool {
        self.parts.cluster.trust().knows(peer.node().as_str())
    }

    /// What a node is: `gateway`, `beam`, or `other` for a program that is no BEAM. One that is
    /// away counts as a BEAM.
    pub(crate) fn kind(&self, peer: &PeerRef) -> &'static str {
        match &*peer.link() {
            _ if self.is_gateway(peer) => "gateway",
            Some(link) if !link.peer().is_beam() => "other",
            _ => "beam",
        }
    }

    /// Returns the nodes that are connected or remembered; those that lose messages, then those
    /// with the most waiting bytes first.
    pub fn peers(&self, options: Options) -> Page<PeerReport> {
        let mut dropped: BTreeMap<Atom, u64> = BTreeMap::new();
        for drop in self.parts.drops.counts() {
            let count = dropped.entry(drop.node).or_default();
            *count = count.saturating_add(drop.messages);
        }
        let now = clock::unix_seconds();
        let report = |peer: PeerRef| {
            let dropped = dropped.get(peer.node()).copied().unwrap_or(0);
            self.peer(&peer, dropped, now)
        };
        let reports: Vec<_> = self.parts.peers.all().into_iter().map(report).collect();
        let name = |peer: &PeerReport| peer.node.clone();
        page(reports, options.limit, |peer| match options.sort {
            Sort::Name | Sort::Size | Sort::Rate => ([0, 0, 0], name(peer)),
            Sort::Drops => ([peer.dropped, 0, 0], name(peer)),
            Sort::Waiting => ([peer.waiting_bytes, 0, 0], name(peer)),
            Sort::Bytes => ([peer.bytes_in.saturating_add(peer.bytes_out), 0, 0], name(peer)),
            Sort::Latest => ([peer.since, 0, 0], name(peer)),
            Sort::Relevance => {
                let gateway = u64::from(peer.kind == "gateway");
                ([gateway, peer.dropped, peer.waiting_bytes], name(peer))
            }
        })
    }

    fn peer(&self, peer: &PeerRef, dropped: u64, now: u64) -> PeerReport {
        let link = peer.link();
        let stats = link.as_ref().map(|link| link.stats()).unwrap_or_default();
        let connected = link.is_some();
        let age = if connected { stats.age } else { peer.away().unwrap_or_default() };
        let lanes = Lane::ALL.into_iter().zip(stats.lanes).map(|(lane, depth)| LaneReport {
            lane: lane.name().to_owned(),
            messages: depth.messages,
            bytes: depth.bytes as u64,
        });
        PeerReport {
            node: peer.node().as_str().to_owned(),
            kind: self.kind(peer).to_owned(),
            creation: peer.creation(),
            connected,
            since: now.saturating_sub(age.as_secs()),
            processes: peer.watched(),
            lanes: lanes.collect(),
            waiting_bytes: stats.lanes.iter().map(|depth| depth.bytes as u64).sum(),
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            dropped,
            silent_ms: connected.then(|| millis(stats.silence)),
            round_trip_us: stats
                .round_trip
                .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            held_ms: stats.held.map(millis),
        }
    }

    /// Returns the stores; those with the most workers first.
    pub fn stores(&self, options: Options) -> Page<StoreReport> {
        let sizes = self.parts.directory.store_sizes();
        let by_name = options.sort == Sort::Name;
        let rows: Vec<_> = sizes;
        let rank = |(name, workers, _): &(Atom, usize, usize)| {
            ([if by_name { 0 } else { *workers as u64 }, 0, 0], name.clone())
        };
        let Page { total, items } = page(rows, options.limit, rank);
        let report = |(name, workers, offered): (Atom, usize, usize)| StoreReport {
            store: name.as_str().to_owned(),
            workers,
            offered,
        };
        Page { total, items: items.into_iter().map(report).collect() }
    }

    /// Returns the workers of a store, in the order of registration.
    pub fn workers(&self, store: &str, options: Options) -> Page<WorkerReport> {
        let (total, workers) = self.parts.directory.registered_workers(store, options.limit);
        let report = |(epoch, pid, offered): (u64, Pid, bool)| WorkerReport {
            node: pid.node.as_str().to_owned(),
            pid: local(&pid),
            epoch,
            offered,
        };
        Page { total, items: workers.into_iter().map(report).collect() }
    }

    /// Returns the channels; those with the most traffic first.
    pub fn channels(&self, options: Options) -> Page<ChannelReport> {
        let (drops, refusals) = (self.parts.drops.counts(), self.parts.refusals.counts());
        let mut rows: Vec<_> = self
            .parts
            .channels
            .iter()
            .map(|channel| (channel, self.history.channel_rates(channel.atom())))
            .collect();
        let dropped = |channel: &Channel| -> u64 {
            let own = drops.iter().filter(|drop| drop.channel == *channel.atom());
            own.map(|drop| drop.messages).sum()
        };
        let rank = |(channel, rates): &(&Arc<Channel>, Rates)| {
            let rate = (rates.published + rates.delivered) as u64;
            let number = match options.sort {
                Sort::Name | Sort::Waiting | Sort::Bytes | Sort::Latest => 0,
                Sort::Drops => dropped(channel),
                Sort::Size => channel.subscriptions() as u64,
                Sort::Rate | Sort::Relevance => rate,
            };
            (std::cmp::Reverse(number), channel.name().to_owned())
        };
        rows.sort_by_cached_key(rank);
        let total = rows.len();
        let report = |(channel, rates): (&Arc<Channel>, Rates)| {
            let mut by_reason = BTreeMap::new();
            for drop in drops.iter().filter(|drop| drop.channel == *channel.atom()) {
                add(&mut by_reason, drop.reason.as_atom(), drop.messages);
            }
            let mut refused = BTreeMap::new();
            for (_, _, reason, count) in refusals.iter().filter(|(of, ..)| of == channel.atom()) {
                add(&mut refused, reason, *count);
            }
            self.channel(channel, rates, by_reason, refused)
        };
        Page { total, items: rows.into_iter().take(options.limit).map(report).collect() }
    }

    fn channel(
        &self,
        channel: &Channel,
        rates: Rates,
        dropped: BTreeMap<String, u64>,
        refused: BTreeMap<String, u64>,
    ) -> ChannelReport {
        let policy = channel.policy();
        let counts = channel.traffic().counts();
        let nodes = page(channel.nodes(), NODES_OF_A_CHANNEL, |(peer, subscriptions, _)| {
            ([*subscriptions as u64, 0, 0], peer.node().clone())
        });
        let node = |(peer, subscriptions, processes): (PeerRef, usize, usize)| ChannelNode {
            node: peer.node().as_str().to_owned(),
            subscriptions,
            processes,
        };
        ChannelReport {
            channel: channel.name().to_owned(),
            priority: priority_name(policy.priority).to_owned(),
            max_rate: policy.max_rate.map(std::num::NonZeroU32::get),
            hmac: if policy.hmac == Hmac::Required { "required" } else { "optional" }.to_owned(),
            replay_last: policy.replay_last,
            topics: channel.topics(),
            subscriptions: channel.subscriptions(),
            nodes: Page { total: nodes.total, items: nodes.items.into_iter().map(node).collect() },
            published: counts.published,
            relayed: counts.relayed,
            delivered: counts.delivered,
            dropped,
            refused,
            rates,
        }
    }

    /// Returns the subscribers of a topic at this gateway; none if there is no such channel.
    pub fn subscribers(
        &self,
        channel: &str,
        topic: &[u8],
        options: Options,
    ) -> Page<SubscriberReport> {
        let Some(channel) = self.parts.channels.iter().find(|known| known.name() == channel) else {
            return Page { total: 0, items: Vec::new() };
        };
        let (total, found) = channel.topic_subscribers(topic, options.limit);
        let report = |(peer, process, processes): (PeerRef, _, u32)| SubscriberReport {
            node: peer.node().as_str().to_owned(),
            pid: local(&peer.pid(process)),
            processes,
            connected: peer.online(),
        };
        Page { total, items: found.into_iter().map(report).collect() }
    }

    /// Returns the topics of a channel that have subscribers and match a pattern; none if there is no
    /// such channel. Those with the most subscribers here come first.
    pub fn topics(&self, channel: &str, pattern: &[u8], options: Options) -> Page<TopicReport> {
        let Some(channel) = self.parts.channels.iter().find(|known| known.name() == channel) else {
            return Page { total: 0, items: Vec::new() };
        };
        let (total, found) =
            channel.matching_topics(|topic| query::matches(pattern, topic), options.limit);
        let report = |(topic, subscriptions): (Topic, usize)| TopicReport {
            topic: String::from_utf8_lossy(topic.as_bytes()).into_owned(),
            subscriptions,
        };
        let mut items: Vec<_> = found.into_iter().map(report).collect();
        match options.sort {
            Sort::Name => items.sort_by(|one, other| one.topic.cmp(&other.topic)),
            _ => items.sort_by_key(|topic| std::cmp::Reverse(topic.subscriptions)),
        }
        Page { total, items }
    }

    /// Returns the nodes that do not keep up or to which messages were lost; those that lose
    /// messages now first.
    pub fn slow(&self, options: Options) -> Page<SlowNode> {
        let mut by_node: BTreeMap<Atom, Vec<DropCount>> = BTreeMap::new();
        for drop in self.parts.drops.counts() {
            by_node.entry(drop.node.clone()).or_default().push(drop);
        }
        let outages = self.parts.drops.outages();
        let mut nodes = Vec::new();
        for peer in self.parts.peers.all() {
            let stats = peer.link().as_ref().map(|link| link.stats()).unwrap_or_default();
            let waiting: usize = stats.lanes.iter().map(|depth| depth.bytes).sum();
            let drops = by_node.remove(peer.node()).unwrap_or_default();
            if waiting == 0 && drops.is_empty() {
                continue;
            }
            let mut node = slow_node(peer.node(), &drops, outages.contains_key(peer.node()));
            node.connected = peer.online();
            node.waiting_bytes = waiting as u64;
            node.waiting_messages = stats.lanes.iter().map(|depth| depth.messages).sum();
            node.held_ms = stats.held.map(millis);
            node.advice = advice(&node, &drops);
            nodes.push(node);
        }
        // Nodes that are not known any more.
        for (name, drops) in by_node {
            let mut node = slow_node(&name, &drops, outages.contains_key(&name));
            node.advice = advice(&node, &drops);
            nodes.push(node);
        }
        page(nodes, options.limit, |node| {
            let waiting = node.waiting_bytes;
            let numbers = match options.sort {
                Sort::Name => [0, 0, 0],
                Sort::Waiting | Sort::Bytes => [waiting, node.dropped, 0],
                Sort::Drops => [node.dropped, waiting, 0],
                _ => [u64::from(node.losing), node.dropped, waiting],
            };
            (numbers, node.node.clone())
        })
    }

    /// Returns the last connections that were lost, the latest first.
    pub fn lost_connections(&self, options: Options) -> Page<LostConnection> {
        let (total, items) = self.parts.lost.latest(options.limit);
        Page { total, items }
    }

    /// What happened in each of the last seconds.
    pub fn history(&self) -> HistoryReport {
        self.history.report()
    }
}

fn slow_node(name: &Atom, drops: &[DropCount], losing: bool) -> SlowNode {
    let mut by_channel: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for drop in drops {
        let reasons = by_channel.entry(drop.channel.as_str().to_owned()).or_default();
        add(reasons, drop.reason.as_atom(), drop.messages);
    }
    SlowNode {
        node: name.as_str().to_owned(),
        connected: false,
        losing,
        dropped: drops.iter().map(|drop| drop.messages).sum(),
        by_channel,
        waiting_messages: 0,
        waiting_bytes: 0,
        held_ms: None,
        advice: String::new(),
    }
}

/// What to do about a node that does not keep up.
fn advice(node: &SlowNode, drops: &[DropCount]) -> String {
    use crate::observe::drops::Reason;
    let has = |reason| drops.iter().any(|drop| drop.reason == reason);
    if has(Reason::QueueFull) {
        "the node reads more slowly than its subscribers are sent to: look at their message queues \
         there, subscribe to fewer topics, or spread the subscribers over several nodes"
    } else if node.held_ms.is_some() {
        "the node has not read what it was sent: look whether it is overloaded or suspended"
    } else if !node.connected && has(Reason::NotConnected) {
        "the node is away: its subscribers get nothing until it is back"
    } else if !drops.is_empty() {
        "its connection was lost while messages waited: see the lost connections for the reason"
    } else {
        "messages wait to be written; that is no loss"
    }
    .to_owned()
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str, more: u64) {
    let count = counts.entry(name.to_owned()).or_default();
    *count = count.saturating_add(more);
}

/// Returns the items with the greatest numbers, those that are equal by name.
fn page<T, N: Ord>(items: Vec<T>, limit: usize, rank: impl Fn(&T) -> ([u64; 3], N)) -> Page<T> {
    let total = items.len();
    let mut ranked: Vec<_> = items
        .into_iter()
        .map(|item| {
            let (numbers, name) = rank(&item);
            ((std::cmp::Reverse(numbers), name), item)
        })
        .collect();
    // Only what is shown is put into order.
    if limit < ranked.len() {
        ranked.select_nth_unstable_by(limit, |(a, _), (b, _)| a.cmp(b));
        ranked.truncate(limit);
    }
    ranked.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Page { total, items: ranked.into_iter().map(|(_, item)| item).collect() }
}

/// Returns a pid as the node it is on prints it.
fn local(pid: &Pid) -> String {
    format!("<0.{}.{}>", pid.id, pid.serial)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical => "critical",
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_the_greatest_and_says_how_many_there_are() {
        let items: Vec<u64> = (0..1_000).map(|n| n * 7 % 1_000).collect();
        let found = page(items.clone(), 3, |n| ([*n, 0, 0], *n));
        assert_eq!((found.total, found.items), (1_000, vec![999, 998, 997]));
        let by_name = page(items, 3, |n| ([0, 0, 0], *n));
        assert_eq!(by_name.items, [0, 1, 2]);
        assert_eq!(page(vec![2, 1], 10, |n| ([*n, 0, 0], ())).items, [2, 1]);
        assert_eq!(page(Vec::<u64>::new(), 0, |n| ([*n, 0, 0], ())).total, 0);
    }
}
