//! A directory in memory, for a registry that leaves nothing behind.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::disk::{Disk, DiskFile};

/// Files that exist as long as the process. Syncing them has no effect.
#[derive(Default)]
pub struct Memory {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
}

#[derive(Default)]
struct MemoryFile(RwLock<Vec<u8>>);

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name} in memory"))
}

impl Disk for Memory {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("(memory)").join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.lock();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(MemoryFile::default());
        files.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.files.lock();
        Ok(files.get(name).ok_or_else(|| not_found(name))?.clone())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or_else(|| not_found(from))?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name).map(drop).ok_or_else(|| not_found(name))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the range of `length` bytes from `offset`, or an error if no memory could hold it.
fn range(offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok();
    let end = start.and_then(|start| start.checked_add(length));
    start.zip(end).map(|(start, end)| start..end).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let content = self.0.read();
        let found = content.get(range(offset, bytes.len())?);
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = range(offset, bytes.len())?;
        let mut content = self.0.write();
        if content.len() < range.end {
            content.resize(range.end, 0);
        }
        if let Some(place) = content.get_mut(range) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let end = range(length, 0)?.start;
        self.0.write().resize(end, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_behave_as_those_of_a_folder_do() {
        let memory = Memory::default();
        let file = memory.create("a").unwrap();
        assert!(memory.create("a").is_err());
        file.write_at(2, b"cd").unwrap();
        file.write_at(0, b"ab").unwrap();
        let mut read = [0; 4];
        memory.open("a").unwrap().read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"abcd");
        assert!(file.read_at(1, &mut read).is_err());
        file.set_length(6).unwrap();
        assert_eq!(file.length().unwrap(), 6);
        memory.rename("a", "b").unwrap();
        assert_eq!(memory.names().unwrap(), ["b"]);
        memory.remove("b").unwrap();
        assert!(memory.remove("b").is_err() && memory.open("b").is_err());
        // A reader that has opened the file continues to read.
        file.read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"abcd");
    }
}
