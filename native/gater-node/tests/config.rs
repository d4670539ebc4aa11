//! Which value wins, and what bad ones get.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gater_core::channel::{DEFAULTS, Hmac, Policy, Priority};
use gater_node::config::{Config, ConfigError, Environment, Flags, Loaded, load};
use secrecy::ExposeSecret;
use tempfile::TempDir;

/// A home with a cookie that only its owner can read, and a configuration file.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.cookie(".erlang.cookie", "HOMECOOKIE\n", 0o400);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn cookie(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn flags(&self) -> Flags {
        Flags { name: Some("gater@127.0.0.1".into()), ..Flags::default() }
    }

    fn environment(&self, more: &[(&str, &str)]) -> Environment {
        let home = ("HOME".into(), self.0.path().into());
        let more = more.iter().map(|(name, value)| ((*name).into(), OsString::from(*value)));
        Environment::new(std::iter::once(home).chain(more))
    }

    /// The configuration with `file`, flags and variables as given.
    fn load(
        &self,
        flags: Flags,
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Loaded, ConfigError> {
        let path = self.path("gater.toml");
        fs::write(&path, file).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        load(Flags { config: Some(path), ..flags }, self.environment(variables))
    }

    fn file(&self, file: &str) -> Result<Loaded, ConfigError> {
        self.load(self.flags(), &[("ESDB_GATER_SECRET", "s")], file)
    }
}

fn policy(config: &Config, name: &str) -> Policy {
    config.channels.iter().find(|(known, _)| known == name).unwrap().1
}

#[test]
fn without_configuration_the_defaults_of_the_reference_hold() {
    let home = Home::new();
    let Loaded { config, warnings } = load(home.flags(), home.environment(&[])).unwrap();
    assert_eq!(config.name, "gater@127.0.0.1");
    assert_eq!(config.cookie.expose_secret(), b"HOMECOOKIE");
    assert_eq!(config.listen, None);
    assert_eq!(config.data_dir, home.path(".local/state/esdb-gater/gater@127.0.0.1"));
    assert_eq!(config.lost_grace, Duration::from_secs(60));
    assert_eq!(config.message_ttl, Duration::from_secs(300));
    assert!(config.join.is_empty());
    assert!(config.tune_peers);
    let defaults: Vec<_> = DEFAULTS.iter().map(|(name, it)| ((*name).to_owned(), *it)).collect();
    assert_eq!(config.channels, defaults);
    // A secret nobody knows is better than one everybody knows, and said.
    assert_eq!(config.secret_bytes().len(), 32);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("random"), "{warnings:?}");
    let again = load(home.flags(), home.environment(&[])).unwrap().config;
    assert_ne!(again.secret_bytes(), config.secret_bytes());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let home = Home::new();
    let file = "name = 'file@h'\nlisten = '127.0.0.1:3'\njoin = ['file@h']\ndata_dir = '/file'\n\
                tune_peers = true\n[security]\nhmac_secret = 'file'\nmessage_ttl_seconds = 3";
    let variables = [
        ("ESDB_GATER_LISTEN", "127.0.0.1:2"),
        ("ESDB_GATER_JOIN", "a@h,b@h"),
        ("ESDB_GATER_DATA_DIR", "/variable"),
        ("ESDB_GATER_SECRET", "variable"),
        ("ESDB_GATER_MESSAGE_TTL_SECONDS", "2"),
        ("ESDB_GATER_TUNE_PEERS", "false"),
    ];
    let flags = Flags {
        listen: Some("127.0.0.1:1".into()),
        join: vec!["flag@h".into()],
        ..Flags::default()
    };
    let config = home.load(flags, &variables, file).unwrap().config;
    assert_eq!(config.name, "file@h");
    assert_eq!(config.listen.unwrap().port(), 1);
    assert_eq!(config.join, ["flag@h"]);
    assert_eq!(config.data_dir, Path::new("/variable"));
    assert_eq!(config.secret_bytes(), b"variable");
    assert_eq!(config.message_ttl, Duration::from_secs(2));
    assert!(!config.tune_peers);

    let config = home.load(Flags::default(), &variables, file).unwrap().config;
    assert_eq!((config.listen.unwrap().port(), config.join), (2, vec!["a@h".into(), "b@h".into()]));
    let config = home.load(Flags::default(), &[], file).unwrap().config;
    assert_eq!((config.listen.unwrap().port(), &config.join[..]), (3, &["file@h".to_owned()][..]));
    assert_eq!((config.secret_bytes(), config.message_ttl.as_secs()), (&b"file"[..], 3));
}

