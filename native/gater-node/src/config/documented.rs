//! The configuration as its user sees it: an example of every key, with what it means.
//!
//! The example is kept beside the other documents. A test holds it against the table of keys.

use super::keys;

/// A configuration with every key, its default or an example, and comments.
pub const EXAMPLE: &str = include_str!("../../../../docs/esdb-gater.toml");

/// A key with what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documented {
    /// Where it stands in the file.
    pub path: String,
    /// The variable that overrides it.
    pub variable: Option<String>,
    /// The line of the example.
    pub example: Option<String>,
    /// What it means.
    pub help: String,
}

/// All keys in the order of the example; those of the application alone are left out.
pub fn keys() -> Vec<Documented> {
    let mut found = Vec::new();
    let (mut section, mut help) = (String::new(), Vec::new());
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            help.clear();
            continue;
        }
        let (key, rest) = match assignment(line) {
            Some(parts) => parts,
            None => {
                match line.strip_prefix("# ") {
                    Some(comment) => help.push(comment.to_owned()),
                    None => help.clear(),
                }
                continue;
            }
        };
        let in_channel = section.starts_with("channels.");
        let path = match (in_channel, section.as_str()) {
            (true, _) => format!("channels.NAME.{key}"),
            (false, "") => key.to_owned(),
            (false, section) => format!("{section}.{key}"),
        };
        let (value, comment) = rest.split_once('#').unwrap_or((rest, ""));
        let text = match comment.trim() {
            "" => help.join(" "),
            comment => comment.to_owned(),
        };
        found.push(Documented {
            variable: keys::variable(&path).map(str::to_owned),
            example: Some(format!("{key} = {}", value.trim())),
            help: text,
            path,
        });
        // Two keys below one comment share it.
    }
    found
}

/// The key and the value of a line, also if a `#` before the key says that it is not set.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix('#').unwrap_or(line);
    let (key, value) = line.split_once(" = ")?;
    let is_key = !key.is_empty() && key.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    is_key.then_some((key, value))
}

/// The example without comments and without what is not set.
pub fn bare() -> String {
    let lines = EXAMPLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let code = lines.map(|line| match line.split_once(" # ") {
        Some((code, _)) => code.trim_end(),
        None => line,
    });
    code.fold(String::new(), |mut all, line| {
        if line.starts_with('[') && !all.is_empty() {
            all.push('\n');
        }
        all + line + "\n"
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::keys::{CHANNEL_KEYS, KEYS, OF_THE_APPLICATION};
    use super::*;

    /// The paths of the table of keys, by whether the gateway uses them.
    fn table() -> BTreeMap<String, bool> {
        let paths = KEYS.iter().map(|key| {
            let path = key.path;
            (path.to_owned(), !OF_THE_APPLICATION.contains(&path) && !path.starts_with("retry."))
        });
        paths.chain(CHANNEL_KEYS.iter().map(|key| (format!("channels.NAME.{key}"), true))).collect()
    }

    #[test]
    fn the_example_has_every_key_of_the_table_with_its_meaning_and_no_other() {
        let table = table();
        let documented = keys();
        for Documented { path, help, .. } in &documented {
            assert!(table.contains_key(path), "the program does not know {path}");
            assert!(!help.is_empty(), "{path} has no comment");
        }
        for (path, used) in table {
            let shown = documented.iter().any(|key| key.path == path);
            assert!(shown || !used, "docs/esdb-gater.toml does not show {path}");
        }
    }

    #[test]
    fn without_comments_it_is_the_same_configuration() {
        let (all, bare) = (EXAMPLE.parse::<toml::Table>(), bare().parse::<toml::Table>());
        assert_eq!(all.unwrap(), bare.unwrap());
    }
}
