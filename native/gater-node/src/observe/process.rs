//! The process as the operating system sees it.
//!
//! Nothing here is asked on the way of a message: it is read now and then, on a thread for what may
//! block, as a file system that hangs does.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::report::ProcessReport;

/// A file of the kernel is never longer, as far as it is read here.
const MAX_LIMIT_BYTES: u64 = 1 << 60;

/// Looks at this process, and at the file system of `data_dir` if there is one.
pub fn look(data_dir: Option<&Path>) -> ProcessReport {
    let disk = data_dir.and_then(|path| rustix::fs::statvfs(path).ok());
    let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
    ProcessReport {
        pid: std::process::id(),
        memory_bytes: resident(),
        memory_limit_bytes: memory_limit(),
        descriptors: fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as u64),
        descriptor_limit: getrlimit(Resource::Nofile).current,
        // What others than root may use.
        disk_free_bytes: disk.as_ref().map(|disk| bytes(disk.f_bavail, disk.f_frsize)),
        disk_total_bytes: disk.as_ref().map(|disk| bytes(disk.f_blocks, disk.f_frsize)),
    }
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Returns the limit of the control group, or of the address space; the lower if there are both.
fn memory_limit() -> Option<u64> {
    let limits = [group_limit(), getrlimit(Resource::As).current];
    limits.into_iter().flatten().filter(|limit| *limit < MAX_LIMIT_BYTES).min()
}

fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let directory = PathBuf::from(format!("/sys/fs/cgroup{path}"));
    let limit = fs::read_to_string(directory.join("memory.max")).ok()?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_files_and_a_disk() {
        let found = look(Some(Path::new("/")));
        assert!(found.memory_bytes.is_some_and(|bytes| bytes > 100_000), "{found:?}");
        assert!(found.descriptors.is_some_and(|open| open > 2), "{found:?}");
        assert!(found.descriptor_limit >= found.descriptors, "{found:?}");
        assert!(found.disk_total_bytes >= found.disk_free_bytes, "{found:?}");
        assert!(found.disk_total_bytes.is_some_and(|bytes| bytes > 0), "{found:?}");
        assert_eq!(look(None).disk_total_bytes, None);
    }
}
