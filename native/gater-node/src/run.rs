//! Starts a gateway from a checked configuration, and serves until its end.

use std::io::{Read, Write};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::{Config, ConfigError, Loaded};
use crate::gateway::{COMMIT, Gateway, StartError};
use crate::listen;
use crate::observe::logs::{Log, LogFilter};
use crate::service_manager::Service;

/// The time for which a stopping gateway writes queued messages.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// The reason why the program ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Threads, timers or signal handlers could not be created.
    #[error("the operating system refused what a gateway needs")]
    System(#[from] std::io::Error),
    /// The gateway did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The registry can no longer be written, so continuing would lose data.
    #[error("the registry failed: {0}")]
    Registry(String),
    /// A second signal arrived while queued messages were being written.
    #[error("told to stop a second time: what was queued may not have been written out")]
    Impatient,
}

/// The variable that sets the number of threads; the runtime reads it.
const THREADS: &str = "TOKIO_WORKER_THREADS";

/// Returns half of the number of cores. The others are for the callers and callees: on a machine
/// that they share, more threads spend more time on waking each other than they gain.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Starts a gateway, prints the ready line on standard output, and serves until SIGTERM or SIGINT;
/// an `embedded` gateway also until its standard input has data or ends. Then it drains, unless a
/// second signal arrives. SIGHUP `read`s the configuration again.
pub fn run(
    loaded: &Loaded,
    embedded: bool,
    log: &Log,
    read: impl Fn() -> Result<Loaded, ConfigError>,
) -> Result<(), RunError> {
    block_on(|error| matches!(error, RunError::Impatient), async {
        // From here on a signal drains, even one that arrives while the gateway starts.
        let signals = Signals::new()?;
        let parent_gone = embedded.then(end_of_input).transpose()?;
        let gateway = start(loaded, log.filter()).await?;
        announce(&gateway);
        let service = (!embedded).then(|| {
            let (node, port) = (gateway.name(), gateway.port());
            Service::ready(&format!("{node} serves on port {port}"))
        });
        let config = loaded.config.clone();
        let mut reloader = Reloader { gateway: &gateway, log, config, read };
        let told = async {
            ended(parent_gone).await;
            "the end of standard input"
        };
        serve(
            &gateway,
            signals,
            told,
            || reloader.reload(),
            || {
                if let Some(service) = &service {
                    service.stopping();
                }
            },
        )
        .await
    })
}

/// Runs `serving` on a runtime for a gateway. At the end it waits for pending writes, unless the
/// error `is_impatient`.
pub(crate) fn block_on<E: From<std::io::Error>>(
    is_impatient: impl Fn(&E) -> bool,
    serving: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os(THREADS).is_none() {
        runtime.worker_threads(default_threads());
    }
    let runtime: Runtime = runtime.enable_all().build()?;
    let outcome = runtime.block_on(serving);
    if outcome.as_ref().is_err_and(is_impatient) {
        runtime.shutdown_background();
    }
    outcome
}

/// Starts a gateway and logs its configuration.
pub(crate) async fn start(loaded: &Loaded, log: LogFilter) -> Result<Gateway, StartError> {
    let config = &loaded.config;
    let listen = listen::choose(config).await;
    let data_dir =
        if config.in_memory { "(memory)".into() } else { config.data_dir.display().to_string() };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = COMMIT,
        node = config.name,
        data_dir,
        listen = %listen.address,
        "starting"
    );
    for warning in loaded.warnings.iter().chain(&listen.warning) {
        tracing::warn!("{warning}");
    }
    Gateway::start(config, listen.address, log).await
}

/// Serves until a signal arrives, `told` resolves with a reason to end, or the registry fails.
/// Calls `reload` for each SIGHUP. Then it calls `draining` and drains, unless a second signal
/// arrives.
pub(crate) async fn serve(
    gateway: &Gateway,
    mut signals: Signals,
    told: impl Future<Output = &'static str>,
    reload: impl FnMut(),
    draining: impl FnOnce(),
) -> Result<(), RunError> {
    let failed = gateway.failed();
    let outcome = tokio::select! {
        signal = signals.stop(reload) => Ok(signal),
        reason = told => Ok(reason),
        () = gateway.told_to_stop() => Ok("an operator"),
        reason = failed => Err(RunError::Registry(reason)),
    };
    draining();
    match &outcome {
        Ok(reason) => tracing::info!(reason, "draining"),
        Err(error) => tracing::error!(%error, "draining"),
    }
    tokio::select! {
        biased;
        () = gateway.drain(DRAIN_WITHIN) => {}
        // A gateway that stops ignores changes of its configuration.
        signal = signals.stop(|| ()) => {
            tracing::warn!(signal, "told to stop a second time: ends at once");
            return Err(RunError::Impatient);
        }
    }
    tracing::info!("stopped");
    outcome.map(|_| ())
}

/// The signals that would end the program without a handler.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Installs the handlers. From here on these signals do not end the process.
    pub(crate) fn new() -> Result<Self, std::io::Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal to stop and returns its name. Calls `reload` for each SIGHUP.
    async fn stop(&mut self, mut reload: impl FnMut()) -> &'static str {
        loop {
            let ignored = tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    reload();
                    continue;
                }
                _ = self.user1.recv() => "SIGUSR1",
                _ = self.user2.recv() => "SIGUSR2",
            };
            tracing::info!(signal = ignored, "ignored: it means nothing to a gateway");
        }
    }
}

/// Applies those changes of the configuration that need no restart.
struct Reloader<'a, R> {
    gateway: &'a Gateway,
    log: &'a Log,
    /// The configuration that was read last.
    config: Config,
    read: R,
}

impl<R: Fn() -> Result<Loaded, ConfigError>> Reloader<'_, R> {
    fn reload(&mut self) {
        let Loaded { config, warnings } = match (self.read)() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the configuration stays as it was");
                return;
            }
        };
        let filter = config.log != self.config.log;
        let secret = !config.random_secret && config.secret_bytes() != self.config.secret_bytes();
        if filter && let Err(error) = self.log.set_filter(&config.log) {
            tracing::error!(%error, "SIGHUP: the log filter stays as it was");
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        // A secret that was set by a call is kept unless the configured secret has changed.
        if secret {
            self.gateway.set_secret(config.secret_bytes());
        }
        tracing::info!(secret, log = filter, "SIGHUP: configuration read again; changed or not:");
        self.config = config;
    }
}

/// Prints the line that reports readiness.
fn announce(gateway: &Gateway) {
    let mut out = std::io::stdout().lock();
    let line = writeln!(out, "ready node={} port={}", gateway.name(), gateway.port());
    // The gateway serves even if nobody reads the line.
    if line.and_then(|()| out.flush()).is_err() {
        tracing::debug!("standard output is closed");
    }
    tracing::info!(node = %gateway.name(), port = gateway.port(), "ready");
}

/// Returns a channel that resolves when standard input ends or has data. It is read by a thread of
/// its own, since a pending read on a thread of the runtime would delay the end of the runtime.
fn end_of_input() -> Result<oneshot::Receiver<()>, std::io::Error> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        // Input has the same effect as its end. The owner of a port needs this: if it closed the
        // input, it could no longer see the exit of the program.
        let _ = std::io::stdin().read_exact(&mut [0]);
        // The receiver is gone if the gateway stops for another reason.
        let _ = done.send(());
    })?;
    Ok(ended)
}

async fn ended(input: Option<oneshot::Receiver<()>>) {
    match input {
        // The sender is dropped only after the end of the input.
        Some(ended) => drop(ended.await),
        None => std::future::pending().await,
    }
}
