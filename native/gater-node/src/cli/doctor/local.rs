//! What can be told without asking anybody: the form of the names, the cookie, this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use secrecy::ExposeSecret;

use super::stage::{Begun, Stage, begin, skipped};
use crate::config::{ConfigError, FoundCookie, is_node_name};
use crate::transport::descriptors;

/// What the fingerprint is made of, before the cookie: it is of no use for anything else.
const SALT: &[u8] = b"esdb_gater";
/// Less free space than this, or than a twentieth of the disk, is too little.
const LEAST_FREE_BYTES: u64 = 256 << 20;
/// One of so many parts of a disk has to be free.
const LEAST_FREE_PART: u64 = 20;
/// A clock that shows an earlier time is wrong: November 2023.
const EARLIEST_SECONDS: u64 = 1_700_000_000;

/// Whether a node name is one that OTP calls long: a host with a dot, or an address.
pub fn is_long(node: &str) -> bool {
    let host = node.split_once('@').map_or("", |(_, host)| host);
    host.contains('.') || host.parse::<IpAddr>().is_ok()
}

/// `name`: whether the name is one, and of the same form as that of the gateway.
pub fn name(target: &str, gateway: Option<&str>) -> Stage {
    let stage = begin("name");
    if !is_node_name(target) {
        return stage.failed(
            format!("{target:?} is no node name"),
            "give it as NAME@HOST; on a BEAM, `node().` in its shell prints it",
        );
    }
    let form = |node: &str| if is_long(node) { "a long name" } else { "a short name" };
    match gateway {
        Some(gateway) if gateway != target && is_long(gateway) != is_long(target) => {
            let (short, long) = if is_long(target) { (gateway, target) } else { (target, gateway) };
            stage.failed(
                format!(
                    "{short} is a short name (no dot in its host) and {long} a long one: a BEAM \
                     connects to names of its own form only, and says \"System NOT running to \
                     use fully qualified hostnames\""
                ),
                format!(
                    "start both alike: the BEAM with `erl -name` (or `--name` of iex) and a host \
                     with a dot or an address, as {long} has it, or all with `-sname` and hosts \
                     without"
                ),
            )
        }
        Some(gateway) if gateway != target => {
            stage.ok(format!("{}, as {gateway} has it", form(target)))
        }
        _ => stage.ok(form(target)),
    }
}

/// Returns the fingerprint of a cookie: the first four bytes of a salted MD5 digest in hexadecimal.
pub fn fingerprint(cookie: &[u8]) -> String {
    let mut context = md5::Context::new();
    context.consume(SALT);
    context.consume(cookie);
    context.finalize().0.iter().take(4).map(|byte| format!("{byte:02X}")).collect()
}

/// What prints the fingerprint of a BEAM's own cookie in its shell.
pub const FINGERPRINT_IN_SHELL: &str = "binary:encode_hex(binary:part(erlang:md5([\"esdb_gater\", \
     atom_to_list(erlang:get_cookie())]), 0, 4)).";

/// `cookie`: where it comes from, who can read it, and its fingerprint.
pub fn cookie(cookie: &Result<FoundCookie, ConfigError>) -> Stage {
    let stage = begin("cookie");
    let FoundCookie { cookie, origin, mode } = match cookie {
        Ok(found) => found,
        Err(error) => {
            return stage.failed(
                error.to_string(),
                "give it with --cookie-file, or put the cookie of the cluster into \
                 $HOME/.erlang.cookie, readable by its owner only",
            );
        }
    };
    let cookie = cookie.expose_secret();
    let found = vec![
        format!(
            "from {origin}{}, {} bytes, fingerprint {}",
            match mode {
                Some(mode) if mode & 0o077 == 0 => format!(" (mode {mode:04o}, its owner's only)"),
                Some(mode) => format!(" (mode {mode:04o})"),
                None => String::new(),
            },
            cookie.len(),
            fingerprint(cookie)
        ),
        format!("the shell of a BEAM prints its own with: {FINGERPRINT_IN_SHELL}"),
    ];
    match mode {
        Some(mode) if mode & 0o077 != 0 => stage.failed_after(
            found,
            format!("others can get at {origin} (mode {mode:04o})"),
            format!("chmod 600 {origin}"),
        ),
        _ => stage.all_ok(found),
    }
}

