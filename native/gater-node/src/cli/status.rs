//! `esdb-gater status`: a gateway on one screen.

use clap::Args;
use gater_dist::term;
use serde::{Deserialize, Serialize};

use super::admin;
use super::client::Client;
use super::error::CommandError;
use super::listing;
use super::output::{Output, Paint, bytes, duration};
use super::target::Common;
use crate::observe::report::{Alarm, ClusterReport, Status as Short};

/// The arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it answered (`check` judges what it says), 1 it did not, 64 usage.

Examples:
  esdb-gater status --name gater1@10.0.0.1
  esdb-gater status --name gater1@10.0.0.1 --json | jq .status.rates")]
pub struct Status {
    #[command(flatten)]
    common: Common,
}

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Overview {
    /// The gateway in short.
    pub status: Short,
    /// The gateways that keep one registry.
    pub cluster: ClusterReport,
    /// What needs attention.
    pub alarms: Vec<Alarm>,
}

impl Overview {
    /// Asks a gateway.
    pub async fn of(client: &Client) -> Result<Self, CommandError> {
        Ok(Self {
            status: client.report("status", term!(#{})).await?,
            cluster: client.report("cluster", term!(#{})).await?,
            alarms: client.report("alarms", term!(#{})).await?,
        })
    }
}

impl Status {
    /// Prints the screen.
    pub async fn run(self) -> Result<u8, CommandError> {
        let client = Client::connect(&self.common).await?;
        let overview = Overview::of(&client).await;
        client.close().await;
        let overview = overview?;
        let output = Output::new(self.common.json);
        match output.is_json() {
            true => output.json(&overview)?,
            false => output.text(&shown(&overview, &output)),
        }
        Ok(0)
    }
}

/// `cluster status --json`: the same as the text, with the same exit codes.
pub async fn cluster(common: Common) -> Result<u8, CommandError> {
    let client = Client::connect(&common).await?;
    let cluster: Result<ClusterReport, _> = client.report("cluster", term!(#{})).await;
    client.close().await;
    let cluster = cluster?;
    Output::new(true).json(&cluster)?;
    Ok(match cluster.health.as_str() {
        "healthy" => 0,
        "no_quorum" => admin::NO_QUORUM,
        _ => admin::DEGRADED,
    })
}

fn shown(overview: &Overview, output: &Output) -> String {
    let Overview { status, cluster, alarms } = overview;
    let (totals, rates, process) = (&status.totals, &status.rates, &status.process);
    let mut lines: Vec<(&str, String)> = Vec::new();
    lines.push(("node", output.paint(Paint::Strong, &status.node)));
    lines.push(("version", format!("{} ({})", status.version, status.commit)));
    lines.push(("uptime", duration(status.uptime_seconds)));
    let missing: Vec<String> = status
        .checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| format!("{}: {}", check.name, check.reason))
        .collect();
    lines.push((
        "ready",
        match status.ready {
            true => output.paint(Paint::Good, "yes"),
            false => output.paint(Paint::Bad, &format!("NO: {}", missing.join("; "))),
        },
    ));
    let health = match status.health.as_str() {
        "healthy" => output.paint(Paint::Good, "healthy"),
        "no_quorum" => output.paint(Paint::Bad, "NO QUORUM: registrations are refused"),
        other => output.paint(Paint::Warning, other),
    };
    lines.push(("cluster", health));
    let leader = cluster.leader.as_deref().unwrap_or("none");
    lines.push(("leader", format!("{leader}; this gateway is {}", cluster.role)));
    let quorum = &cluster.quorum;
    lines.push((
        "quorum",
        format!(
            "{} of {} gateways reached, {} needed",
            quorum.reached, quorum.voters, quorum.needed
        ),
    ));
    for member in cluster.members.iter().filter(|member| !member.connected) {
        lines.push(("", output.paint(Paint::Bad, &format!("{} NOT CONNECTED", member.node))));
    }
    lines.push((
        "peers",
        format!(
            "{} connected, {} of them gateways; {} shims",
            totals.peers, totals.gateways, totals.sessions
        ),
    ));
    lines.push((
        "registry",
        format!("{} workers of {} stores", totals.registrations, totals.stores),
    ));
    lines.push((
        "channels",
        format!("{} subscriptions to {} topics", totals.subscriptions, totals.topics),
    ));
    lines.push((
        "rates",
        format!(
            "published {:.1}/s, delivered {:.1}/s, dropped {:.1}/s, refused {:.1}/s",
            rates.published, rates.delivered, rates.dropped, rates.refused
        ),
    ));
    let dropped = format!("dropped {}", totals.dropped);
    lines.push((
        "totals",
        format!(
            "published {}, delivered {}, {}, refused {}, connections lost {}",
            totals.published,
            totals.delivered,
            if totals.dropped > 0 { output.paint(Paint::Bad, &dropped) } else { dropped },
            totals.refused,
            totals.connections_lost
        ),
    ));
    let of = |used: Option<u64>, limit: Option<u64>| match (used, limit) {
        (Some(used), Some(limit)) => format!("{used} of {limit}"),
        (Some(used), None) => used.to_string(),
        _ => "?".into(),
    };
    lines.push((
        "process",
        format!(
            "pid {}, memory {}, open files {}",
            process.pid,
            process.memory_bytes.map_or("?".into(), bytes),
            of(process.descriptors, process.descriptor_limit)
        ),
    ));
    lines.push((
        "disk",
        match (&status.config.data_dir, process.disk_free_bytes, process.disk_total_bytes) {
            (None, _, _) => "the registry is in memory".into(),
            (Some(path), Some(free), Some(total)) => {
                format!("{} in {path}", listing::disk(free, total))
            }
            (Some(path), _, _) => path.clone(),
        },
    ));
    lines.push((
        "alarms",
        match alarms.len() {
            0 => output.paint(Paint::Good, "none"),
            count => output.paint(Paint::Bad, &count.to_string()),
        },
    ));
    let lines = lines.into_iter().map(|(name, text)| format!("{name:<10}{text}\n"));
    let mut text: String = lines.collect();
    if !alarms.is_empty() {
        text += &format!("\n{}", listing::shown(output, alarms));
    }
    text
}
