//! The cookie: given, in a file, or in the file where Erlang keeps it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::error::ConfigError;
use super::sources::Sources;
use super::value;

/// The longest cookie, in characters: it is an atom.
const MAX_CHARS: usize = 255;
/// More than any cookie takes, in bytes.
const MAX_BYTES: u64 = 4096;
/// The permissions of anybody but the owner.
const OTHERS: u32 = 0o077;

/// The cookie of the sources; without one, that in `$HOME/.erlang.cookie`.
pub fn find(sources: &mut Sources) -> Result<SecretString, ConfigError> {
    match (sources.rank("cookie"), sources.rank("cookie_file")) {
        (Some(text), Some(file)) if text == file => {
            Err(sources.bad("cookie", "stands beside cookie_file: give one of them"))
        }
        (Some(text), file) if file.is_none_or(|file| text < file) => {
            let cookie = sources.take("cookie", |given| {
                // The error of `text` shows the value; this one must not.
                check(given.as_str().unwrap_or_default().to_owned())
            })?;
            cookie.ok_or_else(|| ConfigError::missing("cookie", "give it with --cookie-file"))
        }
        (_, Some(_)) => {
            let Some(path) = sources.take("cookie_file", value::path)? else {
                return Err(ConfigError::missing("cookie_file", "give it with --cookie-file"));
            };
            let bad = |problem: String| sources.bad("cookie_file", &problem);
            let (text, mode) = read(&path).map_err(bad)?;
            let cookie = check(text)
                .map_err(|problem| bad(format!("{}: the cookie {problem}", path.display())))?;
            if mode & OTHERS != 0 {
                let path = path.display();
                sources.warn(format!(
                    "others can get at the cookie in {path} (mode {mode:04o}): chmod 600 keeps them out"
                ));
            }
            Ok(cookie)
        }
        _ => default(sources),
    }
}

fn default(sources: &Sources) -> Result<SecretString, ConfigError> {
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
    let (text, mode) = read(&path).map_err(bad)?;
    if mode & OTHERS != 0 {
        return Err(bad(format!(
            "must be accessible by its owner only, but has mode {mode:04o}: chmod 600 the file"
        )));
    }
    check(text).map_err(bad)
}

/// The text and the permission bits of a cookie file.
fn read(path: &Path) -> Result<(String, u32), String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    // Of the open file: what is judged is what is read.
    let mode = file.metadata().map_err(cannot)?.permissions().mode() & 0o7777;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(cannot)?;
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    Ok((text, mode))
}

fn check(cookie: String) -> Result<SecretString, String> {
    let good = !cookie.is_empty()
        && cookie.chars().count() <= MAX_CHARS
        && !cookie.contains(char::is_control);
    if good { Ok(cookie.into()) } else { Err("must be a line of 1 to 255 characters".into()) }
}
