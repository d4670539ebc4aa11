//! The commands that list what a gateway holds: peers, stores, workers, channels, subscribers, slow
//! nodes, lost connections, alarms.

use clap::{Args, ValueEnum};
use gater_dist::process::Term;
use gater_dist::term;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::Client;
use super::error::CommandError;
use super::output::{Output, Paint, Value, bytes, duration};
use super::target::Common;
use crate::clock;
use crate::observe::report::{
    Alarm, ChannelReport, LostConnection, MAX_LIMIT, Page, PeerReport, SlowNode, StoreReport,
    SubscriberReport, WorkerReport,
};

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// What matters most first
    Relevance,
    /// By name, from a to z
    Name,
    /// The most lost messages first
    Drops,
    /// The most waiting bytes first
    Waiting,
    /// The most bytes in and out first
    Bytes,
    /// The latest first
    Latest,
    /// The most workers or subscriptions first
    Size,
    /// The most messages a second first
    Rate,
}

/// Which part of a list is shown, and in which order.
#[derive(Debug, Args)]
pub struct List {
    /// What the list is sorted by
    #[arg(
        long,
        value_enum,
        value_name = "ORDER",
        default_value = "relevance",
        help_heading = "Output"
    )]
    sort: By,
    /// How many items are shown
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(0..=MAX_LIMIT as i64),
        help_heading = "Output"
    )]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

/// `workers`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  esdb-gater workers --name gater1@10.0.0.1
  esdb-gater workers my_store --limit 1000 --json --name gater1@10.0.0.1")]
pub struct Workers {
    /// The store [default: all]
    #[arg(value_name = "STORE")]
    store: Option<String>,
    #[command(flatten)]
    list: List,
}

/// `subscribers`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  esdb-gater subscribers esdb_channel_events orders --name gater1@10.0.0.1")]
pub struct Subscribers {
    /// The channel
    #[arg(value_name = "CHANNEL")]
    channel: String,
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    #[command(flatten)]
    list: List,
}

/// A worker, and its store.
#[derive(Serialize)]
struct WorkerOf {
    store: String,
    #[serde(flatten)]
    worker: WorkerReport,
}

impl List {
    fn options(&self) -> Vec<(Term, Term)> {
        let sort = match self.sort {
            By::Relevance => term!(relevance),
            By::Name => term!(name),
            By::Drops => term!(drops),
            By::Waiting => term!(waiting),
            By::Bytes => term!(bytes),
            By::Latest => term!(latest),
            By::Size => term!(size),
            By::Rate => term!(rate),
        };
        vec![(term!(limit), term!((self.limit))), (term!(sort), sort)]
    }

    async fn page<T: DeserializeOwned + Serialize>(
        &self,
        section: &str,
        more: Vec<(Term, Term)>,
    ) -> Result<Page<T>, CommandError> {
        let client = Client::connect(&self.common).await?;
        let options = self.options().into_iter().chain(more).collect();
        let page = client.report(section, Term::Map(options)).await;
        client.close().await;
        page
    }

    fn show<T: Serialize>(
        &self,
        page: &Page<T>,
        none: &str,
        header: &[&str],
        row: impl Fn(&T) -> Vec<Value>,
    ) -> Result<u8, CommandError> {
        let output = Output::new(self.common.json);
        if output.is_json() {
            output.json(page)?;
            return Ok(0);
        }
        if page.items.is_empty() && page.total == 0 {
            output.text(&format!("{none}\n"));
            return Ok(0);
        }
        let rows: Vec<_> = page.items.iter().map(row).collect();
        output.text(&output.table(header, &rows));
        if page.total > page.items.len() {
            let more = page.total - page.items.len();
            output.text(&format!("and {more} more: --limit shows them\n"));
        }
        Ok(0)
    }

