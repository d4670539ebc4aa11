//! Alarms: what needs somebody's attention, best before it does damage.
//!
//! The conditions are looked at once a second ([`judge`]). An alarm that is raised is in every
//! report until its condition is over; the log says once that it was raised, and once that it is
//! over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::report::{Alarm, ProcessReport, Quorum};
use crate::clock;

/// Alarms of one name that are raised at a time. There are as many nodes as anybody likes.
const MAX_OF_A_NAME: usize = 20;
/// With less the disk is nearly full, unless it is a small one.
const LOW_DISK_BYTES: u64 = 512 << 20;
/// With less, what is left lasts for a few segments of the log.
const LEAST_DISK_BYTES: u64 = 32 << 20;
/// The part of a disk that has to be free, if that is more than [`LOW_DISK_BYTES`] up to
/// [`ENOUGH_DISK_BYTES`].
const LOW_DISK_SHARE: u64 = 20;
/// With so much free a disk is not nearly full, however large it is.
const ENOUGH_DISK_BYTES: u64 = 5 << 30;
/// Of a hundred descriptors, or bytes of memory, so many may be in use.
const MOST_PERCENT: u64 = 85;
/// Clocks of gateways may differ by so much: messages signed elsewhere count as sent in the
/// future beyond 5 s.
pub const MOST_CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);
/// An alarm that comes and goes is over when its condition has not held for so long.
const OVER_AFTER: Duration = Duration::from_secs(3);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Damage is near.
    Warning,
    /// Damage is done.
    Critical,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The names of all alarms, each with what it means: for metrics and the reference.
pub const ALL: [(&str, &str); 9] = [
    ("clock_difference", "the clock of another gateway differs by more than 2 s"),
    ("descriptors", "more than 85 % of the files that may be open are open"),
    ("disk_nearly_full", "the file system of the registry has little space left"),
    ("member_never_seen", "a gateway is listed in cluster.members and was never a member"),
    ("memory", "more than 85 % of the memory that the process may have is in use"),
    ("quorum_at_risk", "commands are carried out, and the loss of one more gateway ends that"),
    ("quorum_lost", "no majority of the gateways is reached: commands are refused"),
    ("random_secret", "several gateways, and this one has drawn its secret at random"),
    ("subscriber_drops", "messages to a node do not reach its subscribers"),
];

/// A condition that holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    name: &'static str,
    severity: Severity,
    subject: Option<String>,
    text: String,
    next_step: String,
}

/// What the conditions are judged by.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The process, its files and its disk.
    pub process: ProcessReport,
    /// Where the registry is kept, if on a disk.
    pub data_dir: Option<String>,
    /// The voters; `None` while this gateway is no member.
    pub quorum: Option<Quorum>,
    /// The members that are not reached.
    pub missing: Vec<String>,
    /// The gateways that are listed and were never members.
    pub never_seen: Vec<String>,
    /// Whether the secret was drawn at random.
    pub random_secret: bool,
    /// The gateways of the cluster, this one among them.
    pub gateways: usize,
    /// How far the clocks of other gateways are ahead, in milliseconds.
    pub clock_differences: BTreeMap<String, i64>,
    /// Nodes to which messages are being lost, with their number.
    pub losing: BTreeMap<String, u64>,
}

