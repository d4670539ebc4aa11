//! What a hidden node is told when it starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use secrecy::SecretSlice;

use crate::LaneLimits;

/// The port of EPMD unless `ERL_EPMD_PORT` says otherwise.
pub const DEFAULT_EPMD_PORT: u16 = 4369;

/// Enough for a caller on the same machine to take an answer and make its next call.
const SPIN: Duration = Duration::from_micros(100);

/// Whether another thread can run while one polls.
fn several_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

/// Settings of a [`Node`](crate::Node). [`Settings::new`] fills in the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The full name, `name@host`.
    pub name: String,
    /// The secret shared by all nodes of the cluster: the Latin-1 characters of an atom.
    pub cookie: SecretSlice<u8>,
    /// Where to accept connections; port 0 takes any free port.
    pub listen: SocketAddr,
    /// The EPMD of this machine. Its port is also the one asked on other machines.
    pub epmd: SocketAddr,
    /// Whether to start `epmd -daemon` when none answers.
    pub start_epmd: bool,
    /// A peer silent for this long is dead; own ticks go out four times as often
    /// (`net_ticktime` of OTP).
    pub tick_time: Duration,
    /// How long a handshake may take in all. Must stay below the 7 s of OTP.
    pub handshake_timeout: Duration,
    /// How long name resolution, EPMD and the TCP connect of a dial may take, each.
    pub connect_timeout: Duration,
    /// A connection that takes no byte of queued output for this long is cut.
    pub write_timeout: Duration,
    /// The first pause between two dials of a kept node; doubles up to `redial_max`.
    pub redial_min: Duration,
    /// The longest pause between two dials of a kept node.
    pub redial_max: Duration,
    /// The longest frame accepted, in bytes.
    pub max_frame: usize,
    /// The longest message accepted once its fragments are put together, in bytes.
    pub max_message: usize,
    /// All unfinished fragmented messages of one connection together, in bytes.
    pub max_reassembly: usize,
    /// Connections established at the same time.
    pub max_connections: usize,
    /// Accepted sockets whose handshake is unfinished; the oldest gives way to a new one.
    pub max_handshakes: usize,
    /// Dials that have a socket open at the same time; further ones wait.
    pub max_dials: usize,
    /// Outgoing messages above this many bytes are sent in fragments of this size.
    pub fragment_bytes: usize,
    /// How long a reader that has answered a call polls for the next one before it sleeps,
    /// where that was worth it lately. Zero never polls, nor waits for more calls of many callers.
    pub spin: Duration,
    /// How much each lane of a connection may hold, in the order of [`Lane`](crate::Lane).
    pub lanes: [LaneLimits; 5],
}

impl Settings {
    /// Settings for the node `name` (`name@host`) with the usual limits.
    ///
    /// EPMD is looked for on the port in `ERL_EPMD_PORT` if that is set.
    pub fn new(name: impl Into<String>, cookie: SecretSlice<u8>) -> Self {
        let epmd_port = std::env::var("ERL_EPMD_PORT")
            .ok()
            .and_then(|port| port.parse().ok())
            .unwrap_or(DEFAULT_EPMD_PORT);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            name: name.into(),
            cookie,
            listen: SocketAddr::new(loopback, 0),
            epmd: SocketAddr::new(loopback, epmd_port),
            start_epmd: true,
            tick_time: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            redial_min: Duration::from_millis(200),
            redial_max: Duration::from_secs(10),
            max_frame: 64 << 20,
            max_message: 64 << 20,
            max_reassembly: 128 << 20,
            max_connections: 4096,
            max_handshakes: 256,
            max_dials: 64,
            fragment_bytes: 64 << 10,
            spin: if several_cores() { SPIN } else { Duration::ZERO },
            lanes: [
                LaneLimits { bytes: 64 << 20, messages: 1 << 20 },
                LaneLimits { bytes: 64 << 20, messages: 1 << 20 },
                LaneLimits { bytes: 64 << 20, messages: 1 << 20 },
                LaneLimits { bytes: 32 << 20, messages: 1 << 18 },
                LaneLimits { bytes: 16 << 20, messages: 1 << 17 },
            ],
        }
    }
}
