//! The gateway program `esdb-gater`.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use gater_dist::Chain;
use gater_node::cli::admin::{self, Order};
use gater_node::cli::{self, Action, EXIT_USAGE};
use gater_node::config::Flags;
use gater_node::hosted::{self, HostedError};
use gater_node::observe::logs::{self, Log};
use gater_node::{config, run};

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Action::Start { flags, embedded } => start(flags, embedded),
        Action::Hosted { flags, in_memory, piped } => {
            let outcome = host(flags, in_memory, piped);
            if let Err(Failure { text, .. }) = &outcome {
                hosted::tell_failure(text);
            }
            outcome
        }
        Action::Cluster { flags, order } => match cluster(flags, &order) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Action::Recover(recovery) => return ExitCode::from(cli::run(recovery.run())),
        Action::Tool(tool) => return ExitCode::from(tool.run()),
        Action::Print { text, answer: true } => {
            answer(&text);
            return ExitCode::SUCCESS;
        }
        Action::Print { text, answer: false } => {
            logs::complain(&text);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            logs::complain(&format!("esdb-gater: {text}\n"));
            code
        }
    }
}

/// A failure that ends the program.
struct Failure {
    code: ExitCode,
    text: String,
}

impl Failure {
    fn usage(error: &dyn Error) -> Self {
        Self { code: ExitCode::from(EXIT_USAGE), text: error.to_string() }
    }

    fn other(error: &dyn Error) -> Self {
        Self { code: ExitCode::FAILURE, text: Chain(error).to_string() }
    }
}

/// Runs `esdb-gater start`.
fn start(flags: Flags, embedded: bool) -> Result<(), Failure> {
    let read = || config::load(flags.clone(), config::environment());
    let loaded = read().map_err(|error| Failure::usage(&error))?;
    let log = Log::start(&loaded.config.log).map_err(|error| Failure::other(&error))?;
    run::run(&loaded, embedded, &log, read).map_err(|error| Failure::other(&error))
}

/// Runs `esdb-gater start --hosted`.
fn host(flags: Flags, in_memory: bool, piped: bool) -> Result<(), Failure> {
    hosted::run(flags, in_memory, piped).map_err(|error| match error {
        HostedError::Config(error) => Failure::usage(&error),
        error => Failure::other(&error),
    })
}

/// Runs `esdb-gater cluster`. Nothing is logged, since the answer is the only output.
fn cluster(flags: Flags, order: &Order) -> Result<ExitCode, Failure> {
    let loaded =
        config::load(flags, config::environment()).map_err(|error| Failure::usage(&error))?;
    match admin::run(&loaded.config, order) {
        Ok(outcome) => {
            answer(&outcome.text);
            Ok(ExitCode::from(outcome.code))
        }
        Err(error) => Err(Failure::other(&error)),
    }
}

/// Prints an answer. An error is ignored, since it means that nobody reads the output.
fn answer(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
