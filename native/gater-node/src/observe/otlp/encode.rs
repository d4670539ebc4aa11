//! From the gateway's own forms to those of OTLP.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status, span, status,
};
use prost::Message;

use super::span::{Kind, Span as Followed, Value};
use crate::observe::durations::{BOUNDS_MICROS, Snapshot};
use crate::observe::http::metrics::{Family, Value as Number};

/// Who sends: the attributes of the resource.
pub type Attributes = [(String, String)];

/// The request that carries these spans.
pub fn spans(resource: &Attributes, followed: &[Followed]) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        scope: Some(scope()),
        spans: followed.iter().map(one_span).collect(),
        ..ScopeSpans::default()
    }];
    let of = ResourceSpans {
        resource: Some(resource_of(resource)),
        scope_spans,
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![of] }.encode_to_vec()
}

/// The request that carries these metrics, counted since `started` and read `now`, both in
/// nanoseconds since the Unix epoch.
pub fn metrics(resource: &Attributes, families: &[Family], started: u64, now: u64) -> Vec<u8> {
    let times = Times { started, now };
    let metrics = families
        .iter()
        .filter(|family| !family.series.is_empty())
        .map(|family| one_metric(family, times))
        .collect();
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let of = ResourceMetrics {
        resource: Some(resource_of(resource)),
        scope_metrics,
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![of] }.encode_to_vec()
}

#[derive(Clone, Copy)]
struct Times {
    started: u64,
    now: u64,
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "esdb-gater".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

fn resource_of(attributes: &Attributes) -> Resource {
    let attributes = attributes.iter().map(|(key, value)| text(key, value)).collect();
    Resource { attributes, ..Resource::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, any_value::Value::StringValue(value.to_owned()))
}

fn pair(key: &str, value: any_value::Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn one_span(of: &Followed) -> Span {
    let kind = match of.kind {
        Kind::Server => span::SpanKind::Server,
        Kind::Producer => span::SpanKind::Producer,
        Kind::Consumer => span::SpanKind::Consumer,
    };
    let attribute = |(key, value): &(&'static str, Value)| match value {
        Value::Text(value) => text(key, value),
        Value::Number(value) => pair(key, any_value::Value::IntValue(*value)),
    };
    Span {
        trace_id: of.trace_id.to_vec(),
        span_id: of.span_id.to_vec(),
        name: of.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: of.began,
        end_time_unix_nano: of.ended,
        attributes: of.attributes.iter().map(attribute).collect(),
        status: of.error.map(|error| Status {
            message: error.to_owned(),
            code: status::StatusCode::Error.into(),
        }),
        // Of the trace's flags the one that says that it is sampled.
        flags: 1,
        ..Span::default()
    }
}

fn one_metric(family: &Family, times: Times) -> Metric {
    let series = || {
        family.series.iter().map(|(labels, value)| {
            let attributes: Vec<_> =
                labels.iter().map(|(label, value)| text(label, value)).collect();
            (attributes, value)
        })
    };
    let numbers = || {
        series()
            .filter_map(|(attributes, value)| match value {
                Number::Counter(number) | Number::Gauge(number) => Some(NumberDataPoint {
                    attributes,
                    start_time_unix_nano: times.started,
                    time_unix_nano: times.now,
                    value: Some(number_data_point::Value::AsInt(
                        i64::try_from(*number).unwrap_or(i64::MAX),
                    )),
                    ..NumberDataPoint::default()
                }),
                Number::Histogram(_) => None,
            })
            .collect()
    };
    let cumulative = i32::from(AggregationTemporality::Cumulative);
    let data = match family.series.first() {
        Some((_, Number::Counter(_))) => metric::Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Some((_, Number::Histogram(_))) => metric::Data::Histogram(Histogram {
            data_points: series()
                .filter_map(|(attributes, value)| match value {
                    Number::Histogram(snapshot) => Some(durations(attributes, snapshot, times)),
                    Number::Counter(_) | Number::Gauge(_) => None,
                })
                .collect(),
            aggregation_temporality: cumulative,
        }),
        _ => metric::Data::Gauge(Gauge { data_points: numbers() }),
    };
    Metric {
        name: family.metric.name.to_owned(),
        description: family.metric.help.to_owned(),
        unit: unit(family.metric.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The unit that the name of a metric ends with.
fn unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "1",
    }
}

fn durations(attributes: Vec<KeyValue>, snapshot: &Snapshot, times: Times) -> HistogramDataPoint {
    let mut bucket_counts = snapshot.buckets.to_vec();
    bucket_counts.push(snapshot.above);
    HistogramDataPoint {
        attributes,
        start_time_unix_nano: times.started,
        time_unix_nano: times.now,
        count: bucket_counts.iter().sum(),
        sum: Some(snapshot.sum.as_secs_f64()),
        bucket_counts,
        explicit_bounds: BOUNDS_MICROS.iter().map(|bound| *bound as f64 / 1e6).collect(),
        ..HistogramDataPoint::default()
    }
}
