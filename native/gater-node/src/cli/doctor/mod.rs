//! `esdb-gater doctor`: why a node cannot be reached, or what is wrong where it can.
//!
//! The stages have the names that logs and metrics have: `name`, `cookie`, `resolve`, `epmd`,
//! `tcp`, `tls`, `handshake`, `authentication`; then `round_trip`, `application`, `gateway`,
//! `clock`; and of this machine `registration`, `descriptors`, `disk`, `time`.

mod local;
mod network;
mod remote;
mod stage;

use clap::Args;
use serde::Serialize;

use self::network::{Reached, Way};
use self::stage::{Stage, Status};
use super::error::CommandError;
use super::output::{Output, Paint};
use super::target::Common;
use super::{EXIT_FAILURE, client};
use crate::config::{self, ConfigError};

/// How long the connection may take to end.
const END_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 nothing is wrong, 1 a stage has failed, 64 usage.

Examples:
  esdb-gater doctor app@10.0.0.9 --name gater1@10.0.0.1
      why the gateway gater1 and the BEAM app do not find each other
  esdb-gater doctor --name gater1@10.0.0.1
      whether the gateway itself is well, or why it does not start
  esdb-gater doctor app@10.0.0.9 --json | jq '.stages[] | select(.status == \"failed\")'")]
pub struct Doctor {
    /// The node to look at: a BEAM or a gateway [default: the gateway that --name names]
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// The node is to work without the application erl_esdb_gater
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    common: Common,
}

/// All that was found out.
#[derive(Debug, Serialize)]
struct Report {
    node: String,
    gateway: Option<String>,
    asked_as: String,
    ok: bool,
    stages: Vec<Stage>,
}

impl Doctor {
    /// Examines the node, prints what was found, and returns the exit code.
    pub async fn run(self) -> Result<u8, CommandError> {
        let within = self.common.within();
        let outline = config::outline(self.common.gateway.clone().flags(), config::environment())?;
        let gateway = outline.name.as_deref();
        let Some(target) = self.node.as_deref().or(gateway) else {
            return Err(CommandError::Config(ConfigError {
                key: "name".into(),
                origin: String::new(),
                problem: "is missing: name a node, or the gateway with --name name@host".into(),
            }));
        };
        let own = client::own_name("doctor", gateway.unwrap_or(target));
        let mut stages = vec![local::name(target, gateway), local::cookie(&outline.cookie)];
        let cookie = outline.cookie.as_ref().ok();
        let way = Way { target, own: &own, cookie, within };
        let Reached { stages: way_there, peer } = match config::is_node_name(target) {
            true => network::reach(&way).await,
            false => Reached::default(),
        };
        stages.extend(way_there);
        match (peer, cookie) {
            (Some(peer), Some(cookie)) => {
                let asking = client::start("doctor", &own, cookie.cookie.clone())?;
                stages.extend(remote::examine(&asking, &peer, self.plain, within).await);
                asking.shutdown(END_WITHIN).await;
            }
            _ => {
                let failed = stages.iter().rev().find(|stage| stage.status == Status::Failed);
                let why = failed.map_or_else(
                    || "the node was not reached".to_owned(),
                    |stage| format!("{} failed", stage.stage),
                );
                stages.extend(remote::not_reached(&why));
            }
        }
        stages.push(match gateway {
            Some(gateway) => network::registration(gateway, &way).await,
            None => stage::skipped("registration", "--name tells which gateway's name to look for"),
        });
        stages.push(local::descriptors());
        stages.push(local::disk(outline.data_dir.as_deref()));
        stages.push(local::time());
        let ok = stages.iter().all(|stage| stage.status != Status::Failed);
        let report = Report {
            node: target.to_owned(),
            gateway: outline.name.clone(),
            asked_as: own.clone(),
            ok,
            stages,
        };
        let output = Output::new(self.common.json);
        match output.is_json() {
            true => output.json(&report)?,
            false => output.text(&report.shown(&output)),
        }
        Ok(if ok { 0 } else { EXIT_FAILURE })
    }
}

impl Report {
    fn shown(&self, output: &Output) -> String {
        let mut lines = vec![format!("{} as seen by {}", self.node, self.asked_as), String::new()];
        for stage in &self.stages {
            let (word, paint) = match stage.status {
                Status::Ok => ("ok", Paint::Good),
                Status::Failed => ("FAILED", Paint::Bad),
                Status::Skipped => ("skipped", Paint::Dim),
            };
            let took = format!("{:.1} ms", stage.took.as_secs_f64() * 1e3);
            let first = stage.found.first().map_or("", String::as_str);
            lines.push(format!(
                "{}  {:<15}{took:>10}  {first}",
                output.paint(paint, &format!("{word:<7}")),
                stage.stage
            ));
            lines.extend(stage.found.iter().skip(1).map(|more| format!("{:36}{more}", "")));
            for (label, text) in [("cause", &stage.cause), ("next", &stage.next)] {
                if let Some(text) = text {
                    let label = output.paint(Paint::Strong, &format!("{label:<6}"));
                    lines.push(format!("{:9}{label} {text}", ""));
                }
            }
        }
        lines.push(String::new());
        let failed: Vec<&str> = self
            .stages
            .iter()
            .filter(|stage| stage.status == Status::Failed)
            .map(|stage| stage.stage)
            .collect();
        lines.push(match failed.as_slice() {
            [] => "nothing is wrong".into(),
            failed => format!("failed: {}", failed.join(", ")),
        });
        lines.into_iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}