/// Returns the conditions that hold.
pub fn judge(facts: &Facts) -> Vec<Condition> {
    let mut found = Vec::new();
    found.extend(disk(facts));
    found.extend(quorum(facts));
    found.extend(share(
        "descriptors",
        facts.process.descriptors.zip(facts.process.descriptor_limit),
        "open files",
        "raise the limit with `ulimit -n` or LimitNOFILE, and look for nodes that connect again \
         and again: esdb-gater peers",
    ));
    found.extend(share(
        "memory",
        facts.process.memory_bytes.zip(facts.process.memory_limit_bytes),
        "bytes of memory",
        "look for nodes that do not read what they subscribed to (esdb-gater slow), or give the \
         gateway more memory",
    ));
    for name in facts.never_seen.iter().take(MAX_OF_A_NAME) {
        found.push(Condition {
            name: "member_never_seen",
            severity: Severity::Warning,
            subject: Some(name.clone()),
            text: format!("{name} is listed in cluster.members and was never a member"),
            next_step: "start it, or correct the list if the name is misspelt".into(),
        });
    }
    if facts.random_secret && facts.gateways > 1 {
        found.push(Condition {
            name: "random_secret",
            severity: Severity::Warning,
            subject: None,
            text: format!(
                "{} gateways, and this one has drawn its secret at random: messages that are \
                 signed elsewhere do not verify here",
                facts.gateways
            ),
            next_step: "set ESDB_GATER_SECRET, or security.hmac_secret, to the same on all".into(),
        });
    }
    let differs = |ahead: &i64| Duration::from_millis(ahead.unsigned_abs()) > MOST_CLOCK_DIFFERENCE;
    let clocks = facts.clock_differences.iter().filter(|(_, ahead)| differs(ahead));
    for (name, ahead) in clocks.take(MAX_OF_A_NAME) {
        let direction = if *ahead > 0 { "ahead" } else { "behind" };
        let seconds = ahead.unsigned_abs() as f64 / 1000.0;
        found.push(Condition {
            name: "clock_difference",
            severity: Severity::Warning,
            subject: Some(name.clone()),
            text: format!(
                "the clock of {name} is {seconds:.1} s {direction}: signed messages fail to verify \
                 when clocks differ by more than 5 s"
            ),
            next_step: "let both hosts set their clocks from the same source, such as chrony"
                .into(),
        });
    }
    for (node, lost) in facts.losing.iter().take(MAX_OF_A_NAME) {
        found.push(Condition {
            name: "subscriber_drops",
            severity: Severity::Warning,
            subject: Some(node.clone()),
            text: format!("{lost} messages have not reached their subscribers on {node}"),
            next_step: "see esdb-gater slow: a subscriber that reads too slowly, or a node that \
                        is away"
                .into(),
        });
    }
    found
}

fn disk(facts: &Facts) -> Option<Condition> {
    let data_dir = facts.data_dir.clone()?;
    let free = facts.process.disk_free_bytes?;
    let total = facts.process.disk_total_bytes?;
    let needed = (total / LOW_DISK_SHARE).clamp(LOW_DISK_BYTES.min(total / 4), ENOUGH_DISK_BYTES);
    if free >= needed {
        return None;
    }
    let critical = free < LEAST_DISK_BYTES.min(total / 8);
    let consequence = if critical {
        "registrations are refused when it is full"
    } else {
        "look-ups go on when it is full, registrations do not"
    };
    Some(Condition {
        name: "disk_nearly_full",
        severity: if critical { Severity::Critical } else { Severity::Warning },
        text: format!("{} of {} are free in {data_dir}: {consequence}", size(free), size(total)),
        subject: Some(data_dir),
        next_step: "free or add space on that file system; the gateway goes on by itself".into(),
    })
}

fn quorum(facts: &Facts) -> Option<Condition> {
    let quorum = facts.quorum?;
    let missing = match facts.missing.as_slice() {
        [] => String::new(),
        missing => format!("; not reached: {}", missing.join(", ")),
    };
    let Quorum { voters, reached, needed, held, .. } = quorum;
    if !held {
        return Some(Condition {
            name: "quorum_lost",
            severity: Severity::Critical,
            subject: None,
            text: format!(
                "{reached} of {voters} gateways are reached and {needed} are needed: commands are \
                 refused, look-ups go on{missing}"
            ),
            next_step: "start the gateways that are missing, or mend the network between them"
                .into(),
        });
    }
    // One that is alone has nobody to lose.
    (voters > 1 && reached <= needed).then(|| Condition {
        name: "quorum_at_risk",
        severity: Severity::Warning,
        subject: None,
        text: format!(
            "{reached} of {voters} gateways are reached and {needed} are needed: the loss of one \
             more ends registrations{missing}"
        ),
        next_step: if facts.missing.is_empty() {
            "run three gateways: two stand the loss of none".into()
        } else {
            "start the gateways that are missing, or remove them: esdb-gater cluster remove".into()
        },
    })
}

