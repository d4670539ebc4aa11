//! The arguments of `esdb-gater start`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::Action;
use crate::config::Flags;

/// What the help says after the arguments.
pub const AFTER_START: &str = "\
Flags win over the environment, the environment over the file. Each flag has a
variable, such as ESDB_GATER_LISTEN for --listen. Further:
  ESDB_GATER_SECRET  the secret messages are signed with
  ESDB_GATER_LOG     what is logged on standard error, such as info or
                     gater_dist=debug,info (default: info)

When it can serve it prints one line: ready node=NAME port=PORT
SIGTERM and SIGINT have it write out what is queued and stop; a second one ends it at once.
SIGHUP has it read the secret and the log filter of its file again.
Exit codes: 0 told to stop, 64 usage or configuration, 1 anything else.";

/// The arguments of `start`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_START)]
pub struct Start {
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
    /// Where metrics, readiness and the page are served by HTTP, or off [default: 127.0.0.1:9468,
    /// or a free port where that is taken; off with --embedded and --hosted]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<String>,
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
    /// What the program is told to do.
    pub fn action(self) -> Action {
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
            http: self.http,
            embedded,
            hosted: None,
        };
        if hosted {
            Action::Hosted { flags, in_memory, piped }
        } else {
            Action::Start { flags, embedded }
        }
    }
}
