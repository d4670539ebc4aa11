//! `esdb-gater check`: questions whose answer is the exit code.

use clap::{Args, Subcommand};
use gater_dist::process::Term;
use gater_dist::term;
use serde::Serialize;

use super::client::Client;
use super::error::CommandError;
use super::listing;
use super::output::{Output, Paint, bytes};
use super::target::{Common, Gateway};
use crate::config;
use crate::observe::report::{ClusterReport, MAX_LIMIT, Page, PeerReport, SlowNode, Status};

/// The exit code when there is no answer.
const NOT_KNOWN: u8 = 2;

/// The arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 yes, 1 no, 2 not known: nobody answers, 64 usage.

Examples:
  esdb-gater check ready --name gater1@10.0.0.1 && echo in service
  esdb-gater check quorum --spare 1 --name gater1@10.0.0.1
  esdb-gater check disk --min-free-percent 10 --name gater1@10.0.0.1
  esdb-gater check config --config /etc/esdb-gater/esdb-gater.toml")]
pub struct Check {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Does the gateway take part in everything?
    Ready(Asked),
    /// Does a majority of the gateways carry out commands?
    Quorum {
        /// How many more gateways may be lost without harm
        #[arg(long, value_name = "N", default_value_t = 0)]
        spare: usize,
        #[command(flatten)]
        asked: Asked,
    },
    /// Do all nodes keep up with what they are sent?
    Queues {
        /// Bytes that may wait for one node
        #[arg(long, value_name = "BYTES", default_value_t = 8 << 20)]
        max_waiting: u64,
        /// Milliseconds for which a node may leave unread what it was sent
        #[arg(long, value_name = "MS", default_value_t = 5000)]
        max_held: u64,
        #[command(flatten)]
        asked: Asked,
    },
    /// Is there space where the registry is kept?
    Disk {
        /// The part of the disk that has to be free
        #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=100))]
        min_free_percent: u64,
        /// MiB that have to be free
        #[arg(long, value_name = "MIB", default_value_t = 64)]
        min_free_mib: u64,
        #[command(flatten)]
        asked: Asked,
    },
    /// Can the configuration be used? No gateway is asked
    Config {
        #[command(flatten)]
        gateway: Gateway,
        /// Warnings count as well
        #[arg(long)]
        strict: bool,
        /// Print JSON for programs instead of text for people
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    common: Common,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    check: &'static str,
    ok: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Answer {
    fn yes(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, ok: true, found: found.into(), next: None }
    }

    fn no(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, ok: false, found: found.into(), next: Some(next.into()) }
    }
}

impl Check {
    /// Finds the answer, prints it, and returns the exit code.
    pub async fn run(self) -> Result<u8, CommandError> {
        let json = match &self.what {
            What::Ready(asked)
            | What::Quorum { asked, .. }
            | What::Queues { asked, .. }
            | What::Disk { asked, .. } => asked.common.json,
            What::Config { json, .. } => *json,
        };
        let answer = match self.what.answer().await {
            Ok(answer) => answer,
            Err(error) if error.code() == super::EXIT_USAGE => return Err(error),
            Err(error) => {
                crate::observe::logs::complain(&format!("esdb-gater: {}\n", error.text()));
                return Ok(NOT_KNOWN);
            }
        };
        let output = Output::new(json);
        match (json, &answer) {
            (true, answer) => output.json(answer)?,
            (false, Answer { check, ok: true, found, .. }) => {
                let word = output.paint(Paint::Good, "ok");
                output.text(&format!("{word}  {check}: {found}\n"));
            }
            (false, Answer { check, found, next, .. }) => {
                let word = output.paint(Paint::Bad, "NO");
                let next = next.as_deref().unwrap_or_default();
                output.text(&format!("{word}  {check}: {found}\n    next: {next}\n"));
            }
        }
        Ok(u8::from(!answer.ok))
    }
}