    /// `peers`.
    pub async fn peers(self) -> Result<u8, CommandError> {
        let page = self.page("peers", Vec::new()).await?;
        let header = [
            "node",
            "kind",
            "connected",
            "since",
            "processes",
            "waiting",
            "in",
            "out",
            "dropped",
            "round trip",
        ];
        let now = clock::unix_seconds();
        self.show(&page, "no other node is known", &header, |peer: &PeerReport| {
            vec![
                peer.node.clone().into(),
                peer.kind.clone().into(),
                Value::yes(peer.connected, Paint::Bad),
                Value::Number(duration(now.saturating_sub(peer.since))),
                peer.processes.into(),
                Value::bytes(peer.waiting_bytes),
                Value::bytes(peer.bytes_in),
                Value::bytes(peer.bytes_out),
                Value::bad(peer.dropped),
                Value::Number(
                    peer.round_trip_us
                        .map_or("-".into(), |us| format!("{:.1} ms", us as f64 / 1e3)),
                ),
            ]
        })
    }

    /// `stores`.
    pub async fn stores(self) -> Result<u8, CommandError> {
        let page = self.page("stores", Vec::new()).await?;
        let header = ["store", "workers", "offered"];
        self.show(&page, "no store has a worker", &header, |store: &StoreReport| {
            let missing = store.offered < store.workers;
            let offered = store.offered.to_string();
            vec![
                store.store.clone().into(),
                store.workers.into(),
                match missing {
                    true => Value::Painted(Paint::Warning, offered),
                    false => Value::Number(offered),
                },
            ]
        })
    }

    /// `channels`.
    pub async fn channels(self) -> Result<u8, CommandError> {
        let page = self.page("channels", Vec::new()).await?;
        let header = [
            "channel",
            "priority",
            "limit",
            "signature",
            "topics",
            "subscribers",
            "published",
            "delivered",
            "dropped",
            "refused",
        ];
        self.show(&page, "no channel", &header, |channel: &ChannelReport| {
            vec![
                channel.channel.clone().into(),
                channel.priority.clone().into(),
                Value::Number(channel.max_rate.map_or("-".into(), |rate| format!("{rate}/s"))),
                channel.hmac.clone().into(),
                channel.topics.into(),
                channel.subscriptions.into(),
                Value::rate(channel.rates.published),
                Value::rate(channel.rates.delivered),
                Value::bad(channel.dropped.values().sum()),
                Value::bad(channel.refused.values().sum()),
            ]
        })
    }

    /// `slow`.
    pub async fn slow(self) -> Result<u8, CommandError> {
        let page: Page<SlowNode> = self.page("slow", Vec::new()).await?;
        let header = ["node", "connected", "losing", "dropped", "waiting", "bytes", "held"];
        let code = self.show(&page, "every node keeps up", &header, |node| {
            vec![
                node.node.clone().into(),
                Value::yes(node.connected, Paint::Bad),
                match node.losing {
                    true => Value::Painted(Paint::Bad, "yes".into()),
                    false => "no".into(),
                },
                Value::bad(node.dropped),
                node.waiting_messages.into(),
                Value::bytes(node.waiting_bytes),
                Value::Number(node.held_ms.map_or("-".into(), |ms| format!("{ms} ms"))),
            ]
        })?;
        let output = Output::new(self.common.json);
        if !output.is_json() {
            for node in &page.items {
                let mut lines = format!("\n{}\n", output.paint(Paint::Strong, &node.node));
                for (channel, reasons) in &node.by_channel {
                    for (reason, count) in reasons {
                        lines += &format!("  cause  {count} messages of {channel}: {reason}\n");
                    }
                }
                lines += &format!("  next   {}\n", node.advice);
                output.text(&lines);
            }
        }
        Ok(code)
    }

