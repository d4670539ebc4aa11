//! The gateway as the port program of a BEAM (`esdb-gater start --hosted`).
//!
//! All communication is in frames over standard input and output. A frame is a length of four
//! bytes, which is `{packet, 4}` of an Erlang port, followed by that number of bytes, of which the
//! first is the kind:
//!
//! | to the program | | from the program | |
//! |---|---|---|---|
//! | `K` | the cookie, Latin-1 | `R` | `ready node=NAME port=PORT`: it serves |
//! | `S` | the secret that messages are signed with, any bytes | `E` | why it ends, a sentence |
//! | `C` | the configuration, TOML; starts the gateway | `p` (112) | a distribution frame, if the BEAM has no name |
//! | `Q` | end, after what is queued was written | none | a tick |
//! | `p` (112) | a distribution frame, if the BEAM has no name | | |
//! | none | a tick | | |
//!
//! `K` comes before `C`, and again whenever the BEAM's cookie changes. The end of standard input
//! has the same meaning as `Q`. The secret and the cookie are therefore in no argument, no
//! environment variable and no file, and nothing has to be cleaned up however the BEAM ends.
//!
//! No node can connect to a BEAM without a name (`nonode@nohost`). Its frames are those of a
//! distribution connection without a distribution header, and the gateway treats it as one more
//! peer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use gater_dist::Connection;
use secrecy::SecretSlice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

use crate::config::{self, ConfigError, Environment, Flags, Hosted, Loaded};
use crate::gateway::{Gateway, StartError};
use crate::observe::logs::{Log, LogError};
use crate::run::{self, RunError, Signals};

/// The length of the longest frame: a distribution message of the greatest length with its
/// overhead.
const MAX_FRAME_BYTES: usize = (64 << 20) + (64 << 10);
/// The number of frames that wait to be handled. Further frames wait in the pipe and block their
/// senders.
const WAITING_FRAMES: usize = 64;

const COOKIE: u8 = b'K';
const SECRET: u8 = b'S';
const CONFIGURATION: u8 = b'C';
const QUIT: u8 = b'Q';
const READY: u8 = b'R';
const FAILURE: u8 = b'E';
const DISTRIBUTION: u8 = 112;

