//! The metrics of a gateway, written when they are asked for.

use std::collections::BTreeMap;
use std::fmt;

use gater_dist::Lane;
use prometheus_client::collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::table::{self, Metric};
use crate::observe::alarms;
use crate::observe::durations::{BOUNDS_MICROS, Snapshot};
use crate::observe::report::Collector;

/// What a gateway may be in its cluster.
const ROLES: [&str; 6] = ["leader", "follower", "candidate", "learner", "waiting", "removed"];

/// Writes all metrics in the OpenMetrics text format.
pub fn encode(collector: &Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families(collector))));
    let mut out = String::with_capacity(16 << 10);
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Returns the same in the text format that was before OpenMetrics: the name of a counter has its
/// ending wherever it stands, and no line marks the end.
pub fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 1024);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let counts = table::METRICS
                    .iter()
                    .any(|metric| metric.name == name && table::is_counter(metric.kind));
                let ending = if counts { "_total" } else { "" };
                out.push_str(&format!("# {what} {name}{ending} {rest}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// The series of each metric.
#[derive(Debug)]
struct Families(Vec<Family>);

/// All series of a metric.
#[derive(Debug)]
pub struct Family {
    /// The metric.
    pub metric: Metric,
    /// Labels and value of each series.
    pub series: Vec<(Vec<(&'static str, String)>, Value)>,
}

/// The value of a series.
#[derive(Debug, Clone)]
pub enum Value {
    /// It only grows.
    Counter(u64),
    /// It is as it is now.
    Gauge(u64),
    /// Durations.
    Histogram(Box<Snapshot>),
}

impl collector::Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let Metric { name, kind, help, .. } = family.metric;
            let mut encoder = encoder.encode_descriptor(name, help, None, kind)?;
            match family.series.as_slice() {
                [(labels, value)] if labels.is_empty() => value.encode(encoder)?,
                series => {
                    for (labels, value) in series {
                        value.encode(encoder.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl EncodeMetric for Value {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Counter(value) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
            Self::Gauge(value) => encoder.encode_gauge(value),
            Self::Histogram(snapshot) => {
                let bounds = BOUNDS_MICROS.iter().map(|bound| *bound as f64 / 1e6);
                let mut buckets: Vec<(f64, u64)> = bounds.zip(snapshot.buckets).collect();
                buckets.push((f64::INFINITY, snapshot.above));
                let count = buckets.iter().map(|(_, count)| count).sum();
                let sum = snapshot.sum.as_secs_f64();
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            }
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Histogram(_) => MetricType::Histogram,
        }
    }
}

/// Collects series metric by metric.
#[derive(Default)]
struct Writer(Vec<Family>);

impl Writer {
    /// One series of a metric for each set of values of its labels.
    fn add<const N: usize>(
        &mut self,
        metric: Metric,
        series: impl IntoIterator<Item = ([String; N], u64)>,
    ) {
        let value = if table::is_counter(metric.kind) { Value::Counter } else { Value::Gauge };
        let labelled = |(values, number): ([String; N], u64)| {
            (metric.labels.iter().copied().zip(values).collect(), value(number))
        };
        let series = series.into_iter().map(labelled).collect();
        self.0.push(Family { metric, series });
    }

    /// A metric without labels; none if there is no value.
    fn one(&mut self, metric: Metric, value: impl Into<Option<u64>>) {
        self.add::<0>(metric, value.into().map(|value| ([], value)));
    }

    fn durations(
        &mut self,
        metric: Metric,
        series: impl IntoIterator<Item = (Option<String>, Snapshot)>,
    ) {
        let labelled = |(label, snapshot): (Option<String>, Snapshot)| {
            let labels = metric.labels.iter().copied().zip(label).collect();
            (labels, Value::Histogram(Box::new(snapshot)))
        };
        let series = series.into_iter().map(labelled).collect();
        self.0.push(Family { metric, series });
    }
}

/// The series of all metrics, in the order of the table.
pub fn families(collector: &Collector) -> Vec<Family> {
    let mut out = Writer::default();
    let status = collector.status();
    out.add(table::BUILD, [([status.version.clone(), status.commit.clone()], 1)]);
    out.one(table::UPTIME, status.uptime_seconds);
    out.one(table::READY, u64::from(status.ready));
    let raised = collector.alarms();
    let of_name = |name: &str| raised.iter().filter(|alarm| alarm.name == name).count() as u64;
    out.add(
        table::ALARM,
        alarms::ALL.iter().map(|(name, _)| ([(*name).to_owned()], of_name(name))),
    );
    channels(&mut out, collector);
    peers(&mut out, collector);
    out.one(table::SESSIONS, status.totals.sessions as u64);
    out.one(table::STORES, status.totals.stores as u64);
    out.one(table::REGISTRATIONS, status.totals.registrations as u64);
    consensus(&mut out, collector);
    let process = &status.process;
    out.one(table::MEMORY, process.memory_bytes);
    out.one(table::MEMORY_LIMIT, process.memory_limit_bytes);
    out.one(table::FILES, process.descriptors);
    out.one(table::FILES_LIMIT, process.descriptor_limit);
    out.one(table::DISK_FREE, process.disk_free_bytes);
    out.one(table::DISK_SIZE, process.disk_total_bytes);
    out.one(table::LOG_LINES_LOST, status.totals.log_lines_lost);
    out.0
}

fn channels(out: &mut Writer, collector: &Collector) {
    let parts = collector.parts();
    let all = || parts.channels.iter();
    let named = |number: u64, name: &str| ([name.to_owned()], number);
    out.add(table::PUBLISHED, all().map(|c| named(c.traffic().counts().published, c.name())));
    out.add(table::RELAYED, all().map(|c| named(c.traffic().counts().relayed, c.name())));
    out.add(table::DELIVERED, all().map(|c| named(c.traffic().counts().delivered, c.name())));
    let mut dropped: BTreeMap<[String; 3], u64> = BTreeMap::new();
    for drop in parts.drops.counts() {
        let key = [drop.channel.as_str(), drop.lane.name(), drop.reason.as_atom()];
        let count = dropped.entry(key.map(str::to_owned)).or_default();
        *count = count.saturating_add(drop.messages);
    }
    out.add(table::DROPPED, dropped);
    let mut refused: BTreeMap<[String; 2], u64> = BTreeMap::new();
    for (channel, _, reason, more) in parts.refusals.counts() {
        let count = refused.entry([channel.as_str(), reason].map(str::to_owned)).or_default();
        *count = count.saturating_add(more);
    }
    out.add(table::REFUSED, refused);
    out.durations(
        table::PUBLISH_TIME,
        all().map(|c| (Some(c.name().to_owned()), c.traffic().publish_time().snapshot())),
    );
    out.durations(table::READ_TIME, [(None, parts.read_time.snapshot())]);
    out.add(table::TOPICS, all().map(|c| named(c.topics() as u64, c.name())));
    out.add(table::SUBSCRIPTIONS, all().map(|c| named(c.subscriptions() as u64, c.name())));
}

fn peers(out: &mut Writer, collector: &Collector) {
    let parts = collector.parts();
    let kinds = ["beam", "gateway", "other"];
    let states = ["connected", "away"];
    let mut peers: BTreeMap<[String; 2], u64> = kinds
        .iter()
        .flat_map(|kind| states.map(|state| ([(*kind).to_owned(), state.to_owned()], 0)))
        .collect();
    let (mut messages, mut bytes, mut most) = ([0; 5], [0; 5], [0; 5]);
    let mut held = 0;
    for peer in parts.peers.all() {
        let link = peer.link();
        let state = if link.is_some() { "connected" } else { "away" };
        *peers.entry([collector.kind(&peer).to_owned(), state.to_owned()]).or_default() += 1;
        let Some(link) = &*link else { continue };
        let stats = link.stats();
        held += u64::from(stats.held.is_some());
        let sums = messages.iter_mut().zip(&mut bytes).zip(&mut most).zip(stats.lanes);
        for (((messages, bytes), most), depth) in sums {
            *messages += depth.messages;
            *bytes += depth.bytes as u64;
            *most = u64::max(*most, depth.bytes as u64);
        }
    }
    let lanes = |numbers: [u64; 5]| {
        Lane::ALL.into_iter().zip(numbers).map(|(lane, number)| ([lane.name().to_owned()], number))
    };
    out.add(table::PEERS, peers);
    out.one(table::SLOW_PEERS, held);
    out.add(table::LANE_MESSAGES, lanes(messages));
    out.add(table::LANE_BYTES, lanes(bytes));
    out.add(table::LANE_MOST_BYTES, lanes(most));
    let lost = parts.lost.counts().into_iter().map(|((origin, stage, reason), count)| {
        ([origin.as_str(), stage.as_str(), reason].map(str::to_owned), count)
    });
    out.add(table::LOST, lost);
}

fn consensus(out: &mut Writer, collector: &Collector) {
    let cluster = collector.cluster();
    out.add(
        table::ROLE,
        ROLES.iter().map(|role| ([(*role).to_owned()], u64::from(cluster.role == *role))),
    );
    out.one(table::TERM, cluster.term);
    out.one(table::HAS_LEADER, u64::from(cluster.leader.is_some()));
    out.one(table::HAS_QUORUM, u64::from(cluster.quorum.held));
    out.one(table::VOTERS, cluster.quorum.voters as u64);
    out.one(table::REACHED, cluster.quorum.reached as u64);
    out.one(table::NEEDED, cluster.quorum.needed as u64);
    out.one(table::NEVER_SEEN, cluster.never_seen.len() as u64);
    let log = cluster.log;
    let positions = [
        ("last", log.last),
        ("applied", log.applied),
        ("snapshot", log.snapshot),
        ("purged", log.purged),
    ];
    out.add(table::LOG_INDEX, positions.map(|(name, index)| ([name.to_owned()], index)));
    out.one(table::REFUSED_GATEWAY, cluster.refused);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::durations::Durations;

    fn written(families: Vec<Family>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Families(families)));
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        out
    }

    #[test]
    fn every_kind_of_metric_is_written_as_prometheus_reads_it() {
        let durations = Durations::default();
        durations.add(Duration::from_micros(1));
        durations.add(Duration::from_micros(2));
        durations.add(Duration::from_secs(60));
        let mut out = Writer::default();
        out.one(table::UPTIME, 7);
        out.one(table::MEMORY, None);
        out.add(table::REFUSED, [(["a\"b\\c\n", "rate_limited"].map(str::to_owned), 3)]);
        out.durations(table::READ_TIME, [(None, durations.snapshot())]);
        let text = written(out.0);
        for line in [
            "# TYPE esdb_gater_uptime_seconds gauge",
            "esdb_gater_uptime_seconds 7",
            "esdb_gater_requests_refused_total{channel=\"a\\\"b\\\\c\\n\",reason=\"rate_limited\"} 3",
            "esdb_gater_delivery_seconds_bucket{le=\"0.000001\"} 1",
            "esdb_gater_delivery_seconds_bucket{le=\"0.000002\"} 2",
            "esdb_gater_delivery_seconds_bucket{le=\"10.0\"} 2",
            "esdb_gater_delivery_seconds_bucket{le=\"+Inf\"} 3",
            "esdb_gater_delivery_seconds_count 3",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let classic = classic(&text);
        for line in [
            "# TYPE esdb_gater_uptime_seconds gauge",
            "# TYPE esdb_gater_requests_refused_total counter",
            "esdb_gater_requests_refused_total{channel=\"a\\\"b\\\\c\\n\",reason=\"rate_limited\"} 3",
            "# TYPE esdb_gater_delivery_seconds histogram",
        ] {
            assert!(classic.lines().any(|found| found == line), "{line} in\n{classic}");
        }
        assert!(!classic.contains("EOF"));
    }
}