    /// `lost`.
    pub async fn lost(self) -> Result<u8, CommandError> {
        let page = self.page("lost_connections", Vec::new()).await?;
        let header = ["ago", "node", "address", "origin", "stage", "times", "reason"];
        let now = clock::unix_seconds();
        let none = "no connection was lost since the start";
        self.show(&page, none, &header, |lost: &LostConnection| {
            vec![
                Value::Number(duration(now.saturating_sub(lost.at))),
                lost.node.clone().unwrap_or_else(|| "?".into()).into(),
                lost.address.clone().unwrap_or_else(|| "-".into()).into(),
                lost.origin.clone().into(),
                lost.stage.clone().into(),
                lost.times.into(),
                lost.reason.clone().into(),
            ]
        })
    }
}

impl Workers {
    /// Lists the workers of a store, or of all.
    pub async fn run(self) -> Result<u8, CommandError> {
        let client = Client::connect(&self.list.common).await?;
        let stores = match &self.store {
            Some(store) => vec![store.clone()],
            None => {
                let options =
                    Term::Map([(term!(limit), term!((MAX_LIMIT as u32)))].into_iter().collect());
                let page: Page<StoreReport> = client.report("stores", options).await?;
                page.items.into_iter().map(|store| store.store).collect()
            }
        };
        let mut all = Page { total: 0, items: Vec::new() };
        for store in stores {
            let options = self.list.options().into_iter();
            let options = options.chain([(term!(store), term!((store.as_str())))]).collect();
            let page: Page<WorkerReport> = client.report("workers", Term::Map(options)).await?;
            all.total += page.total;
            let of = |worker| WorkerOf { store: store.clone(), worker };
            all.items.extend(page.items.into_iter().map(of));
        }
        client.close().await;
        all.items.truncate(usize::try_from(self.list.limit).unwrap_or(usize::MAX));
        let header = ["store", "node", "pid", "epoch", "offered"];
        self.list.show(&all, "no worker is registered", &header, |WorkerOf { store, worker }| {
            vec![
                store.clone().into(),
                worker.node.clone().into(),
                worker.pid.clone().into(),
                worker.epoch.into(),
                Value::yes(worker.offered, Paint::Warning),
            ]
        })
    }
}

impl Subscribers {
    /// Lists the subscribers of a topic.
    pub async fn run(self) -> Result<u8, CommandError> {
        let more = vec![
            (term!(channel), term!((self.channel.as_str()))),
            (term!(topic), term!((self.topic.as_str()))),
        ];
        let page = self.list.page("subscribers", more).await?;
        let header = ["node", "pid", "processes", "connected"];
        let none = "nobody is subscribed";
        self.list.show(&page, none, &header, |subscriber: &SubscriberReport| {
            vec![
                subscriber.node.clone().into(),
                subscriber.pid.clone().into(),
                u64::from(subscriber.processes).into(),
                Value::yes(subscriber.connected, Paint::Bad),
            ]
        })
    }
}

/// `alarms`.
pub async fn alarms(common: Common) -> Result<u8, CommandError> {
    let client = Client::connect(&common).await?;
    let alarms: Vec<Alarm> = client.report("alarms", term!(#{})).await?;
    client.close().await;
    let output = Output::new(common.json);
    match output.is_json() {
        true => output.json(&alarms)?,
        false if alarms.is_empty() => output.text("no alarm is raised\n"),
        false => output.text(&shown(&output, &alarms)),
    }
    Ok(0)
}

/// Alarms with their cause and next step.
pub fn shown(output: &Output, alarms: &[Alarm]) -> String {
    let now = clock::unix_seconds();
    let mut text = String::new();
    for alarm in alarms {
        let paint = if alarm.severity == "critical" { Paint::Bad } else { Paint::Warning };
        let severity = output.paint(paint, &format!("{:<9}", alarm.severity.to_uppercase()));
        let since = duration(now.saturating_sub(alarm.since));
        text += &format!("{severity}{} for {since}\n", alarm.name);
        text += &format!("  cause  {}\n  next   {}\n", alarm.text, alarm.next_step);
    }
    text
}

/// Free and all bytes of a disk, for people.
pub fn disk(free: u64, total: u64) -> String {
    format!("{} of {} free", bytes(free), bytes(total))
}
