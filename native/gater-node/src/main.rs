//! esdb-gater: the gateway program.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gater_node::cli::admin::{self, Order};
use gater_node::cli::{self, Action, EXIT_USAGE};
use gater_node::config::Flags;
use gater_node::observe::logs;
use gater_node::{config, run};

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Action::Start { flags, embedded, scratch_dir } => start(flags, embedded, scratch_dir),
        Action::Cluster { flags, order } => cluster(flags, &order),
        Action::Print { text, answer: true } => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Action::Print { text, answer: false } => {
            eprint!("{text}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            eprintln!("esdb-gater: {text}");
            code
        }
    }
}

/// What ends the program but success.
struct Failure {
    code: ExitCode,
    text: String,
}

impl Failure {
    fn usage(error: &dyn Error) -> Self {
        Self { code: ExitCode::from(EXIT_USAGE), text: error.to_string() }
    }

    fn other(error: &dyn Error) -> Self {
        Self { code: ExitCode::FAILURE, text: chain(error) }
    }
}

/// `esdb-gater start`.
fn start(flags: Flags, embedded: bool, scratch_dir: Option<PathBuf>) -> Result<(), Failure> {
    let filter = std::env::var_os(logs::VARIABLE);
    logs::start(filter.as_deref().map(|text| text.to_string_lossy()).as_deref())
        .map_err(|error| Failure::usage(&error))?;
    let loaded =
        config::load(flags, config::environment()).map_err(|error| Failure::usage(&error))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    run::run(&loaded.config, embedded).map_err(|error| Failure::other(&error))?;
    if let Some(folder) = scratch_dir {
        remove(&folder);
    }
    Ok(())
}

/// `esdb-gater cluster`. Nothing is logged: the answer is all there is to say.
fn cluster(flags: Flags, order: &Order) -> Result<(), Failure> {
    let loaded =
        config::load(flags, config::environment()).map_err(|error| Failure::usage(&error))?;
    match admin::run(&loaded.config, order) {
        Ok(text) => {
            print!("{text}");
            Ok(())
        }
        Err(error) => Err(Failure::other(&error)),
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
