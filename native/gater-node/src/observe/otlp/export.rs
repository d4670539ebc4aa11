//! The task that sends spans and metrics to a collector.

use std::sync::Arc;
use std::time::Duration;

use gater_dist::Chain;
use hyper::Uri;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

use super::client::{self, SendError};
use super::encode;
use super::span::Span;
use crate::clock;
use crate::config::Otlp;
use crate::observe::http::metrics;
use crate::observe::report::Collector;

/// Spans that are sent in one request.
const AT_A_TIME: usize = 512;
/// The pause between two lines about a collector that does not take what it is sent.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Sends to the collector of a configuration.
pub struct Exporter {
    settings: Otlp,
    resource: Vec<(String, String)>,
    collector: Arc<Collector>,
    started: u64,
    told: Option<Instant>,
    /// Requests that failed since a line told of it.
    failed: u64,
}

impl Exporter {
    /// Sends what `collector` gathers.
    pub fn new(settings: Otlp, collector: Arc<Collector>) -> Self {
        let node = collector.parts().node.name().as_str().to_owned();
        let mut resource = vec![
            ("service.name".to_owned(), "esdb-gater".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id".to_owned(), node),
        ];
        for (key, value) in &settings.resource {
            resource.retain(|(known, _)| known != key);
            resource.push((key.clone(), value.clone()));
        }
        let started = now();
        Self { settings, resource, collector, started, told: None, failed: 0 }
    }

    /// Sends until `stop`, and what is left then.
    pub async fn run(mut self, spans: Option<mpsc::Receiver<Span>>, stop: CancellationToken) {
        let every = self.settings.metric_interval;
        let mut readings = interval_at(Instant::now() + every, every);
        readings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batches = interval(self.settings.span_delay);
        batches.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Without spans the channel is one that never has any, and is not closed.
        let (keep, none) = mpsc::channel(1);
        let mut spans = spans.unwrap_or(none);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = readings.tick() => self.send_metrics().await,
                _ = batches.tick() => self.send_spans(&mut spans, &mut batch).await,
            }
        }
        drop(keep);
        self.send_spans(&mut spans, &mut batch).await;
        self.send_metrics().await;
    }

    async fn send_spans(&mut self, spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
        loop {
            batch.clear();
            while batch.len() < AT_A_TIME
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            let Some(uri) = self.settings.traces.clone() else { return };
            if batch.is_empty() {
                return;
            }
            let body = encode::spans(&self.resource, batch);
            let full = batch.len() == AT_A_TIME;
            // A collector that is away is not asked for every batch that waits.
            if !self.send(&uri, body).await || !full {
                return;
            }
        }
    }

    async fn send_metrics(&mut self) {
        let Some(uri) = self.settings.metrics.clone() else { return };
        let (collector, resource, started) =
            (self.collector.clone(), self.resource.clone(), self.started);
        let gathered = tokio::task::spawn_blocking(move || {
            encode::metrics(&resource, &metrics::families(&collector), started, now())
        });
        match gathered.await {
            Ok(body) => {
                self.send(&uri, body).await;
            }
            Err(error) => tracing::error!(%error, "the metrics could not be gathered"),
        }
    }

    /// Whether the collector has taken it. What fails is dropped, and told of now and then.
    async fn send(&mut self, uri: &Uri, body: Vec<u8>) -> bool {
        let sent = client::send(uri, &self.settings.headers, body, self.settings.timeout).await;
        match sent {
            Ok(()) => {
                if self.told.take().is_some() {
                    tracing::info!(%uri, "the OpenTelemetry collector takes what it is sent again");
                }
                self.failed = 0;
                true
            }
            Err(error) => {
                self.tell(uri, &error);
                false
            }
        }
    }

    fn tell(&mut self, uri: &Uri, error: &SendError) {
        self.failed += 1;
        if self.told.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        tracing::warn!(
            %uri,
            error = %Chain(error),
            failed = self.failed,
            "the OpenTelemetry collector has not taken what it was sent, which is dropped: check \
             otlp.endpoint"
        );
    }
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    clock::unix_micros().saturating_mul(1000)
}
