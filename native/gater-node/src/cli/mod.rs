//! The command line.

pub mod admin;
mod bench;
mod check;
mod client;
mod doctor;
pub mod error;
mod generate;
mod listing;
mod orders;
mod output;
mod publish;
pub mod recover;
mod start;
mod status;
mod subscribe;
mod target;
mod term_text;
mod top;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use self::admin::Order;
use self::bench::Bench;
use self::check::Check;
use self::doctor::Doctor;
use self::error::CommandError;
use self::generate::{Completions, GenerateConfig, Man};
use self::listing::{List, Subscribers, Workers};
use self::orders::{Drain, Log};
use self::publish::Publish;
use self::recover::{Recover, Recovery};
use self::start::Start;
use self::status::Status;
use self::subscribe::Subscribe;
use self::target::{Common, Gateway};
use self::top::Top;
use crate::config::Flags;
use crate::observe::logs;

/// The exit code of a command line or a configuration that cannot be used
/// (`EX_USAGE` of `sysexits.h`).
pub const EXIT_USAGE: u8 = 64;
/// The exit code of all else that went wrong, and of an answer that is no.
const EXIT_FAILURE: u8 = 1;

/// What the program is told to do.
#[derive(Debug)]
pub enum Action {
    /// Serve as a gateway.
    Start {
        /// Settings from the command line.
        flags: Flags,
        /// Whether to stop when standard input ends.
        embedded: bool,
    },
    /// Serve as the port program of a BEAM.
    Hosted {
        /// Settings from the command line.
        flags: Flags,
        /// Whether the registry is kept in memory.
        in_memory: bool,
        /// Whether the BEAM has no name.
        piped: bool,
    },
    /// Ask a running gateway about its cluster, or have that changed.
    Cluster {
        /// Settings from the command line: name and cookie count.
        flags: Flags,
        /// What to do.
        order: Order,
    },
    /// Make a stopped gateway a cluster of one.
    Recover(Box<Recovery>),
    /// Ask a node, or do what needs none.
    Tool(Box<Tool>),
    /// Print this and end with this code.
    Print {
        /// The text.
        text: String,
        /// Whether it is an answer (standard output, exit code 0) or a complaint.
        answer: bool,
    },
}

#[derive(Debug, Parser)]
#[command(
    name = "esdb-gater",
    version,
    about = "A gateway node in front of erl-esdb event stores: worker registry and channels",
    subcommand_required = true,
    arg_required_else_help = false
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a gateway, and serve until SIGTERM or SIGINT
    Start(Start),
    /// Show or change the cluster that a running gateway belongs to
    Cluster(Cluster),
    #[command(flatten)]
    Tool(Box<Tool>),
}

/// The commands that ask a node and end, or that need none.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Show a gateway on one screen: cluster, rates, drops, alarms
    Status(Status),
    /// `cluster status --json`.
    #[command(skip)]
    ClusterStatus(Common),
    /// List the nodes that a gateway is connected to or remembers
    #[command(after_help = "\
Examples:
  esdb-gater peers --name gater1@10.0.0.1
  esdb-gater peers --sort waiting --limit 5 --name gater1@10.0.0.1")]
    Peers(List),
    /// List the stores that have workers
    #[command(after_help = "\
Examples:
  esdb-gater stores --sort name --name gater1@10.0.0.1")]
    Stores(List),
    /// List the workers of a store, or of all
    Workers(Workers),
    /// List the channels with their rules, subscribers and rates
    #[command(after_help = "\
Examples:
  esdb-gater channels --sort rate --limit 3 --name gater1@10.0.0.1")]
    Channels(List),
    /// List the subscribers of a topic
    Subscribers(Subscribers),
    /// List the nodes that do not keep up, with what they lost and what to do
    #[command(after_help = "\
Examples:
  esdb-gater slow --name gater1@10.0.0.1")]
    Slow(List),
    /// List the last connections that were lost or did not come about, with the reason
    #[command(after_help = "\
Examples:
  esdb-gater lost --name gater1@10.0.0.1")]
    Lost(List),
    /// List what needs attention, with cause and next step
    #[command(after_help = "\
