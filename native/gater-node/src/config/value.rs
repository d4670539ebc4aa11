//! Parsers of values. A value comes from TOML with its type, or as text from a flag or a variable,
//! which have no types. Errors complete a sentence that begins with the key.
//!
//! `esdb_gater_config` of the application has the same rules.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use gater_core::capability::PublicKey;
use gater_core::channel::{Hmac, Priority};
use hyper::Uri;
use toml::Value;

use super::Http;
use super::capabilities::Mode;
use super::otlp;
use crate::observe::logs;

/// The problem with a value, as the end of a sentence.
pub type Problem = String;

/// The longest time that can be configured, a year, in seconds. Much longer times would overflow
/// clocks.
const MAX_SECONDS: i64 = 366 * 24 * 60 * 60;
/// The longest time of a BEAM's timer in milliseconds.
const MAX_MILLISECONDS: i64 = 0xffff_ffff;

/// A value in the form in which it was given.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    value: &'a Value,
    is_text: bool,
}

impl<'a> Given<'a> {
    /// Returns a value with a type, from the file.
    pub fn typed(value: &'a Value) -> Self {
        Self { value, is_text: false }
    }

    /// Returns a value of a flag or a variable, which is always text or a list of texts.
    pub fn text(value: &'a Value) -> Self {
        Self { value, is_text: true }
    }

    /// Returns the text, or `None` if the value is not text.
    pub fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    fn as_integer(&self) -> Option<i64> {
        match self.value {
            Value::String(text) if self.is_text => text.trim().parse().ok(),
            value => value.as_integer(),
        }
    }

    fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::String(text) if self.is_text => text.trim().parse().ok(),
            value => value.as_bool(),
        }
    }
}

fn must_be(expected: &str, given: Given<'_>) -> Problem {
    let shown: String = given.value.to_string().chars().take(80).collect();
    format!("must be {expected}, but is {shown}")
}

fn integer(given: Given<'_>, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    given.as_integer().filter(|number| range.contains(number))
}

/// Parses a log filter.
pub fn log_filter(given: Given<'_>) -> Result<String, Problem> {
    let Some(filter) = given.as_str() else { return Err(must_be("a text", given)) };
    logs::check(filter).map(|()| filter.to_owned()).map_err(|error| error.to_string())
}

/// Parses text that is not empty.
pub fn text(given: Given<'_>) -> Result<String, Problem> {
    match given.as_str() {
        Some(text) if !text.is_empty() => Ok(text.into()),
        _ => Err(must_be("a text that is not empty", given)),
    }
}

/// Parses a path.
pub fn path(given: Given<'_>) -> Result<PathBuf, Problem> {
    match given.as_str() {
        Some(text) if !text.is_empty() && !text.contains('\0') => Ok(text.into()),
        _ => Err(must_be("a path", given)),
    }
}

/// Parses the full name of a node.
pub fn node_name(given: Given<'_>) -> Result<String, Problem> {
    match given.as_str() {
        Some(name) if is_node_name(name) => Ok(name.into()),
        _ => Err(must_be("a node name such as gater@127.0.0.1", given)),
    }
}

/// Parses names of nodes: a list, or text with commas between the names.
pub fn node_names(given: Given<'_>) -> Result<Vec<String>, Problem> {
    let names = match given.value {
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect())
        }
        _ => None,
    };
    names
        .filter(|names: &Vec<&str>| names.iter().all(|name| is_node_name(name)))
        .map(|names| names.into_iter().map(Into::into).collect())
        .ok_or_else(|| must_be("a list of node names", given))
}

/// Returns whether OTP accepts the text as a node name: letters, digits, `_` and `-`, then `@`,
/// then a host.
pub fn is_node_name(name: &str) -> bool {
    let Some((alive, host)) = name.split_once('@') else { return false };
    name.len() <= 255
        && !alive.is_empty()
        && alive.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        && !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'@' | b'\''))
}

/// Parses an address with a port.
pub fn socket_address(given: Given<'_>) -> Result<SocketAddr, Problem> {
    let parsed = given.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| must_be("an address and a port such as 127.0.0.1:0", given))
}

