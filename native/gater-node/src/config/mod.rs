//! The configuration of a gateway. Flags override the environment, which overrides the file, which
//! overrides the defaults.
//!
//! The file is TOML with the keys of the application's `sys.config`, and with further keys of the
//! gateway. An unknown key causes a warning, and an invalid value an error that names its key.
//!
//! | key | flag, variable | value | default |
//! |---|---|---|---|
//! | `name` | `--name`, `ESDB_GATER_NAME` | `name@host` | none, must be given |
//! | `cookie` | `--cookie`, `ESDB_GATER_COOKIE` | text | `$HOME/.erlang.cookie`, refused when others can get at it |
//! | `cookie_file` | `--cookie-file`, `ESDB_GATER_COOKIE_FILE` | path | |
//! | `listen` | `--listen`, `ESDB_GATER_LISTEN` | `ADDR:PORT` | a free port where the host of `name` can be reached |
//! | `data_dir` | `--data-dir`, `ESDB_GATER_DATA_DIR` | path | `~/.local/state/esdb-gater/NAME` |
//! | `join` | `--join` (repeated), `ESDB_GATER_JOIN` (commas) | list of node names | none |
//! | `cluster.members` | `--cluster` (commas, or repeated), `ESDB_GATER_CLUSTER` (commas) | list of node names | none: alone |
//! | `cluster.key` | `ESDB_GATER_CLUSTER_KEY` | text of 16 bytes or more, in a file for its owner alone | none |
//! | `cluster.key_file` | `--cluster-key-file`, `ESDB_GATER_CLUSTER_KEY_FILE` | path of a file for its owner alone | |
//! | `cluster.ra_cluster_name` | | text | `esdb_gater_registry` |
//! | `cluster.lost_grace_seconds` | `ESDB_GATER_LOST_GRACE_SECONDS` | from 1 | 60 |
//! | `cluster.max_nodes` | `ESDB_GATER_MAX_NODES` | from 1 | 4096 |
//! | `http.listen` | `--http`, `ESDB_GATER_HTTP` | `ADDR:PORT`, or `off` | `127.0.0.1:9468`, or a free port where that is taken; `off` for an embedded gateway |
//! | `limits.store_names` | `ESDB_GATER_STORE_NAMES` | from 1 | 100000 |
//! | `limits.unfinished_bytes` | `ESDB_GATER_UNFINISHED_BYTES` | from 1 | 1073741824 |
//! | `otlp.endpoint` | `OTEL_EXPORTER_OTLP_ENDPOINT` | `http://HOST:PORT` of an OpenTelemetry collector | none |
//! | `tune_peers` | `ESDB_GATER_TUNE_PEERS` | true, false | true |
//! | `log` | `ESDB_GATER_LOG` | a filter such as `info` or `gater_dist=debug,info` | `info` |
//! | `net_ticktime` | `ESDB_GATER_NET_TICKTIME` | seconds, 4 to 3600 | 60 |
//! | `security.hmac_secret` | `ESDB_GATER_SECRET` | text (the variable: any bytes) | a random one, with a warning |
//! | `security.message_ttl_seconds` | `ESDB_GATER_MESSAGE_TTL_SECONDS` | from 1 | 300 |
//! | `capabilities.mode` | | `disabled`, `optional`, `required` | `disabled` |
//! | `capabilities.roots` | | list of `did:key` names | none; needed unless the mode is `disabled` |
//! | `capabilities.audience` | | list of `did:key` names | none: tokens may be made out to anybody |
//! | `channels.NAME.priority` | | `critical`, `high`, `normal`, `low` | the reference's; `normal` for an own one |
//! | `channels.NAME.max_rate` | | from 1 per second and topic, or `infinity` | the reference's; `infinity` |
//! | `channels.NAME.hmac` | | `required`, `optional` | the reference's; `optional` |
//! | `channels.NAME.replay_last` | | true, false | true for `esdb_channel_health` |
//! | `retry.base_delay_ms` | | from 0 | 100 |
//! | `retry.max_delay_ms` | | from `base_delay_ms` | 5000 |
//! | `retry.max_attempts`, or `max_retries` without the first call | | from 1, from 0 | 5 |
//! | `retry.ambiguous` | | `retry`, `return` | `retry` |
//! | `retry.deadline_ms` | | from 1, or `infinity` | `infinity` |
//! | `retry.prefer` | | `any`, `local` | `any` |
//! | `telemetry_handlers` | | list that may hold `logger` and `opentelemetry` | none |
//!
//! `hmac_secret` at the top level is `security.hmac_secret`, and `capability_mode` is
//! `capabilities.mode` if there are roots, as in the original library. `gateways`,
//! `gateway_timeout_ms`, `program`, `registration`, `publish` and `lineage_scopes` are keys of the
//! BEAM side and are ignored. The file itself is given by `--config` or `ESDB_GATER_CONFIG`. If it contains
//! the cookie or the secret, only its owner may have access to it.

mod capabilities;
mod channels;
mod cluster_key;
mod cookie;
pub(crate) mod documented;
mod error;
mod keys;
mod otlp;
mod sources;
mod value;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gater_core::channel::Policy;
use secrecy::{ExposeSecret, SecretSlice};

