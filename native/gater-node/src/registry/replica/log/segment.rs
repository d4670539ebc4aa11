//! A segment: one of the files of the log. It has its final length from the beginning, and contains
//! zeros where there is no frame, so that a sync only has to write data and no file metadata.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};

/// The first bytes of a segment, which the format of the following bytes follows.
const MAGIC: &[u8; 7] = b"esdbglg";
/// The format that is written, and the only one that is read.
pub const FORMAT: u8 = 3;
/// The offset of the first frame.
pub const START: usize = MAGIC.len() + 1;

/// The name of a segment that is being created.
pub const UNFINISHED: &str = "registry.log-unfinished";
const PREFIX: &str = "registry-";
const SUFFIX: &str = ".log";

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file of the log.
pub struct Segment {
    number: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

/// The beginning of a segment.
pub enum Beginning {
    /// The beginning of a segment of this format.
    Known,
    /// The beginning of a segment of another format.
    Format(u8),
    /// Any other beginning.
    Unknown,
}

impl Segment {
    /// Creates the segment `number` with `length` bytes, which begins with the frame `head`. The
    /// file exists completely or not at all, and is on the disk when this returns. Blocks.
    pub fn create(disk: &dyn Disk, number: u64, head: &[u8], length: u64) -> io::Result<Self> {
        let name = name(number);
        let file = disk.create(UNFINISHED)?;
        file.write_at(0, &[MAGIC.as_slice(), &[FORMAT], head].concat())?;
        let segment = Self { number, path: disk.path(&name), file };
        segment.clear((START + head.len()) as u64, length)?;
        disk.rename(UNFINISHED, &name)?;
        disk.sync()?;
        Ok(segment)
    }

    /// Opens the segment `number` and reads all of it. Blocks.
    pub fn open(disk: &dyn Disk, number: u64) -> io::Result<(Self, Vec<u8>)> {
        let name = name(number);
        let file = disk.open(&name)?;
        let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(io::Error::other)?;
        bytes.resize(length, 0);
        file.read_at(0, &mut bytes)?;
        Ok((Self { number, path: disk.path(&name), file }, bytes))
    }

    /// Returns the number of the segment.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes` at `offset`. They are on the disk when this returns. Blocks.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)?;
        // What a failed sync has lost is not known, whatever the reason: no case for another try.
        self.file.sync().map_err(io::Error::other)
    }

    /// Reads `bytes` from `offset`. Blocks.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }

    /// Gives the file `length` bytes, all of them zero from `offset` on. The change is on the disk
    /// when this returns. Blocks.
    pub fn clear(&self, offset: u64, length: u64) -> io::Result<()> {
        // The length comes first: the file must never look like one that was cut because the log is
        // closed.
        self.file.set_length(length)?;
        let mut at = offset;
        while at < length {
            let count = usize::try_from(length - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_at(at, ZEROS.get(..count).unwrap_or(&ZEROS))?;
            at += count as u64;
        }
        self.file.sync()
    }

    /// Truncates the file to `length` bytes. The change is on the disk when this returns. Blocks.
    pub fn cut(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)?;
        self.file.sync()
    }

    /// Makes everything that was written to the file durable. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Classifies the beginning of a segment of these `bytes`.
pub fn beginning(bytes: &[u8]) -> Beginning {
    match bytes.strip_prefix(MAGIC).and_then(<[u8]>::first) {
        Some(&FORMAT) => Beginning::Known,
        Some(&format) => Beginning::Format(format),
        None => Beginning::Unknown,
    }
}

/// Returns the name of the segment `number`.
pub fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{SUFFIX}")
}

/// Returns the number of the segment `name`, or `None` for the name of another file.
pub fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (name(number) == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_of_segments_belong_together() {
        for of in [0, 1, 0xabc, u64::MAX] {
            assert_eq!(number(&name(of)), Some(of));
        }
        for other in ["registry-1.log", "registry.snapshot", "registry-000000000000000A.log", ""] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
