//! The channels: the ten default channels, with changed rules, and the user's own channels.

use gater_core::channel::{DEFAULTS, Policy, Priority};

use super::error::ConfigError;
use super::sources::Sources;
use super::value::{self, Given};

/// The prefixes of the names of processes of a gateway, and of the application on a BEAM.
const TAKEN_PREFIXES: [&str; 2] = ["esdb_gater_", "erl_esdb_gater"];
/// The names of processes of a BEAM, on which each channel is a registered process, too.
const TAKEN: [&str; 32] = [
    "application_controller",
    "auth",
    "code_server",
    "erl_epmd",
    "erl_prim_loader",
    "erl_signal_server",
    "error_logger",
    "erts_code_purger",
    "esdb_channel_sup",
    "file_server_2",
    "global_group",
    "global_group_check",
    "global_name_server",
    "inet_db",
    "init",
    "kernel_refc",
    "kernel_safe_sup",
    "kernel_sup",
    "logger",
    "logger_handler_watcher",
    "logger_proxy",
    "logger_std_h_default",
    "logger_sup",
    "net_kernel",
    "net_sup",
    "rex",
    "socket_registry",
    "standard_error",
    "standard_error_sup",
    "undefined",
    "user",
    "user_drv",
];
/// The greatest number of channels. Each channel takes memory on every connected node.
const MAX_CHANNELS: usize = 1_000;
/// The length of the longest channel name in characters, since the name is an atom.
const MAX_NAME: usize = 255;

/// Loads the channels with their rules: the defaults in their order, then the others by name.
pub fn load(sources: &mut Sources) -> Result<Vec<(String, Policy)>, ConfigError> {
    let mut channels: Vec<(String, Policy)> =
        DEFAULTS.iter().map(|(name, policy)| ((*name).to_owned(), *policy)).collect();
    for (name, table) in sources.channels() {
        let path = format!("channels.{name}");
        let bad = |key: &str, problem: &str| {
            let path = if key.is_empty() { path.clone() } else { format!("{path}.{key}") };
            ConfigError::new(&path, sources.file_name(), problem)
        };
        if name.is_empty() || name.chars().count() > MAX_NAME {
            return Err(bad("", "must have a name of 1 to 255 characters"));
        }
        if TAKEN.contains(&name.as_str())
            || TAKEN_PREFIXES.iter().any(|taken| name.starts_with(taken))
        {
            return Err(bad("", "must have another name: this one is taken"));
        }
        let known = channels.iter().position(|(known, _)| known == name);
        let mut policy = match known.and_then(|at| channels.get(at)) {
            Some((_, policy)) => *policy,
            None => Policy::new(Priority::Normal),
        };
        for (key, value) in table {
            let value = Given::typed(value);
            let changed = match key.as_str() {
                "priority" => value::priority(value).map(|it| policy.priority = it),
                "max_rate" => value::rate(value).map(|it| policy.max_rate = it),
                "hmac" => value::hmac(value).map(|it| policy.hmac = it),
                "replay_last" => value::flag(value).map(|it| policy.replay_last = it),
                // A warning was issued already.
                _ => Ok(()),
            };
            changed.map_err(|problem| bad(key, &problem))?;
        }
        match known.and_then(|at| channels.get_mut(at)) {
            Some((_, known)) => *known = policy,
            None => channels.push((name.clone(), policy)),
        }
    }
    if channels.len() > MAX_CHANNELS {
        let problem = format!("must be no more than {MAX_CHANNELS} channels in all");
        return Err(ConfigError::new("channels", sources.file_name(), problem));
    }
    Ok(channels)
}