pub use self::capabilities::{Capabilities, Mode};
pub use self::cookie::FoundCookie;
pub use self::error::ConfigError;
pub use self::otlp::Otlp;
use self::sources::Sources;
pub use self::sources::{Environment, Flags, Hosted};
pub(crate) use self::value::is_node_name;

/// The configuration of a gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// The full node name, `name@host`.
    pub name: String,
    /// The cookie of the cluster's nodes, in Latin-1.
    pub cookie: SecretSlice<u8>,
    /// The address on which connections are accepted; port 0 selects any free port. `None` stands
    /// for any free port at the host of the name.
    pub listen: Option<SocketAddr>,
    /// The directory of the registry, unless it is in memory.
    pub data_dir: PathBuf,
    /// Whether the registry is kept in memory and nothing is written.
    pub in_memory: bool,
    /// Whether the gateway has no distribution of its own, and its only peer is the BEAM that runs
    /// it, over standard input and output.
    pub piped: bool,
    /// The nodes to which the gateway connects at its start and stays connected.
    pub join: Vec<String>,
    /// The gateways that replicate one registry, including this one. The list is empty for a single
    /// gateway.
    pub cluster: Vec<String>,
    /// The key whose knowledge the gateways of the cluster prove to each other.
    pub cluster_key: Option<SecretSlice<u8>>,
    /// The time after which the workers of a disconnected node are given up.
    pub lost_grace: Duration,
    /// The greatest number of nodes with workers or subscribers.
    pub max_nodes: usize,
    /// The greatest number of distinct names of stores between two starts.
    pub store_names: usize,
    /// The greatest number of bytes that all peers together have begun to send.
    pub unfinished_bytes: usize,
    /// Whether BEAMs are asked to use larger buffers on their connections.
    pub tune_peers: bool,
    /// Where HTTP is served.
    pub http: Http,
    /// Where spans and metrics are sent, if anywhere.
    pub otlp: Option<Otlp>,
    /// The time for which a signed message is valid.
    pub message_ttl: Duration,
    /// The channels by name: the ten default channels and the user's own.
    pub channels: Vec<(String, Policy)>,
    /// The rules for capability tokens.
    pub capabilities: Capabilities,
    /// The log filter, as of the crate `tracing-subscriber`; empty for the default.
    pub log: String,
    /// The time after which a node without a sign of life is disconnected.
    pub net_ticktime: Duration,
    /// Whether no secret is configured, in which case a random one was drawn.
    pub random_secret: bool,
    secret: SecretSlice<u8>,
}

/// Where HTTP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    /// Nowhere.
    Off,
    /// Here, unless the port is taken: then on a free one of the same address.
    Default(SocketAddr),
    /// Here, as somebody has said.
    Listen(SocketAddr),
}

/// The port on which HTTP is served unless something else is configured.
pub const HTTP_PORT: u16 = 9468;

impl Config {
    /// Returns the secret with which messages are signed.
    pub fn secret_bytes(&self) -> &[u8] {
        self.secret.expose_secret()
    }
}

/// A configuration, and the warnings for its user.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The warnings, one sentence each.
    pub warnings: Vec<String>,
}

/// Assembles the configuration. Reads the configuration file and the cookie file.
pub fn load(flags: Flags, environment: Environment) -> Result<Loaded, ConfigError> {
    let (in_memory, piped) =
        flags.hosted.as_ref().map_or((false, false), |hosted| (hosted.in_memory, hosted.piped));
    // Whoever embeds a gateway opens no port that nobody has asked for.
    let default_http = match flags.embedded || flags.hosted.is_some() {
        true => Http::Off,
        false => Http::Default(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), HTTP_PORT)),
    };
    let mut sources = Sources::new(flags, environment)?;
    let name = match sources.take("name", value::node_name)? {
        Some(name) => name,
        None => return Err(ConfigError::missing("name", "give it with --name name@host")),
    };
    let cookie = cookie::find(&mut sources)?;
    let (secret, random_secret, message_ttl) = security(&mut sources)?;
    let config = Config {
        cookie,
        listen: sources.take("listen", value::socket_address)?,
        data_dir: match sources.take("data_dir", value::path)? {
            Some(path) => path,
            None => default_data_dir(sources.environment(), &name),
        },
        in_memory,
        piped,
        join: sources.take("join", value::node_names)?.unwrap_or_default(),
        cluster: sources.take("cluster.members", value::node_names)?.unwrap_or_default(),
        cluster_key: cluster_key::find(&mut sources)?,
        lost_grace: sources
            .take("cluster.lost_grace_seconds", value::seconds)?
            .unwrap_or(Duration::from_secs(60)),
        max_nodes: sources.take("cluster.max_nodes", value::count)?.unwrap_or(4096),
        http: sources.take("http.listen", value::http)?.unwrap_or(default_http),
        store_names: sources.take("limits.store_names", value::count)?.unwrap_or(100_000),
        unfinished_bytes: sources.take("limits.unfinished_bytes", value::count)?.unwrap_or(1 << 30),
        otlp: otlp::load(&mut sources)?,
        tune_peers: sources.take("tune_peers", value::flag)?.unwrap_or(true),
        message_ttl,
        channels: channels::load(&mut sources)?,
        capabilities: capabilities::load(&mut sources)?,
        log: sources.take("log", value::log_filter)?.unwrap_or_default(),
        net_ticktime: sources
            .take("net_ticktime", value::ticktime)?
            .unwrap_or(Duration::from_secs(60)),
        random_secret,
        secret,
        name,
    };
    check_keys_of_the_application(&mut sources)?;
    Ok(Loaded { config, warnings: sources.finish() })
}

