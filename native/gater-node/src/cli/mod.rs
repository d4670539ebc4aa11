//! The command line.

pub mod admin;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use self::admin::Order;
use crate::config::Flags;

/// The exit code of a command line or a configuration that cannot be used
/// (`EX_USAGE` of `sysexits.h`).
pub const EXIT_USAGE: u8 = 64;

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
    #[command(after_help = AFTER_START)]
    Start(Start),
    /// Show or change the cluster that a running gateway belongs to
    Cluster(Cluster),
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
    Status,
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
}

/// Which gateway to talk to.
#[derive(Debug, Args)]
struct Gateway {
    /// The gateway to ask: any member, such as gater1@127.0.0.1
    #[arg(long, value_name = "NAME@HOST", global = true)]
    name: Option<String>,
    /// The cookie of the cluster; others on this machine can see it: --cookie-file hides it
    #[arg(long, value_name = "COOKIE", conflicts_with = "cookie_file", global = true)]
    cookie: Option<OsString>,
    /// A file with the cookie [default: $HOME/.erlang.cookie]
    #[arg(long, value_name = "FILE", global = true)]
    cookie_file: Option<PathBuf>,
    /// A configuration file, as the gateway has it
    #[arg(long, value_name = "FILE.toml", global = true)]
    config: Option<PathBuf>,
}

const AFTER_START: &str = "\
Flags win over the environment, the environment over the file. Each flag has a
variable, such as ESDB_GATER_LISTEN for --listen. Further:
  ESDB_GATER_SECRET  the secret messages are signed with
  ESDB_GATER_LOG     what is logged on standard error, such as info or
                     gater_dist=debug,info (default: info)

When it can serve it prints one line: ready node=NAME port=PORT
SIGTERM and SIGINT have it write out what is queued and stop; a second one ends it at once.
SIGHUP has it read the secret and the log filter of its file again.
Exit codes: 0 told to stop, 64 usage or configuration, 1 anything else.";

#[derive(Debug, Args)]
struct Start {
    /// The full node name, such as gater@127.0.0.1
    #[arg(long, value_name = "NAME@HOST")]
    name: Option<String>,
    /// The cookie of the cluster; others on this machine can see it: --cookie-file hides it
    #[arg(long, value_name = "COOKIE", conflicts_with = "cookie_file")]
    cookie: Option<OsString>,
    /// A file with the cookie [default: $HOME/.erlang.cookie]
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,
    /// A configuration file
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Where the registry is kept [default: ~/.local/state/esdb-gater/NAME@HOST]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A node to connect to at the start and to stay connected with (may stand there again)
    #[arg(long, value_name = "NODE")]
    join: Vec<String>,
    /// The gateways that keep one registry, this one among them: the same list on each.
    /// New ones found it together once a majority is there (commas, or repeated)
    #[arg(long, value_name = "NODES")]
    cluster: Vec<String>,
    /// A file with the key that gateways prove to each other that they know: the same on each,
    /// 16 bytes or more, readable by its owner only
    #[arg(long, value_name = "FILE")]
    cluster_key_file: Option<PathBuf>,
    /// Where connections are accepted [default: any free port where the host of the name can
    /// be reached, such as 127.0.0.1:0]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Stop when standard input ends: for a program that starts its own gateway
    #[arg(long)]
    embedded: bool,
    /// Run as the port program of a BEAM: the configuration, the secret and the cookie come in
    /// frames on standard input, and its end is the end of the gateway
    #[arg(long, conflicts_with_all = ["embedded", "config", "cookie", "cookie_file"])]
    hosted: bool,
    /// Keep the registry in memory and write no file
    #[arg(long, requires = "hosted", conflicts_with_all = ["data_dir", "cluster"])]
    in_memory: bool,
    /// The BEAM has no name: be reached by frames on standard input and output alone
    #[arg(long, requires = "hosted")]
    piped: bool,
}

impl Start {
    fn action(self) -> Action {
        let Self { embedded, hosted, in_memory, piped, .. } = self;
        let flags = Flags {
            name: self.name,
            cookie: self.cookie,
            cookie_file: self.cookie_file,
            config: self.config,
            data_dir: self.data_dir,
            join: self.join,
            cluster: self.cluster,
            cluster_key_file: self.cluster_key_file,
            listen: self.listen,
            hosted: None,
        };
        if hosted {
            Action::Hosted { flags, in_memory, piped }
        } else {
            Action::Start { flags, embedded }
        }
    }
}

/// Understands a command line, the name of the program first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Action {
    match CommandLine::try_parse_from(arguments) {
        Ok(CommandLine { command: Command::Start(start) }) => start.action(),
        Ok(CommandLine { command: Command::Cluster(Cluster { gateway, order }) }) => {
            Action::Cluster {
                flags: Flags {
                    name: gateway.name,
                    cookie: gateway.cookie,
                    cookie_file: gateway.cookie_file,
                    config: gateway.config,
                    ..Flags::default()
                },
                order: match order {
                    ClusterOrder::Status => Order::Status,
                    ClusterOrder::Add { node } => Order::Add(node),
                    ClusterOrder::Remove { node } => Order::Remove(node),
                },
            }
        }
        Err(error) => Action::Print {
            answer: matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion),
            text: error.to_string(),
        },
    }
}
