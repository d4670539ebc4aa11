//! The few disk operations that the log needs, and their implementation for a directory.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::registry::replica::error::OpenError;

/// The permissions of all files of a data directory. They contain names of workers, and a process
/// that could write them would control the registry.
const MODE: u32 = 0o600;
/// The file that the process locks that has opened the directory.
const LOCK_FILE: &str = "registry.lock";

/// A directory with files. All methods block.
pub trait Disk: Send + 'static {
    /// Returns the path of the file `name`, for messages to people.
    fn path(&self, name: &str) -> PathBuf;
    /// Returns the names of all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Creates an empty file, which must not exist.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Readers that have opened it can continue to read.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed files durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. All methods block.
pub trait DiskFile: Send + Sync {
    /// Returns the length of the file in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `bytes` from `offset`. A shorter read is an error.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Truncates the file, or extends it with zeros. After a crash it has either the old or the new
    /// length.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes the content and the length durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system, locked for this process.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens the directory at `path`, unless another process has opened it. Blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let lock_path = path.join(LOCK_FILE);
        let io = |error| OpenError::Io { path: lock_path.clone(), error };
        let lock = File::options().create(true).append(true).mode(MODE).open(&lock_path);
        let lock = lock.map_err(io)?;
        keep_private(&lock, &lock_path);
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}

/// Creates the file at `path`, or empties an existing one, with access for its owner alone.
pub fn create_private(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    keep_private(&file, path);
    Ok(file)
}

/// Removes the permissions of others from a file that was created with them.
pub fn keep_private(file: &File, path: &Path) {
    let narrow = || -> io::Result<()> {
        if file.metadata()?.permissions().mode() & 0o7777 != MODE {
            file.set_permissions(Permissions::from_mode(MODE))?;
        }
        Ok(())
    };
    if let Err(error) = narrow() {
        let path = path.display();
        tracing::warn!(%error, %path, "others may be able to get at the file: chmod 600 it");
    }
}

impl Disk for Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.path)? {
            // The log creates no names that are not Unicode, so others are ignored.
            names.extend(file?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(MODE);
        Ok(Arc::new(options.open(self.path(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name);
        let file = File::options().read(true).write(true).open(&path)?;
        keep_private(&file, &path);
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_their_owners_alone_whatever_the_mode_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let path = |name| folder.path().join(name);
        for old in ["old", "snapshot", LOCK_FILE] {
            fs::write(path(old), b"").unwrap();
            fs::set_permissions(path(old), Permissions::from_mode(0o666)).unwrap();
        }
        let disk = Folder::open(folder.path()).unwrap();
        disk.create("new").unwrap();
        disk.open("old").unwrap();
        create_private(&path("snapshot")).unwrap();
        create_private(&path("first snapshot")).unwrap();
        for name in ["new", "old", "snapshot", "first snapshot", LOCK_FILE] {
            let mode = fs::metadata(path(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, MODE, "{name}");
        }
    }
}
