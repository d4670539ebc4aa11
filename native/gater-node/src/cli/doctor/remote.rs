//! What a node that was reached tells of itself.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gater_dist::Peer;
use gater_dist::process::{CallError, Node, Term};
use gater_dist::term;
use tokio::time::timeout;

use super::stage::{Begun, Stage, begin, skipped};
use crate::observe::report::Alarm;
use crate::services::{cluster, observer, session};

/// Calls whose round trip is measured.
const ROUND_TRIPS: u32 = 5;
/// The application on a BEAM.
const APPLICATION: &str = "erl_esdb_gater";
/// A signed message from further in the future than this is refused.
const MAX_AHEAD: Duration = Duration::from_secs(5);

const STAGES: [&str; 4] = ["round_trip", "application", "gateway", "clock"];

/// What runs at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Beam,
    Gateway,
    Other,
}

/// The stages after the node was not reached.
pub fn not_reached(why: &str) -> Vec<Stage> {
    STAGES.iter().map(|stage| skipped(stage, why)).collect()
}

/// Asks the node that was reached. `plain` says that it is to work without the application.
pub async fn examine(node: &Node, peer: &Peer, plain: bool, within: Duration) -> Vec<Stage> {
    let there = There { node, name: peer.name.as_str(), within };
    let stage = begin("round_trip");
    if let Err(error) = timeout(within, node.connect(there.name))
        .await
        .map_err(|_| "it takes too long".to_owned())
        .and_then(|done| done.map_err(|error| error.to_string()))
    {
        let failed = stage.failed(
            format!("a second connection cannot be made: {error}"),
            "try again; the log of that node tells why it closes connections",
        );
        let mut stages = vec![failed];
        stages.extend(STAGES.iter().skip(1).map(|name| skipped(name, "round_trip failed")));
        return stages;
    }
    let mut stages = vec![there.round_trip(stage).await];
    let kind = there.kind(peer).await;
    match kind {
        Kind::Beam => {
            let (application, runs) = there.application(plain).await;
            stages.push(application);
            stages.push(match runs {
                true => there.gateway_of_application().await,
                false => skipped("gateway", "the application does not run there"),
            });
            stages.push(there.clock_of_beam().await);
        }
        Kind::Gateway => {
            stages.push(there.gateway_program().await);
            stages.push(there.cluster().await);
            stages.push(there.clock_of_gateway().await);
        }
        Kind::Other => {
            let why = "it is neither a BEAM nor a gateway";
            stages.extend(STAGES.iter().skip(1).map(|name| skipped(name, why)));
        }
    }
    stages
}

struct There<'a> {
    node: &'a Node,
    name: &'a str,
    within: Duration,
}

