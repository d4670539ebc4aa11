//! The cookie: a configured one, one in a configured file, or the one in the file where Erlang
//! keeps it.
//!
//! For Erlang a cookie is a list of Latin-1 characters, and nodes prove to each other that they
//! know these bytes. Text is therefore converted to Latin-1. A flag or a variable is text in UTF-8
//! if the locale says so, as for `erl -setcookie`; otherwise its bytes are used unchanged. A file
//! is text if it is valid UTF-8.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretSlice;

use super::error::ConfigError;
use super::sources::{Cookie, OTHERS, Sources};
use super::value;

/// The length of the longest cookie in characters, which are bytes, since the cookie is an atom.
const MAX_CHARS: usize = 255;
/// The number of bytes of a file that are read, which is more than any cookie takes.
const MAX_BYTES: u64 = 4096;

/// A cookie, and where it was found.
#[derive(Debug, Clone)]
pub struct FoundCookie {
    /// The cookie, in Latin-1.
    pub cookie: SecretSlice<u8>,
    /// The flag, the variable or the file that it comes from.
    pub origin: String,
    /// The permission bits of the file that it is in, if it is in a file of its own.
    pub mode: Option<u32>,
}

/// Finds the configured cookie, or the one in `$HOME/.erlang.cookie` if none is configured.
pub fn find(sources: &mut Sources) -> Result<SecretSlice<u8>, ConfigError> {
    locate(sources).map(|found| found.cookie)
}

/// As [`find`], with the place where the cookie was found.
pub fn locate(sources: &mut Sources) -> Result<FoundCookie, ConfigError> {
    match (sources.rank("cookie"), sources.rank("cookie_file")) {
        (Some(text), Some(file)) if text == file => {
            Err(sources.bad("cookie", "stands beside cookie_file: give one of them"))
        }
        (Some(text), file) if file.is_none_or(|file| text < file) => {
            let Some(cookie) = sources.cookie()? else {
                return Err(ConfigError::missing("cookie", "give it with --cookie-file"));
            };
            let cookie = check(cookie).map_err(|problem| sources.bad("cookie", &problem))?;
            if sources.has_cookie_flag() {
                sources.warn(
                    "every user of this machine can see the cookie among the arguments of this \
                     program: give it with --cookie-file"
                        .into(),
                );
            }
            Ok(FoundCookie { cookie, origin: sources.origin_of_cookie(), mode: None })
        }
        (_, Some(_)) => {
            let Some(path) = sources.take("cookie_file", value::path)? else {
                return Err(ConfigError::missing("cookie_file", "give it with --cookie-file"));
            };
            let bad = |problem: String| sources.bad("cookie_file", &problem);
            let (cookie, mode) = read(&path).map_err(bad)?;
            let cookie = check(cookie)
                .map_err(|problem| bad(format!("{}: the cookie {problem}", path.display())))?;
            if mode & OTHERS != 0 {
                let path = path.display();
                sources.warn(format!(
                    "others can get at the cookie in {path} (mode {mode:04o}): chmod 600 keeps them out"
                ));
            }
            let origin = path.display().to_string();
            Ok(FoundCookie { cookie, origin, mode: Some(mode) })
        }
        _ => default(sources),
    }
}

fn default(sources: &Sources) -> Result<FoundCookie, ConfigError> {
    let advice = "give it with --cookie-file or put it in $HOME/.erlang.cookie";
    let home = sources.environment().get("HOME").filter(|home| !home.is_empty());
    let Some(home) = home else {
        return Err(ConfigError::missing("cookie", advice));
    };
    let path = PathBuf::from(home).join(".erlang.cookie");
    let bad = |problem: String| ConfigError::new("cookie", &path.display().to_string(), problem);
    if !path.exists() {
        return Err(ConfigError::missing("cookie", advice));
    }
    let (cookie, mode) = read(&path).map_err(bad)?;
    if mode & OTHERS != 0 {
        return Err(bad(format!(
            "must be accessible by its owner only, but has mode {mode:04o}: chmod 600 the file"
        )));
    }
    let cookie = check(cookie).map_err(bad)?;
    Ok(FoundCookie { cookie, origin: path.display().to_string(), mode: Some(mode) })
}

/// Reads the cookie in a file, and returns it with the permission bits of the file.
fn read(path: &Path) -> Result<(Cookie, u32), String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    // The permissions are those of the open file, so they apply to the bytes that are read.
    let mode = file.metadata().map_err(cannot)?.permissions().mode() & 0o7777;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(cannot)?;
    while bytes.ends_with(b"\n") || bytes.ends_with(b"\r") {
        bytes.pop();
    }
    let cookie = match String::from_utf8(bytes) {
        Ok(text) => Cookie::Text(text),
        Err(error) => Cookie::Bytes(error.into_bytes()),
    };
    Ok((cookie, mode))
}

fn check(cookie: Cookie) -> Result<SecretSlice<u8>, String> {
    let bytes = match cookie {
        Cookie::Bytes(bytes) => bytes,
        Cookie::Text(text) => {
            let latin1: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
            latin1.ok_or("must consist of Latin-1 characters, as Erlang has it")?
        }
    };
    let good = (1..=MAX_CHARS).contains(&bytes.len()) && !bytes.iter().any(u8::is_ascii_control);
    if good { Ok(bytes.into()) } else { Err("must be a line of 1 to 255 characters".into()) }
}
