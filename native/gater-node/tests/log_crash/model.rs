//! Whatever is written and whenever the power goes: all that was acknowledged is there, and
//! nothing else but possibly the write that was under way, as a whole.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::ram::{Dice, RamDisk};
use super::{entries, entry, log_id, metadata, open};
use crate::registry::replica::log::record::{Change, Metadata};
use crate::registry::replica::log::wal::Wal;
use crate::registry::replica::types::{Entry, Vote};

#[derive(Debug, Clone)]
enum Step {
    /// One write of all of them.
    Write(Vec<Part>),
    /// Closed in order and opened again.
    Reopen,
    /// The power goes after so many operations of the disk.
    Fuse(u64),
}

/// A change; numbers are distances from what the log holds.
#[derive(Debug, Clone)]
enum Part {
    Append(usize, usize),
    Vote,
    Truncate(u64),
    Purge(u64),
    Install(u64),
    Committed(u64),
    Note(usize),
}

fn parts() -> impl Strategy<Value = Part> {
    prop_oneof![
        6 => (1..5_usize, 1..250_usize).prop_map(|(count, size)| Part::Append(count, size)),
        1 => Just(Part::Vote),
        1 => (0..8_u64).prop_map(Part::Truncate),
        1 => (0..8_u64).prop_map(Part::Purge),
        1 => (1..8_u64).prop_map(Part::Install),
        1 => (0..8_u64).prop_map(Part::Committed),
        1 => (0..300_usize).prop_map(Part::Note),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => vec(parts(), 1..4).prop_map(Step::Write),
        1 => Just(Step::Reopen),
        2 => (0..40_u64).prop_map(Step::Fuse),
    ]
}

/// What the log should hold.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    term: u64,
    metadata: Metadata,
}

impl Model {
    fn new(metadata: Metadata) -> Self {
        Self { entries: BTreeMap::new(), next: 0, term: 1, metadata }
    }

    /// Does what the part says, as consensus would, and tells the change.
    fn carry_out(&mut self, part: &Part) -> Option<Change> {
        let purged = self.metadata.purged.map_or(0, |purged| purged.index + 1);
        let committed = self.metadata.committed.map_or(0, |committed| committed.index + 1);
        match *part {
            Part::Append(count, size) => {
                let range = self.next..self.next + count as u64;
                let new: Vec<Entry> = range.map(|at| entry(self.term, at, size)).collect();
                self.entries.extend(new.iter().map(|entry| (entry.log_id.index, entry.clone())));
                self.next += count as u64;
                Some(Change::Append(new))
            }
            Part::Vote => {
                self.term += 1;
                let vote = Vote::new(self.term, 1);
                self.metadata.vote = Some(vote);
                Some(Change::Vote(vote))
            }
            Part::Truncate(back) => {
                // What is committed or purged is never truncated.
                let from = self.next.saturating_sub(back).max(purged).max(committed);
                self.entries.split_off(&from);
                self.next = self.next.min(from);
                self.term += 1;
                Some(Change::Truncate(from))
            }
            Part::Purge(back) => {
                let (_, last) = self.entries.iter().rev().nth(back as usize)?;
                let upto = last.log_id;
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.metadata.purged = Some(upto);
                Some(Change::Purge(upto))
            }
            Part::Install(ahead) => {
                let upto = log_id(self.term, self.next + ahead);
                self.entries.clear();
                self.next = upto.index + 1;
                self.metadata.purged = Some(upto);
                Some(Change::Purge(upto))
            }
            Part::Committed(back) => {
                let (_, entry) = self.entries.iter().rev().nth(back as usize)?;
                let upto = entry.log_id;
                if upto.index < committed {
                    return None;
                }
                self.metadata.committed = Some(upto);
                Some(Change::Committed(upto))
            }
            Part::Note(size) => {
                let name = format!("note {}", size % 2);
                let bytes = vec![0xff; size];
                self.metadata.named.insert(name.clone(), bytes.clone());
                Some(Change::Named(name, bytes))
            }
        }
    }

    fn is(&self, wal: &Wal) -> bool {
        self.entries.values().eq(entries(wal).iter()) && self.metadata == metadata(wal)
    }
}

/// Opens the log again after the power went or the process was killed, and both may happen
/// again meanwhile.
fn restart(disk: &RamDisk, dice: &mut Dice) -> Wal {
    for _ in 0..dice.below(3) {
        end(disk, dice);
        disk.fuse(Some(dice.below(30) as u64));
        drop(open(disk));
    }
    end(disk, dice);
    open(disk).unwrap()
}

fn end(disk: &RamDisk, dice: &mut Dice) {
    match dice.below(3) {
        0 => disk.kill(),
        _ => disk.crash(dice),
    }
}

fn run(steps: Vec<Step>, seed: u64) {
    let mut dice = Dice(seed);
    let disk = RamDisk::default();
    disk.fuse(Some(dice.below(30) as u64));
    let first = open(&disk).ok();
    disk.fuse(None);
    let mut wal = first.unwrap_or_else(|| restart(&disk, &mut dice));
    let mut model = Model::new(metadata(&wal));
    for step in steps {
        match step {
            Step::Fuse(operations) => disk.fuse(Some(operations)),
            Step::Reopen => {
                let closed = wal.close([].iter());
                let opened = closed.map_err(drop).and_then(|()| open(&disk).map_err(drop));
                wal = opened.unwrap_or_else(|()| restart(&disk, &mut dice));
                assert!(model.is(&wal), "{model:?}");
            }
            Step::Write(parts) => {
                let mut next = model.clone();
                let changes: Vec<_> =
                    parts.iter().filter_map(|part| next.carry_out(part)).collect();
                if wal.write(changes.iter()).is_ok() {
                    model = next;
                    wal.tidy();
                    assert!(model.is(&wal));
                } else {
                    wal = restart(&disk, &mut dice);
                    if next.is(&wal) {
                        model = next;
                    }
                    assert!(model.is(&wal), "{model:?} or {changes:?}");
                }
            }
        }
    }
    disk.fuse(None);
    disk.crash(&mut dice);
    assert!(model.is(&open(&disk).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_point_loses_nothing_that_was_acknowledged(
        steps in vec(steps(), 1..80),
        seed: u64,
    ) {
        run(steps, seed);
    }
}