Examples:
  esdb-gater alarms --name gater1@10.0.0.1")]
    Alarms(Common),
    /// Show a gateway on a full screen that is kept up to date
    Top(Top),
    /// Answer a question by the exit code: 0 yes, 1 no, 2 not known
    Check(Check),
    /// Find out why a node cannot be reached, step by step, and what mends it
    Doctor(Doctor),
    /// Publish a message
    Pub(Publish),
    /// Show what is published, while it is published
    Sub(Subscribe),
    /// Measure how many messages a gateway takes and delivers
    Bench(Bench),
    /// Have a gateway write out what is queued and stop
    Drain(Drain),
    /// Change what a running gateway logs
    Log(Log),
    /// Print a configuration with every key
    GenerateConfig(GenerateConfig),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the manual page
    Man(Man),
}

impl Tool {
    async fn carry_out(self) -> Result<u8, CommandError> {
        match self {
            Self::Status(command) => command.run().await,
            Self::ClusterStatus(common) => status::cluster(common).await,
            Self::Peers(list) => list.peers().await,
            Self::Stores(list) => list.stores().await,
            Self::Workers(command) => command.run().await,
            Self::Channels(list) => list.channels().await,
            Self::Subscribers(command) => command.run().await,
            Self::Slow(list) => list.slow().await,
            Self::Lost(list) => list.lost().await,
            Self::Alarms(common) => listing::alarms(common).await,
            Self::Top(command) => command.run().await,
            Self::Check(command) => command.run().await,
            Self::Drain(command) => command.run().await,
            Self::Log(command) => command.run().await,
            Self::GenerateConfig(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
            Self::Doctor(command) => command.run().await,
            Self::Pub(command) => command.run().await,
            Self::Sub(command) => command.run().await,
            Self::Bench(command) => command.run().await,
        }
    }

    /// Carries out the command, and returns the exit code.
    pub fn run(self) -> u8 {
        run(self.carry_out())
    }
}

/// Carries out a command, and returns the exit code.
pub fn run(command: impl Future<Output = Result<u8, CommandError>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(CommandError::System).and_then(|runtime| {
        let outcome = runtime.block_on(command);
        // Nobody waits for the look-up of a name that takes longer than it may.
        runtime.shutdown_background();
        outcome
    });
    outcome.unwrap_or_else(|error| {
        logs::complain(&format!("esdb-gater: {}\n", error.text()));
        error.code()
    })
}

#[derive(Debug, Args)]
struct Cluster {
    #[command(flatten)]
    gateway: Gateway,
    #[command(subcommand)]
    order: ClusterOrder,
}

#[derive(Debug, Subcommand)]
enum ClusterOrder {
    /// Print what the gateway knows of its cluster. Exit codes: 0 healthy, 1 no quorum (or no
    /// answer), 2 degraded: a gateway is missing or was never seen
    Status {
        /// Print JSON for programs instead of text for people
        #[arg(long)]
        json: bool,
    },
    /// Let a gateway in that runs with --cluster on a new data directory. It takes the
    /// place of a member of its name
    Add {
        /// The node name of the gateway
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Put a gateway out of the cluster, whether it runs or not
    Remove {
        /// The node name of the gateway
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Go on with this gateway alone, which is stopped, when a majority is lost for good
    Recover(Recover),
}

/// Understands a command line, the name of the program first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Action {
    match CommandLine::try_parse_from(arguments) {
        Ok(CommandLine { command: Command::Start(start) }) => start.action(),
        Ok(CommandLine { command: Command::Cluster(Cluster { gateway, order }) }) => {
            let order = match order {
                ClusterOrder::Status { json: false } => Order::Status,
                ClusterOrder::Status { json: true } => {
                    let common = Common { gateway, json: true, ..Common::default() };
                    return Action::Tool(Box::new(Tool::ClusterStatus(common)));
                }
                ClusterOrder::Add { node } => Order::Add(node),
                ClusterOrder::Remove { node } => Order::Remove(node),
                ClusterOrder::Recover(command) => {
                    return Action::Recover(Box::new(Recovery { command, gateway }));
                }
            };
            Action::Cluster { flags: gateway.flags(), order }
        }
        Ok(CommandLine { command: Command::Tool(tool) }) => Action::Tool(tool),
        Err(error) => Action::Print {
            answer: matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion),
            text: error.to_string(),
        },
    }
}