impl What {
    async fn answer(self) -> Result<Answer, CommandError> {
        match self {
            Self::Ready(asked) => {
                let status: Status = asked.ask("status").await?;
                let failing: Vec<String> = status
                    .checks
                    .iter()
                    .filter(|check| !check.ok)
                    .map(|check| format!("{}: {}", check.name, check.reason))
                    .collect();
                Ok(match status.ready {
                    true => Answer::yes("ready", format!("{} serves", status.node)),
                    false => Answer::no(
                        "ready",
                        failing.join("; "),
                        format!("`esdb-gater status --name {}` shows its alarms", status.node),
                    ),
                })
            }
            Self::Quorum { spare, asked } => Ok(quorum(&asked.ask("cluster").await?, spare)),
            Self::Queues { max_waiting, max_held, asked } => {
                let peers: Page<PeerReport> = asked.ask("peers").await?;
                let slow: Page<SlowNode> = asked.ask("slow").await?;
                Ok(queues(&peers.items, &slow.items, max_waiting, max_held))
            }
            Self::Disk { min_free_percent, min_free_mib, asked } => {
                let status: Status = asked.ask("status").await?;
                Ok(disk(&status, min_free_percent, min_free_mib))
            }
            Self::Config { gateway, strict, .. } => {
                match config::load(gateway.flags(), config::environment()) {
                    Err(error) => Ok(Answer::no(
                        "config",
                        error.to_string(),
                        "correct that key; `esdb-gater generate-config` shows every key",
                    )),
                    Ok(loaded) if strict && !loaded.warnings.is_empty() => Ok(Answer::no(
                        "config",
                        loaded.warnings.join("; "),
                        "correct what is warned of, or leave out --strict",
                    )),
                    Ok(loaded) => {
                        let name = &loaded.config.name;
                        let warnings = loaded.warnings.iter().map(|it| format!("; warning: {it}"));
                        let found = format!("it can be used for {name}");
                        Ok(Answer::yes("config", warnings.fold(found, |all, it| all + &it)))
                    }
                }
            }
        }
    }
}

impl Asked {
    async fn ask<T: serde::de::DeserializeOwned>(&self, section: &str) -> Result<T, CommandError> {
        let client = Client::connect(&self.common).await?;
        let options = Term::Map([(term!(limit), term!((MAX_LIMIT as u32)))].into_iter().collect());
        let answer = client.report(section, options).await;
        client.close().await;
        answer
    }
}

fn quorum(cluster: &ClusterReport, spare: usize) -> Answer {
    let quorum = &cluster.quorum;
    let missing: Vec<&str> =
        cluster.members.iter().filter(|it| !it.connected).map(|it| it.node.as_str()).collect();
    let found = format!(
        "{} of {} gateways reached, {} needed{}",
        quorum.reached,
        quorum.voters,
        quorum.needed,
        match missing.as_slice() {
            [] => String::new(),
            missing => format!("; not connected: {}", missing.join(", ")),
        }
    );
    if !quorum.held {
        return Answer::no(
            "quorum",
            format!("no majority: registrations are refused; {found}"),
            "start the gateways that are missing",
        );
    }
    if quorum.reached < quorum.needed + spare {
        return Answer::no(
            "quorum",
            format!("fewer than {spare} gateways to spare; {found}"),
            "start the gateways that are missing, or add one: `esdb-gater cluster add`",
        );
    }
    Answer::yes("quorum", found)
}

fn queues(peers: &[PeerReport], slow: &[SlowNode], max_waiting: u64, max_held: u64) -> Answer {
    let late = peers.iter().filter(|peer| {
        peer.waiting_bytes > max_waiting || peer.held_ms.is_some_and(|held| held > max_held)
    });
    let mut found: Vec<String> = late
        .map(|peer| match peer.held_ms {
            Some(held) if held > max_held => format!(
                "{} has not read for {held} ms, {} wait for it",
                peer.node,
                bytes(peer.waiting_bytes)
            ),
            _ => format!("{} wait for {}", bytes(peer.waiting_bytes), peer.node),
        })
        .collect();
    let losing = slow.iter().filter(|node| node.losing);
    found.extend(losing.map(|node| format!("{} is losing messages", node.node)));
    if found.is_empty() {
        return Answer::yes("queues", format!("{} nodes keep up", peers.len()));
    }
    Answer::no("queues", found.join("; "), "`esdb-gater slow` names channels and what to do")
}

fn disk(status: &Status, min_free_percent: u64, min_free_mib: u64) -> Answer {
    let process = &status.process;
    let Some(path) = &status.config.data_dir else {
        return Answer::yes("disk", "the registry is in memory");
    };
    let (Some(free), Some(total)) = (process.disk_free_bytes, process.disk_total_bytes) else {
        return Answer::no("disk", format!("{path} cannot be looked at"), "look at its log");
    };
    let found = format!("{} in {path}", listing::disk(free, total));
    let unwritable = status.checks.iter().find(|check| check.name == "disk" && !check.ok);
    if let Some(check) = unwritable {
        return Answer::no(
            "disk",
            format!("{}; {found}", check.reason),
            "free space on that disk or enlarge it; the gateway writes again by itself",
        );
    }
    // Of a small disk a quarter is enough.
    let needed = (total / 100).saturating_mul(min_free_percent);
    let needed = needed.max(min_free_mib.saturating_mul(1 << 20).min(total / 4));
    if free < needed {
        return Answer::no(
            "disk",
            format!("nearly full: {found}, {} needed", bytes(needed)),
            "free space on that disk or enlarge it; registrations are refused when it is full",
        );
    }
    Answer::yes("disk", found)
}
