//! `esdb-gater bench`: how many messages a gateway takes and delivers, and how long each takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use gater_dist::process::{Received, Term};
use gater_dist::term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::Client;
use super::error::CommandError;
use super::output::Output;
use super::target::Common;
use crate::clock;

/// The most messages of a run: the time of each is kept.
const MAX_MESSAGES: u64 = 10_000_000;
/// The largest message, in bytes.
const MAX_SIZE: u64 = 16 << 20;
/// How often the progress is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Publish messages, and measure how long the gateway takes to acknowledge each
    #[command(after_help = "\
Examples:
  esdb-gater bench pub esdb_channel_events bench --messages 100000 --name gater1@10.0.0.1
  esdb-gater bench pub esdb_channel_events bench --size 1024 --in-flight 1 --name gater1@10.0.0.1")]
    Pub(Load),
    /// Subscribe, and measure how long messages of `bench pub` take from there to here; both have to
    /// have the same clock
    #[command(after_help = "\
Examples:
  esdb-gater bench sub esdb_channel_events bench --messages 100000 --name gater2@10.0.0.2")]
    Sub(Load),
}

#[derive(Debug, Args)]
struct Load {
    /// The channel, such as esdb_channel_events
    #[arg(value_name = "CHANNEL")]
    channel: String,
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// How many messages
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=MAX_MESSAGES))]
    messages: u64,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u64).range(0..=MAX_SIZE))]
    size: u64,
    /// Publications that are not acknowledged at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    in_flight: u64,
    #[command(flatten)]
    common: Common,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    messages: u64,
    failed: u64,
    seconds: f64,
    messages_per_second: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p99_9_us: u64,
    max_us: u64,
    /// The first failure.
    failure: Option<String>,
}

impl Bench {
    /// Measures, prints the result and returns the exit code.
    pub async fn run(self) -> Result<u8, CommandError> {
        let (json, measured) = match self.kind {
            Kind::Pub(load) => (load.common.json, publish(load).await?),
            Kind::Sub(load) => (load.common.json, receive(load).await?),
        };
        let output = Output::new(json);
        match json {
            true => output.json(&measured)?,
            false => output.text(&measured.shown()),
        }
        Ok(u8::from(measured.failed > 0))
    }
}

