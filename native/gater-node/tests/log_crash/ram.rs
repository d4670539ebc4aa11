//! A disk in memory that forgets at a crash what was not synced, as a whole or in parts.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::registry::replica::log::disk::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
pub struct RamDisk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    /// Each with whether it can be seen meanwhile.
    pending_names: Vec<(Naming, bool)>,
    files: Vec<Content>,
    /// Operations until the power is gone.
    fuse: Option<u64>,
}

#[derive(Clone)]
enum Naming {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    safe: Vec<u8>,
    /// Each with whether it can be seen meanwhile.
    pending: Vec<(Writing, bool)>,
}

enum Writing {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

/// Chance that can be repeated.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

impl Inner {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn name(&mut self, naming: Naming) -> io::Result<()> {
        // Power that goes now may leave it done or not.
        let alive = self.spend();
        self.pending_names.push((naming.clone(), alive.is_ok()));
        alive?;
        apply_name(&mut self.names, naming);
        Ok(())
    }

    fn write(&mut self, file: usize, writing: Writing) -> io::Result<()> {
        let alive = self.spend();
        let content = &mut self.files[file];
        if alive.is_ok() {
            apply_write(&mut content.seen, &writing);
        }
        content.pending.push((writing, alive.is_ok()));
        alive
    }
}

fn apply_name(names: &mut BTreeMap<String, usize>, naming: Naming) {
    match naming {
        Naming::Create(name, file) => {
            names.insert(name, file);
        }
        Naming::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        Naming::Remove(name) => {
            names.remove(&name);
        }
    }
}

fn apply_write(content: &mut Vec<u8>, writing: &Writing) {
    match writing {
        Writing::Bytes(offset, bytes) => {
            let end = offset + bytes.len();
            content.resize(content.len().max(end), 0);
            content[*offset..end].copy_from_slice(bytes);
        }
        Writing::Length(length) => content.resize(*length, 0),
    }
}

impl RamDisk {
    /// The power goes after so many operations.
    pub fn fuse(&self, operations: Option<u64>) {
        self.0.lock().fuse = operations;
    }

    /// The process is killed: what it wrote can be seen, and is lost if the power goes next.
    pub fn kill(&self) {
        let mut inner = self.0.lock();
        inner.fuse = None;
        inner.pending_names.retain(|(_, seen)| *seen);
        inner.files.iter_mut().for_each(|content| content.pending.retain(|(_, seen)| *seen));
    }

    /// The power goes and comes back.
    pub fn crash(&self, dice: &mut Dice) {
        let mut inner = self.0.lock();
        inner.fuse = None;
        let mut lost = false;
        for (naming, _) in std::mem::take(&mut inner.pending_names) {
            // Nothing says in which order files go.
            let removes = matches!(naming, Naming::Remove(_));
            lost |= !removes && dice.below(3) == 0;
            if !lost && (!removes || dice.below(2) == 0) {
                apply_name(&mut inner.safe_names, naming);
            }
        }
        inner.names = inner.safe_names.clone();
        for content in &mut inner.files {
            for (writing, _) in std::mem::take(&mut content.pending) {
                match (dice.below(4), &writing) {
                    // Journaled, and in order: what would come after it is gone as well.
                    (0, Writing::Length(_)) => break,
                    (_, Writing::Length(_)) => apply_write(&mut content.safe, &writing),
                    (0, _) => {}
                    (1, _) => apply_write(&mut content.safe, &writing),
                    (2, Writing::Bytes(offset, bytes)) => {
                        let torn = bytes[..dice.below(bytes.len() + 1)].to_vec();
                        apply_write(&mut content.safe, &Writing::Bytes(*offset, torn));
                    }
                    (_, Writing::Bytes(offset, bytes)) => {
                        let mut at = 0;
                        while at < bytes.len() {
                            let end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                            let end = (end - offset).min(bytes.len());
                            if dice.below(2) == 0 {
                                let sector = Writing::Bytes(offset + at, bytes[at..end].to_vec());
                                apply_write(&mut content.safe, &sector);
                            }
                            at = end;
                        }
                    }
                }
            }
            content.seen = content.safe.clone();
        }
    }

    /// What is in the file `name`.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.0.lock();
        inner.files[inner.names[name]].seen.clone()
    }

    /// Replaces what is in the file `name`, which is made if it is not there.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut inner = self.0.lock();
        let file = inner.names.get(name).copied().unwrap_or(inner.files.len());
        inner.names.insert(name.into(), file);
        inner.safe_names.insert(name.into(), file);
        let content = Content { seen: bytes.to_vec(), safe: bytes.to_vec(), pending: Vec::new() };
        match file < inner.files.len() {
            true => inner.files[file] = content,
            false => inner.files.push(content),
        }
    }

    /// A disk with the same files.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        for name in self.names().unwrap() {
            copy.put(&name, &self.bytes(&name));
        }
        copy
    }
}

impl Disk for RamDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/ram").join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.0.lock();
        assert!(!inner.names.contains_key(name), "{name} is there");
        let file = inner.files.len();
        inner.files.push(Content::default());
        inner.name(Naming::Create(name.into(), file))?;
        Ok(Arc::new(RamFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.lock().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(RamFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.lock().name(Naming::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().name(Naming::Remove(name.into()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.spend()?;
        inner.safe_names = inner.names.clone();
        inner.pending_names.clear();
        Ok(())
    }
}

struct RamFile {
    disk: RamDisk,
    file: usize,
}

impl DiskFile for RamFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].seen.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let inner = self.disk.0.lock();
        let there = inner.files[self.file].seen.get(offset as usize..).unwrap_or_default();
        let there = there.get(..bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(there);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.0.lock().write(self.file, Writing::Bytes(offset as usize, bytes.to_vec()))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.0.lock().write(self.file, Writing::Length(length as usize))
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.spend()?;
        let content = &mut inner.files[self.file];
        content.safe = content.seen.clone();
        content.pending.clear();
        Ok(())
    }
}
