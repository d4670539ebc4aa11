//! The connections that were lost or did not come about: the last of them, and how many by reason.
//!
//! Whoever reaches the port can cause an entry. So what repeats is one entry with a number, and
//! peers that have not said their name take a part of the room only.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use gater_dist::{Chain, DialError, DownReason, HandshakeError, Stage};
use gater_term::Atom;
use parking_lot::Mutex;

use super::report::LostConnection;
use crate::clock;

/// Connections that are remembered.
const MAX_ENTRIES: usize = 100;
/// Those of them whose peers have not said their name.
const MAX_NAMELESS: usize = 30;
/// The longest reason that is kept, in characters.
const MAX_REASON_CHARACTERS: usize = 400;
/// How the names of the nodes of the command line begin, which come and go as they should.
pub const COMMAND_PREFIX: &str = "esdb_gater_ctl_";

/// Who wanted the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This gateway, in vain.
    Dialled,
    /// The peer, in vain.
    Accepted,
    /// Either of them: it stood.
    Established,
}

impl Origin {
    /// Returns the name that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dialled => "dialled",
            Self::Accepted => "accepted",
            Self::Established => "established",
        }
    }
}

/// What is counted: origin, stage, and the kind of the reason.
pub type Kind = (Origin, Stage, &'static str);

/// The lost connections of a gateway.
#[derive(Debug, Default)]
pub struct LostConnections(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The latest last.
    entries: VecDeque<LostConnection>,
    counts: BTreeMap<Kind, u64>,
}

impl LostConnections {
    /// A node was dialled in vain.
    pub fn dialled(&self, node: &Atom, error: &DialError) {
        let entry = entry(Origin::Dialled, error.stage(), Chain(error).to_string());
        let entry = LostConnection { node: Some(node.as_str().to_owned()), ..entry };
        self.add((Origin::Dialled, error.stage(), error.label()), entry);
    }

    /// A peer was not let in, or gave up.
    pub fn refused(&self, address: SocketAddr, node: Option<&Atom>, error: &HandshakeError) {
        let entry = LostConnection {
            node: node.map(|name| name.as_str().to_owned()),
            address: Some(address.ip().to_string()),
            ..entry(Origin::Accepted, error.stage(), Chain(error).to_string())
        };
        self.add((Origin::Accepted, error.stage(), error.label()), entry);
    }

    /// A connection that stood for `lasted` is gone.
    pub fn down(&self, node: &Atom, reason: &DownReason, lasted: Duration) {
        if node.as_str().starts_with(COMMAND_PREFIX) && *reason == DownReason::Closed {
            return;
        }
        let entry = LostConnection {
            node: Some(node.as_str().to_owned()),
            lasted_seconds: Some(lasted.as_secs()),
            ..entry(Origin::Established, Stage::Established, reason.to_string())
        };
        self.add((Origin::Established, Stage::Established, reason.label()), entry);
    }

    fn add(&self, kind: Kind, mut entry: LostConnection) {
        let mut inner = self.0.lock();
        let Inner { entries, counts } = &mut *inner;
        let count = counts.entry(kind).or_default();
        *count = count.saturating_add(1);
        let same = entries.iter().position(|known| {
            (&known.node, &known.address, &known.origin, &known.stage, &known.reason)
                == (&entry.node, &entry.address, &entry.origin, &entry.stage, &entry.reason)
        });
        if let Some(known) = same.and_then(|at| entries.remove(at)) {
            entry.times = known.times.saturating_add(1);
        }
        let is_nameless = |entry: &LostConnection| entry.node.is_none();
        if is_nameless(&entry)
            && entries.iter().filter(|entry| is_nameless(entry)).count() >= MAX_NAMELESS
        {
            let oldest = entries.iter().position(is_nameless);
            oldest.and_then(|at| entries.remove(at));
        }
        entries.push_back(entry);
        if entries.len() > MAX_ENTRIES {
            entries.pop_front();
        }
    }

    /// Returns the latest first, `limit` at most, and how many there are.
    pub fn latest(&self, limit: usize) -> (usize, Vec<LostConnection>) {
        let inner = self.0.lock();
        (inner.entries.len(), inner.entries.iter().rev().take(limit).cloned().collect())
    }

    /// Returns how many there were of each kind since the start.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        self.0.lock().counts.clone()
    }

    /// Returns how many there were since the start.
    pub fn total(&self) -> u64 {
        self.0.lock().counts.values().sum()
    }
}

fn entry(origin: Origin, stage: Stage, reason: String) -> LostConnection {
    LostConnection {
        at: clock::unix_seconds(),
        node: None,
        address: None,
        origin: origin.as_str().to_owned(),
        stage: stage.as_str().to_owned(),
        reason: reason.chars().take(MAX_REASON_CHARACTERS).collect(),
        times: 1,
        lasted_seconds: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(name: &str) -> Atom {
        Atom::new(name).unwrap()
    }

    #[test]
    fn what_repeats_is_one_entry_and_moves_to_the_front() {
        let lost = LostConnections::default();
        let cookie = HandshakeError::WrongCookie;
        for port in 1..=50 {
            lost.refused(([10, 0, 0, 1], port).into(), Some(&atom("a@h")), &cookie);
            lost.dialled(&atom("b@h"), &DialError::NotRunning("b@h".into()));
        }
        lost.refused(([10, 0, 0, 1], 7).into(), Some(&atom("a@h")), &cookie);
        let (total, entries) = lost.latest(10);
        assert_eq!(total, 2);
        assert_eq!((entries[0].times, entries[0].stage.as_str()), (51, "authentication"));
        assert_eq!((entries[1].times, entries[1].stage.as_str()), (50, "epmd"));
        assert_eq!(lost.total(), 101);
    }

    #[test]
    fn a_flood_of_strangers_leaves_the_named_ones_and_is_bounded() {
        let lost = LostConnections::default();
        for n in 0..50 {
            lost.down(&atom(&format!("n{n}@h")), &DownReason::Closed, Duration::from_secs(9));
        }
        for n in 0..10_000u32 {
            let address = SocketAddr::from((n.to_be_bytes(), 1));
            lost.refused(address, None, &HandshakeError::NotErlang("HTTP"));
        }
        let (total, entries) = lost.latest(1_000);
        assert_eq!((total, entries.len()), (50 + MAX_NAMELESS, 50 + MAX_NAMELESS));
        for n in 0..10_000 {
            lost.dialled(&atom(&format!("m{n}@h")), &DialError::NotRunning(String::new()));
        }
        assert_eq!(lost.latest(1_000).0, MAX_ENTRIES);
        assert_eq!(lost.counts().len(), 3);
    }

    #[test]
    fn the_command_line_coming_and_going_is_no_loss() {
        let lost = LostConnections::default();
        let node = atom("esdb_gater_ctl_1f@h");
        lost.down(&node, &DownReason::Closed, Duration::from_secs(1));
        assert_eq!(lost.total(), 0);
        lost.down(&node, &DownReason::Overflow(gater_dist::Lane::High), Duration::from_secs(1));
        assert_eq!(lost.total(), 1);
    }
}
