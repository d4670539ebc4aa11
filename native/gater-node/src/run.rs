//! From a checked configuration to a gateway that serves, and to its end.

use std::io::{Read, Write};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::gateway::{Gateway, StartError};

/// How long a stopping gateway tries to write out what is queued.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Why the program ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Threads, timers or signal handlers could not be had.
    #[error("the operating system refused what a gateway needs")]
    System(#[from] std::io::Error),
    /// The gateway did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The registry could not be written any more: going on would lose data.
    #[error("the registry failed: {0}")]
    Registry(String),
}

/// How many threads there are, if that is set; the runtime reads it.
const THREADS: &str = "TOKIO_WORKER_THREADS";

/// Half of the cores. The others are for those who call and are called: on a machine that
/// is shared with them more threads take more to wake each other than they do.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Starts a gateway, prints the ready line on standard output, and serves until
/// SIGTERM or SIGINT; an `embedded` one until something comes on standard input, or its
/// end, as well.
/// Then drains.
pub fn run(config: &Config, embedded: bool) -> Result<(), RunError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os(THREADS).is_none() {
        runtime.worker_threads(default_threads());
    }
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        // From here on a signal drains, also one that comes while the gateway starts.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let parent_gone = embedded.then(end_of_input).transpose()?;

        let gateway = Gateway::start(config).await?;
        announce(&gateway);
        let failed = gateway.failed();
        let outcome = tokio::select! {
            _ = terminate.recv() => Ok("SIGTERM"),
            _ = interrupt.recv() => Ok("SIGINT"),
            () = ended(parent_gone) => Ok("the end of standard input"),
            reason = failed => Err(RunError::Registry(reason)),
        };
        match &outcome {
            Ok(reason) => tracing::info!(reason, "draining"),
            Err(error) => tracing::error!(%error, "draining"),
        }
        gateway.drain(DRAIN_WITHIN).await;
        tracing::info!("stopped");
        outcome.map(|_| ())
    })
}

/// The one line that says that the gateway serves.
fn announce(gateway: &Gateway) {
    let mut out = std::io::stdout().lock();
    let line = writeln!(out, "ready node={} port={}", gateway.name(), gateway.port());
    // Nobody may be reading; the gateway serves all the same.
    if line.and_then(|()| out.flush()).is_err() {
        tracing::debug!("standard output is closed");
    }
    tracing::info!(node = %gateway.name(), port = gateway.port(), "ready");
}

/// Resolves when standard input ends or has something. A thread of its own reads it: a pending
/// read on the runtime's threads would hold up its end.
fn end_of_input() -> Result<oneshot::Receiver<()>, std::io::Error> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        // Any input asks for the same as its end: the owner of a port that closes
        // the input could not see the program's exit any more.
        let _ = std::io::stdin().read_exact(&mut [0]);
        // The receiver is gone if the gateway stops for another reason.
        let _ = done.send(());
    })?;
    Ok(ended)
}

async fn ended(input: Option<oneshot::Receiver<()>>) {
    match input {
        // The sender goes only after the end of input.
        Some(ended) => drop(ended.await),
        None => std::future::pending().await,
    }
}