#[test]
fn the_example_of_the_reference_is_taken_as_it_is() {
    let home = Home::new();
    let loaded = home
        .file(
            "telemetry_handlers = ['logger']\n\
             [cluster]\nra_cluster_name = 'esdb_gater_registry'\n\
             [retry]\nbase_delay_ms = 100\nmax_delay_ms = 5000\nmax_attempts = 5\n\
             [channels.esdb_channel_events]\npriority = 'high'\n\
             [channels.esdb_channel_metrics]\nmax_rate = 10000\n\
             [security]\nhmac_secret = 'your_secret_here'\nmessage_ttl_seconds = 300\n",
        )
        .unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn channels_are_changed_key_by_key_and_added() {
    let home = Home::new();
    let config = home
        .file(
            "[channels.esdb_channel_health]\nmax_rate = 7\n\
             [channels.esdb_channel_metrics]\nmax_rate = 'infinity'\nhmac = 'required'\n\
             [channels.my_channel]\npriority = 'low'\nreplay_last = true\n\
             [channels.plain]\n",
        )
        .unwrap()
        .config;
    let health = policy(&config, "esdb_channel_health");
    assert_eq!((health.max_rate.unwrap().get(), health.replay_last), (7, true));
    assert_eq!(health.priority, Priority::High);
    let metrics = policy(&config, "esdb_channel_metrics");
    assert_eq!((metrics.max_rate, metrics.hmac), (None, Hmac::Required));
    let own = policy(&config, "my_channel");
    assert_eq!((own.priority, own.replay_last, own.hmac), (Priority::Low, true, Hmac::Optional));
    assert_eq!(policy(&config, "plain"), Policy::new(Priority::Normal));
    assert_eq!(config.channels.len(), 12);
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_name() {
    let home = Home::new();
    let loaded = home
        .load(
            home.flags(),
            &[
                ("ESDB_GATER_SECRET", "s"),
                ("ESDB_GATER_DATADIR", "/x"),
                ("ESDB_GATER_HMAC_SECRET", "t"),
                ("ESDB_GATER_SKIP_NATIVE", "1"),
                ("ESDB_GATER_XYZZY", "1"),
            ],
            "lissten = '127.0.0.1:1'\nmessage_ttl_seconds = 5\n\
             [security]\nmessage_ttl = 5\n\
             [channels.esdb_channel_events]\npriorty = 'low'\n",
        )
        .unwrap();
    for (unknown, nearest) in [
        ("lissten", "listen?"),
        ("message_ttl_seconds in", "security.message_ttl_seconds?"),
        ("security.message_ttl in", "security.message_ttl_seconds?"),
        ("channels.esdb_channel_events.priorty", "channels.esdb_channel_events.priority?"),
        ("ESDB_GATER_DATADIR", "ESDB_GATER_DATA_DIR?"),
        ("ESDB_GATER_HMAC_SECRET", "ESDB_GATER_SECRET?"),
        // Nothing is near enough to be meant.
        ("ESDB_GATER_XYZZY", "unknown variable ESDB_GATER_XYZZY"),
    ] {
        let found = loaded.warnings.iter().find(|warning| warning.contains(unknown));
        let found = found.unwrap_or_else(|| panic!("{unknown}: {:?}", loaded.warnings));
        assert!(found.ends_with(nearest), "{found}");
    }
    assert_eq!(loaded.warnings.len(), 7, "{:?}", loaded.warnings);
    assert_eq!(loaded.config.message_ttl.as_secs(), 300);
}

#[test]
fn a_bad_value_is_an_error_that_names_its_key() {
    let home = Home::new();
    for (file, key) in [
        ("listen = 5", "listen"),
        ("listen = 'localhost'", "listen"),
        ("name = 'gater'", "name"),
        ("join = ['a']", "join"),
        ("cookie = ''", "cookie"),
        ("cookie = 'a'\ncookie_file = 'b'", "cookie"),
        ("cookie_file = '/does/not/exist'", "cookie_file"),
        ("tune_peers = 'perhaps'", "tune_peers"),
        ("telemetry_handlers = ['syslog']", "telemetry_handlers"),
        ("security = 5", "security"),
        ("[security]\nhmac_secret = ''", "security.hmac_secret"),
        ("[security]\nmessage_ttl_seconds = 0", "security.message_ttl_seconds"),
        ("[security]\nmessage_ttl_seconds = 99999999999", "security.message_ttl_seconds"),
        ("[retry]\nmax_attempts = 0", "retry.max_attempts"),
        ("[retry]\nbase_delay_ms = -1", "retry.base_delay_ms"),
        ("[retry]\nmax_delay_ms = 50", "retry.max_delay_ms"),
        ("[cluster]\nlost_grace_seconds = 'soon'", "cluster.lost_grace_seconds"),
        ("[cluster]\nmax_nodes = 0", "cluster.max_nodes"),
        ("[channels]\nesdb_channel_events = 5", "channels.esdb_channel_events"),
        ("[channels.c]\npriority = 'urgent'", "channels.c.priority"),
        ("[channels.c]\nmax_rate = 0", "channels.c.max_rate"),
        ("[channels.c]\nhmac = true", "channels.c.hmac"),
        ("[channels.c]\nreplay_last = 1", "channels.c.replay_last"),
        ("[channels.net_kernel]", "channels.net_kernel"),
        ("[channels.esdb_gater_relay]", "channels.esdb_gater_relay"),
        ("[channels.'']", "channels."),
        ("this is no toml", "config"),
    ] {
        let flags = if key == "name" { Flags::default() } else { home.flags() };
        let error = home.load(flags, &[], file).unwrap_err();
        assert_eq!(error.key, key, "{file}: {error}");
        assert!(error.to_string().starts_with(key), "{error}");
        assert!(error.origin.contains("gater.toml") || key == "config", "{error:?}");
    }
}

#[test]
fn a_missing_name_and_a_missing_file_are_errors() {
    let home = Home::new();
    let error = load(Flags::default(), home.environment(&[])).unwrap_err();
    assert_eq!(error.key, "name");
    let flags = Flags { config: Some("/does/not/exist".into()), ..home.flags() };
    let error = load(flags, home.environment(&[])).unwrap_err();
    assert_eq!((error.key.as_str(), error.origin.as_str()), ("config", "--config"));
}

#[test]
fn the_cookie_of_erlang_is_refused_when_others_can_read_it() {
    let home = Home::new();
    for mode in [0o440, 0o404, 0o620] {
        home.cookie(".erlang.cookie", "HOMECOOKIE", mode);
        let error = load(home.flags(), home.environment(&[])).unwrap_err();
        assert_eq!(error.key, "cookie");
        assert!(error.problem.contains(&format!("{mode:04o}")), "{error}");
    }
    fs::remove_file(home.path(".erlang.cookie")).unwrap();
    let error = load(home.flags(), home.environment(&[])).unwrap_err();
    assert!(error.to_string().starts_with("cookie is missing"), "{error}");
}

#[test]
fn a_cookie_file_is_taken_before_the_one_of_erlang_and_warned_of_when_open() {
    let home = Home::new();
    let private = home.cookie("private", "PRIVATE\r\n", 0o600);
    let open = home.cookie("open", "OPEN", 0o644);
    let secret = ("ESDB_GATER_SECRET", "s");

    let flags = Flags { cookie_file: Some(private.clone()), ..home.flags() };
    let loaded = load(flags, home.environment(&[secret, ("ESDB_GATER_COOKIE", "X")])).unwrap();
    assert_eq!(loaded.config.cookie.expose_secret(), b"PRIVATE");
    assert!(loaded.warnings.is_empty());

    let variable = ("ESDB_GATER_COOKIE_FILE", open.to_str().unwrap());
    let loaded = load(home.flags(), home.environment(&[secret, variable])).unwrap();
    assert_eq!(loaded.config.cookie.expose_secret(), b"OPEN");
    assert!(loaded.warnings[0].contains("0644"), "{:?}", loaded.warnings);

    let flags = Flags { cookie: Some("FLAG".into()), ..home.flags() };
    let loaded = load(flags, home.environment(&[secret, variable])).unwrap();
    assert_eq!(loaded.config.cookie.expose_secret(), b"FLAG");
}

#[test]
fn secrets_show_in_no_error_and_in_no_debug_output() {
    let home = Home::new();
    let long = "hidden".repeat(100);
    let flags = Flags { cookie: Some(long.into()), ..home.flags() };
    let error = load(flags, home.environment(&[])).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
    let error = home.file("[security]\nhmac_secret = \"hidden\" \"hidden\"").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");

    let variables = [("ESDB_GATER_SECRET", "hidden"), ("ESDB_GATER_COOKIE", "hidden")];
    let loaded = load(home.flags(), home.environment(&variables)).unwrap();
    assert!(!format!("{loaded:?}").contains("hidden"));
}

#[test]
fn a_file_with_a_secret_that_others_can_get_at_is_refused() {
    let home = Home::new();
    let path = home.path("open.toml");
    for (text, key) in [
        ("cookie = 'c'", Some("cookie")),
        ("[security]\nhmac_secret = 's'", Some("security.hmac_secret")),
        ("listen = '127.0.0.1:1'", None),
    ] {
        fs::write(&path, text).unwrap();
        for mode in [0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let flags = Flags { config: Some(path.clone()), ..home.flags() };
            let outcome = load(flags, home.environment(&[]));
            match key {
                None => assert!(outcome.is_ok(), "{outcome:?}"),
                Some(key) => {
                    let error = outcome.unwrap_err();
                    assert_eq!(error.key, key);
                    assert!(error.problem.contains(&format!("{mode:04o}")), "{error}");
                    assert!(error.problem.contains("chmod 600"), "{error}");
                }
            }
        }
    }
}

#[test]
fn a_cookie_is_the_latin_1_characters_that_erlang_makes_of_it() {
    use std::os::unix::ffi::OsStringExt;
    let home = Home::new();
    let utf8 = ("LC_ALL", "en_US.UTF-8");
    let (text, latin1) = (&b"caf\xc3\xa9"[..], &b"caf\xe9"[..]);
    for (given, locale, expected) in [
        (text, utf8, latin1),
        (text, ("LANG", "de_DE.utf8"), latin1),
        // Erlang takes each byte of an argument for a character there.
        (text, ("LC_ALL", "C"), text),
        (latin1, ("LC_ALL", "C"), latin1),
        (latin1, utf8, latin1),
    ] {
        let given = OsString::from_vec(given.to_vec());
        let flags = Flags { cookie: Some(given.clone()), ..home.flags() };
        let config = load(flags, home.environment(&[locale])).unwrap().config;
        assert_eq!(config.cookie.expose_secret(), expected, "{given:?} {locale:?}");
    }
    for (written, expected) in [(text, latin1), (latin1, latin1)] {
        let file = home.path("cookie");
        fs::write(&file, [written, b"\n"].concat()).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let flags = Flags { cookie_file: Some(file), ..home.flags() };
        let config = load(flags, home.environment(&[("LC_ALL", "C")])).unwrap().config;
        assert_eq!(config.cookie.expose_secret(), expected);
    }
    let config = home.file("cookie = 'caf\u{e9}'").unwrap().config;
    assert_eq!(config.cookie.expose_secret(), latin1);
    let error = home.file("cookie = '\u{20ac}'").unwrap_err();
    assert!(error.problem.contains("Latin-1"), "{error}");
}

#[test]
fn the_log_filter_is_a_key_of_the_file_as_well() {
    let home = Home::new();
    assert_eq!(home.file("log = 'warn'").unwrap().config.log, "warn");
    let config = home.load(home.flags(), &[("ESDB_GATER_LOG", "debug")], "log = 'warn'");
    assert_eq!(config.unwrap().config.log, "debug");
    assert_eq!(home.file("log = '=[='").unwrap_err().key, "log");
}

#[test]
fn a_host_with_a_slash_does_not_lead_out_of_the_data_directory() {
    let home = Home::new();
    let flags = Flags { name: Some("a@../../x".into()), ..Flags::default() };
    let config = load(flags, home.environment(&[])).unwrap().config;
    assert_eq!(config.data_dir, home.path(".local/state/esdb-gater/a@.._.._x"));
}

#[test]
fn a_cookie_on_the_command_line_is_warned_of() {
    let home = Home::new();
    let secret = [("ESDB_GATER_SECRET", "s")];
    let flags = Flags { cookie: Some("FLAG".into()), ..home.flags() };
    let Loaded { config, warnings } = load(flags, home.environment(&secret)).unwrap();
    assert_eq!(config.cookie.expose_secret(), b"FLAG");
    assert!(
        matches!(&warnings[..], [warning] if warning.contains("--cookie-file")),
        "{warnings:?}"
    );
    let variables = [secret[0], ("ESDB_GATER_COOKIE", "VARIABLE")];
    assert!(load(home.flags(), home.environment(&variables)).unwrap().warnings.is_empty());
}