/// Parses where HTTP is served: an address with a port, or `off`.
pub fn http(given: Given<'_>) -> Result<Http, Problem> {
    if given.as_str() == Some("off") {
        return Ok(Http::Off);
    }
    let parsed = given.as_str().and_then(|text| text.parse().ok()).map(Http::Listen);
    parsed.ok_or_else(|| must_be("an address and a port such as 127.0.0.1:9468, or \"off\"", given))
}

/// Parses the address of an OpenTelemetry collector.
pub fn http_uri(given: Given<'_>) -> Result<Uri, Problem> {
    let parsed = given.as_str().and_then(|text| text.parse().ok()).filter(otlp::is_http);
    parsed.ok_or_else(|| must_be("an address such as http://127.0.0.1:4318, without TLS", given))
}

/// Parses a positive number of seconds.
pub fn seconds(given: Given<'_>) -> Result<Duration, Problem> {
    integer(given, 1..=MAX_SECONDS)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .ok_or_else(|| must_be("seconds, a whole number from 1 to 31622400 (a year)", given))
}

/// Parses the time after which silent nodes are disconnected.
pub fn ticktime(given: Given<'_>) -> Result<Duration, Problem> {
    integer(given, 4..=3600)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .ok_or_else(|| must_be("seconds, a whole number from 4 to 3600", given))
}

/// Parses a number of milliseconds, which may be 0.
pub fn milliseconds(given: Given<'_>) -> Result<Duration, Problem> {
    integer(given, 0..=MAX_MILLISECONDS)
        .and_then(|milliseconds| u64::try_from(milliseconds).ok())
        .map(Duration::from_millis)
        .ok_or_else(|| must_be("milliseconds, a whole number from 0 to 4294967295", given))
}

/// Parses a positive number.
pub fn positive(given: Given<'_>) -> Result<NonZeroU32, Problem> {
    integer(given, 1..=u32::MAX.into())
        .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
        .ok_or_else(|| must_be("a whole number from 1 to 4294967295", given))
}

/// Parses a positive number of items in memory.
pub fn count(given: Given<'_>) -> Result<usize, Problem> {
    positive(given).map(|number| usize::try_from(number.get()).unwrap_or(usize::MAX))
}

/// Parses a number of messages per second; `None` means no limit.
pub fn rate(given: Given<'_>) -> Result<Option<NonZeroU32>, Problem> {
    if given.as_str() == Some("infinity") {
        return Ok(None);
    }
    let expected = "messages per second, a whole number from 1 to 4294967295, or \"infinity\"";
    positive(given).map(Some).map_err(|_| must_be(expected, given))
}

/// Parses a number of retries, which may be 0.
pub fn retries(given: Given<'_>) -> Result<u32, Problem> {
    integer(given, 0..=i64::from(u32::MAX) - 1)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| must_be("a whole number from 0 to 4294967294", given))
}

/// Parses a time in milliseconds after the first call; `None` means no end.
pub fn deadline(given: Given<'_>) -> Result<Option<Duration>, Problem> {
    if given.as_str() == Some("infinity") {
        return Ok(None);
    }
    let expected = "milliseconds, a whole number from 1 to 4294967295, or \"infinity\"";
    match milliseconds(given) {
        Ok(deadline) if !deadline.is_zero() => Ok(Some(deadline)),
        _ => Err(must_be(expected, given)),
    }
}

/// Parses the mode of capability tokens.
pub fn capability_mode(given: Given<'_>) -> Result<Mode, Problem> {
    word(given, &["disabled", "optional", "required"]).map(|word| match word {
        "optional" => Mode::Optional,
        "required" => Mode::Required,
        _ => Mode::Disabled,
    })
}

/// Parses `did:key` names of Ed25519 keys.
pub fn dids(given: Given<'_>) -> Result<Vec<String>, Problem> {
    let texts = given.value.as_array().map(|values| values.iter().map(Value::as_str).collect());
    texts
        .flatten()
        .filter(|dids: &Vec<&str>| dids.iter().all(|did| PublicKey::from_did(did).is_ok()))
        .map(|dids| dids.into_iter().map(Into::into).collect())
        .ok_or_else(|| must_be("a list of did:key names of Ed25519 keys", given))
}

