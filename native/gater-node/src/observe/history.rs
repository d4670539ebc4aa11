//! What happened in each of the last seconds.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::HashMap;
use gater_term::Atom;
use parking_lot::Mutex;

use super::report::{HistoryReport, Rates};

/// Seconds that are remembered.
pub const SECONDS: usize = 300;
/// A rate is the mean of so many seconds.
const RATE_SECONDS: usize = 10;

/// Numbers since the start, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Messages published.
    pub published: u64,
    /// Messages handed to connections.
    pub delivered: u64,
    /// Messages dropped.
    pub dropped: u64,
    /// Requests refused.
    pub refused: u64,
}

impl Sample {
    /// Returns the sum of two.
    pub fn plus(self, other: Self) -> Self {
        Self {
            published: self.published.saturating_add(other.published),
            delivered: self.delivered.saturating_add(other.delivered),
            dropped: self.dropped.saturating_add(other.dropped),
            refused: self.refused.saturating_add(other.refused),
        }
    }

    fn since(self, earlier: Self, seconds: f64) -> Rates {
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Rates {
            published: rate(self.published, earlier.published),
            delivered: rate(self.delivered, earlier.delivered),
            dropped: rate(self.dropped, earlier.dropped),
            refused: rate(self.refused, earlier.refused),
        }
    }
}

/// The last seconds, one sample each, the latest last.
#[derive(Debug, Default)]
pub struct History(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    totals: VecDeque<(Instant, Sample)>,
    /// By channel, for [`RATE_SECONDS`] only.
    channels: VecDeque<(Instant, HashMap<Atom, Sample>)>,
    until: u64,
}

impl History {
    /// Adds the sample of a second that ends `now`, which is the second `unix_seconds`.
    pub fn add(&self, now: Instant, unix_seconds: u64, channels: HashMap<Atom, Sample>) {
        let total = channels.values().fold(Sample::default(), |sum, sample| sum.plus(*sample));
        let mut inner = self.0.lock();
        inner.until = unix_seconds;
        inner.totals.push_back((now, total));
        // One more than seconds: a second is what is between two samples.
        while inner.totals.len() > SECONDS + 1 {
            inner.totals.pop_front();
        }
        inner.channels.push_back((now, channels));
        while inner.channels.len() > RATE_SECONDS + 1 {
            inner.channels.pop_front();
        }
    }

    /// What happens in a second.
    pub fn rates(&self) -> Rates {
        let inner = self.0.lock();
        let from = inner.totals.len().saturating_sub(RATE_SECONDS + 1);
        match (inner.totals.get(from), inner.totals.back()) {
            (Some((then, earlier)), Some((now, last))) if now > then => {
                last.since(*earlier, (*now - *then).as_secs_f64())
            }
            _ => Rates::default(),
        }
    }

    /// What happens in a second on a channel.
    pub fn channel_rates(&self, channel: &Atom) -> Rates {
        let inner = self.0.lock();
        match (inner.channels.front(), inner.channels.back()) {
            (Some((then, earlier)), Some((now, last))) if now > then => {
                let of = |samples: &HashMap<Atom, Sample>| {
                    samples.get(channel).copied().unwrap_or_default()
                };
                of(last).since(of(earlier), (*now - *then).as_secs_f64())
            }
            _ => Rates::default(),
        }
    }

    /// Second by second.
    pub fn report(&self) -> HistoryReport {
        let inner = self.0.lock();
        let mut report = HistoryReport { until: inner.until, ..HistoryReport::default() };
        for ((_, earlier), (_, later)) in inner.totals.iter().zip(inner.totals.iter().skip(1)) {
            report.published.push(later.published.saturating_sub(earlier.published));
            report.delivered.push(later.delivered.saturating_sub(earlier.delivered));
            report.dropped.push(later.dropped.saturating_sub(earlier.dropped));
            report.refused.push(later.refused.saturating_sub(earlier.refused));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(history: &History, start: Instant, second: u64, published: u64) {
        let sample = Sample { published, ..Sample::default() };
        let channel = Atom::new("esdb_channel_events").unwrap();
        let channels = HashMap::from_iter([(channel, sample)]);
        history.add(start + Duration::from_secs(second), 1_000 + second, channels);
    }

    #[test]
    fn a_rate_is_the_mean_of_the_last_ten_seconds() {
        let (history, start) = (History::default(), Instant::now());
        let channel = Atom::new("esdb_channel_events").unwrap();
        assert_eq!(history.rates(), Rates::default());
        for second in 0..=20 {
            at(&history, start, second, second * 100);
        }
        assert_eq!(history.rates().published, 100.0);
        assert_eq!(history.channel_rates(&channel).published, 100.0);
        for second in 21..=25 {
            at(&history, start, second, 2_000);
        }
        assert_eq!(history.rates().published, 50.0);
        assert_eq!(history.channel_rates(&channel).published, 50.0);
    }

    #[test]
    fn five_minutes_are_remembered_second_by_second() {
        let (history, start) = (History::default(), Instant::now());
        for second in 0..1_000 {
            at(&history, start, second, second * second);
        }
        let report = history.report();
        assert_eq!(report.published.len(), SECONDS);
        assert_eq!(report.published.last(), Some(&(999 * 999 - 998 * 998)));
        assert_eq!(report.until, 1_999);
    }
}
