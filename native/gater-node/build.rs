//! Passes the commit to the program from which it is built: the value of `ESDB_GATER_COMMIT`, or
//! else the commit in the directory `.git`, which is read without the program `git`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The number of digits of the commit that are shown.
const SHOWN: usize = 12;

fn main() {
    println!("cargo::rerun-if-env-changed=ESDB_GATER_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let told = env::var("ESDB_GATER_COMMIT").ok().filter(|commit| !commit.is_empty());
    // A check or a test build should not be repeated after every commit.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = told.or_else(|| if release { from_git() } else { None });
    let commit = commit.unwrap_or_else(|| "unknown".into());
    let shown: String = commit.chars().take(SHOWN).filter(char::is_ascii_alphanumeric).collect();
    println!("cargo::rustc-env=ESDB_GATER_BUILD_COMMIT={shown}");
}

fn from_git() -> Option<String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let dot_git = root.ancestors().map(|folder| folder.join(".git")).find(|path| path.exists())?;
    let git = if dot_git.is_dir() {
        dot_git
    } else {
        // In a linked work tree, `.git` is a file that names the directory.
        let text = fs::read_to_string(&dot_git).ok()?;
        dot_git.parent()?.join(text.strip_prefix("gitdir:")?.trim())
    };
    let head = read(&git.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref:").map(str::trim) else { return Some(head) };
    // Branches are stored in the directory of the main work tree.
    let common = match fs::read_to_string(git.join("commondir")) {
        Ok(path) => git.join(path.trim()),
        Err(_) => git,
    };
    read(&common.join(reference)).or_else(|| packed(&common.join("packed-refs"), reference))
}

/// Reads a file on which the commit depends.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

fn packed(path: &Path, reference: &str) -> Option<String> {
    let text = read(path)?;
    text.lines().find_map(|line| {
        let (commit, name) = line.split_once(' ')?;
        (name == reference).then(|| commit.to_owned())
    })
}
