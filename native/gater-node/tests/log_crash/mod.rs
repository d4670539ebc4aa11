//! The log on a disk that loses power and rots.

mod damage;
mod model;
mod ram;

use std::sync::Arc;

use gater_core::registry::Command;
use gater_term::{Atom, Pid};
use openraft::{CommittedLeaderId, EntryPayload};

use self::ram::RamDisk;
use super::record::{Change, Metadata};
use super::wal::Wal;
use crate::registry::replica::error::OpenError;
use crate::registry::replica::types::{Batch, Entry, LogId};

/// Small, so that a few entries fill one.
const SEGMENT_BYTES: u64 = 1024;

fn open(disk: &RamDisk) -> Result<Wal, OpenError> {
    Wal::open(Box::new(disk.clone()), SEGMENT_BYTES)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// An entry of about `size` bytes, up to 255.
fn entry(term: u64, index: u64, size: usize) -> Entry {
    let store = Atom::new(&"s".repeat(size)).unwrap();
    let pid = Pid { node: Atom::new("w@h").unwrap(), id: 1, serial: 2, creation: 3 };
    let commands = Arc::new([Command::Register { store, pid }]);
    let payload = EntryPayload::Normal(Batch { origin: None, commands });
    Entry { log_id: log_id(term, index), payload }
}

fn append(wal: &mut Wal, indices: std::ops::Range<u64>) {
    for index in indices {
        wal.write([Change::Append(vec![entry(1, index, 100)])].iter()).unwrap();
    }
}

fn metadata(wal: &Wal) -> Metadata {
    wal.contents().lock().metadata().clone()
}

fn entries(wal: &Wal) -> Vec<Entry> {
    let places = wal.contents().lock().get(0..u64::MAX);
    places.into_iter().map(|(index, place)| place.read(index).unwrap()).collect()
}

fn indices(wal: &Wal) -> Vec<u64> {
    entries(wal).iter().map(|entry| entry.log_id.index).collect()
}
