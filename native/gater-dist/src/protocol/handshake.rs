//! The handshake of OTP 23 and later, for both sides, as state machines.
//!
//! The state machines consume and produce handshake messages without their length prefix (two bytes
//! over TCP, four over TLS), which the driver adds and removes. The driver also owns the clock: a
//! handshake must end within [`Settings::handshake_timeout`].
//!
//! Source: "Distribution Handshake", ERTS User's Guide, and `dist_util.erl`.
//!
//! [`Settings::handshake_timeout`]: crate::Settings::handshake_timeout

use bytes::{Buf, BufMut};
use gater_term::Atom;
use secrecy::{ExposeSecret, SecretSlice};
use subtle::ConstantTimeEq;

use super::{flags, name};
use crate::{HandshakeError, Peer};

/// The greatest length of a message during a handshake in bytes. A name message with a name of 255
/// characters is well below it.
pub const MAX_MESSAGE: usize = 2048;

/// The identity of this node in a handshake.
#[derive(Debug, Clone)]
pub struct Local {
    /// The full name.
    pub name: Atom,
    /// The incarnation, from EPMD.
    pub creation: u32,
    /// The cookie.
    pub cookie: SecretSlice<u8>,
}

/// The next step after a message was handled.
#[derive(Debug)]
pub enum Step {
    /// The driver waits for the next message.
    Wait,
    /// The driver sends these messages, then waits for the next one.
    Send(Vec<Vec<u8>>),
    /// The peer that was dialled believes that it is connected to this node. The driver calls
    /// [`Dialer::alive`] to say whether to continue.
    Alive,
    /// The peer that has connected has sent its name. The driver calls [`Acceptor::status`].
    Named,
    /// The driver sends these messages; then the connection is established.
    Done(Vec<Vec<u8>>, Peer),
}