/// As much of a configuration as can be told when some of it is missing or wrong.
#[derive(Debug)]
pub struct Outline {
    /// The node name, if it is given.
    pub name: Option<String>,
    /// The cookie, or why there is none.
    pub cookie: Result<FoundCookie, ConfigError>,
    /// Where the registry is kept, if the name is given.
    pub data_dir: Option<PathBuf>,
}

/// Reads what [`load`] reads, and goes on after a cookie that cannot be used.
pub fn outline(flags: Flags, environment: Environment) -> Result<Outline, ConfigError> {
    let mut sources = Sources::new(flags, environment)?;
    let name = sources.take("name", value::node_name)?;
    let data_dir = match (sources.take("data_dir", value::path)?, &name) {
        (Some(path), _) => Some(path),
        (None, Some(name)) => Some(default_data_dir(sources.environment(), name)),
        (None, None) => None,
    };
    Ok(Outline { cookie: cookie::locate(&mut sources), name, data_dir })
}

/// Returns the secret, whether it was drawn at random, and the time for which a signed message is
/// valid.
fn security(sources: &mut Sources) -> Result<(SecretSlice<u8>, bool, Duration), ConfigError> {
    let ttl = sources
        .take("security.message_ttl_seconds", value::seconds)?
        .unwrap_or(Duration::from_secs(300));
    // The original library has this key at the top level.
    let flat = sources.take_secret("hmac_secret")?;
    if let Some(secret) = sources.take_secret("security.hmac_secret")? {
        if flat.is_some() {
            let by = sources.origin("security.hmac_secret");
            sources.warn(format!(
                "hmac_secret has no effect: security.hmac_secret (from {by}) is set as well"
            ));
        }
        return Ok((secret, false, ttl));
    }
    if let Some(secret) = flat {
        return Ok((secret, false, ttl));
    }
    let mut random = vec![0; 32];
    getrandom::fill(&mut random).map_err(|error| {
        ConfigError::missing("security.hmac_secret", &format!("no random one either: {error}"))
    })?;
    sources.warn(
        "no secret is configured (ESDB_GATER_SECRET or security.hmac_secret): a random one is used, \
         and messages signed elsewhere will not verify"
            .into(),
    );
    Ok((random.into(), true, ttl))
}

/// Checks the keys that only the application on a BEAM uses, since both read the same file.
fn check_keys_of_the_application(sources: &mut Sources) -> Result<(), ConfigError> {
    sources.take("telemetry_handlers", value::telemetry_handlers)?;
    sources.take("cluster.ra_cluster_name", value::text)?;
    sources.take("retry.ambiguous", |given| value::word(given, &["retry", "return"]))?;
    sources.take("retry.deadline_ms", value::deadline)?;
    sources.take("retry.prefer", |given| value::word(given, &["any", "local"]))?;
    let attempts = sources.take("retry.max_attempts", value::positive)?.map(u32::from);
    let retries = sources.take("retry.max_retries", value::retries)?;
    if let (Some(attempts), Some(retries)) = (attempts, retries)
        && retries + 1 != attempts
    {
        return Err(sources.bad(
            "retry.max_retries",
            &format!("must be one less than retry.max_attempts, which is {attempts}"),
        ));
    }
    let base = sources.take("retry.base_delay_ms", value::milliseconds)?;
    let max = sources.take("retry.max_delay_ms", value::milliseconds)?;
    let base = base.unwrap_or(Duration::from_millis(100));
    if max.unwrap_or(Duration::from_secs(5)) < base {
        let base = base.as_millis();
        return Err(sources.bad(
            "retry.max_delay_ms",
            &format!("must be at least retry.base_delay_ms, which is {base}"),
        ));
    }
    Ok(())
}

/// Returns `$XDG_STATE_HOME/esdb-gater/NAME`, with the default of this variable if it is not set,
/// or `/var/lib/esdb-gater/NAME` if there is no home directory.
fn default_data_dir(environment: &Environment, name: &str) -> PathBuf {
    let absolute = |key: &str| -> Option<PathBuf> {
        environment.get(key).map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"));
    // A host is any text without spaces, so it could contain a path separator.
    state.join("esdb-gater").join(name.replace('/', "_"))
}

/// Returns the environment of this process.
pub fn environment() -> Environment {
    Environment::new(std::env::vars_os().collect::<Vec<(OsString, OsString)>>())
}
