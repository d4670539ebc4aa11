//! `esdb-gater top`: a gateway on a full screen that is kept up to date.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use gater_dist::process::Term;
use gater_dist::term;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};
use tokio::time::Instant;

use super::client::Client;
use super::error::CommandError;
use super::output::{bytes, duration, printable};
use super::status::Overview;
use super::target::Common;
use crate::observe::report::{ChannelReport, HistoryReport, Page, PeerReport};

/// The columns of both tables: a name, a kind, and four figures.
const WIDTHS: [Constraint; 6] = [
    Constraint::Fill(2),
    Constraint::Length(8),
    Constraint::Length(12),
    Constraint::Length(12),
    Constraint::Length(12),
    Constraint::Length(10),
];

/// Rows of a list that are asked for.
const ROWS: u32 = 50;
/// How long a key is waited for at a time.
const KEY_WITHIN: Duration = Duration::from_millis(50);

/// The arguments of `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q, Esc and Ctrl-C end it. NO_COLOR leaves the colours out.

Examples:
  esdb-gater top --name gater1@10.0.0.1
  esdb-gater top --every 5 --name gater1@10.0.0.1")]
pub struct Top {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    common: Common,
}

/// What is on the screen.
struct View {
    overview: Overview,
    channels: Page<ChannelReport>,
    peers: Page<PeerReport>,
    history: HistoryReport,
    colour: bool,
    /// Why what is shown is not the latest.
    stale: Option<String>,
}

impl Top {
    /// Shows the screen until a key ends it.
    pub async fn run(self) -> Result<u8, CommandError> {
        if self.common.json || !stdout().is_terminal() {
            return Err(CommandError::Usage(
                "top needs a terminal: `esdb-gater status --json` is for programs".into(),
            ));
        }
        let client = Client::connect(&self.common).await?;
        let mut view = View::of(&client).await?;
        let mut terminal = ratatui::try_init()?;
        let shown = self.show(&client, &mut view, &mut terminal).await;
        ratatui::restore();
        client.close().await;
        shown.map(|()| 0)
    }

    async fn show(
        &self,
        client: &Client,
        view: &mut View,
        terminal: &mut DefaultTerminal,
    ) -> Result<(), CommandError> {
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let next = Instant::now() + Duration::from_secs(self.every);
            while Instant::now() < next {
                match key().await? {
                    Pressed::End => return Ok(()),
                    Pressed::Redraw => {
                        terminal.draw(|frame| view.draw(frame))?;
                    }
                    Pressed::Nothing => {}
                }
            }
            match View::of(client).await {
                Ok(latest) => *view = latest,
                // The screen keeps what it has, and says so.
                Err(error) => view.stale = Some(error.to_string()),
            }
        }
    }
}

enum Pressed {
    End,
    Redraw,
    Nothing,
}

/// Waits for a key for a moment, on a thread of its own.
async fn key() -> Result<Pressed, CommandError> {
    let waiting = tokio::task::spawn_blocking(|| {
        if !event::poll(KEY_WITHIN)? {
            return Ok(Pressed::Nothing);
        }
        Ok::<_, std::io::Error>(match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Release => Pressed::Nothing,
            Event::Key(key) => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => Pressed::End,
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Pressed::End,
                _ => Pressed::Nothing,
            },
            Event::Resize(..) => Pressed::Redraw,
            _ => Pressed::Nothing,
        })
    });
    Ok(waiting.await.map_err(std::io::Error::other)??)
}