/// `descriptors`: how many files a process of this shell may have open.
pub fn descriptors() -> Stage {
    let stage = begin("descriptors");
    let limit = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or("unlimited".into(), |limit| limit.to_string());
    let (soft, hard) = (shown(limit.current), shown(limit.maximum));
    match limit.maximum {
        Some(maximum) if maximum < descriptors::WANTED => stage.failed(
            format!(
                "a process started here may have {maximum} files open, and a gateway with all its \
                 connections takes {}",
                descriptors::WANTED
            ),
            format!(
                "raise the limit: LimitNOFILE={0} in a unit of systemd, `ulimit -n {0}` in a shell",
                descriptors::WANTED
            ),
        ),
        _ => stage.ok(format!("{soft} open files, up to {hard} for a program that asks")),
    }
}

/// `disk`: how much is free where the registry is kept.
pub fn disk(data_dir: Option<&Path>) -> Stage {
    let Some(data_dir) = data_dir else {
        return skipped("disk", "no data directory: --name or --config tells which it is");
    };
    let stage = begin("disk");
    let Some(place) = existing(data_dir) else {
        return stage.skipped(format!("{} is not on this machine", data_dir.display()));
    };
    match free(&place) {
        Err(error) => stage.failed(
            format!("{} cannot be looked at: {error}", place.display()),
            "run this as the user of the gateway, on its machine",
        ),
        Ok((free, total)) => judge_disk(stage, data_dir, free, total),
    }
}

fn judge_disk(stage: Begun, data_dir: &Path, free: u64, total: u64) -> Stage {
    let mib = |bytes: u64| bytes >> 20;
    let place = data_dir.display();
    let found = format!("{} MiB of {} MiB free for {place}", mib(free), mib(total));
    if free < LEAST_FREE_BYTES.min(total / 2) || free < total / LEAST_FREE_PART {
        return stage.failed(
            format!("the disk is nearly full: {found}"),
            "free space on that disk or enlarge it; a gateway writes again by itself then",
        );
    }
    stage.ok(found)
}

/// The nearest folder that is there, if it is on the way to a data directory at all.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().take(2).find(|path| path.is_dir()).map(Path::to_path_buf)
}

/// The free and all bytes of the disk that `path` is on.
pub fn free(path: &Path) -> Result<(u64, u64), std::io::Error> {
    let found = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
}

/// `time`: whether the clock of this machine can be right, and is kept so.
pub fn time() -> Stage {
    let stage = begin("time");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    if now < EARLIEST_SECONDS {
        return stage.failed(
            format!("the clock of this machine is wrong: {now} seconds since 1970"),
            "set the clock, and have chrony or systemd-timesyncd keep it",
        );
    }
    let kept = Path::new("/run/systemd/timesync/synchronized").exists();
    stage.ok(if kept {
        "the clock is synchronised by systemd-timesyncd"
    } else {
        "the clock shows a possible time; who keeps it is not known"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::stage::Status;

    #[test]
    fn names_are_long_with_a_dot_or_an_address_as_for_otp() {
        for long in ["a@127.0.0.1", "a@h.example.org", "a@::1"] {
            assert!(is_long(long), "{long}");
        }
        for short in ["a@h", "a@localhost"] {
            assert!(!is_long(short), "{short}");
        }
        assert_eq!(name("a@h", Some("g@127.0.0.1")).status, Status::Failed);
        assert_eq!(name("a@h", Some("g@h")).status, Status::Ok);
        assert_eq!(name("a@h", None).status, Status::Ok);
        assert_eq!(name("a", None).status, Status::Failed);
    }

    #[test]
    fn a_fingerprint_is_that_of_the_line_for_a_shell() {
        // Seen from OTP 25 with -setcookie secret.
        assert_eq!(fingerprint(b"secret"), "7DEA9EE2");
    }

    #[test]
    fn a_disk_is_judged_by_its_size() {
        let judge = |free, total| judge_disk(begin("disk"), Path::new("/x"), free, total).status;
        let gib = 1 << 30;
        assert_eq!(judge(10 * gib, 100 * gib), Status::Ok);
        assert_eq!(judge(4 * gib, 100 * gib), Status::Failed);
        assert_eq!(judge(gib / 8, gib), Status::Failed);
        // Small disks of containers and tests.
        assert_eq!(judge(20 << 20, 32 << 20), Status::Ok);
    }
}
