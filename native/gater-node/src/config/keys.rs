//! The known keys, and the search for the known key that is nearest to an unknown one.

/// A key of the file, and the variable that overrides it.
pub struct Key {
    /// The path of the key in the file.
    pub path: &'static str,
    /// The variable of the key, if it has one.
    pub variable: Option<&'static str>,
}

const fn key(path: &'static str, variable: Option<&'static str>) -> Key {
    Key { path, variable }
}

/// All keys except those of channels.
pub const KEYS: &[Key] = &[
    key("name", Some("ESDB_GATER_NAME")),
    key("cookie", Some("ESDB_GATER_COOKIE")),
    key("cookie_file", Some("ESDB_GATER_COOKIE_FILE")),
    key("listen", Some("ESDB_GATER_LISTEN")),
    key("data_dir", Some("ESDB_GATER_DATA_DIR")),
    key("join", Some("ESDB_GATER_JOIN")),
    key("cluster.members", Some("ESDB_GATER_CLUSTER")),
    key("cluster.key", Some("ESDB_GATER_CLUSTER_KEY")),
    key("cluster.key_file", Some("ESDB_GATER_CLUSTER_KEY_FILE")),
    key("cluster.ra_cluster_name", None),
    key("cluster.lost_grace_seconds", Some("ESDB_GATER_LOST_GRACE_SECONDS")),
    key("cluster.max_nodes", Some("ESDB_GATER_MAX_NODES")),
    key("limits.store_names", Some("ESDB_GATER_STORE_NAMES")),
    key("limits.unfinished_bytes", Some("ESDB_GATER_UNFINISHED_BYTES")),
    key("tune_peers", Some("ESDB_GATER_TUNE_PEERS")),
    key("http.listen", Some("ESDB_GATER_HTTP")),
    key("otlp.endpoint", Some("OTEL_EXPORTER_OTLP_ENDPOINT")),
    key("log", Some("ESDB_GATER_LOG")),
    key("net_ticktime", Some("ESDB_GATER_NET_TICKTIME")),
    key("retry.base_delay_ms", None),
    key("retry.max_delay_ms", None),
    key("retry.max_attempts", None),
    key("retry.max_retries", None),
    key("retry.ambiguous", None),
    key("retry.deadline_ms", None),
    key("retry.prefer", None),
    key("security.hmac_secret", Some("ESDB_GATER_SECRET")),
    key("security.message_ttl_seconds", Some("ESDB_GATER_MESSAGE_TTL_SECONDS")),
    key("capabilities.mode", None),
    key("capabilities.roots", None),
    key("capabilities.audience", None),
    // These keys have the names of the original library.
    key("hmac_secret", None),
    key("capability_mode", None),
    key("telemetry_handlers", None),
    // These keys belong to the BEAM side. They are known, but the gateway does not use them.
    key("gateways", None),
    key("gateway_timeout_ms", None),
    key("program", None),
    key("registration", None),
    key("publish", None),
    key("lineage_scopes", None),
    key("channels", None),
];

/// The keys that only the application on a BEAM uses, or that have no effect: the program accepts
/// them, so that both can read one file, and its example leaves them out. So it does with `retry.*`.
#[cfg(test)]
pub const OF_THE_APPLICATION: [&str; 11] = [
    "capability_mode",
    "channels",
    "cluster.ra_cluster_name",
    "gateway_timeout_ms",
    "gateways",
    "hmac_secret",
    "lineage_scopes",
    "program",
    "publish",
    "registration",
    "telemetry_handlers",
];

/// The keys of a channel.
pub const CHANNEL_KEYS: [&str; 4] = ["priority", "max_rate", "hmac", "replay_last"];

/// The prefix of the names of all variables of the gateway.
pub const VARIABLE_PREFIX: &str = "ESDB_GATER_";
/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "ESDB_GATER_CONFIG";
/// The variables that are read while the program is built and have no effect when it runs.
pub const BUILD_VARIABLES: [&str; 3] =
    ["ESDB_GATER_COMMIT", "ESDB_GATER_PREBUILT", "ESDB_GATER_SKIP_NATIVE"];

/// Returns the variable of the key at `path`.
pub fn variable(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| key.path == path)?.variable
}

/// The sections of the file.
pub const SECTIONS: &[&str] =
    &["capabilities", "channels", "cluster", "http", "limits", "otlp", "retry", "security"];

/// The greatest number of changes between a misspelt name and the name that was meant.
const MOST_CHANGES: usize = 3;
/// The length of the shortest prefix that stands for a name.
const LEAST_PREFIX: usize = 3;

/// Returns the flag of the key at `path`.
pub fn flag(path: &str) -> String {
    match path {
        "cluster.members" => "--cluster".into(),
        "http.listen" => "--http".into(),
        path => format!("--{}", path.replace(['.', '_'], "-")),
    }
}

/// Returns the candidate with the smallest edit distance, and this distance.
pub fn nearest<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<(usize, &'a str)> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(wrong, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
}

/// Returns the known path that an unknown path was probably meant to be: the nearest to the whole
/// of it or to its last part, if one is near. A name is near if its edit distance is at most one
/// for every three characters, but at least one and at most three, or if it begins with the unknown
/// name.
///
/// `esdb_gater_nearest` of the application applies the same rule.
pub fn meant(wrong: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let name = last(wrong);
    let length = name.chars().count();
    let limit = (length / 3).clamp(1, MOST_CHANGES);
    let rate = |path: &str| {
        let last = last(path);
        if length >= LEAST_PREFIX && last.starts_with(name) {
            usize::from(last != name)
        } else {
            strsim::osa_distance(wrong, path).min(strsim::osa_distance(name, last))
        }
    };
    // If two paths are equally near, the one in the same section is chosen.
    let rated =
        known.into_iter().map(|path| (rate(&path), strsim::osa_distance(wrong, &path), path));
    rated.min().filter(|(rate, _, _)| *rate <= limit).map(|(_, _, path)| path)
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
