//! esdb-gater: the gateway program.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use gater_node::cli::{self, Action, EXIT_USAGE};
use gater_node::{config, log, run};

fn main() -> ExitCode {
    let (flags, embedded, scratch_dir) = match cli::parse(std::env::args_os()) {
        Action::Start { flags, embedded, scratch_dir } => (flags, embedded, scratch_dir),
        Action::Print { text, answer: true } => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Action::Print { text, answer: false } => {
            eprint!("{text}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let filter = std::env::var_os(log::VARIABLE);
    if let Err(error) = log::start(filter.as_deref().map(|text| text.to_string_lossy()).as_deref())
    {
        eprintln!("esdb-gater: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    let loaded = match config::load(flags, config::environment()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("esdb-gater: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match run::run(&loaded.config, embedded) {
        Ok(()) => {
            if let Some(folder) = scratch_dir {
                remove(&folder);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("esdb-gater: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Removes a folder, unless somebody else has done so.
fn remove(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "not removed");
        }
        _ => {}
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
