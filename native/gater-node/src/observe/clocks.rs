//! How far the clocks of the other gateways are from this one's.
//!
//! Messages are signed with the time, and refused when that is too far off: clocks that drift apart
//! are worth an alarm before that. Each gateway asks the others for their time now and then, and
//! takes half of what an answer took for the way there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gater_dist::Connection;
use gater_term::{Reader, encode};
use tokio::time::{MissedTickBehavior, interval};

use super::report::Collector;
use crate::clock;
use crate::services::observer;
use crate::services::rpc::Rex;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// An answer that took longer says too little about the clock.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// Compares clocks for as long as it is polled. A gateway that does not answer soon keeps the
/// difference it had; one that is not connected has none.
pub async fn compare(collector: Arc<Collector>, rex: Arc<Rex>) {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: BTreeMap<String, i64> = BTreeMap::new();
    loop {
        ticks.tick().await;
        let members = collector.parts().cluster.connected_members();
        known.retain(|name, _| members.iter().any(|member| member.peer().name.as_str() == name));
        for member in members {
            if let Some(ahead) = ask(&member, &rex).await {
                known.insert(member.peer().name.as_str().to_owned(), ahead);
            }
        }
        collector.set_clock_differences(known.clone());
    }
}

/// By how many milliseconds the clock of a gateway is ahead; nothing if it does not say.
async fn ask(gateway: &Connection, rex: &Rex) -> Option<i64> {
    let (begun, from) = (Instant::now(), clock::unix_millis());
    let request = |out: &mut Vec<u8>| encode::atom(out, "time");
    let answer = rex.call_server(gateway, observer::NAME, request).await?;
    let took = begun.elapsed();
    if took > ANSWERED_WITHIN {
        return None;
    }
    Some(ahead(read(&answer)?, from, took))
}

/// By how much a clock is ahead that shows `theirs` half-way through something that began at `from`.
fn ahead(theirs: u64, from: u64, took: Duration) -> i64 {
    let half = u64::try_from(took.as_millis() / 2).unwrap_or(0);
    let ours = from.saturating_add(half);
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    signed(theirs).saturating_sub(signed(ours))
}

/// Reads `{ok, Milliseconds}`.
fn read(answer: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(answer);
    reader.tuple_of(2).ok()?;
    if !reader.is_atom("ok") {
        return None;
    }
    u64::try_from(reader.integer().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_the_answer_took_is_the_way_there() {
        assert_eq!(ahead(10_500, 10_000, Duration::from_millis(400)), 300);
        assert_eq!(ahead(10_000, 10_000, Duration::from_millis(400)), -200);
        assert_eq!(ahead(u64::MAX, 0, Duration::ZERO), i64::MAX);
        assert_eq!(ahead(0, u64::MAX, Duration::ZERO), -i64::MAX);
    }

    #[test]
    fn an_answer_is_read_with_care() {
        let mut out = Vec::new();
        encode::tuple(&mut out, 2);
        encode::atom(&mut out, "ok");
        encode::uint(&mut out, 1_700_000_000_000);
        assert_eq!(read(&out), Some(1_700_000_000_000));
        for end in 0..out.len() {
            assert_eq!(read(&out[..end]), None);
        }
    }
}
