//! What a crash can leave is mended, all other damage is refused with the name of the file.

use super::ram::{Dice, RamDisk};
use super::{Change, OpenError, append, entry, indices, log_id, open};
use crate::registry::replica::log::disk::Disk;
use crate::registry::replica::log::frame;
use crate::registry::replica::log::segment;

fn refused(disk: &RamDisk, name: &str) -> String {
    match open(disk).err() {
        Some(OpenError::Corrupt { path, reason }) => {
            assert_eq!(path, disk.path(name), "{reason}");
            reason
        }
        Some(OpenError::Version { path, .. }) => {
            assert_eq!(path, disk.path(name));
            "version".into()
        }
        Some(other) => panic!("{other}"),
        None => panic!("{name} is taken for whole"),
    }
}

fn files(disk: &RamDisk) -> Vec<u64> {
    disk.names().unwrap().iter().map(|name| segment::number(name).unwrap()).collect()
}

/// Where the frames of a segment are.
fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut frames = Vec::new();
    let mut at = segment::START;
    while let Some(frame) = frame::decode(&bytes[at..]) {
        frames.push(at..at + frame.bytes());
        at += frame.bytes();
    }
    frames
}

/// A log in several segments, not closed.
fn long_log() -> RamDisk {
    let disk = RamDisk::default();
    append(&mut open(&disk).unwrap(), 0..40);
    assert!(files(&disk).len() > 4);
    disk
}

#[test]
fn a_log_goes_on_in_the_next_segment_and_is_read_across_all_of_them() {
    let disk = long_log();
    let mut wal = open(&disk).unwrap();
    assert_eq!(indices(&wal), (0..40).collect::<Vec<_>>());
    append(&mut wal, 40..60);
    assert_eq!(indices(&wal), (0..60).collect::<Vec<_>>());
    assert_eq!(wal.contents().lock().get(17..19).len(), 2);
    // One write with more than a segment takes.
    let large = (60..80).map(|index| entry(1, index, 250)).collect();
    wal.write([Change::Append(large)].iter()).unwrap();
    append(&mut wal, 80..90);
    wal.close([].iter()).unwrap();
    assert_eq!(indices(&open(&disk).unwrap()), (0..90).collect::<Vec<_>>());
}

#[test]
fn segments_of_which_all_is_purged_are_removed_and_no_others() {
    let disk = long_log();
    let mut wal = open(&disk).unwrap();
    let before = files(&disk);
    wal.write([Change::Purge(log_id(1, 20))].iter()).unwrap();
    wal.tidy();
    let after = files(&disk);
    assert!(after.len() < before.len() && after.last() == before.last(), "{after:?}");
    assert_eq!(indices(&wal), (21..40).collect::<Vec<_>>());
    drop(wal);
    let mut wal = open(&disk).unwrap();
    assert_eq!(indices(&wal), (21..40).collect::<Vec<_>>());
    wal.write([Change::Purge(log_id(1, 39))].iter()).unwrap();
    wal.tidy();
    assert_eq!(files(&disk).len(), 1);
    append(&mut wal, 40..41);
    drop(wal);
    assert_eq!(indices(&open(&disk).unwrap()), [40]);
}

#[test]
fn a_truncation_reaches_back_over_segments_that_are_gone_later() {
    let disk = long_log();
    let mut wal = open(&disk).unwrap();
    wal.write([Change::Truncate(3)].iter()).unwrap();
    assert_eq!(indices(&wal), [0, 1, 2]);
    append(&mut wal, 3..30);
    drop(wal);
    let mut wal = open(&disk).unwrap();
    assert_eq!(indices(&wal), (0..30).collect::<Vec<_>>());
    wal.write([Change::Purge(log_id(1, 10))].iter()).unwrap();
    wal.tidy();
    assert!(files(&disk)[0] > 2);
    drop(wal);
    assert_eq!(indices(&open(&disk).unwrap()), (11..30).collect::<Vec<_>>());
}

#[test]
fn an_entry_that_does_not_follow_is_refused_before_it_is_written() {
    let disk = RamDisk::default();
    let mut wal = open(&disk).unwrap();
    append(&mut wal, 0..3);
    for index in [1, 2, 4] {
        assert!(wal.write([Change::Append(vec![entry(1, index, 9)])].iter()).is_err());
    }
    drop(wal);
    assert_eq!(indices(&open(&disk).unwrap()), [0, 1, 2]);
}

