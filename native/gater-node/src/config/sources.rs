//! The sources of values and their precedence.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretSlice;
use toml::{Table, Value};

use super::error::ConfigError;
use super::keys::{self, BUILD_VARIABLES, CONFIG_VARIABLE, KEYS, VARIABLE_PREFIX};
use super::value::{Given, Problem};

/// The length of the longest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The permission bits of everybody but the owner.
pub const OTHERS: u32 = 0o077;

/// The flags of the command line. An empty list is the same as no flag.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--name`.
    pub name: Option<String>,
    /// `--cookie`.
    pub cookie: Option<OsString>,
    /// `--cookie-file`.
    pub cookie_file: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// The values of all `--join` flags.
    pub join: Vec<String>,
    /// The values of all `--cluster` flags, each with or without commas.
    pub cluster: Vec<String>,
    /// `--cluster-key-file`.
    pub cluster_key_file: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--http`.
    pub http: Option<String>,
    /// `--embedded`.
    pub embedded: bool,
    /// The values that a BEAM passes that runs the gateway as its port (`--hosted`).
    pub hosted: Option<Hosted>,
}

/// The values that a BEAM passes to a gateway that it runs as its port.
#[derive(Debug, Clone, Default)]
pub struct Hosted {
    /// The configuration in TOML, which replaces a configuration file.
    pub configuration: String,
    /// The cookie of the BEAM, in Latin-1.
    pub cookie: Option<Vec<u8>>,
    /// Whether the registry is kept in memory and nothing is written.
    pub in_memory: bool,
    /// Whether the BEAM has no name and is the only peer, over standard input and output.
    pub piped: bool,
}

/// The environment variables of a process.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Returns an environment with the given variables.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// Returns the environment with one variable set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: Vec<u8>) -> Self {
        self.0.insert(name.into(), OsString::from_vec(value));
        self
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns whether the locale is UTF-8, according to the variables that C libraries use.
    pub fn is_utf8(&self) -> bool {
        let set = |name| self.get(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    }
}

/// A cookie in the form in which it was given.
pub enum Cookie {
    /// Characters, to be converted to Latin-1.
    Text(String),
    /// Bytes, to be used unchanged.
    Bytes(Vec<u8>),
}

/// All sources of values.
pub struct Sources {
    flags: BTreeMap<&'static str, Value>,
    /// The cookie of the BEAM that runs this program as its port, in Latin-1.
    hosted_cookie: Option<Vec<u8>>,
    /// The flag `--cookie`, the only one that need not be UTF-8.
    cookie_flag: Option<OsString>,
    environment: Environment,
    file: Table,
    file_name: String,
    /// The permission bits of the configuration file.
    file_mode: u32,
    warnings: Vec<String>,
}

impl Sources {
    /// Returns the sources after reading the configuration file, if there is one.
    pub fn new(flags: Flags, environment: Environment) -> Result<Self, ConfigError> {
        let (path, origin) = match (&flags.config, environment.get(CONFIG_VARIABLE)) {
            (Some(path), _) => (Some(path.clone()), "--config"),
            (None, Some(path)) => (Some(PathBuf::from(path)), CONFIG_VARIABLE),
            (None, None) => (None, ""),
        };
        let hosted = flags.hosted.clone();
        let (file, file_name, file_mode) = match (&hosted, &path) {
            (Some(hosted), _) => {
                let name = "standard input";
                let table = parse(&hosted.configuration, name)
                    .map_err(|problem| ConfigError::new("config", name, problem))?;
                (table, name.to_owned(), 0)
            }
            (None, Some(path)) => {
                let (table, mode) = read_file(path)
                    .map_err(|problem| ConfigError::new("config", origin, problem))?;
                (table, path.display().to_string(), mode)
            }
            (None, None) => (Table::new(), String::new(), 0),
        };
        let mut sources = Self {
            hosted_cookie: hosted.and_then(|hosted| hosted.cookie),
            cookie_flag: flags.cookie.clone(),
            flags: flag_values(flags)?,
            environment,
            file,
            file_name,
            file_mode,
            warnings: Vec::new(),
        };
        sources.check_keys()?;
        sources.check_variables();
        Ok(sources)
    }

    /// Returns the value of the key at `path` from the first source that has it, parsed by `parse`.
    pub fn take<T>(
        &self,
        path: &str,
        parse: impl FnOnce(Given<'_>) -> Result<T, Problem>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((origin, value, is_text)) = self.find(path)? else { return Ok(None) };
        let given = if is_text { Given::text(&value) } else { Given::typed(&value) };
        parse(given).map(Some).map_err(|problem| ConfigError::new(path, &origin, problem))
    }

    /// Does the same as [`Sources::take`] for a value that must not be displayed and need not be
    /// text.
    pub fn take_secret(&self, path: &str) -> Result<Option<SecretSlice<u8>>, ConfigError> {
        let variable = keys::variable(path);
        let set = variable.and_then(|name| Some((name, self.environment.get(name)?)));
        let (origin, bytes) = match set {
            Some((name, value)) => (name.to_owned(), Some(value.as_bytes().to_vec())),
            None => match self.in_file(path) {
                None => return Ok(None),
                Some(value) => {
                    self.check_private(path)?;
                    (self.file_name.clone(), value.as_str().map(|text| text.as_bytes().to_vec()))
                }
            },
        };
        match bytes {
            Some(bytes) if !bytes.is_empty() => Ok(Some(bytes.into())),
            _ => Err(ConfigError::new(path, &origin, "must be a text that is not empty")),
        }
    }

    /// Returns the cookie from the first source that has it, without checking it. Errors do not
    /// contain it.
    pub fn cookie(&self) -> Result<Option<Cookie>, ConfigError> {
        if let Some(cookie) = &self.hosted_cookie {
            return Ok(Some(Cookie::Bytes(cookie.clone())));
        }
        let variable = keys::variable("cookie").and_then(|name| self.environment.get(name));
        if let Some(text) = self.cookie_flag.as_deref().or(variable) {
            return Ok(Some(match text.to_str() {
                Some(text) if self.environment.is_utf8() => Cookie::Text(text.into()),
                _ => Cookie::Bytes(text.as_bytes().to_vec()),
            }));
        }
        let Some(value) = self.in_file("cookie") else { return Ok(None) };
        self.check_private("cookie")?;
        Ok(Some(Cookie::Text(value.as_str().unwrap_or_default().into())))
    }

    /// Returns whether the cookie in use was given on the command line.
    pub fn has_cookie_flag(&self) -> bool {
        self.hosted_cookie.is_none() && self.cookie_flag.is_some()
    }

    /// Where the cookie that is used comes from, if it is no file of its own.
    pub fn origin_of_cookie(&self) -> String {
        if self.hosted_cookie.is_some() {
            "the BEAM that runs this program".into()
        } else if self.cookie_flag.is_some() {
            "--cookie".into()
        } else {
            self.origin("cookie")
        }
    }

    /// Refuses a secret at `path` of the configuration file if others have access to the file.
    fn check_private(&self, path: &str) -> Result<(), ConfigError> {
        if self.file_mode & OTHERS == 0 {
            return Ok(());
        }
        let problem = format!(
            "must not be in a file that others can get at (mode {:04o}): chmod 600 the file",
            self.file_mode
        );
        Err(ConfigError::new(path, &self.file_name, problem))
    }

    /// Returns the source of the effective value of `path`, or an empty text if there is none.
    pub fn origin(&self, path: &str) -> String {
        self.find(path).ok().flatten().map_or_else(String::new, |(origin, _, _)| origin)
    }

    /// Returns the rank of the source of the effective value of `path`, or `None` if there is none.
    /// Flags have rank 0.
    pub fn rank(&self, path: &str) -> Option<u8> {
        let cookie = self.cookie_flag.is_some() || self.hosted_cookie.is_some();
        if self.flags.contains_key(path) || (path == "cookie" && cookie) {
            Some(0)
        } else if keys::variable(path).is_some_and(|name| self.environment.get(name).is_some()) {
            Some(1)
        } else {
            self.in_file(path).map(|_| 2)
        }
    }

    /// Returns the error for a value of `path` that was taken but is invalid.
    pub fn bad(&self, path: &str, problem: &str) -> ConfigError {
        ConfigError::new(path, &self.origin(path), problem)
    }

    /// Returns the tables of the file under `channels`, by name.
    pub fn channels(&self) -> impl Iterator<Item = (&String, &Table)> {
        let channels = self.file.get("channels").and_then(Value::as_table);
        channels.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_table()?)))
    }

    /// Returns the name of the configuration file.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Returns the environment.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Adds a warning.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Returns all warnings.
    pub fn finish(self) -> Vec<String> {
        self.warnings
    }

    /// Returns the source of the effective value, the value, and whether it is text because the
    /// source has no types.
    fn find(&self, path: &str) -> Result<Option<(String, Value, bool)>, ConfigError> {
        if let Some((flag, value)) = self.flags.get_key_value(path) {
            return Ok(Some((keys::flag(flag), value.clone(), true)));
        }
        if let Some(name) = keys::variable(path)
            && let Some(text) = self.environment.get(name)
        {
            let text = text
                .to_str()
                .ok_or_else(|| ConfigError::new(path, name, "must be text in UTF-8"))?;
            return Ok(Some((name.into(), Value::String(text.into()), true)));
        }
        Ok(self.in_file(path).map(|value| (self.file_name.clone(), value.clone(), false)))
    }

    fn in_file(&self, path: &str) -> Option<&Value> {
        match path.split_once('.') {
            Some((section, key)) => self.file.get(section)?.get(key),
            None => self.file.get(path),
        }
    }

    /// Warns of unknown keys, and refuses other values where a table is required.
    fn check_keys(&mut self) -> Result<(), ConfigError> {
        let mut unknown = Vec::new();
        let table = |path: &str, value: &Value| {
            let problem = "must be a table";
            value
                .as_table()
                .cloned()
                .ok_or_else(|| ConfigError::new(path, &self.file_name, problem))
        };
        for (name, value) in &self.file {
            let section = format!("{name}.");
            if name == "channels" {
                for (channel, value) in table(name, value)? {
                    let path = format!("channels.{channel}");
                    for key in table(&path, &value)?.keys() {
                        if !keys::CHANNEL_KEYS.contains(&key.as_str()) {
                            let wrong = format!("{path}.{key}");
                            let known = keys::CHANNEL_KEYS.map(|key| format!("{path}.{key}"));
                            let near = keys::meant(&wrong, known);
                            unknown.push((wrong, near));
                        }
                    }
                }
            } else if KEYS.iter().any(|key| key.path.starts_with(&section)) {
                for key in table(name, value)?.keys() {
                    let path = format!("{name}.{key}");
                    if !KEYS.iter().any(|key| key.path == path) {
                        unknown.push((path.clone(), nearest_key(&path)));
                    }
                }
            } else if !KEYS.iter().any(|key| key.path == name) {
                unknown.push((name.clone(), nearest_key(name)));
            }
        }
        for (path, near) in unknown {
            let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            let file = self.file_name.clone();
            self.warn(format!("unknown configuration key {path} in {file}{near}"));
        }
        Ok(())
    }

    /// Warns of unknown variables with the prefix of the gateway.
    fn check_variables(&mut self) {
        let known = || {
            let of_keys = KEYS.iter().filter_map(|key| key.variable);
            of_keys.chain([CONFIG_VARIABLE])
        };
        let mut unknown = Vec::new();
        for name in self.environment.0.keys() {
            let name = name.to_string_lossy();
            let Some(own) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            if known().chain(BUILD_VARIABLES).any(|known| known == name) {
                continue;
            }
            // A name is not near if more than half of its letters would have to be changed.
            let near = keys::nearest(&name, known())
                .filter(|(distance, _)| *distance <= own.chars().count() / 2)
                .map_or_else(String::new, |(_, near)| format!("; did you mean {near}?"));
            unknown.push(format!("unknown variable {name}{near}"));
        }
        self.warnings.extend(unknown);
    }
}

/// Returns the known key that `wrong` was probably meant to be.
fn nearest_key(wrong: &str) -> Option<String> {
    // The keys below `channels` are names that the user chooses.
    let keys = KEYS.iter().map(|key| key.path).filter(|path| *path != "channels");
    keys::meant(wrong, keys.chain(keys::SECTIONS.iter().copied()).map(Into::into))
}

fn flag_values(flags: Flags) -> Result<BTreeMap<&'static str, Value>, ConfigError> {
    let mut values = BTreeMap::new();
    let texts = [("name", flags.name), ("listen", flags.listen), ("http.listen", flags.http)];
    for (key, text) in texts {
        values.extend(text.map(|text| (key, Value::String(text))));
    }
    let paths = [
        ("cookie_file", flags.cookie_file),
        ("data_dir", flags.data_dir),
        ("cluster.key_file", flags.cluster_key_file),
    ];
    for (key, path) in paths {
        if let Some(path) = path {
            let text = String::from_utf8(path.into_os_string().into_vec())
                .map_err(|_| ConfigError::new(key, &keys::flag(key), "must be UTF-8"))?;
            values.insert(key, Value::String(text));
        }
    }
    if !flags.cluster.is_empty() {
        values.insert("cluster.members", Value::String(flags.cluster.join(",")));
    }
    if !flags.join.is_empty() {
        let names = flags.join.into_iter().map(Value::String).collect();
        values.insert("join", Value::Array(names));
    }
    Ok(values)
}

/// Reads a file, and returns its table with its permission bits.
fn read_file(path: &Path) -> Result<(Table, u32), Problem> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let file = fs::File::open(path).map_err(cannot)?;
    // The permissions are those of the open file, so they apply to the bytes that are read.
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("{} is longer than {MAX_FILE_BYTES} bytes", path.display()));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(cannot)?;
    let table = parse(&text, &path.display().to_string())?;
    Ok((table, metadata.permissions().mode() & 0o7777))
}

fn parse(text: &str, name: &str) -> Result<Table, Problem> {
    text.parse().map_err(|error: toml::de::Error| {
        // The full error would quote the line, which may contain a secret, so only its position is
        // shown.
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        format!("{name} is not TOML, line {line}: {}", error.message())
    })
}
