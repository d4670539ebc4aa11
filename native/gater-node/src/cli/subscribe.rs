//! `esdb-gater sub`: shows what is published, while it is published.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use gater_dist::process::{Process, Received, Term};
use gater_dist::term;
use serde::Serialize;
use tokio::signal;
use tokio::time::interval;

use super::client::Client;
use super::error::CommandError;
use super::output::{Output, Paint, printable};
use super::target::Common;
use crate::clock;
use crate::observe::report::{MAX_LIMIT, Page, TopicReport};

/// Topics that are watched at a time.
const MAX_TOPICS: usize = 1000;
/// How often new topics are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The arguments of `sub`.
#[derive(Debug, Args)]
#[command(after_help = "\
Messages of which one is left out by --sample or --quiet are counted all the same; the counts are
printed at the end on standard error.

Examples:
  esdb-gater sub esdb_channel_events orders --name gater1@10.0.0.1
  esdb-gater sub esdb_channel_events 'orders.*' --name gater1@10.0.0.1
  esdb-gater sub esdb_channel_logging web api --sample 100 --name gater1@10.0.0.1
  esdb-gater sub esdb_channel_metrics cpu --quiet --for 10 --name gater1@10.0.0.1")]
pub struct Subscribe {
    /// The channel, such as esdb_channel_events
    #[arg(value_name = "CHANNEL")]
    channel: String,
    /// The topics; in a pattern `*` stands for anything, and it means the topics with subscribers
    #[arg(value_name = "PATTERN", required = true)]
    topics: Vec<String>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Show one of so many messages
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Show no message, only the counts
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: u64,
    channel: &'a str,
    topic: String,
    message: String,
}

#[derive(Serialize)]
struct Counts {
    messages: u64,
    dropped: u64,
    seconds: f64,
}

impl Subscribe {
    /// Shows messages until it was told to end, or the connection is lost.
    pub async fn run(self) -> Result<u8, CommandError> {
        let client = Client::connect(&self.common).await?;
        let mut process = client.node().spawn();
        let mut known = BTreeSet::new();
        self.find(&client, &process, &mut known).await?;
        let channel = (self.channel.as_str(), client.gateway());
        process
            .monitor(channel)
            .await
            .map_err(|error| CommandError::of_send(client.gateway(), error))?;
        let output = Output::new(self.common.json);
        if !output.is_json() {
            let (topics, count) = (self.topics.join(", "), known.len());
            eprintln!("subscribed to {topics} ({count} topics now) at {}", client.gateway());
        }
        let since = Instant::now();
        let mut messages = 0;
        let ended = tokio::select! {
            ended = self.show(&client, &mut process, &output, (&mut messages, &mut known)) => ended,
            () = over(self.seconds) => Ok(()),
            _ = signal::ctrl_c() => Ok(()),
        };
        let counts =
            Counts { messages, dropped: process.dropped(), seconds: since.elapsed().as_secs_f64() };
        match (output.is_json(), self.quiet) {
            (true, true) => output.json(&counts)?,
            (true, false) => {}
            _ => {
                let rate = counts.messages as f64 / counts.seconds.max(f64::EPSILON);
                let lost = match counts.dropped {
                    0 => String::new(),
                    lost => format!(", {lost} dropped here: this terminal is too slow for them"),
                };
                let seconds = counts.seconds;
                eprintln!("{messages} messages in {seconds:.1} s, {rate:.0} a second{lost}");
            }
        }
        let gateway = client.gateway().to_owned();
        drop(process);
        client.close().await;
        ended.map_err(|cause| CommandError::Unreachable { node: gateway, cause })?;
        Ok(0)
    }

    /// Subscribes to the topics that match and are not `known` yet.
    async fn find(
        &self,
        client: &Client,
        process: &Process,
        known: &mut BTreeSet<String>,
    ) -> Result<(), CommandError> {
        for wanted in &self.topics {
            let found = match wanted.contains('*') {
                false => vec![wanted.clone()],
                true => {
                    let options = term!(#{
                        channel => (self.channel.as_str()),
                        topic => (wanted.as_str()),
                        limit => (MAX_LIMIT as u32)
                    });
                    let page: Page<TopicReport> = client.report("topics", options).await?;
                    page.items.into_iter().map(|found| found.topic).collect()
                }
            };
            for topic in found {
                if known.len() < MAX_TOPICS && !known.contains(&topic) {
                    let request = term!({subscribe, (topic.as_str()), (process.pid())});
                    client.ask(&self.channel, request).await?;
                    known.insert(topic);
                }
            }
        }
        Ok(())
    }

    /// Prints messages until there were enough; the error says why no more come.
    async fn show(
        &self,
        client: &Client,
        process: &mut Process,
        output: &Output,
        (messages, known): (&mut u64, &mut BTreeSet<String>),
    ) -> Result<(), String> {
        let has_pattern = self.topics.iter().any(|topic| topic.contains('*'));
        let mut looks = interval(LOOK_EVERY);
        loop {
            let received = tokio::select! {
                received = process.receive() => received,
                _ = looks.tick(), if has_pattern => {
                    // What fails now is found at the next look.
                    let _ = self.find(client, process, known).await;
                    continue;
                }
            };
            match received {
                Some(Received::Message { body: Term::Tuple(body), .. }) => {
                    let [tag, _, topic, message] = body.as_slice() else { continue };
                    if tag.as_atom() != Some("channel_message") {
                        continue;
                    }
                    if !self.quiet && messages.is_multiple_of(self.sample) {
                        self.print(output, topic, message);
                    }
                    *messages += 1;
                    if self.count.is_some_and(|count| *messages >= count) {
                        return Ok(());
                    }
                }
                Some(Received::Down { reason, .. }) => return Err(reason.to_string()),
                Some(_) => {}
                None => return Err("the node has ended".into()),
            }
        }
    }

    fn print(&self, output: &Output, topic: &Term, message: &Term) {
        let topic = String::from_utf8_lossy(topic.as_binary().unwrap_or_default()).into_owned();
        let at_ms = clock::unix_millis();
        if output.is_json() {
            let line = Line { at_ms, channel: &self.channel, topic, message: message.to_string() };
            // A reader that is gone is no error.
            let _ = output.json(&line);
            return;
        }
        let second = at_ms / 1000;
        let time = format!(
            "{:02}:{:02}:{:02}.{:03}",
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            at_ms % 1000
        );
        let time = output.paint(Paint::Dim, &time);
        let topic = output.paint(Paint::Strong, &printable(&topic));
        output.text(&format!("{time}  {topic}  {}\n", printable(&message.to_string())));
    }
}

async fn over(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}