#[test]
fn a_last_write_torn_at_any_byte_is_dropped_and_the_log_goes_on() {
    let disk = RamDisk::default();
    append(&mut open(&disk).unwrap(), 0..3);
    let whole = disk.bytes(&segment::name(0));
    let last = frames(&whole).pop().unwrap();
    for end in last.clone() {
        let mut torn = whole.clone();
        torn[end..].fill(0);
        if end % 3 == 0 {
            // The beginning may be what is missing.
            torn[last.start..last.start + 4].fill(0);
        }
        disk.put(&segment::name(0), &torn);
        let mut wal = open(&disk).unwrap();
        assert_eq!(indices(&wal), [0, 1], "{end}");
        append(&mut wal, 2..4);
        disk.crash(&mut Dice(end as u64));
        assert_eq!(indices(&open(&disk).unwrap()), [0, 1, 2, 3]);
    }
}

#[test]
fn a_bad_byte_before_the_last_frame_is_damage() {
    let disk = long_log();
    let name = segment::name(1);
    let whole = disk.bytes(&name);
    for at in 0..frames(&whole).last().unwrap().end {
        let disk = disk.copy();
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        disk.put(&name, &bad);
        refused(&disk, &name);
    }
    let newest = segment::name(*files(&disk).last().unwrap());
    let whole = disk.bytes(&newest);
    for at in 0..frames(&whole).last().unwrap().start {
        let disk = disk.copy();
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        disk.put(&newest, &bad);
        refused(&disk, &newest);
    }
}

#[test]
fn in_a_log_that_was_closed_every_bad_byte_and_every_missing_one_is_damage() {
    let disk = RamDisk::default();
    let mut wal = open(&disk).unwrap();
    append(&mut wal, 0..3);
    wal.close([].iter()).unwrap();
    let name = segment::name(0);
    let whole = disk.bytes(&name);
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x01;
        disk.put(&name, &bad);
        refused(&disk, &name);
        disk.put(&name, &whole[..at]);
        refused(&disk, &name);
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        disk.put(&name, &zeroed);
        refused(&disk, &name);
    }
    disk.put(&name, &whole);
    assert_eq!(indices(&open(&disk).unwrap()), [0, 1, 2]);
}

#[test]
fn a_missing_segment_is_damage() {
    for missing in [0, 2] {
        let disk = long_log();
        disk.remove(&segment::name(missing)).unwrap();
        let reason = match open(&disk).err() {
            Some(OpenError::Corrupt { reason, .. }) => reason,
            _ => panic!("{missing} is not missed"),
        };
        assert!(reason.contains("missing"), "{reason}");
    }
}

#[test]
fn a_last_frame_that_is_known_to_be_committed_is_missed_and_left_as_it_is() {
    let disk = RamDisk::default();
    let mut wal = open(&disk).unwrap();
    append(&mut wal, 0..3);
    let (last, mark) = (vec![entry(1, 3, 100)], log_id(1, 4));
    wal.write([Change::Append(last), Change::Committed(mark)].iter()).unwrap();
    append(&mut wal, 4..5);
    let name = segment::name(0);
    let mut bytes = disk.bytes(&name);
    let last = frames(&bytes).pop().unwrap();
    bytes[last.end - 1] ^= 1;
    disk.put(&name, &bytes);
    for _ in 0..2 {
        assert!(refused(&disk, &name).contains("committed"));
        assert_eq!(disk.bytes(&name), bytes);
    }
}

#[test]
fn other_formats_and_other_files_are_refused_by_name() {
    let disk = long_log();
    let name = segment::name(0);
    let mut bytes = disk.bytes(&name);
    bytes[segment::START - 1] += 1;
    disk.put(&name, &bytes);
    assert_eq!(refused(&disk, &name), "version");
    for garbage in [&b""[..], b"no log", &[0; 2048], &[0xff; 1024]] {
        disk.put(&name, garbage);
        refused(&disk, &name);
    }
}

#[test]
fn an_entry_that_goes_bad_later_is_an_error() {
    let disk = RamDisk::default();
    let mut wal = open(&disk).unwrap();
    append(&mut wal, 0..3);
    let name = segment::name(0);
    let mut bytes = disk.bytes(&name);
    let second = frames(&bytes)[2].clone();
    bytes[second.end - 1] ^= 1;
    disk.put(&name, &bytes);
    let places = wal.contents().lock().get(0..3);
    assert!(places[0].1.read(0).is_ok());
    let error = places[1].1.read(1).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("entry 1"), "{error}");
    assert!(places[2].1.read(7).unwrap_err().to_string().contains("says it is"));
}