/// The reason why a hosted gateway ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Standard input or output is not a pipe, or it failed.
    #[error("--hosted is for a BEAM that runs this program as a port: {0}")]
    Pipe(#[from] io::Error),
    /// The log could not be started.
    #[error("cannot start the log")]
    Log(#[from] LogError),
    /// The gateway did not start, or failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The BEAM sent a frame that it must not send.
    #[error("the BEAM sent {0}")]
    Frame(&'static str),
}

impl From<StartError> for HostedError {
    fn from(error: StartError) -> Self {
        Self::Run(error.into())
    }
}

/// Reads the configuration, starts a gateway, reports readiness, and serves until it is told to
/// end.
pub fn run(flags: Flags, in_memory: bool, piped: bool) -> Result<(), HostedError> {
    let is_impatient = |error: &HostedError| matches!(error, HostedError::Run(RunError::Impatient));
    run::block_on(is_impatient, async {
        let signals = Signals::new()?;
        let mut input = Input::new()?;
        let mut output = Sender::from_file(File::from(io::stdout().as_fd().try_clone_to_owned()?))?;
        let Some(given) = input.given().await? else { return Ok(()) };
        let loaded = given.load(flags, in_memory, piped)?;
        let log = Log::start(&loaded.config.log)?;

        let (frames, mut received) = mpsc::channel(WAITING_FRAMES);
        // The task ends with the runtime.
        tokio::spawn(async move {
            while let Some(frame) = input.next().await.transpose() {
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let started = tokio::select! {
            started = run::start(&loaded, log.filter()) => started?,
            () = told_to_end(&mut received) => return Ok(()),
        };
        tracing::info!(node = %started.name(), port = started.port(), "ready");
        let ready = format!("ready node={} port={}", started.name(), started.port());
        write_frame(&mut output, READY, ready.as_bytes()).await?;
        let gateway = Arc::new(started);
        let link = loaded.config.piped.then(|| Link::open(&gateway, output)).transpose()?;
        let told = follow(gateway.clone(), received, link);
        // The BEAM restarts the program to change its configuration.
        let reload =
            || tracing::info!("SIGHUP ignored: the BEAM says how this gateway is configured");
        Ok(run::serve(&gateway, signals, told, reload, || ()).await?)
    })
}

/// Writes the reason of the program's end to standard output.
pub fn tell_failure(text: &str) {
    let mut frame = Vec::new();
    let length = u32::try_from(text.len() + 1).unwrap_or(0);
    frame.extend(length.to_be_bytes());
    frame.push(FAILURE);
    frame.extend(text.as_bytes());
    let mut out = io::stdout().lock();
    // The write fails if the BEAM has ended, which then needs no reason.
    let _ = out.write_all(&frame).and_then(|()| out.flush());
}

async fn write_frame(output: &mut Sender, kind: u8, body: &[u8]) -> io::Result<()> {
    let mut frame = BytesMut::with_capacity(5 + body.len());
    let length = u32::try_from(body.len() + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
    frame.extend(length.to_be_bytes());
    frame.extend([kind]);
    frame.extend_from_slice(body);
    output.write_all(&frame).await
}

/// The frames of standard input.
struct Input {
    pipe: Receiver,
    buffer: BytesMut,
}

impl Input {
    fn new() -> io::Result<Self> {
        let pipe = Receiver::from_file(File::from(io::stdin().as_fd().try_clone_to_owned()?))?;
        Ok(Self { pipe, buffer: BytesMut::new() })
    }

    /// Returns the next frame with its length, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, HostedError> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MAX_FRAME_BYTES {
                    return Err(HostedError::Frame("a frame that is too long"));
                }
                if self.buffer.len() >= 4 + length {
                    return Ok(Some(self.buffer.split_to(4 + length).freeze()));
                }
            }
            if self.pipe.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Returns the values that come before the gateway starts, or `None` if the BEAM ends first.
    async fn given(&mut self) -> Result<Option<Given>, HostedError> {
        let mut given = Given::default();
        while let Some(frame) = self.next().await? {
            let (kind, body) = parts(&frame);
            match kind {
                Some(COOKIE) => given.cookie = Some(body.to_vec()),
                Some(SECRET) => given.secret = Some(body.to_vec()),
                Some(CONFIGURATION) => {
                    let text = String::from_utf8(body.to_vec());
                    given.configuration = text.map_err(|_| not_text("configuration"))?;
                    return Ok(Some(given));
                }
                Some(QUIT) => return Ok(None),
                _ => return Err(HostedError::Frame("another frame before its configuration")),
            }
        }
        Ok(None)
    }
}

fn not_text(what: &'static str) -> HostedError {
    tracing::debug!(what, "not UTF-8");
    HostedError::Frame("text that is not UTF-8")
}

/// Returns the kind and the body of a frame, without its length.
fn parts(frame: &Bytes) -> (Option<u8>, Bytes) {
    let mut body = frame.slice(4.min(frame.len())..);
    let kind = body.first().copied();
    body.advance(usize::from(kind.is_some()));
    (kind, body)
}

/// The values that the BEAM has passed before the gateway starts.
#[derive(Default)]
struct Given {
    configuration: String,
    cookie: Option<Vec<u8>>,
    secret: Option<Vec<u8>>,
}

impl Given {
    fn load(self, mut flags: Flags, in_memory: bool, piped: bool) -> Result<Loaded, ConfigError> {
        let (configuration, cookie) = (self.configuration, self.cookie);
        flags.hosted = Some(Hosted { configuration, cookie, in_memory, piped });
        // Only this process sees that environment.
        let environment: Environment = match self.secret {
            Some(secret) => config::environment().with("ESDB_GATER_SECRET", secret),
            None => config::environment(),
        };
        config::load(flags, environment)
    }
}

type Received = mpsc::Receiver<Result<Bytes, HostedError>>;

/// Resolves when the BEAM ends before the gateway has started.
async fn told_to_end(frames: &mut Received) {
    // A changed cookie is not lost: the BEAM sends it again when the gateway is ready.
    while let Some(Ok(frame)) = frames.recv().await {
        if parts(&frame).0 == Some(QUIT) {
            return;
        }
    }
}

/// Handles the frames until the end, and returns its reason.
async fn follow(
    gateway: Arc<Gateway>,
    mut frames: Received,
    mut link: Option<Link>,
) -> &'static str {
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            () = lost(&link) => return "the BEAM sent what is no distribution message",
        };
        let frame = match frame {
            None => return "the end of standard input",
            Some(Err(error)) => {
                tracing::error!(%error, "standard input cannot be read");
                return "what came on standard input";
            }
            Some(Ok(frame)) => frame,
        };
        match (parts(&frame), &mut link) {
            ((Some(QUIT), _), _) => return "the BEAM",
            ((Some(COOKIE), cookie), _) => gateway.set_cookie(SecretSlice::from(cookie.to_vec())),
            ((None | Some(DISTRIBUTION), _), Some(link)) => {
                if link.write.write_all(&frame).await.is_err() {
                    return "the connection with the BEAM";
                }
            }
            _ => tracing::debug!("a frame of unknown kind on standard input"),
        }
    }
}

async fn lost(link: &Option<Link>) {
    match link {
        Some(link) => link.connection.closed().await,
        None => std::future::pending().await,
    }
}

/// The connection with a BEAM without a name. The node has one end of a pair of sockets. Bytes of
/// standard input are copied to the other end, and bytes of that end to standard output.
struct Link {
    write: OwnedWriteHalf,
    connection: Arc<Connection>,
}

impl Link {
    fn open(gateway: &Gateway, mut output: Sender) -> Result<Self, HostedError> {
        let (ours, theirs) = UnixStream::pair()?;
        let connection = gateway.adopt_nameless(ours)?;
        let (mut read, write) = theirs.into_split();
        tokio::spawn(async move {
            // Whichever end closes, the node notices it and ends the gateway.
            if let Err(error) = tokio::io::copy(&mut read, &mut output).await {
                tracing::debug!(%error, "standard output");
            }
        });
        Ok(Self { write, connection })
    }
}
