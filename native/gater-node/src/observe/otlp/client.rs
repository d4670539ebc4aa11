//! One request to a collector at a time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why a collector has not taken what it was sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The address has no host.
    #[error("the address has no host")]
    NoHost,
    /// It cannot be reached.
    #[error("cannot connect")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("the request failed")]
    Http(#[from] hyper::Error),
    /// The request cannot be made of what is configured.
    #[error("bad request")]
    Request(#[from] hyper::http::Error),
    /// It refuses.
    #[error("the collector answers {0}")]
    Refused(hyper::StatusCode),
    /// It takes too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Sends `body` to `uri`, with these headers more.
pub async fn send(
    uri: &Uri,
    headers: &[(String, String)],
    body: Vec<u8>,
    within: Duration,
) -> Result<(), SendError> {
    timeout(within, post(uri, headers, body)).await.map_err(|_| SendError::Timeout(within))?
}

async fn post(uri: &Uri, headers: &[(String, String)], body: Vec<u8>) -> Result<(), SendError> {
    let host = uri.host().ok_or(SendError::NoHost)?;
    let port = uri.port_u16().unwrap_or(80);
    let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("esdb-gater/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(SendError::Refused(status)),
    }
}