fn share(
    name: &'static str,
    used: Option<(u64, u64)>,
    of: &str,
    next_step: &str,
) -> Option<Condition> {
    let (used, limit) = used?;
    let percent = used.saturating_mul(100).checked_div(limit)?;
    (percent > MOST_PERCENT).then(|| Condition {
        name,
        severity: Severity::Warning,
        subject: None,
        text: format!("{percent} % of {limit} {of} are in use"),
        next_step: next_step.to_owned(),
    })
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} bytes"),
    }
}

/// An alarm that was raised or is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It holds from now on.
    Raised(Alarm),
    /// It holds no more.
    Cleared(Alarm),
}

/// The alarms that are raised.
#[derive(Debug, Default)]
pub struct Alarms(Mutex<BTreeMap<(&'static str, Option<String>), Raised>>);

#[derive(Debug)]
struct Raised {
    alarm: Alarm,
    held: Instant,
}

impl Alarms {
    /// These conditions hold `now`, and no others. Returns what has changed by that.
    pub fn update(&self, conditions: Vec<Condition>, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut raised = self.0.lock();
        for condition in conditions {
            let Condition { name, severity, subject, text, next_step } = condition;
            let key = (name, subject.clone());
            let known = raised.get(&key).map(|known| &known.alarm);
            // What gets worse is worth a line; what gets better is until it is over.
            let same = known.is_some_and(|known| known.severity == severity.as_str());
            let since = known.map_or_else(clock::unix_seconds, |known| known.since);
            let severity = severity.as_str().to_owned();
            let alarm = Alarm { name: name.to_owned(), severity, subject, text, next_step, since };
            if !same {
                changes.push(Change::Raised(alarm.clone()));
            }
            raised.insert(key, Raised { alarm, held: now });
        }
        raised.retain(|_, known| {
            let over = now.saturating_duration_since(known.held) >= OVER_AFTER;
            if over {
                changes.push(Change::Cleared(known.alarm.clone()));
            }
            !over
        });
        changes
    }

    /// Returns the alarms that are raised, the critical ones first.
    pub fn raised(&self) -> Vec<Alarm> {
        let raised = self.0.lock();
        let mut alarms: Vec<_> = raised.values().map(|known| known.alarm.clone()).collect();
        alarms.sort_by_key(|alarm| alarm.severity != Severity::Critical.as_str());
        alarms
    }
}

/// Says in the log what has changed.
pub fn log(changes: &[Change]) {
    for change in changes {
        match change {
            Change::Raised(alarm) => tracing::warn!(
                alarm = alarm.name,
                severity = alarm.severity,
                subject = alarm.subject,
                next_step = alarm.next_step,
                "alarm: {}",
                alarm.text
            ),
            Change::Cleared(alarm) => tracing::info!(
                alarm = alarm.name,
                subject = alarm.subject,
                "alarm over: {}",
                alarm.text
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn names(facts: &Facts) -> Vec<&'static str> {
        judge(facts).iter().map(|condition| condition.name).collect()
    }

    fn with_disk(free: u64, total: u64) -> Facts {
        let process = ProcessReport {
            disk_free_bytes: Some(free),
            disk_total_bytes: Some(total),
            ..ProcessReport::default()
        };
        Facts { process, data_dir: Some("/data".into()), ..Facts::default() }
    }

    fn with_quorum(reached: usize, voters: usize) -> Facts {
        let needed = voters / 2 + 1;
        let held = reached >= needed;
        let quorum = Quorum { voters, reached, needed, held, silent_ms: None };
        Facts { quorum: Some(quorum), ..Facts::default() }
    }

    #[test]
    fn every_alarm_has_its_condition_and_a_next_step() {
        let facts = Facts {
            process: ProcessReport {
                descriptors: Some(90),
                descriptor_limit: Some(100),
                memory_bytes: Some(90),
                memory_limit_bytes: Some(100),
                ..with_disk(1, 100 * GIB).process
            },
            never_seen: vec!["g3@h".into()],
            random_secret: true,
            gateways: 2,
            clock_differences: BTreeMap::from([("g2@h".into(), -2_001), ("g3@h".into(), 1_999)]),
            losing: BTreeMap::from([("a@h".into(), 7)]),
            missing: vec!["g2@h".into()],
            ..Facts { data_dir: Some("/data".into()), ..with_quorum(2, 3) }
        };
        let mut found = names(&facts);
        found.extend(names(&with_quorum(1, 3)));
        found.sort_unstable();
        assert_eq!(found, ALL.map(|(name, _)| name));
        assert!(judge(&facts).iter().all(|condition| !condition.next_step.is_empty()));
        assert!(names(&Facts::default()).is_empty());
    }

    #[test]
    fn a_disk_is_nearly_full_by_share_and_by_size() {
        for (free, total, severity) in [
            (6 * GIB, 1000 * GIB, None),
            (4 * GIB, 1000 * GIB, Some(Severity::Warning)),
            (4 * GIB, 40 * GIB, None),
            (GIB, 40 * GIB, Some(Severity::Warning)),
            (16 << 20, 40 * GIB, Some(Severity::Critical)),
            // A small file system of its own.
            (40 << 20, 64 << 20, None),
            (10 << 20, 64 << 20, Some(Severity::Warning)),
            (0, 64 << 20, Some(Severity::Critical)),
        ] {
            let found = judge(&with_disk(free, total)).first().map(|condition| condition.severity);
            assert_eq!(found, severity, "{free} of {total}");
        }
        assert!(names(&Facts { data_dir: None, ..with_disk(0, GIB) }).is_empty());
    }

    #[test]
    fn a_majority_is_at_risk_before_it_is_lost() {
        let expected = [(3, 3, None), (2, 3, Some("quorum_at_risk")), (1, 3, Some("quorum_lost"))];
        for (reached, voters, alarm) in
            expected.into_iter().chain([(1, 1, None), (2, 2, Some("quorum_at_risk")), (4, 5, None)])
        {
            assert_eq!(names(&with_quorum(reached, voters)).first().copied(), alarm);
        }
    }

    #[test]
    fn an_alarm_is_told_when_it_is_raised_when_it_gets_worse_and_when_it_is_over() {
        let (alarms, start) = (Alarms::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = |facts: &Facts, seconds| alarms.update(judge(facts), at(seconds)).len();
        let (warning, critical) = (with_disk(GIB, 40 * GIB), with_disk(0, 40 * GIB));
        assert_eq!(told(&warning, 0), 1);
        assert_eq!(told(&warning, 1), 0);
        // It comes and goes.
        assert_eq!(told(&Facts::default(), 2), 0);
        assert_eq!(told(&warning, 3), 0);
        assert_eq!(told(&critical, 4), 1);
        assert_eq!(alarms.raised().len(), 1);
        assert_eq!(told(&Facts::default(), 6), 0);
        assert_eq!(told(&Facts::default(), 7), 1);
        assert_eq!(alarms.raised(), []);
        assert_eq!(told(&Facts::default(), 20), 0);
    }

    #[test]
    fn alarms_of_any_number_of_nodes_are_bounded() {
        let losing = (0..10_000).map(|n| (format!("n{n}@h"), 1)).collect();
        let alarms = Alarms::default();
        alarms.update(judge(&Facts { losing, ..Facts::default() }), Instant::now());
        assert_eq!(alarms.raised().len(), MAX_OF_A_NAME);
    }
}
