//! Connects to a node step by step, to find out which step fails.
//!
//! A [`Node`](crate::Node) connects in one go and reports the first error. The functions here are
//! the individual steps: the addresses of a host, the names that EPMD knows there, and the
//! handshake with the flags that both sides offer. No connection stays open.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gater_term::Atom;
use secrecy::SecretSlice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::driver;
use crate::protocol::flags;
use crate::protocol::handshake::{Dialer, Local};
use crate::{EpmdError, HandshakeError, Peer};

/// The longest list of names that is read from an EPMD, in bytes.
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// Returns the addresses of a host, of both families, in the order in which they are dialled. The
/// list is empty if the host is unknown.
pub async fn resolve(host: &str, within: Duration) -> Vec<IpAddr> {
    driver::resolve(host, within).await
}

/// Returns the names that the EPMD at `epmd` knows (without the host) and their ports
/// (`NAMES_REQ`).
pub async fn epmd_names(
    epmd: SocketAddr,
    within: Duration,
) -> Result<Vec<(String, u16)>, EpmdError> {
    let asking = async {
        let unreachable = |source| EpmdError::Unreachable { address: epmd, source };
        let mut socket = TcpStream::connect(epmd).await.map_err(unreachable)?;
        let broken = |error: std::io::Error| EpmdError::Protocol(error.to_string());
        socket.write_all(&[0, 1, b'n']).await.map_err(broken)?;
        let mut answer = Vec::new();
        socket.take(MAX_NAMES_BYTES).read_to_end(&mut answer).await.map_err(broken)?;
        read_names(&answer)
            .ok_or_else(|| EpmdError::Protocol("what answers there is no EPMD".into()))
    };
    timeout(within, asking).await.unwrap_or(Err(EpmdError::Timeout(within)))
}

/// Reads the port of the EPMD, in four bytes, and a line `name NAME at port PORT` for each node.
fn read_names(answer: &[u8]) -> Option<Vec<(String, u16)>> {
    let text = std::str::from_utf8(answer.get(4..)?).ok()?;
    text.lines()
        .map(|line| {
            let (name, port) = line.strip_prefix("name ")?.rsplit_once(" at port ")?;
            Some((name.to_owned(), port.trim().parse().ok()?))
        })
        .collect()
}

/// The outcome of a handshake.
#[derive(Debug)]
pub struct Handshake {
    /// The flags that this side offered.
    pub offered: u64,
    /// The flags that the peer offered, if the handshake came that far.
    pub theirs: Option<u64>,
    /// The name under which the peer introduced itself, if the handshake came that far.
    pub name: Option<String>,
    /// The peer, or the reason why the handshake failed.
    pub outcome: Result<Peer, HandshakeError>,
}

impl Handshake {
    /// Returns the flags that this side needs and the peer lacks.
    pub fn missing(&self) -> u64 {
        self.theirs.map_or(0, |theirs| flags::missing(flags::expand(theirs)))
    }
}

/// Carries out the handshake with the node that is expected to have the name `expected`, as the
/// node `own` with `cookie`. The connection ends when the caller closes the socket.
pub async fn handshake(
    socket: &mut TcpStream,
    own: Atom,
    cookie: SecretSlice<u8>,
    expected: Atom,
    within: Duration,
) -> Handshake {
    let challenge = getrandom::u32().map_err(std::io::Error::from);
    let (mut theirs, mut name) = (None, None);
    let outcome = match challenge {
        Err(error) => Err(error.into()),
        Ok(challenge) => {
            let local = Local { name: own, creation: challenge | 4, cookie };
            let dialer = Dialer::new(local, expected, challenge);
            let heard = |message: &[u8]| {
                if let Some((flags, text)) = challenged(message) {
                    (theirs, name) = (Some(flags), Some(text));
                }
            };
            let shaking = driver::carry_out(dialer, socket, || true, heard);
            timeout(within, shaking).await.unwrap_or(Err(HandshakeError::Timeout(within)))
        }
    };
    Handshake { offered: flags::OFFERED, theirs, name, outcome }
}

/// Returns the flags and the name in a challenge: `N flags:8 challenge:4 creation:4 length:2 name`.
fn challenged(message: &[u8]) -> Option<(u64, String)> {
    let (flags, rest) = message.strip_prefix(b"N")?.split_first_chunk::<8>()?;
    let (length, rest) = rest.get(8..)?.split_first_chunk::<2>()?;
    let name = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    let name: String = String::from_utf8_lossy(name).chars().take(255).collect();
    Some((u64::from_be_bytes(*flags), name))
}

/// Returns the names of distribution flags, as `dist.hrl` of OTP's kernel has them without
/// `DFLAG_`.
pub fn flag_names(flags: u64) -> Vec<String> {
    flags::names(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_epmd_are_read_and_anything_else_is_none() {
        let answer = b"\0\0\x11\x11name gater at port 4370\nname app-1 at port 40001\n";
        let expected = vec![("gater".to_owned(), 4370), ("app-1".to_owned(), 40001)];
        assert_eq!(read_names(answer), Some(expected));
        assert_eq!(read_names(b"\0\0\x11\x11"), Some(Vec::new()));
        for bad in [&b""[..], b"HTTP/1.1 400\r\n", b"\0\0\x11\x11name a at port 70000\n"] {
            assert_eq!(read_names(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_challenge_shows_flags_and_name_and_a_short_one_nothing() {
        let mut message = vec![b'N'];
        message.extend(0xd_07df_7fbd_u64.to_be_bytes());
        message.extend([0; 8]);
        message.extend([0, 3]);
        message.extend(b"a@h");
        assert_eq!(challenged(&message), Some((0xd_07df_7fbd, "a@h".into())));
        for length in 0..message.len() {
            assert_eq!(challenged(&message[..length]), None, "{length}");
        }
        assert_eq!(challenged(b"sok"), None);
    }
}
