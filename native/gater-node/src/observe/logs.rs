//! Logs on standard error, as text for people and as JSON for programs.
//!
//! A thread of its own writes the lines, so that neither a full disk nor a reader that is gone or
//! does not read stops or slows the gateway. A line that cannot be written, or that arrives while
//! too many lines wait, is dropped and counted ([`lost`]). The number of dropped lines is logged as
//! soon as standard error accepts lines again.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, IsTerminal, Write, stderr};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The default filter. The events inside openraft are described and counted by the gateway itself
/// (see `registry::cluster::health`).
const DEFAULT: &str = "info";
/// The greatest number of waiting lines, which is some megabytes.
const MAX_WAITING: usize = 8192;
/// The time for which the end of the program waits for the last lines to be written.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// The interval at which a full queue is checked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The number of lines that were dropped since the start.
static LOST: AtomicU64 = AtomicU64::new(0);

/// The reason why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is invalid.
    #[error("must be a level or a filter such as info or gater_dist=debug,info: {0}")]
    Filter(String),
    /// Logging was started already.
    #[error("logging is started already")]
    Started,
    /// The thread that writes could not be created.
    #[error("no thread for the log: {0}")]
    Thread(#[from] io::Error),
}

/// Returns the number of log lines that were dropped since the start.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

/// The running log. Dropping it waits a short time for the last lines to be written.
#[derive(Debug)]
pub struct Log {
    filter: LogFilter,
    lines: Lines,
}

/// What is logged, to be changed while the program runs. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct LogFilter {
    /// Absent if nothing is logged.
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    text: Arc<Mutex<String>>,
}

impl LogFilter {
    /// Of a program that logs nothing, such as a test.
    pub fn none() -> Self {
        Self { handle: None, text: Arc::default() }
    }

    /// Logs what `filter` lets through from now on; an empty one is the default.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        if let Some(handle) = &self.handle {
            // The subscriber lives as long as the program.
            handle.reload(parsed).map_err(|_| LogError::Started)?;
        }
        filter.trim().clone_into(&mut self.text.lock());
        Ok(())
    }

    /// Returns the filter that was set last.
    pub fn text(&self) -> String {
        match self.text.lock().as_str() {
            "" => DEFAULT.to_owned(),
            filter => filter.to_owned(),
        }
    }
}

impl Log {
    /// Starts to log the events that `filter` admits; an empty filter is the default. From then on
    /// panics are logged, and no longer written to standard error by the thread that panics.
    pub fn start(filter: &str) -> Result<Self, LogError> {
        let text = Arc::new(Mutex::new(filter.trim().to_owned()));
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let lines = Lines::start()?;
        let layer = fmt::layer().with_writer(lines.clone()).log_internal_errors(false);
        let layer = if stderr().is_terminal() {
            layer.boxed()
        } else {
            layer.with_ansi(false).json().flatten_event(true).boxed()
        };
        let subscriber = Registry::default().with(filter).with(layer);
        subscriber.try_init().map_err(|_| LogError::Started)?;
        panic::set_hook(Box::new(panicked));
        Ok(Self { filter: LogFilter { handle: Some(handle), text }, lines })
    }

    /// Logs the events that `filter` admits from now on.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.filter.set(filter)
    }

    /// Returns a handle to change what is logged.
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush(FLUSH_WITHIN);
    }
}

/// Writes `text` to standard error, and waits only a short time if it cannot be written.
pub fn complain(text: &str) {
    let (done, written) = sync_channel(1);
    let text = text.to_owned();
    let writing = thread::Builder::new().spawn(move || {
        // Standard error is the only place for this text, so an error is ignored.
        let _ = Output::new().write(text.as_bytes());
        let _ = done.send(());
    });
    if writing.is_ok() {
        let _ = written.recv_timeout(FLUSH_WITHIN);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let filter = match filter.trim() {
        "" => DEFAULT,
        filter => filter,
    };
    // A level alone applies to the gateway. Users who want to see the lines of openraft name it.
    let filter = if filter.contains("openraft") {
        filter.to_owned()
    } else {
        format!("openraft=off,{filter}")
    };
    EnvFilter::try_new(filter).map_err(|error| LogError::Filter(error.to_string()))
}

thread_local! {
    /// Whether this thread is logging a panic. A panic while doing so must not be logged again.
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

fn panicked(info: &PanicHookInfo<'_>) {
    // A thread that is ending has destroyed this variable, and logs nothing.
    if PANICS.try_with(|panics| panics.replace(true)).unwrap_or(true) {
        return;
    }
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let current = thread::current();
    let name = current.name().unwrap_or("unnamed");
    let trace = Backtrace::capture();
    let trace = match trace.status() {
        BacktraceStatus::Captured => trace.to_string(),
        _ => "RUST_BACKTRACE=1 shows it".into(),
    };
    tracing::error!(
        place,
        thread = name,
        trace,
        "a thread has panicked, which is a bug: {message}"
    );
    PANICS.with(|panics| panics.set(false));
}

/// A message for the thread that writes.
enum Entry {
    Line(Vec<u8>),
    /// A request to write everything before it and then to answer.
    Flush(SyncSender<()>),
}

/// The sender to the thread that writes.
#[derive(Debug, Clone)]
struct Lines(SyncSender<Entry>);

impl Lines {
    fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        thread::Builder::new().name("log".into()).spawn(move || write_lines(&receiver))?;
        Ok(Self(sender))
    }

    fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let (done, written) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(back)) = self.0.try_send(entry) {
            if Instant::now() >= deadline {
                return;
            }
            entry = back;
            thread::sleep(LOOK_EVERY);
        }
        // The program ends whether or not the lines were written in time.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Entry::Line(line.to_owned())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

fn write_lines(entries: &Receiver<Entry>) {
    let mut output = Output::new();
    let mut told = 0;
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                if output.write(&line).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let lost = lost();
                if lost > told {
                    tracing::warn!(
                        lines = lost - told,
                        "log lines could not be written and are lost"
                    );
                    told = lost;
                }
            }
            // The waiting thread may have given up.
            Entry::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Standard error without the lock of [`stderr`], since a thread that is blocked in a write must
/// not block the last lines at the end of the program.
struct Output {
    /// The file, or `None` if the program was started without standard error.
    file: Option<File>,
    /// Whether the last line was written only in part.
    torn: bool,
}

impl Output {
    fn new() -> Self {
        let file = stderr().as_fd().try_clone_to_owned().ok().map(File::from);
        Self { file, torn: false }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.torn {
            file.write_all(b"\n")?;
        }
        let written = file.write_all(text);
        self.torn = written.is_err();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_for_the_gateway_says_nothing_of_openraft() {
        for (filter, expected) in [
            ("", "openraft=off,info"),
            ("debug", "openraft=off,debug"),
            ("info,openraft=warn", "openraft=warn,info"),
        ] {
            assert_eq!(parse(filter).unwrap().to_string(), expected, "{filter:?}");
        }
        assert!(check("=[=").is_err());
    }

    #[test]
    fn lines_are_dropped_and_counted_while_nobody_takes_them() {
        let (sender, receiver) = sync_channel(2);
        let lines = Lines(sender);
        let before = lost();
        for _ in 0..5 {
            (&lines).write_all(b"line\n").unwrap();
        }
        assert!(lost() - before >= 3);
        let started = Instant::now();
        lines.flush(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(receiver.try_iter().count(), 2);
    }
}