impl View {
    async fn of(client: &Client) -> Result<Self, CommandError> {
        let options = |sort: Term| term!(#{limit => (ROWS), sort => (sort)});
        Ok(Self {
            overview: Overview::of(client).await?,
            channels: client.report("channels", options(term!(rate))).await?,
            peers: client.report("peers", options(term!(waiting))).await?,
            history: client.report("history", term!(#{})).await?,
            colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            stale: None,
        })
    }

    fn style(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let alarms = u16::try_from(self.overview.alarms.len()).unwrap_or(u16::MAX).min(4);
        let [head, charts, channels, peers, bottom] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(5),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Length(alarms + 1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_charts(frame, charts);
        self.draw_channels(frame, channels);
        self.draw_peers(frame, peers);
        self.draw_alarms(frame, bottom);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let Overview { status, cluster, .. } = &self.overview;
        let colour = match (status.ready, status.health.as_str()) {
            (true, "healthy") => Color::Green,
            (_, "no_quorum") | (false, _) => Color::Red,
            _ => Color::Yellow,
        };
        let ready = if status.ready { "ready" } else { "NOT READY" };
        let quorum = &cluster.quorum;
        let lines = vec![
            Line::from(vec![
                Span::styled(printable(&status.node), Style::new().add_modifier(Modifier::BOLD)),
                Span::raw(format!(
                    "  {}  up {}  ",
                    status.version,
                    duration(status.uptime_seconds)
                )),
                Span::styled(format!("{ready}, {}", status.health), self.style(colour)),
            ]),
            Line::from(format!(
                "leader {}  {} of {} gateways, {} needed  {} peers  {} workers of {} stores",
                printable(cluster.leader.as_deref().unwrap_or("none")),
                quorum.reached,
                quorum.voters,
                quorum.needed,
                status.totals.peers,
                status.totals.registrations,
                status.totals.stores
            )),
            match &self.stale {
                Some(why) => Line::styled(
                    format!("not up to date: {}", printable(why)),
                    self.style(Color::Red),
                ),
                None => Line::from(format!(
                    "memory {}  open files {}  disk free {}",
                    status.process.memory_bytes.map_or("?".into(), bytes),
                    status.process.descriptors.map_or("?".into(), |files| files.to_string()),
                    status.process.disk_free_bytes.map_or("-".into(), bytes)
                )),
            },
        ];
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn draw_charts(&self, frame: &mut Frame<'_>, area: Rect) {
        let rates = &self.overview.status.rates;
        let charts = [
            ("published", rates.published, &self.history.published, Color::Green),
            ("delivered", rates.delivered, &self.history.delivered, Color::Cyan),
            ("dropped", rates.dropped, &self.history.dropped, Color::Red),
            ("refused", rates.refused, &self.history.refused, Color::Yellow),
        ];
        let areas = Layout::horizontal([Constraint::Fill(1); 4]).split(area);
        for ((title, rate, data, colour), area) in charts.into_iter().zip(areas.iter()) {
            let block =
                Block::default().borders(Borders::TOP).title(format!("{title} {rate:.1}/s"));
            // The latest seconds, as many as there is space for.
            let width = usize::from(area.width);
            let latest: Vec<u64> =
                data.iter().skip(data.len().saturating_sub(width)).copied().collect();
            let chart = Sparkline::default().block(block).data(latest).style(self.style(colour));
            frame.render_widget(chart, *area);
        }
    }

    fn draw_channels(&self, frame: &mut Frame<'_>, area: Rect) {
        let header = ["channel", "topics", "subscribers", "published", "delivered", "dropped"];
        let rows = self.channels.items.iter().map(|channel| {
            let dropped: u64 = channel.dropped.values().sum();
            Row::new([
                Cell::from(printable(&channel.channel)),
                Cell::from(channel.topics.to_string()),
                Cell::from(channel.subscriptions.to_string()),
                Cell::from(format!("{:.1}/s", channel.rates.published)),
                Cell::from(format!("{:.1}/s", channel.rates.delivered)),
                self.bad(dropped),
            ])
        });
        let title = format!("channels ({})", self.channels.total);
        frame.render_widget(self.table(rows, &header, title), area);
    }

    fn draw_peers(&self, frame: &mut Frame<'_>, area: Rect) {
        let header = ["node", "kind", "waiting", "in", "out", "dropped"];
        let rows = self.peers.items.iter().map(|peer| {
            let name = printable(&peer.node);
            let node = match peer.connected {
                true => Cell::from(name),
                false => Cell::from(format!("{name} (away)")).style(self.style(Color::Red)),
            };
            Row::new([
                node,
                Cell::from(peer.kind.clone()),
                Cell::from(bytes(peer.waiting_bytes)),
                Cell::from(bytes(peer.bytes_in)),
                Cell::from(bytes(peer.bytes_out)),
                self.bad(peer.dropped),
            ])
        });
        let title = format!("peers ({})", self.peers.total);
        frame.render_widget(self.table(rows, &header, title), area);
    }

    fn table<'a>(
        &self,
        rows: impl Iterator<Item = Row<'a>>,
        header: &'a [&'a str],
        title: String,
    ) -> Table<'a> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        Table::new(rows, WIDTHS)
            .header(Row::new(header.iter().copied()).style(bold))
            .block(Block::default().borders(Borders::TOP).title(title))
    }

    fn bad(&self, number: u64) -> Cell<'static> {
        match number {
            0 => Cell::from("0"),
            number => Cell::from(number.to_string()).style(self.style(Color::Red)),
        }
    }

    fn draw_alarms(&self, frame: &mut Frame<'_>, area: Rect) {
        let alarms = &self.overview.alarms;
        let mut lines = vec![match alarms.len() {
            0 => Line::styled("no alarm", self.style(Color::Green)),
            count => Line::styled(format!("{count} alarms"), self.style(Color::Red)),
        }];
        lines.extend(alarms.iter().map(|alarm| {
            let (text, next) = (printable(&alarm.text), printable(&alarm.next_step));
            Line::from(format!("{}: {text}. Next: {next}", alarm.name))
        }));
        frame.render_widget(Paragraph::new(lines), area);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::observe::report::{
        Alarm, ClusterReport, ConfigReport, LogReport, ProcessReport, Quorum, Rates, Status, Totals,
    };

    fn view() -> View {
        let config = ConfigReport {
            port: 1,
            http: None,
            data_dir: None,
            join: vec![],
            members: vec![],
            cluster_key: false,
            max_nodes: 1,
            net_ticktime_seconds: 60,
            lost_grace_seconds: 60,
            message_ttl_seconds: 300,
            capabilities: "disabled".into(),
            tune_peers: true,
            log: "info".into(),
            random_secret: false,
        };
        let status = Status {
            node: "gater1@h".into(),
            version: "1".into(),
            commit: "c".into(),
            creation: 1,
            now: 1,
            started_at: 1,
            uptime_seconds: 61,
            ready: true,
            checks: vec![],
            config,
            totals: Totals::default(),
            rates: Rates { published: 12.5, ..Rates::default() },
            process: ProcessReport::default(),
            role: "leader".into(),
            leader: Some("gater1@h".into()),
            health: "healthy".into(),
            alarms: 1,
        };
        let cluster = ClusterReport {
            node: "gater1@h".into(),
            id: "1".into(),
            role: "leader".into(),
            health: "healthy".into(),
            term: 1,
            leader: Some("gater1@h".into()),
            quorum: Quorum { voters: 3, reached: 2, needed: 2, held: true, silent_ms: None },
            log: LogReport::default(),
            members: vec![],
            never_seen: vec![],
            refused: 0,
        };
        let alarm = Alarm {
            name: "quorum_at_risk".into(),
            severity: "warning".into(),
            subject: None,
            text: "2 of 3 gateways".into(),
            next_step: "start it\x1b[2J".into(),
            since: 1,
        };
        let channel = ChannelReport {
            channel: "esdb_channel_events".into(),
            priority: "high".into(),
            max_rate: None,
            hmac: "optional".into(),
            replay_last: false,
            topics: 2,
            subscriptions: 3,
            nodes: Page { total: 0, items: vec![] },
            published: 5,
            relayed: 0,
            delivered: 5,
            dropped: BTreeMap::from([("queue_full".into(), 77)]),
            refused: BTreeMap::new(),
            rates: Rates::default(),
        };
        View {
            overview: Overview { status, cluster, alarms: vec![alarm] },
            channels: Page { total: 1, items: vec![channel] },
            peers: Page { total: 0, items: vec![] },
            history: HistoryReport { published: (0..500).collect(), ..HistoryReport::default() },
            colour: true,
            stale: None,
        }
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_cluster_rates_channels_and_alarms() {
        let screen = drawn(&view(), 120, 30);
        for text in [
            "gater1@h",
            "up 1 min 1 s",
            "2 of 3 gateways",
            "published 12.5/s",
            "esdb_channel_events",
            "77",
            "quorum_at_risk",
            "Next: start it",
        ] {
            assert!(screen.contains(text), "{text} in\n{screen}");
        }
        assert!(!screen.contains('\x1b'));
        let stale = View { stale: Some("no connection".into()), ..view() };
        assert!(drawn(&stale, 120, 30).contains("not up to date: no connection"));
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        for (width, height) in [(1, 1), (20, 5), (80, 24), (400, 100)] {
            drawn(&view(), width, height);
        }
    }
}
