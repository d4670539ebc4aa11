//! esdb-gater: the gateway program.

use std::error::Error;
use std::process::ExitCode;

use gater_node::cli::{self, Action, EXIT_USAGE};
use gater_node::{config, log, run};

fn main() -> ExitCode {
    let (flags, embedded) = match cli::parse(std::env::args_os()) {
        Action::Start { flags, embedded } => (flags, embedded),
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esdb-gater: {}", chain(&error));
            ExitCode::FAILURE
        }
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
