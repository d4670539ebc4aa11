//! What is answered to which path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Mutex;

use super::metrics;
use crate::observe::report::{Collector, HistoryReport, Options, Report};

/// For how long an answer is given again to whoever asks next: however many clients there are, a
/// report is gathered once in this time.
const FRESH_FOR: Duration = Duration::from_millis(900);

/// Where the page may get anything from: the gateway alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const CLASSIC_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What all paths share.
struct Site {
    collector: Arc<Collector>,
    /// Whether only this machine reaches the address.
    is_local: bool,
    metrics: Kept,
    status: Kept,
}

/// The last answer of a path.
#[derive(Default)]
struct Kept(Mutex<Option<(Instant, Bytes)>>);

impl Kept {
    /// Returns the last answer, or a new one if that is too old. Who asks while one is made waits
    /// for it.
    async fn get(
        &self,
        collector: &Arc<Collector>,
        make: impl FnOnce(&Collector) -> Result<Vec<u8>, String> + Send + 'static,
    ) -> Result<Bytes, String> {
        let mut kept = self.0.lock().await;
        if let Some((at, body)) = &*kept
            && at.elapsed() < FRESH_FOR
        {
            return Ok(body.clone());
        }
        let collector = collector.clone();
        let made = tokio::task::spawn_blocking(move || make(&collector)).await;
        let body = Bytes::from(made.map_err(|error| error.to_string())??);
        *kept = Some((Instant::now(), body.clone()));
        Ok(body)
    }
}

/// Returns the paths, answered from `collector`. One that `is_local` is no answer to names that
/// somebody else has made stand for this machine.
pub fn router(collector: Arc<Collector>, is_local: bool) -> Router {
    let site =
        Arc::new(Site { collector, is_local, metrics: Kept::default(), status: Kept::default() });
    Router::new()
        .route("/", get(|| async { text(HTML, PAGE) }))
        .route("/page.css", get(|| async { text(CSS, STYLE) }))
        .route("/page.js", get(|| async { text(JAVASCRIPT, SCRIPT) }))
        .route("/livez", get(|| async { text(TEXT, "ok\n") }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/status.json", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, text(TEXT, "there is no such page\n")) })
        .layer(middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

/// Refuses what changes something, and requests that a page of somebody else makes under a name of
/// its own for this address; adds what browsers are to be told.
async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let mut response = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        (StatusCode::METHOD_NOT_ALLOWED, text(TEXT, "read-only: GET and HEAD\n")).into_response()
    } else if site.is_local && !names_this_machine(request.headers().get(HOST)) {
        let reason = "this address is for this machine alone: use its number, or localhost\n";
        (StatusCode::MISDIRECTED_REQUEST, text(TEXT, reason)).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns whether a request is for an address in numbers or for `localhost`: names can be made to
/// stand for this machine by whoever owns them. One without the header comes from no browser.
fn names_this_machine(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let number = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || number.parse::<std::net::IpAddr>().is_ok()
}

fn text(kind: &'static str, body: impl Into<Bytes>) -> Response {
    let body: Bytes = body.into();
    ([(CONTENT_TYPE, kind)], body).into_response()
}

/// 200 if every check holds, else 503; one line for each check.
async fn ready(State(site): State<Arc<Site>>) -> Response {
    let checks = site.collector.checks();
    let holds = checks.iter().all(|check| check.ok);
    let lines: String = checks
        .iter()
        .map(|check| match check.ok {
            true => format!("[+] {} ok\n", check.name),
            false => format!("[-] {} failed: {}\n", check.name, check.reason),
        })
        .collect();
    let code = if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text(TEXT, lines)).into_response()
}

/// In the format that the client asks for; in the older one if it does not say.
async fn scrape(State(site): State<Arc<Site>>, request: Request) -> Response {
    let made = site.metrics.get(&site.collector, |collector| {
        metrics::encode(collector).map(String::into_bytes).map_err(|error| error.to_string())
    });
    let accepted = request.headers().get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("application/openmetrics-text")) {
        return answer(OPEN_METRICS, made.await);
    }
    let made = made.await.map(|body| metrics::classic(&String::from_utf8_lossy(&body)).into());
    answer(CLASSIC_METRICS, made)
}

/// What the page shows.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    report: Report,
    history: HistoryReport,
}

async fn status(State(site): State<Arc<Site>>) -> Response {
    let made = site.status.get(&site.collector, |collector| {
        let report = collector.report(Options::default());
        let shown = Shown { report, history: collector.history() };
        serde_json::to_vec(&shown).map_err(|error| error.to_string())
    });
    answer(JSON, made.await)
}

fn answer(kind: &'static str, made: Result<Bytes, String>) -> Response {
    match made {
        Ok(body) => text(kind, body),
        Err(error) => {
            tracing::error!(error, "an HTTP answer could not be made");
            (StatusCode::INTERNAL_SERVER_ERROR, text(TEXT, "this failed; the log says why\n"))
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_own_are_not_this_machine() {
        for good in ["127.0.0.1", "127.0.0.1:9468", "localhost", "LOCALHOST:1", "[::1]:80", "[::1]"]
        {
            assert!(names_this_machine(Some(&HeaderValue::from_static(good))), "{good}");
        }
        for bad in ["evil.example", "evil.example:9468", "127.0.0.1.evil.example", "", "localhost."]
        {
            assert!(!names_this_machine(Some(&HeaderValue::from_static(bad))), "{bad}");
        }
        assert!(names_this_machine(None));
    }

    #[test]
    fn the_page_is_whole_without_anything_from_elsewhere() {
        for part in [PAGE, STYLE, SCRIPT] {
            let addresses = part.matches("://").count();
            let namespaces = part.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(addresses, namespaces);
        }
        // Nothing that the policy of the page would stop.
        assert!(!PAGE.contains("style=") && !PAGE.contains("onclick"));
        for unsafe_way in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!SCRIPT.contains(unsafe_way), "{unsafe_way}");
        }
    }
}