async fn publish(load: Load) -> Result<Measured, CommandError> {
    let client = Arc::new(Client::connect(&load.common).await?);
    let progress = progress(load.messages, load.common.json);
    let left = Arc::new(AtomicU64::new(load.messages));
    let size = usize::try_from(load.size).unwrap_or_default();
    let padding = Term::Binary(vec![b'x'; size].into());
    let (channel, topic) = (Arc::<str>::from(load.channel), Arc::<str>::from(load.topic));
    let since = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..load.in_flight.min(load.messages) {
        let (client, left, padding) = (client.clone(), left.clone(), padding.clone());
        let (channel, topic, progress) = (channel.clone(), topic.clone(), progress.clone());
        publishers.spawn(async move {
            let (mut times, mut failures, mut failure) = (Vec::new(), 0, None);
            let mine = || {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            };
            while mine().is_ok() {
                let sent_at = clock::unix_micros();
                let message = term!(#{sent_at_us => (sent_at), padding => (padding.clone())});
                let begun = Instant::now();
                match client.ask(&channel, term!({publish, (&*topic), (message)})).await {
                    Ok(_) => times.push(micros(begun.elapsed())),
                    Err(error) => {
                        failures += 1;
                        failure.get_or_insert(error.to_string());
                        if !matches!(error, CommandError::Refused { .. }) {
                            break;
                        }
                    }
                }
                progress.inc(1);
            }
            (times, failures, failure)
        });
    }
    let (mut times, mut failed, mut failure) = (Vec::new(), 0, None);
    while let Some(done) = publishers.join_next().await {
        let (more, failures, why) =
            done.map_err(|error| CommandError::Failed(error.to_string()))?;
        times.extend(more);
        failed += failures;
        failure = failure.or(why);
    }
    let took = since.elapsed();
    progress.finish_and_clear();
    if let Some(client) = Arc::into_inner(client) {
        client.close().await;
    }
    Ok(Measured::of(times, failed, failure, took))
}

async fn receive(load: Load) -> Result<Measured, CommandError> {
    let client = Client::connect(&load.common).await?;
    let mut process = client.node().spawn();
    let request = term!({subscribe, (load.topic.as_str()), (process.pid())});
    client.ask(&load.channel, request).await?;
    let monitored = process.monitor((load.channel.as_str(), client.gateway())).await;
    monitored.map_err(|error| CommandError::of_send(client.gateway(), error))?;
    let progress = progress(load.messages, load.common.json);
    if !load.common.json {
        eprintln!("subscribed: waits for {} messages of `bench pub`", load.messages);
    }
    let sent_at = term!(sent_at_us);
    let (mut times, mut failure) = (Mutex::new(Vec::new()), None);
    let mut since = None;
    let within = client.within();
    while (times.get_mut().len() as u64) < load.messages {
        // The first may take as long as it takes somebody to start the other half.
        let next = match since {
            None => Ok(process.receive().await),
            Some(_) => timeout(within, process.receive()).await,
        };
        match next {
            Ok(Some(Received::Message { body: Term::Tuple(body), .. })) => {
                let [_, _, _, message] = body.as_slice() else { continue };
                let Some(sent) = message.get(&sent_at).and_then(Term::as_integer) else { continue };
                since.get_or_insert_with(Instant::now);
                let took = clock::unix_micros().saturating_sub(sent.unsigned_abs());
                times.get_mut().push(u32::try_from(took).unwrap_or(u32::MAX));
                progress.inc(1);
            }
            Ok(Some(Received::Down { reason, .. })) => {
                failure = Some(format!("the connection is lost: {reason}"));
                break;
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => {
                failure = Some(format!("no message for {} s", within.as_secs()));
                break;
            }
        }
    }
    let took = since.map_or(Duration::ZERO, |since| since.elapsed());
    progress.finish_and_clear();
    drop(process);
    client.close().await;
    let times = times.into_inner();
    let failed = load.messages - times.len() as u64;
    Ok(Measured::of(times, failed, failure, took))
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// A bar on standard error, where that is a terminal and text is asked for.
fn progress(messages: u64, json: bool) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(
        Some(messages),
        if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
    );
    let form = "{bar:40} {pos}/{len}  {per_sec}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(DRAW_EVERY);
    bar
}

impl Measured {
    fn of(mut times: Vec<u32>, failed: u64, failure: Option<String>, took: Duration) -> Self {
        times.sort_unstable();
        let seconds = took.as_secs_f64();
        Self {
            messages: times.len() as u64,
            failed,
            seconds,
            messages_per_second: if seconds > 0.0 { times.len() as f64 / seconds } else { 0.0 },
            p50_us: percentile(&times, 50.0),
            p90_us: percentile(&times, 90.0),
            p99_us: percentile(&times, 99.0),
            p99_9_us: percentile(&times, 99.9),
            max_us: percentile(&times, 100.0),
            failure,
        }
    }

    fn shown(&self) -> String {
        let ms = |micros: u64| format!("{:.3} ms", micros as f64 / 1e3);
        let mut text = format!(
            "{} messages in {:.2} s: {:.0} a second\np50 {}  p90 {}  p99 {}  p99.9 {}  max {}\n",
            self.messages,
            self.seconds,
            self.messages_per_second,
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.p99_9_us),
            ms(self.max_us)
        );
        if self.failed > 0 {
            let why = self.failure.as_deref().unwrap_or("they did not come");
            text += &format!("{} failed: {why}\n", self.failed);
        }
        text
    }
}

/// The time that `percent` of the sorted `times` do not exceed, in microseconds.
fn percentile(times: &[u32], percent: f64) -> u64 {
    let at = (times.len() as f64 * percent / 100.0).ceil() as usize;
    times.get(at.saturating_sub(1)).copied().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_times_that_so_many_do_not_exceed() {
        let times: Vec<u32> = (1..=1000).collect();
        for (percent, expected) in [(50.0, 500), (99.0, 990), (99.9, 999), (100.0, 1000)] {
            assert_eq!(percentile(&times, percent), expected);
        }
        assert_eq!(percentile(&[7], 50.0), 7);
        assert_eq!(percentile(&[], 99.0), 0);
    }
}
