//! What values may be. A value comes from TOML with its type, or as text from a
//! flag or a variable; both are taken. The errors complete "KEY ...".

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use gater_core::channel::{Hmac, Priority};
use toml::Value;

use crate::observe::logs;

/// What is wrong with a value.
pub type Problem = String;

/// The longest time that can be configured: a year. Beyond it clocks would overflow.
const MAX_SECONDS: i64 = 366 * 24 * 60 * 60;

fn must_be(expected: &str, value: &Value) -> Problem {
    let shown: String = value.to_string().chars().take(80).collect();
    format!("must be {expected}, but is {shown}")
}

fn integer(value: &Value, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let number = match value {
        Value::Integer(number) => *number,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    range.contains(&number).then_some(number)
}

/// What is logged.
pub fn log_filter(value: &Value) -> Result<String, Problem> {
    let Some(filter) = value.as_str() else { return Err(must_be("a text", value)) };
    logs::check(filter).map(|()| filter.to_owned()).map_err(|error| error.to_string())
}

/// Text that is not empty.
pub fn text(value: &Value) -> Result<String, Problem> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.into()),
        _ => Err(must_be("a text that is not empty", value)),
    }
}

/// A path.
pub fn path(value: &Value) -> Result<PathBuf, Problem> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.into()),
        _ => Err(must_be("a path", value)),
    }
}

/// The full name of a node.
pub fn node_name(value: &Value) -> Result<String, Problem> {
    match value.as_str() {
        Some(name) if is_node_name(name) => Ok(name.into()),
        _ => Err(must_be("a node name such as gater@127.0.0.1", value)),
    }
}

/// Names of nodes: a list, or text with commas between them.
pub fn node_names(value: &Value) -> Result<Vec<String>, Problem> {
    let names = match value {
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect())
        }
        _ => None,
    };
    names
        .filter(|names: &Vec<&str>| names.iter().all(|name| is_node_name(name)))
        .map(|names| names.into_iter().map(Into::into).collect())
        .ok_or_else(|| must_be("a list of node names", value))
}

/// As OTP has it: letters, digits, `_` and `-`, then `@`, then a host.
pub fn is_node_name(name: &str) -> bool {
    let Some((alive, host)) = name.split_once('@') else { return false };
    name.len() <= 255
        && !alive.is_empty()
        && alive.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        && !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'@' | b'\''))
}

/// An address with a port.
pub fn socket_address(value: &Value) -> Result<SocketAddr, Problem> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| must_be("an address and a port such as 127.0.0.1:0", value))
}

/// Seconds, at least one.
pub fn seconds(value: &Value) -> Result<Duration, Problem> {
    integer(value, 1..=MAX_SECONDS)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .ok_or_else(|| must_be("seconds, a whole number from 1 (and no more than a year)", value))
}

/// The time after which silent nodes are disconnected.
pub fn ticktime(value: &Value) -> Result<Duration, Problem> {
    integer(value, 4..=3600)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .ok_or_else(|| must_be("seconds, a whole number from 4 to 3600", value))
}

/// Milliseconds, also none.
pub fn milliseconds(value: &Value) -> Result<Duration, Problem> {
    integer(value, 0..=MAX_SECONDS * 1000)
        .and_then(|milliseconds| u64::try_from(milliseconds).ok())
        .map(Duration::from_millis)
        .ok_or_else(|| must_be("milliseconds, a whole number from 0", value))
}

/// A number of things, at least one.
pub fn positive(value: &Value) -> Result<NonZeroU32, Problem> {
    integer(value, 1..=u32::MAX.into())
        .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
        .ok_or_else(|| must_be("a whole number from 1", value))
}

/// A number of things in memory, at least one.
pub fn count(value: &Value) -> Result<usize, Problem> {
    positive(value).map(|number| usize::try_from(number.get()).unwrap_or(usize::MAX))
}

/// Messages per second; `None` is without limit.
pub fn rate(value: &Value) -> Result<Option<NonZeroU32>, Problem> {
    if matches!(value.as_str(), Some("infinity" | "unlimited")) {
        return Ok(None);
    }
    let number = positive(value);
    number
        .map(Some)
        .map_err(|_| must_be("messages per second, a whole number from 1, or \"infinity\"", value))
}

/// A priority.
pub fn priority(value: &Value) -> Result<Priority, Problem> {
    match value.as_str() {
        Some("critical") => Ok(Priority::Critical),
        Some("high") => Ok(Priority::High),
        Some("normal") => Ok(Priority::Normal),
        Some("low") => Ok(Priority::Low),
        _ => Err(must_be("\"critical\", \"high\", \"normal\" or \"low\"", value)),
    }
}

/// Whether messages must be signed.
pub fn hmac(value: &Value) -> Result<Hmac, Problem> {
    match value.as_str() {
        Some("required") => Ok(Hmac::Required),
        Some("optional") => Ok(Hmac::Optional),
        _ => Err(must_be("\"required\" or \"optional\"", value)),
    }
}

/// Yes or no.
pub fn flag(value: &Value) -> Result<bool, Problem> {
    let flag = value.as_bool().or_else(|| value.as_str()?.trim().parse().ok());
    flag.ok_or_else(|| must_be("true or false", value))
}

/// The telemetry handlers of the BEAM side: a list that may hold `"logger"`.
pub fn telemetry_handlers(value: &Value) -> Result<(), Problem> {
    match value.as_array() {
        Some(names) if names.iter().all(|name| name.as_str() == Some("logger")) => Ok(()),
        _ => Err(must_be("a list that may hold \"logger\"", value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_value(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn numbers_are_taken_as_numbers_and_as_text() {
        assert_eq!(seconds(&Value::Integer(7)), Ok(Duration::from_secs(7)));
        assert_eq!(seconds(&text_value("7")), Ok(Duration::from_secs(7)));
        for bad in [Value::Integer(0), Value::Integer(-1), Value::Float(1.0), text_value("x")] {
            assert!(seconds(&bad).is_err(), "{bad}");
        }
        assert!(seconds(&Value::Integer(i64::MAX)).is_err());
        assert_eq!(milliseconds(&Value::Integer(0)), Ok(Duration::ZERO));
    }

    #[test]
    fn node_names_are_those_of_otp() {
        assert!(node_name(&text_value("gater@127.0.0.1")).is_ok());
        for bad in ["", "gater", "@h", "gater@", "a@b@c", "a b@h", "gäter@h", "g@h h"] {
            assert!(node_name(&text_value(bad)).is_err(), "{bad}");
        }
        assert_eq!(
            node_names(&text_value("a@h, b@h,")),
            Ok(vec!["a@h".to_owned(), "b@h".to_owned()])
        );
        assert!(node_names(&Value::Array(vec![text_value("a")])).is_err());
    }

    #[test]
    fn a_rate_is_a_number_or_infinity() {
        assert_eq!(rate(&Value::Integer(5)), Ok(NonZeroU32::new(5)));
        assert_eq!(rate(&text_value("infinity")), Ok(None));
        assert!(rate(&Value::Integer(0)).is_err());
        assert!(rate(&Value::Integer(1 << 32)).is_err());
    }
}
