//! The connections of HTTP clients.
//!
//! A client cannot hold up the gateway: there are only so many connections, each lives for a time,
//! request lines and headers have to come soon and be short, and bodies are not read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::{Place, Places};
use super::routes;
use crate::config::Http;
use crate::observe::report::Collector;

/// How long the head of a request may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is kept, whatever comes over it.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// The pause when the system has no more sockets to give.
const PAUSE: Duration = Duration::from_millis(100);

/// HTTP could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve HTTP on {address} (http.listen)")]
pub struct HttpError {
    address: SocketAddr,
    source: std::io::Error,
}

/// A socket that HTTP is to be served on.
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Listens where `http` says; `None` if nowhere. The default address, which another gateway of
    /// this machine may have, is replaced by one with a free port. Only an address that was asked
    /// for makes an error.
    pub async fn bind(http: &Http) -> Result<Option<Self>, HttpError> {
        let (listener, asked) = match http {
            Http::Off => return Ok(None),
            Http::Listen(address) => (TcpListener::bind(address).await, *address),
            Http::Default(address) => {
                let free = SocketAddr::new(address.ip(), 0);
                match TcpListener::bind(address).await {
                    Ok(listener) => (Ok(listener), *address),
                    Err(_) => match TcpListener::bind(free).await {
                        Ok(listener) => (Ok(listener), free),
                        Err(error) => {
                            tracing::warn!(%error, %address, "HTTP is not served");
                            return Ok(None);
                        }
                    },
                }
            }
        };
        let failed = |source| HttpError { address: asked, source };
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(http = %address, "metrics, readiness and the page are served");
        if !is_local(address.ip()) {
            tracing::warn!(
                http = %address,
                "whoever reaches the address of http.listen sees names of nodes, stores and channels"
            );
        }
        Ok(Some(Self { listener, address }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves reports of `collector` until `stop`.
    pub async fn run(self, collector: Arc<Collector>, stop: CancellationToken) {
        let router = routes::router(collector, is_local(self.address.ip()));
        let places = Arc::new(Places::default());
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) => {
                    let place = places.take();
                    tokio::spawn(stop.clone().run_until_cancelled_owned(serve(
                        router.clone(),
                        socket,
                        place,
                    )));
                }
                Err(error) => {
                    tracing::debug!(%error, "an HTTP connection could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

fn is_local(address: IpAddr) -> bool {
    address.is_loopback()
}

async fn serve(router: Router, socket: TcpStream, place: Place) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        served = timeout(KEPT_FOR, connection) => {
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "an HTTP connection has ended");
            }
        }
        () = place.given_up() => {}
    }
}
