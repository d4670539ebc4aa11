//! What is followed: one of so many operations, from its begin to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

use crate::clock;

/// Spans that wait to be sent. Further ones are dropped.
const QUEUED: usize = 4096;
/// The longest value of an attribute, in bytes.
const MAX_VALUE_BYTES: usize = 256;

/// What an operation does with a message, as OpenTelemetry names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a request.
    Server,
    /// It hands a message on that somebody has published here.
    Producer,
    /// It takes a message that another gateway has handed on.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
}

/// An operation that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which trace it begins.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// What was done.
    pub name: &'static str,
    /// See [`Kind`].
    pub kind: Kind,
    /// When it began, in nanoseconds since the Unix epoch.
    pub began: u64,
    /// When it was over.
    pub ended: u64,
    /// With what.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<&'static str>,
}

/// Follows one of so many operations. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// One operation of so many is followed.
    one_of: u64,
    count: AtomicU64,
    dropped: AtomicU64,
    queue: mpsc::Sender<Span>,
}

/// An operation that is followed and is not over.
#[derive(Debug)]
pub struct Active {
    inner: Arc<Inner>,
    began: u64,
    since: Instant,
    ids: [u8; 24],
}

impl Tracer {
    /// Follows that share of all operations, and none if it is 0. What was followed is to be taken
    /// from the queue.
    pub fn new(share: f64) -> (Self, Option<mpsc::Receiver<Span>>) {
        if share <= 0.0 {
            return (Self(None), None);
        }
        let (queue, spans) = mpsc::channel(QUEUED);
        let one_of = (1.0 / share.min(1.0)).round() as u64;
        let inner = Inner { one_of, count: AtomicU64::new(0), dropped: AtomicU64::new(0), queue };
        (Self(Some(Arc::new(inner))), Some(spans))
    }

    /// An operation begins: what follows it, if it is followed.
    pub fn begin(&self) -> Option<Active> {
        let inner = self.0.as_ref()?;
        if !inner.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(inner.one_of) {
            return None;
        }
        let mut ids = [0; 24];
        // Ids of zero are no ids: without random ones nothing is followed.
        getrandom::fill(&mut ids).ok()?;
        let began = clock::unix_micros().saturating_mul(1000);
        Some(Active { inner: inner.clone(), began, since: Instant::now(), ids })
    }

    /// Spans that were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.dropped.load(Ordering::Relaxed))
    }
}

impl Active {
    /// The operation is over. It failed if there is an `error`.
    pub fn end(
        self,
        name: &'static str,
        kind: Kind,
        attributes: Vec<(&'static str, Value)>,
        error: Option<&'static str>,
    ) {
        let took = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        let (first, second) = self.ids.split_at(trace_id.len());
        trace_id.copy_from_slice(first);
        span_id.copy_from_slice(second);
        let ended = self.began.saturating_add(took);
        let began = self.began;
        let span = Span { trace_id, span_id, name, kind, began, ended, attributes, error };
        if self.inner.queue.try_send(span).is_err() {
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Text as the value of an attribute: shortened, and whatever is no UTF-8 replaced.
pub fn text(bytes: &[u8]) -> Value {
    let shown = bytes.get(..MAX_VALUE_BYTES).unwrap_or(bytes);
    Value::Text(String::from_utf8_lossy(shown).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_is_followed_and_none_without_a_share() {
        let (tracer, spans) = Tracer::new(0.01);
        let followed = (0..1_000).filter_map(|_| tracer.begin()).count();
        assert_eq!(followed, 10);
        assert!(spans.is_some());
        let (tracer, spans) = Tracer::new(0.0);
        assert!(tracer.begin().is_none() && spans.is_none());
        assert!(Tracer::default().begin().is_none());
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (tracer, spans) = Tracer::new(1.0);
        for _ in 0..QUEUED + 7 {
            let attributes = vec![("channel", text(&[0xff; 1_000]))];
            tracer.begin().unwrap().end("publish", Kind::Producer, attributes, None);
        }
        assert_eq!(tracer.dropped(), 7);
        let first = spans.unwrap().try_recv().unwrap();
        assert!(first.ended >= first.began && first.trace_id != [0; 16]);
        let Some((_, Value::Text(text))) = first.attributes.first() else { panic!("no text") };
        assert_eq!(text.chars().count(), MAX_VALUE_BYTES);
    }
}
