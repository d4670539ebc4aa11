//! The cluster key, whose knowledge the gateways of a cluster prove to each other.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretSlice};

use super::error::ConfigError;
use super::sources::Sources;
use super::value;

/// The length of the shortest key in bytes; shorter keys could be guessed.
const MIN_BYTES: usize = 16;
/// The greatest length of a key in bytes.
const MAX_BYTES: u64 = 4096;
/// The permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Finds the configured key, if there is one. Errors do not contain it.
pub fn find(sources: &mut Sources) -> Result<Option<SecretSlice<u8>>, ConfigError> {
    match (sources.rank("cluster.key"), sources.rank("cluster.key_file")) {
        (Some(text), Some(file)) if text == file => {
            Err(sources.bad("cluster.key", "stands beside cluster.key_file: give one of them"))
        }
        (Some(text), file) if file.is_none_or(|file| text < file) => {
            let bad = |problem: String| sources.bad("cluster.key", &problem);
            let Some(key) = sources.take_secret("cluster.key")? else { return Ok(None) };
            check(key).map(Some).map_err(bad)
        }
        (_, Some(_)) => {
            let Some(path) = sources.take("cluster.key_file", value::path)? else {
                return Ok(None);
            };
            let bad = |problem: String| sources.bad("cluster.key_file", &problem);
            read(&path).and_then(check).map(Some).map_err(bad)
        }
        _ => Ok(None),
    }
}

/// Reads the key in a file, without the line end of its last line.
fn read(path: &Path) -> Result<SecretSlice<u8>, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    // The permissions are those of the open file, so they apply to the bytes that are read.
    check_mode(path, file.metadata().map_err(cannot)?.permissions().mode())?;
    let mut key = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut key).map_err(cannot)?;
    if key.len() as u64 > MAX_BYTES {
        return Err(format!("{} is longer than {MAX_BYTES} bytes", path.display()));
    }
    while key.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        key.pop();
    }
    Ok(key.into())
}

fn check_mode(path: &Path, mode: u32) -> Result<(), String> {
    let mode = mode & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(format!("can be read by others in {path} (mode {mode:04o}): chmod 600 the file"))
}

fn check(key: SecretSlice<u8>) -> Result<SecretSlice<u8>, String> {
    if key.expose_secret().len() < MIN_BYTES {
        return Err(format!(
            "must have at least {MIN_BYTES} bytes: `openssl rand -base64 32` makes a good one"
        ));
    }
    Ok(key)
}
