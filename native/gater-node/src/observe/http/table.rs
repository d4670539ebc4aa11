//! All metrics: one table for what is written and for the reference.

use std::fmt::Write;

use prometheus_client::metrics::MetricType;

use crate::observe::alarms;

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with the unit; that of a counter gets `_total` behind it.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricType,
    /// The labels that tell its series apart.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricType::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricType::Gauge, labels, help }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricType::Histogram, labels, help }
}

macro_rules! metrics {
    ($($constant:ident = $metric:expr;)*) => {
        $(#[doc = concat!("See [`Metric::help`] of `", stringify!($constant), "`.")]
        pub const $constant: Metric = $metric;)*

        /// Every metric, in the order in which they are written.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD = gauge("esdb_gater_build", &["version", "commit"], "Always 1: the version that runs");
    UPTIME = gauge("esdb_gater_uptime_seconds", &[], "Time since the start");
    READY = gauge("esdb_gater_ready", &[], "1 if every check of /readyz holds, else 0");
    ALARM = gauge("esdb_gater_alarm", &["alarm"], "Alarms of that name that are raised");

    PUBLISHED = counter("esdb_gater_messages_published", &["channel"], "Messages that were published at this gateway");
    RELAYED = counter("esdb_gater_messages_relayed", &["channel"], "Messages that came from other gateways for subscribers at this one");
    DELIVERED = counter("esdb_gater_messages_delivered", &["channel"], "Messages that were handed to connections, one for each subscriber");
    DROPPED = counter("esdb_gater_messages_dropped", &["channel", "lane", "reason"], "Messages that did not reach a subscriber");
    REFUSED = counter("esdb_gater_requests_refused", &["channel", "reason"], "Publications and subscriptions that were refused");
    PUBLISH_TIME = histogram("esdb_gater_publish_seconds", &["channel"], "Time from a publication that was read to the last connection it was handed to; one of 16 is measured");
    READ_TIME = histogram("esdb_gater_delivery_seconds", &[], "Time from messages that were written to the answer of the subscriber's node that it has read them; measured with probes, every hundred kilobytes or so of each connection");
    TOPICS = gauge("esdb_gater_channel_topics", &["channel"], "Topics with subscribers");
    SUBSCRIPTIONS = gauge("esdb_gater_channel_subscriptions", &["channel"], "Subscriptions; those behind another gateway count as one a topic");

    PEERS = gauge("esdb_gater_peers", &["kind", "state"], "Nodes that are connected, or away and remembered");
    SLOW_PEERS = gauge("esdb_gater_peers_held", &[], "Connected nodes that have not read what they were sent, so that messages wait");
    LANE_MESSAGES = gauge("esdb_gater_lane_waiting_messages", &["lane"], "Messages that wait to be written, over all connections");
    LANE_BYTES = gauge("esdb_gater_lane_waiting_bytes", &["lane"], "Bytes that wait to be written, over all connections");
    LANE_MOST_BYTES = gauge("esdb_gater_lane_waiting_bytes_max", &["lane"], "Bytes that wait on the connection with the most");
    LOST = counter("esdb_gater_connections_lost", &["origin", "stage", "reason"], "Connections that were lost or did not come about");
    SESSIONS = gauge("esdb_gater_sessions", &[], "Shims that are linked");

    STORES = gauge("esdb_gater_registry_stores", &[], "Stores with workers");
    REGISTRATIONS = gauge("esdb_gater_registry_registrations", &[], "Workers that are registered");
    ROLE = gauge("esdb_gater_consensus_role", &["role"], "1 for what the gateway is in its cluster, else 0");
    TERM = gauge("esdb_gater_consensus_term", &[], "The term of the consensus");
    HAS_LEADER = gauge("esdb_gater_consensus_has_leader", &[], "1 if this gateway knows who leads, else 0");
    HAS_QUORUM = gauge("esdb_gater_consensus_has_quorum", &[], "1 if commands are carried out, as far as this gateway can tell, else 0");
    VOTERS = gauge("esdb_gater_consensus_voters", &[], "Members that vote");
    REACHED = gauge("esdb_gater_consensus_voters_reached", &[], "Members that vote and that this gateway reaches, itself among them");
    NEEDED = gauge("esdb_gater_consensus_voters_needed", &[], "Members that vote and have to be reached");
    NEVER_SEEN = gauge("esdb_gater_consensus_members_never_seen", &[], "Gateways that are listed and were never members");
    LOG_INDEX = gauge("esdb_gater_consensus_log_index", &["position"], "Positions in the log of the registry");
    REFUSED_GATEWAY = counter("esdb_gater_gateway_messages_refused", &[], "Messages between gateways that were refused for who sent them or what was in them");

    MEMORY = gauge("esdb_gater_resident_memory_bytes", &[], "Memory of the process");
    MEMORY_LIMIT = gauge("esdb_gater_memory_limit_bytes", &[], "Memory that the process may have, if that is limited");
    FILES = gauge("esdb_gater_open_files", &[], "Files and sockets that are open");
    FILES_LIMIT = gauge("esdb_gater_open_files_limit", &[], "Files and sockets that may be open");
    DISK_FREE = gauge("esdb_gater_disk_free_bytes", &[], "Bytes that are free where the registry is kept");
    DISK_SIZE = gauge("esdb_gater_disk_size_bytes", &[], "Size of the file system where the registry is kept");
    LOG_LINES_LOST = counter("esdb_gater_log_lines_lost", &[], "Log lines that could not be written");
}

/// Returns the reference of the metrics, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What a gateway serves at `/metrics`, in the OpenMetrics text format if the client asks for it, as \
         Prometheus does, and else in the older one. No \
         label names a process or a topic, or a node that anybody may choose the name of: the number of \
         series depends on the configuration alone. This page is written from the table in \
         `native/gater-node/src/observe/http/table.rs` by `GATER_WRITE_VECTORS=1 cargo test -p gater-node \
         --lib reference`, and a test compares them.\n\n\
         | metric | type | labels | what it says |\n|---|---|---|---|\n",
    );
    for Metric { name, kind, labels, help } in METRICS {
        let suffix = if is_counter(*kind) { "_total" } else { "" };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| `{name}{suffix}` | {} | {} | {help} |",
            kind.as_str(),
            labels.join(", ")
        );
    }
    text.push_str("\n## Values of labels\n\n| label | values |\n|---|---|\n");
    let alarms: Vec<_> = alarms::ALL.iter().map(|(name, _)| format!("`{name}`")).collect();
    for (label, values) in [
        ("alarm", alarms.join(", ")),
        ("channel", "the names of the configured channels".to_owned()),
        ("kind", "`beam`, `gateway`, `other` (a program that is no BEAM)".to_owned()),
        ("lane", "`control`, `critical`, `high`, `normal`, `low`".to_owned()),
        ("origin", "`dialled`, `accepted`, `established`".to_owned()),
        ("position", "`last`, `applied`, `snapshot`, `purged`".to_owned()),
        (
            "reason",
            "of messages dropped: `queue_full`, `connection_lost`, `not_connected`; of requests \
             refused: `rate_limited`, `signature_required` and what is wrong with a signature or a \
             token; of connections: the kind of the error"
                .to_owned(),
        ),
        ("role", "`leader`, `follower`, `candidate`, `learner`, `waiting`, `removed`".to_owned()),
        (
            "stage",
            "`name`, `resolve`, `epmd`, `tcp`, `handshake`, `authentication`, `established`"
                .to_owned(),
        ),
        ("state", "`connected`, `away`".to_owned()),
    ] {
        let _ = writeln!(text, "| `{label}` | {values} |");
    }
    text.push_str("\n## Alarms\n\n| alarm | raised while |\n|---|---|\n");
    for (name, meaning) in alarms::ALL {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    text
}

pub(super) fn is_counter(kind: MetricType) -> bool {
    matches!(kind, MetricType::Counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_metrics_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
        if std::env::var_os("GATER_WRITE_VECTORS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written, reference(), "GATER_WRITE_VECTORS=1 writes it");
    }

    #[test]
    fn names_are_of_the_gateway_and_say_their_unit() {
        for (at, metric) in METRICS.iter().enumerate() {
            assert!(metric.name.starts_with("esdb_gater_"), "{}", metric.name);
            assert!(METRICS[..at].iter().all(|other| other.name != metric.name), "{}", metric.name);
            assert!(!metric.labels.iter().any(|label| ["pid", "topic", "node"].contains(label)));
        }
    }
}