/// Parses one of the given words.
pub fn word(given: Given<'_>, words: &[&'static str]) -> Result<&'static str, Problem> {
    let found = words.iter().find(|word| given.as_str() == Some(**word));
    found.copied().ok_or_else(|| {
        let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        must_be(&words.join(" or "), given)
    })
}

/// Parses a priority.
pub fn priority(given: Given<'_>) -> Result<Priority, Problem> {
    match given.as_str() {
        Some("critical") => Ok(Priority::Critical),
        Some("high") => Ok(Priority::High),
        Some("normal") => Ok(Priority::Normal),
        Some("low") => Ok(Priority::Low),
        _ => Err(must_be("\"critical\", \"high\", \"normal\" or \"low\"", given)),
    }
}

/// Parses whether messages must be signed.
pub fn hmac(given: Given<'_>) -> Result<Hmac, Problem> {
    match given.as_str() {
        Some("required") => Ok(Hmac::Required),
        Some("optional") => Ok(Hmac::Optional),
        _ => Err(must_be("\"required\" or \"optional\"", given)),
    }
}

/// Parses a boolean.
pub fn flag(given: Given<'_>) -> Result<bool, Problem> {
    given.as_bool().ok_or_else(|| must_be("true or false", given))
}

/// Parses the telemetry handlers of the BEAM side, a list that may contain `"logger"` and
/// `"opentelemetry"`.
pub fn telemetry_handlers(given: Given<'_>) -> Result<(), Problem> {
    match given.value.as_array() {
        Some(names)
            if names
                .iter()
                .all(|name| matches!(name.as_str(), Some("logger" | "opentelemetry"))) =>
        {
            Ok(())
        }
        _ => Err(must_be("a list that may hold \"logger\" and \"opentelemetry\"", given)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_value(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn text_is_a_number_or_a_boolean_only_where_there_are_no_types() {
        assert_eq!(seconds(Given::typed(&Value::Integer(7))), Ok(Duration::from_secs(7)));
        assert_eq!(seconds(Given::text(&text_value("7"))), Ok(Duration::from_secs(7)));
        assert!(seconds(Given::typed(&text_value("7"))).is_err());
        assert_eq!(flag(Given::text(&text_value("true"))), Ok(true));
        assert!(flag(Given::typed(&text_value("true"))).is_err());
        for bad in [Value::Integer(0), Value::Integer(-1), Value::Float(1.0), text_value("x")] {
            assert!(seconds(Given::typed(&bad)).is_err(), "{bad}");
        }
        assert!(seconds(Given::typed(&Value::Integer(i64::MAX))).is_err());
        assert_eq!(milliseconds(Given::typed(&Value::Integer(0))), Ok(Duration::ZERO));
    }

    #[test]
    fn node_names_are_those_of_otp() {
        assert!(node_name(Given::typed(&text_value("gater@127.0.0.1"))).is_ok());
        for bad in ["", "gater", "@h", "gater@", "a@b@c", "a b@h", "gäter@h", "g@h h"] {
            assert!(node_name(Given::typed(&text_value(bad))).is_err(), "{bad}");
        }
        assert_eq!(
            node_names(Given::typed(&text_value("a@h, b@h,"))),
            Ok(vec!["a@h".to_owned(), "b@h".to_owned()])
        );
        assert!(node_names(Given::typed(&Value::Array(vec![text_value("a")]))).is_err());
    }

    #[test]
    fn a_rate_is_a_number_or_infinity() {
        assert_eq!(rate(Given::typed(&Value::Integer(5))), Ok(NonZeroU32::new(5)));
        assert_eq!(rate(Given::typed(&text_value("infinity"))), Ok(None));
        assert!(rate(Given::typed(&Value::Integer(0))).is_err());
        assert!(rate(Given::typed(&Value::Integer(1 << 32))).is_err());
    }
}