impl There<'_> {
    async fn call(&self, name: &str, request: Term) -> Result<Term, CallError> {
        self.node.call((name, self.name), request, self.within).await
    }

    async fn rpc(&self, function: (&str, &str), arguments: Vec<Term>) -> Result<Term, CallError> {
        self.node.rpc(self.name, function, arguments, self.within).await
    }

    async fn round_trip(&self, stage: Begun) -> Stage {
        let mut fastest = None;
        for _ in 0..ROUND_TRIPS {
            let own = self.node.name().clone();
            let since = Instant::now();
            match self.call("net_kernel", term!({is_auth, (own)})).await {
                Ok(_) => {
                    let took = since.elapsed();
                    fastest = Some(fastest.map_or(took, |least: Duration| least.min(took)));
                }
                Err(error) => {
                    return stage.failed(
                        format!("net_kernel does not answer: {error}"),
                        "the node is overloaded or hangs: look at its processors and its log",
                    );
                }
            }
        }
        let fastest = fastest.unwrap_or_default();
        stage.ok(format!("{:.3} ms, the fastest of {ROUND_TRIPS}", fastest.as_secs_f64() * 1e3))
    }

    async fn kind(&self, peer: &Peer) -> Kind {
        if peer.is_beam() {
            return Kind::Beam;
        }
        match self.call(session::NAME, term!(info)).await {
            Ok(Term::Map(_)) => Kind::Gateway,
            _ => Kind::Other,
        }
    }

    /// `application` of a BEAM, and whether it runs.
    async fn application(&self, plain: bool) -> (Stage, bool) {
        let stage = begin("application");
        let release = match self.rpc(("erlang", "system_info"), vec![term!(otp_release)]).await {
            Ok(release) => text(&release),
            Err(_) => "?".into(),
        };
        let running = match self.rpc(("application", "which_applications"), Vec::new()).await {
            Ok(running) => running,
            Err(error) => {
                let failed = stage.failed(
                    format!("the node does not tell what runs there: {error}"),
                    "its `rex` server hangs or is not there: look at its log",
                );
                return (failed, false);
            }
        };
        let version = running.as_list().into_iter().flatten().find_map(|application| {
            match application.as_tuple()? {
                [name, _, version] if name.as_atom() == Some(APPLICATION) => Some(text(version)),
                _ => None,
            }
        });
        match version {
            Some(version) => {
                (stage.ok(format!("{APPLICATION} {version} runs, on OTP {release}")), true)
            }
            None if plain => {
                let why = format!("OTP {release}, without {APPLICATION}, as expected");
                (stage.skipped(why), false)
            }
            None => {
                let failed = stage.failed(
                    format!("{APPLICATION} does not run on {} (OTP {release})", self.name),
                    format!(
                        "in its shell: application:ensure_all_started({APPLICATION}). If that node \
                         is to speak the protocol without it, run this with --plain"
                    ),
                );
                (failed, false)
            }
        }
    }

    /// `gateway` of a BEAM with the application.
    async fn gateway_of_application(&self) -> Stage {
        let stage = begin("gateway");
        let named = match self
            .rpc(("application", "get_env"), vec![term!(erl_esdb_gater), term!(gateways)])
            .await
        {
            Ok(Term::Tuple(found)) => match found.as_slice() {
                [_, names] => format!("configured: {names}"),
                _ => "none configured".into(),
            },
            _ => "none configured: connected nodes share one".into(),
        };
        match self.rpc(("esdb_gater_link", "gateway"), Vec::new()).await {
            Ok(Term::Tuple(found)) => match found.as_slice() {
                [_, gateway] => stage.all_ok(vec![format!("it uses {}", text(gateway)), named]),
                _ => stage.skipped("its answer is not understood"),
            },
            Ok(_) => stage.failed_after(
                vec![named],
                format!("the application on {} has no gateway", self.name),
                "its log tells why: run this with the name of the gateway that it should use, from \
                 the machine of that node",
            ),
            Err(error) => stage.skipped(format!("it does not tell: {error}")),
        }
    }

    async fn clock_of_beam(&self) -> Stage {
        let stage = begin("clock");
        let before = now();
        let asked = Instant::now();
        let theirs = self.rpc(("erlang", "system_time"), vec![term!(millisecond)]).await;
        match theirs.map(|theirs| theirs.as_integer()) {
            Ok(Some(millis)) => clock(stage, self.name, before, asked.elapsed(), millis),
            Ok(None) => stage.skipped("its answer is not understood"),
            Err(error) => stage.skipped(format!("it does not tell: {error}")),
        }
    }

    /// `application` of a gateway: the program.
    async fn gateway_program(&self) -> Stage {
        let stage = begin("application");
        match self.call(session::NAME, term!(info)).await {
            Ok(info) => {
                let field = |name: &str| {
                    let key = Term::atom(name).ok();
                    key.and_then(|key| info.get(&key).map(text)).unwrap_or_else(|| "?".into())
                };
                let (version, uptime) = (field("version"), field("uptime_seconds"));
                let own = env!("CARGO_PKG_VERSION");
                let differs =
                    if version == own { String::new() } else { format!("; this is {own}") };
                stage.ok(format!("esdb-gater {version}, up for {uptime} s{differs}"))
            }
            Err(error) => stage.skipped(format!("it does not tell: {error}")),
        }
    }

    /// `gateway` of a gateway: its cluster.
    async fn cluster(&self) -> Stage {
        let stage = begin("gateway");
        let answer = self.call(cluster::NAME, term!(status)).await;
        let status = match &answer {
            Ok(Term::Tuple(answer)) => match answer.as_slice() {
                [_, status] => status,
                _ => return stage.skipped("its answer is not understood"),
            },
            Ok(_) => return stage.skipped("its answer is not understood"),
            Err(error) => return stage.skipped(format!("it does not tell: {error}")),
        };
        let field = |name: &str| {
            let key = Term::atom(name).ok();
            key.and_then(|key| status.get(&key).map(text)).unwrap_or_else(|| "?".into())
        };
        let found = format!("{}, {}, leader {}", field("health"), field("role"), field("leader"));
        match field("health").as_str() {
            "no_quorum" => stage.failed_after(
                vec![found],
                "no majority of the gateways is there: registrations are refused, look-ups go on",
                format!(
                    "start the gateways that are missing: `esdb-gater cluster status --name {}` \
                     lists them",
                    self.name
                ),
            ),
            "degraded" => stage.failed_after(
                vec![found],
                "a gateway of the cluster is missing: it works, and stands no further loss",
                format!(
                    "start the gateway that is missing: `esdb-gater cluster status --name {}` \
                     names it",
                    self.name
                ),
            ),
            _ => self.alarms(stage, found).await,
        }
    }

    /// `gateway` of a gateway whose cluster is healthy: what else it says needs attention.
    async fn alarms(&self, stage: Begun, found: String) -> Stage {
        let request = term!({report, alarms, #{}});
        let alarms = match self.call(observer::NAME, request).await {
            Ok(Term::Tuple(answer)) => answer.get(1).and_then(Term::as_binary).map(<[u8]>::to_vec),
            _ => None,
        };
        let alarms: Vec<Alarm> =
            alarms.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let mut found = vec![found];
        found.extend(alarms.iter().map(|alarm| format!("{}: {}", alarm.name, alarm.text)));
        match alarms.iter().find(|alarm| alarm.severity == "critical") {
            Some(alarm) => stage.failed_after(found, alarm.text.clone(), alarm.next_step.clone()),
            None => stage.all_ok(found),
        }
    }

    async fn clock_of_gateway(&self) -> Stage {
        let stage = begin("clock");
        let before = now();
        let asked = Instant::now();
        let theirs = match self.call(observer::NAME, term!(time)).await {
            Ok(Term::Tuple(answer)) => answer.get(1).and_then(Term::as_integer),
            _ => None,
        };
        match theirs {
            Some(millis) => clock(stage, self.name, before, asked.elapsed(), millis),
            _ => stage.skipped("it does not tell: it is of an older version"),
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Judges the clock of a node that was asked at `before`, answered after `took`, and said `millis`
/// since 1970.
fn clock(stage: Begun, node: &str, before: Duration, took: Duration, millis: i64) -> Stage {
    let middle = (before + took / 2).as_millis();
    let difference = i128::from(millis) - i128::try_from(middle).unwrap_or_default();
    let seconds = difference as f64 / 1e3;
    let unsure = took.as_secs_f64() / 2.0;
    let found = format!("{seconds:+.3} s against this machine, to within {unsure:.3} s");
    if seconds.abs() - unsure > MAX_AHEAD.as_secs_f64() {
        return stage.failed_after(
            vec![found],
            format!(
                "the clocks of {node} and of this machine differ by {:.1} s: signed messages from \
                 more than {} s ahead are refused, and old ones expire at the wrong time",
                seconds.abs(),
                MAX_AHEAD.as_secs()
            ),
            "have chrony or systemd-timesyncd keep the clocks of both machines",
        );
    }
    stage.ok(found)
}

/// Text of an atom, a binary, a list of characters or a number; other terms as they are printed.
fn text(term: &Term) -> String {
    if let Some(atom) = term.as_atom() {
        return atom.to_owned();
    }
    if let Some(bytes) = term.as_binary() {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let chars: Option<String> = term.as_list().filter(|list| !list.is_empty()).and_then(|list| {
        list.iter()
            .map(|char| char.as_integer().and_then(|code| u32::try_from(code).ok()))
            .map(|code| code.and_then(char::from_u32))
            .collect()
    });
    chars.unwrap_or_else(|| term.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::stage::Status;

    #[test]
    fn clocks_that_differ_by_more_than_signatures_allow_fail() {
        let at = Duration::from_secs(1_700_000_000);
        let judge = |millis, took_ms| {
            clock(begin("clock"), "a@h", at, Duration::from_millis(took_ms), millis).status
        };
        assert_eq!(judge(1_700_000_000_000, 2), Status::Ok);
        assert_eq!(judge(1_700_000_004_900, 2), Status::Ok);
        assert_eq!(judge(1_700_000_005_100, 2), Status::Failed);
        assert_eq!(judge(1_699_999_990_000, 2), Status::Failed);
        // An answer that took long says little.
        assert_eq!(judge(1_700_000_006_000, 4000), Status::Ok);
    }

    #[test]
    fn texts_of_erlang_are_shown_as_text() {
        assert_eq!(text(&Term::charlist("0.1.0")), "0.1.0");
        assert_eq!(text(&term!(ok)), "ok");
        assert_eq!(text(&term!(5)), "5");
        assert_eq!(text(&term!({a, 1})), "{a,1}");
    }
}
