//! Where spans and metrics are sent: `otlp.endpoint`, and the standard variables of OpenTelemetry.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::error::ConfigError;
use super::sources::Sources;
use super::value;

/// The share of operations that are followed unless `OTEL_TRACES_SAMPLER` says otherwise: a gateway
/// publishes hundreds of thousands of messages in a second.
const DEFAULT_SHARE: f64 = 0.01;
/// The longest time that a variable may set.
const MAX_MILLISECONDS: u64 = 24 * 60 * 60 * 1000;

/// How spans and metrics are sent to a collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// Where spans go; `None` if they are not sent.
    pub traces: Option<Uri>,
    /// Where metrics go; `None` if they are not sent.
    pub metrics: Option<Uri>,
    /// Headers of each request.
    pub headers: Vec<(String, String)>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Attributes of the resource, which go before the gateway's own.
    pub resource: Vec<(String, String)>,
    /// The share of operations that are followed, from 0 to 1.
    pub share: f64,
    /// The time between two readings of the metrics.
    pub metric_interval: Duration,
    /// The time between two looks for spans.
    pub span_delay: Duration,
}

/// Returns how to send, or nothing if no endpoint is configured. A variable of OpenTelemetry with a
/// bad value counts as not set, as its specification says, and is warned of.
pub fn load(sources: &mut Sources) -> Result<Option<Otlp>, ConfigError> {
    let base = sources.take("otlp.endpoint", value::http_uri)?;
    let mut variables = Variables { sources };
    if variables.parse("OTEL_SDK_DISABLED", "true or false", flag) == Some(true) {
        return Ok(None);
    }
    let traces = variables.endpoint(base.as_ref(), "TRACES", "/v1/traces");
    let metrics = variables.endpoint(base.as_ref(), "METRICS", "/v1/metrics");
    if traces.is_none() && metrics.is_none() {
        return Ok(None);
    }
    let protocol = |text: &str| (text == "http/protobuf").then_some(());
    variables.parse("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", protocol);
    let list = "KEY=VALUE with commas between";
    let mut resource = variables.parse("OTEL_RESOURCE_ATTRIBUTES", list, pairs).unwrap_or_default();
    if let Some(name) = variables.text("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), name));
    }
    let milliseconds = "milliseconds, a whole number from 1 to 86400000";
    Ok(Some(Otlp {
        share: if traces.is_some() { variables.share() } else { 0.0 },
        traces,
        metrics,
        headers: variables.parse("OTEL_EXPORTER_OTLP_HEADERS", list, headers).unwrap_or_default(),
        timeout: variables
            .parse("OTEL_EXPORTER_OTLP_TIMEOUT", milliseconds, millis)
            .unwrap_or(Duration::from_secs(10)),
        resource,
        metric_interval: variables
            .parse("OTEL_METRIC_EXPORT_INTERVAL", milliseconds, millis)
            .unwrap_or(Duration::from_secs(60)),
        span_delay: variables
            .parse("OTEL_BSP_SCHEDULE_DELAY", milliseconds, millis)
            .unwrap_or(Duration::from_secs(5)),
    }))
}

/// The variables of OpenTelemetry.
struct Variables<'a> {
    sources: &'a mut Sources,
}

impl Variables<'_> {
    /// The value of a variable; an empty one is as good as none.
    fn text(&self, name: &str) -> Option<String> {
        let value = self.sources.environment().get(name)?.to_str()?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    }

    fn parse<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.sources.warn(format!("{name} has no effect: it must be {expected}"));
        }
        parsed
    }

    /// Where a signal goes: where its own variable says, or to its path at the common address.
    fn endpoint(&mut self, base: Option<&Uri>, signal: &str, path: &str) -> Option<Uri> {
        if self.text(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|name| name == "none") {
            return None;
        }
        let name = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let own = self.parse(&name, "an address such as http://127.0.0.1:4318/v1/traces", |text| {
            text.parse().ok().filter(is_http)
        });
        own.or_else(|| {
            let base = base?.to_string();
            format!("{}{path}", base.trim_end_matches('/')).parse().ok()
        })
    }

    fn share(&mut self) -> f64 {
        let sampler = self.text("OTEL_TRACES_SAMPLER").unwrap_or_default();
        match sampler.trim_start_matches("parentbased_") {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let expected = "a number from 0 to 1";
                self.parse("OTEL_TRACES_SAMPLER_ARG", expected, share).unwrap_or(1.0)
            }
            "" => DEFAULT_SHARE,
            _ => {
                let expected = "always_on, always_off or traceidratio";
                self.sources
                    .warn(format!("OTEL_TRACES_SAMPLER has no effect: it must be {expected}"));
                DEFAULT_SHARE
            }
        }
    }
}

/// Whether it is an address that can be sent to: without TLS, with a host.
pub(super) fn is_http(uri: &Uri) -> bool {
    uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
}

fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

fn millis(text: &str) -> Option<Duration> {
    let number = text.parse().ok().filter(|number| (1..=MAX_MILLISECONDS).contains(number))?;
    Some(Duration::from_millis(number))
}

/// `KEY=VALUE,KEY=VALUE`, values with `%` before two digits where a character cannot stand itself.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=')?;
            Some((key.trim().to_owned(), decoded(value.trim())?))
        })
        .collect()
}

fn headers(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = pairs(text)?;
    let good = |(name, value): &(String, String)| {
        HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
    };
    pairs.iter().all(good).then_some(pairs)
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags, Loaded};

    fn loaded(variables: &[(&str, &str)]) -> (Option<Otlp>, Vec<String>) {
        let flags =
            Flags { name: Some("g@h".into()), cookie: Some("c".into()), ..Flags::default() };
        let pairs = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let Loaded { config, warnings } =
            crate::config::load(flags, Environment::new(pairs)).unwrap();
        let own = warnings.into_iter().filter(|text| text.contains("OTEL_")).collect();
        (config.otlp, own)
    }

    #[test]
    fn the_standard_variables_say_where_and_how() {
        assert_eq!(loaded(&[]), (None, Vec::new()));
        let (otlp, warnings) = loaded(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/base/"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:1/m"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20key, x = y"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.name=one"),
            ("OTEL_SERVICE_NAME", "two"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ]);
        let otlp = otlp.unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(otlp.traces.unwrap(), "http://collector:4318/base/v1/traces");
        assert_eq!(otlp.metrics.unwrap(), "http://other:1/m");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(otlp.headers, [pair("api-key", "a key"), pair("x", "y")]);
        let resource = [pair("deployment.environment", "test"), pair("service.name", "two")];
        assert_eq!(otlp.resource, resource);
        assert_eq!((otlp.share, otlp.metric_interval), (0.25, Duration::from_secs(1)));
    }

    #[test]
    fn signals_are_switched_off_and_bad_values_warned_of() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert_eq!(loaded(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).0, None);
        let (otlp, _) = loaded(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]);
        let otlp = otlp.unwrap();
        assert_eq!((otlp.traces, otlp.share), (None, 0.0));
        let bad = [
            endpoint,
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no pair"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ];
        let (otlp, warnings) = loaded(&bad);
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        let otlp = otlp.unwrap();
        assert_eq!((otlp.timeout, otlp.share), (Duration::from_secs(10), DEFAULT_SHARE));
    }
}