fn digest(cookie: &SecretSlice<u8>, challenge: u32) -> [u8; 16] {
    let mut context = md5::Context::new();
    context.consume(cookie.expose_secret());
    context.consume(challenge.to_string());
    context.finalize().0
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Writes the name of this node with its length in two bytes, which ends the name and challenge
/// messages.
fn put_name(out: &mut Vec<u8>, local: &Local) {
    let text = local.name.as_str().as_bytes();
    out.put_u16(text.len() as u16);
    out.put_slice(text);
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

fn take_name<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::from(u16::from_be_bytes(take(input)?));
    let text = input.get(..len)?;
    // Bytes after the name are reserved for later versions and ignored, as OTP does.
    input.advance(len);
    std::str::from_utf8(text).ok()
}

/// Returns a name and a creation for a node that has no name. A node that returns with the
/// `creation` that it was given gets the same name again, at every gateway that knows the cookie
/// and without any stored state. A node without a creation is given `fresh`.
fn name_for(local: &Local, host: &str, creation: u32, fresh: u32) -> (String, u32) {
    let creation = match creation {
        // Creations up to 3 are used by old nodes.
        0..=3 => fresh | 4,
        known => known,
    };
    let mut context = md5::Context::new();
    context.consume(local.cookie.expose_secret());
    context.consume(creation.to_string());
    context.consume(host);
    let text: String = context.finalize().0.iter().take(6).map(|b| format!("{b:02X}")).collect();
    (format!("{text}@{host}"), creation)
}

fn peer(local: &Local, text: &str, offered: u64, creation: u32) -> Result<Peer, HandshakeError> {
    let bad_name = || HandshakeError::BadName(text.chars().take(255).collect());
    if offered & flags::NAME_ME != 0 || text == local.name.as_str() {
        return Err(bad_name());
    }
    name::split(text).ok_or_else(bad_name)?;
    let expanded = flags::expand(offered);
    match flags::missing(expanded) {
        0 => Ok(Peer {
            name: Atom::new(text).map_err(|_| bad_name())?,
            creation,
            flags: expanded,
            hidden: expanded & flags::PUBLISHED == 0,
        }),
        missing => Err(HandshakeError::MissingFlags(missing)),
    }
}

#[derive(Debug)]
enum DialState {
    Status,
    AliveAsked,
    Challenge,
    Ack(Peer),
    Over,
}

/// The side that has connected.
#[derive(Debug)]
pub struct Dialer {
    local: Local,
    expected: Atom,
    challenge: u32,
    state: DialState,
}

impl Dialer {
    /// Returns the state of a handshake with the node `expected`, and the first message.
    /// `challenge` must be unpredictable.
    pub fn new(local: Local, expected: Atom, challenge: u32) -> (Self, Vec<u8>) {
        let mut first = vec![b'N'];
        first.put_u64(flags::OFFERED);
        first.put_u32(local.creation);
        put_name(&mut first, &local);
        (Self { local, expected, challenge, state: DialState::Status }, first)
    }

    /// Handles the next message of the peer. The method must not be called again after an error or
    /// [`Step::Done`].
    pub fn handle(&mut self, message: &[u8]) -> Result<Step, HandshakeError> {
        match std::mem::replace(&mut self.state, DialState::Over) {
            DialState::Status => self.on_status(message),
            DialState::Challenge => self.on_challenge(message),
            DialState::Ack(peer) => self.on_ack(message, peer),
            DialState::AliveAsked | DialState::Over => Err(HandshakeError::Malformed("order")),
        }
    }

    /// Answers [`Step::Alive`]. With `go_on`, the handshake continues and the peer drops the older
    /// connection in which it believes.
    pub fn alive(&mut self, go_on: bool) -> Vec<u8> {
        self.state = if go_on { DialState::Challenge } else { DialState::Over };
        if go_on { b"strue".to_vec() } else { b"sfalse".to_vec() }
    }

    /// Returns the error for a peer that closes the socket at this point.
    pub fn closed(&self) -> HandshakeError {
        match self.state {
            // A node that finds the challenge reply to be wrong closes the socket without a
            // message.
            DialState::Ack(_) => HandshakeError::WrongCookie,
            DialState::Challenge => HandshakeError::Closed("a challenge"),
            _ => HandshakeError::Closed("a status"),
        }
    }

    fn on_status(&mut self, message: &[u8]) -> Result<Step, HandshakeError> {
        match message {
            // With `ok_simultaneous` the peer gives up its own attempt.
            b"sok" | b"sok_simultaneous" => {
                self.state = DialState::Challenge;
                Ok(Step::Wait)
            }
            b"snok" => Err(HandshakeError::Simultaneous),
            b"snot_allowed" => Err(HandshakeError::NotAllowed),
            b"salive" => {
                self.state = DialState::AliveAsked;
                Ok(Step::Alive)
            }
            _ => Err(HandshakeError::Malformed("status")),
        }
    }

    fn on_challenge(&mut self, mut message: &[u8]) -> Result<Step, HandshakeError> {
        let malformed = || HandshakeError::Malformed("challenge");
        match take(&mut message).ok_or_else(malformed)? {
            [b'N'] => {}
            [b'n'] => return Err(HandshakeError::TooOld),
            _ => return Err(malformed()),
        }
        let offered = u64::from_be_bytes(take(&mut message).ok_or_else(malformed)?);
        let theirs = u32::from_be_bytes(take(&mut message).ok_or_else(malformed)?);
        let creation = u32::from_be_bytes(take(&mut message).ok_or_else(malformed)?);
        let text = take_name(&mut message).ok_or_else(malformed)?;
        if text != self.expected.as_str() {
            return Err(HandshakeError::WrongNode {
                expected: self.expected.as_str().to_owned(),
                found: text.chars().take(255).collect(),
            });
        }
        let peer = peer(&self.local, text, offered, creation)?;
        let mut reply = vec![b'r'];
        reply.put_u32(self.challenge);
        reply.put_slice(&digest(&self.local.cookie, theirs));
        self.state = DialState::Ack(peer);
        Ok(Step::Send(vec![reply]))
    }

    fn on_ack(&mut self, message: &[u8], peer: Peer) -> Result<Step, HandshakeError> {
        let Some((b'a', theirs)) = message.split_first() else {
            return Err(HandshakeError::Malformed("challenge ack"));
        };
        if !same(theirs, &digest(&self.local.cookie, self.challenge)) {
            return Err(HandshakeError::WrongCookie);
        }
        Ok(Step::Done(Vec::new(), peer))
    }
}

/// The decision of the accepting side about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The handshake continues.
    Ok,
    /// The handshake continues, and this node gives up its own attempt to connect to the peer.
    OkSimultaneous,
    /// The handshake ends, since this node's own attempt takes precedence.
    Nok,
    /// This node is connected to the peer already, and asks whether the peer wants to replace the
    /// connection.
    Alive,
    /// The connection is not allowed at present.
    NotAllowed,
}

#[derive(Debug)]
enum AcceptState {
    Name,
    Named(Peer),
    AliveAsked(Peer),
    Reply(Peer),
    Over,
}

/// The side that accepted the connection.
#[derive(Debug)]
pub struct Acceptor {
    local: Local,
    challenge: u32,
    /// Whether the peer asked for a name and was given one.
    named: bool,
    state: AcceptState,
}

impl Acceptor {
    /// Returns the state of a handshake with a peer that has connected. `challenge` must be
    /// unpredictable.
    pub fn new(local: Local, challenge: u32) -> Self {
        Self { local, challenge, named: false, state: AcceptState::Name }
    }

    /// Returns whether the peer has sent nothing yet.
    pub fn is_new(&self) -> bool {
        matches!(self.state, AcceptState::Name)
    }

    /// Returns the peer as far as it has introduced itself. Its identity is proved only by
    /// [`Step::Done`].
    pub fn peer(&self) -> Option<&Peer> {
        match &self.state {
            AcceptState::Named(peer) | AcceptState::AliveAsked(peer) | AcceptState::Reply(peer) => {
                Some(peer)
            }
            AcceptState::Name | AcceptState::Over => None,
        }
    }

