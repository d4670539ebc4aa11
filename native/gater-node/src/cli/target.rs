//! Which gateway a command talks to, and how.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::Flags;

/// Which gateway to talk to, and with which cookie.
#[derive(Debug, Clone, Default, Args)]
pub struct Gateway {
    /// The gateway to ask: any member, such as gater1@127.0.0.1
    #[arg(long, value_name = "NAME@HOST", global = true, help_heading = "Connection")]
    pub name: Option<String>,
    /// The cookie of the cluster; others on this machine can see it: --cookie-file hides it
    #[arg(
        long,
        value_name = "COOKIE",
        conflicts_with = "cookie_file",
        global = true,
        help_heading = "Connection"
    )]
    pub cookie: Option<OsString>,
    /// A file with the cookie [default: $HOME/.erlang.cookie]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection")]
    pub cookie_file: Option<PathBuf>,
    /// A configuration file, as the gateway has it
    #[arg(long, value_name = "FILE.toml", global = true, help_heading = "Connection")]
    pub config: Option<PathBuf>,
}

impl Gateway {
    /// The settings from the command line, as the configuration takes them.
    pub fn flags(self) -> Flags {
        Flags {
            name: self.name,
            cookie: self.cookie,
            cookie_file: self.cookie_file,
            config: self.config,
            ..Flags::default()
        }
    }
}

/// How long a request may take unless the command line says otherwise.
const TIMEOUT_SECONDS: u64 = 10;

/// What every command that asks a gateway takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    #[command(flatten)]
    pub gateway: Gateway,
    /// Print JSON for programs instead of text for people
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Seconds that each request may take
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = TIMEOUT_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=3600),
        help_heading = "Connection"
    )]
    pub timeout: u64,
}

impl Default for Common {
    fn default() -> Self {
        Self { gateway: Gateway::default(), json: false, timeout: TIMEOUT_SECONDS }
    }
}

impl Common {
    /// How long each request may take.
    pub fn within(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}
