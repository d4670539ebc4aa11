//! The settings with which a hidden node starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use secrecy::SecretSlice;

use crate::LaneLimits;

/// The port of EPMD unless `ERL_EPMD_PORT` says otherwise.
pub const DEFAULT_EPMD_PORT: u16 = 4369;

/// The default of [`Settings::spin`], which suffices for a caller on the same machine to take an
/// answer and make its next call.
const SPIN: Duration = Duration::from_micros(100);

/// Returns whether the machine can run another thread while one thread polls.
fn several_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

/// Settings of a [`Node`](crate::Node). [`Settings::new`] fills in the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The full name, `name@host`.
    pub name: String,
    /// The cookie, which all nodes of the cluster share: the Latin-1 characters of an atom.
    pub cookie: SecretSlice<u8>,
    /// The address on which the node accepts connections; port 0 selects any free port.
    pub listen: SocketAddr,
    /// The address of EPMD on this machine. The same port is used for EPMD on other machines.
    pub epmd: SocketAddr,
    /// Whether the node starts `epmd -daemon` if no EPMD answers.
    pub start_epmd: bool,
    /// The time after which a silent peer is considered dead. The node's own ticks are sent four
    /// times in this time (`net_ticktime` of OTP).
    pub tick_time: Duration,
    /// The time limit of a whole handshake. It must stay below the 7 s of OTP.
    pub handshake_timeout: Duration,
    /// The time limit of each of the steps of a dial: name resolution, EPMD and the TCP connect.
    pub connect_timeout: Duration,
    /// The time after which a connection is cut that takes no byte of its queued output.
    pub write_timeout: Duration,
    /// The first pause between two dials of a kept node. It doubles up to `redial_max`.
    pub redial_min: Duration,
    /// The longest pause between two dials of a kept node.
    pub redial_max: Duration,
    /// The length of the longest frame that is accepted, in bytes.
    pub max_frame: usize,
    /// The length of the longest message that is accepted once it is reassembled from fragments, in
    /// bytes.
    pub max_message: usize,
    /// The greatest total length of all unfinished fragmented messages of one connection, in bytes.
    pub max_reassembly: usize,
    /// The greatest total length, in bytes, of what the peers of all connections have begun to send
    /// and not finished. If there is more, the connections with the most are closed.
    pub max_unfinished: usize,
    /// How long a peer may take to finish a frame, beside a second for each 256 KiB of it.
    pub frame_timeout: Duration,
    /// The greatest number of established connections.
    pub max_connections: usize,
    /// The greatest number of accepted sockets with an unfinished handshake. A new socket displaces
    /// the oldest.
    pub max_handshakes: usize,
    /// The greatest number of dials with an open socket at a time; further dials wait.
    pub max_dials: usize,
    /// The fragment size in bytes. Longer outgoing messages are sent in fragments of this size.
    pub fragment_bytes: usize,
    /// The time for which a reader that has answered a call polls for the next call before it
    /// sleeps, where polling was worthwhile recently. Zero disables polling, and waiting for
    /// further calls of many callers.
    pub spin: Duration,
    /// The capacity of each lane of a connection, in the order of [`Lane`](crate::Lane).
    pub lanes: [LaneLimits; 5],
}

impl Settings {
    /// Returns settings for the node `name` (`name@host`) with the default limits.
    ///
    /// The port of EPMD is that in `ERL_EPMD_PORT`, if the variable is set.
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
            max_unfinished: 1 << 30,
            frame_timeout: Duration::from_secs(30),
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