    /// Handles the next message of the peer. The method must not be called again after an error or
    /// [`Step::Done`].
    pub fn handle(&mut self, message: &[u8]) -> Result<Step, HandshakeError> {
        match std::mem::replace(&mut self.state, AcceptState::Over) {
            AcceptState::Name => self.on_name(message),
            AcceptState::AliveAsked(peer) => match message {
                b"strue" => Ok(Step::Send(vec![self.challenge_to(peer)])),
                b"sfalse" => Err(HandshakeError::Declined),
                _ => Err(HandshakeError::Malformed("answer to alive")),
            },
            AcceptState::Reply(peer) => self.on_reply(message, peer),
            AcceptState::Named(_) | AcceptState::Over => Err(HandshakeError::Malformed("order")),
        }
    }

    /// Answers [`Step::Named`]. Returns the messages to send, and whether the handshake continues
    /// after them.
    pub fn status(&mut self, status: Status) -> (Vec<Vec<u8>>, Result<(), HandshakeError>) {
        let AcceptState::Named(peer) = std::mem::replace(&mut self.state, AcceptState::Over) else {
            return (Vec::new(), Err(HandshakeError::Malformed("order")));
        };
        match status {
            // A peer without a name does not believe in any connection. A connection under the name
            // that it is given is broken, and is replaced once the peer has shown that it knows the
            // cookie.
            Status::Ok | Status::OkSimultaneous | Status::Alive if self.named => {
                let mut message = b"snamed:".to_vec();
                let text = peer.name.as_str().as_bytes();
                message.put_u16(text.len() as u16);
                message.put_slice(text);
                message.put_u32(peer.creation);
                (vec![message, self.challenge_to(peer)], Ok(()))
            }
            Status::Ok => (vec![b"sok".to_vec(), self.challenge_to(peer)], Ok(())),
            Status::OkSimultaneous => {
                (vec![b"sok_simultaneous".to_vec(), self.challenge_to(peer)], Ok(()))
            }
            Status::Nok => (vec![b"snok".to_vec()], Err(HandshakeError::Simultaneous)),
            Status::NotAllowed => {
                (vec![b"snot_allowed".to_vec()], Err(HandshakeError::TooManyConnections))
            }
            Status::Alive => {
                self.state = AcceptState::AliveAsked(peer);
                (vec![b"salive".to_vec()], Ok(()))
            }
        }
    }

    /// Returns the error for a peer that closes the socket at this point.
    pub fn closed(&self) -> HandshakeError {
        match self.state {
            AcceptState::Name => HandshakeError::Closed("a name"),
            AcceptState::AliveAsked(_) => HandshakeError::Closed("an answer to alive"),
            _ => HandshakeError::Closed("a challenge reply"),
        }
    }

    fn on_name(&mut self, mut message: &[u8]) -> Result<Step, HandshakeError> {
        let malformed = || HandshakeError::Malformed("name");
        match take(&mut message).ok_or_else(malformed)? {
            [b'N'] => {}
            [b'n'] => return Err(HandshakeError::TooOld),
            _ => return Err(malformed()),
        }
        let offered = u64::from_be_bytes(take(&mut message).ok_or_else(malformed)?);
        let creation = u32::from_be_bytes(take(&mut message).ok_or_else(malformed)?);
        let text = take_name(&mut message).ok_or_else(malformed)?;
        let peer = if offered & flags::NAME_ME == 0 {
            peer(&self.local, text, offered, creation)?
        } else {
            self.named = true;
            // The challenge is as good as any other random number, since the peer learns it next
            // anyway.
            let (name, creation) = name_for(&self.local, text, creation, self.challenge);
            peer(&self.local, &name, offered & !flags::NAME_ME, creation)?
        };
        self.state = AcceptState::Named(peer);
        Ok(Step::Named)
    }

    fn challenge_to(&mut self, peer: Peer) -> Vec<u8> {
        // A peer without a name evaluates the flags that both sides have set, and accepts the name
        // only if its request is among them.
        let name_me = if self.named { flags::NAME_ME } else { 0 };
        let mut message = vec![b'N'];
        message.put_u64(flags::OFFERED | name_me);
        message.put_u32(self.challenge);
        message.put_u32(self.local.creation);
        put_name(&mut message, &self.local);
        self.state = AcceptState::Reply(peer);
        message
    }

    fn on_reply(&mut self, message: &[u8], peer: Peer) -> Result<Step, HandshakeError> {
        let mut rest = message;
        let malformed = || HandshakeError::Malformed("challenge reply");
        if take(&mut rest) != Some([b'r']) {
            return Err(malformed());
        }
        let theirs = u32::from_be_bytes(take(&mut rest).ok_or_else(malformed)?);
        if !same(rest, &digest(&self.local.cookie, self.challenge)) {
            return Err(HandshakeError::WrongCookie);
        }
        let mut ack = vec![b'a'];
        ack.put_slice(&digest(&self.local.cookie, theirs));
        Ok(Step::Done(vec![ack], peer))
    }
}

#[cfg(test)]
mod tests;
