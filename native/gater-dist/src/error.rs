//! What can go wrong, told apart by who is to blame.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::Lane;
use crate::protocol::control::RawPid;

/// Shows an error with the whole chain of its causes, as in "cannot connect to 10.0.0.1:4369:
/// connection refused": what logs and people should see.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors show their cause themselves.
            if !shown.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            next = cause.source();
        }
        Ok(())
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name is not of the form `name@host`.
    #[error("{0:?} is not a node name (name@host)")]
    BadName(String),
    /// The listening socket could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// EPMD could not be reached or refused the registration.
    #[error("cannot register with EPMD")]
    Epmd(#[from] EpmdError),
}

/// Why EPMD did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EpmdError {
    /// Nothing answers at its address.
    #[error("no EPMD at {address}")]
    Unreachable {
        /// The address tried.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Another node of this name is registered on that machine.
    #[error("the name {0} is already registered: is another node of that name running?")]
    NameTaken(String),
    /// It did not answer in time.
    #[error("EPMD did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer made no sense or the connection broke.
    #[error("EPMD: {0}")]
    Protocol(String),
}

/// Why a connection to a node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name is not of the form `name@host`, or it is the node's own.
    #[error("{0:?} cannot be dialled: not the name of another node")]
    BadName(String),
    /// The host is unknown.
    #[error("cannot resolve the host of {0}")]
    Resolve(String),
    /// EPMD on the host of the node did not help.
    #[error(transparent)]
    Epmd(#[from] EpmdError),
    /// EPMD knows no such node: it is not running.
    #[error("{0} is not registered with its EPMD")]
    NotRunning(String),
    /// The node does not take connections.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address from EPMD.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// There are as many connections as the settings allow.
    #[error("too many connections")]
    TooManyConnections,
    /// This node was started by [`Node::unlisted`](crate::Node::unlisted).
    #[error("this node has no distribution of its own and dials nobody")]
    Unlisted,
    /// The node is shutting down.
    #[error("shutting down")]
    Stopped,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("not finished within {0:?}")]
    Timeout(Duration),
    /// The peer closed the socket. After a challenge reply that means a wrong cookie.
    #[error("closed by the peer while waiting for {0}")]
    Closed(&'static str),
    /// The socket broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer sent something that is no such handshake message.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A message longer than any handshake message is.
    #[error("handshake message of {0} bytes")]
    TooLong(usize),
    /// The peer does not know the cookie, or we do not.
    #[error("wrong cookie: the peer and this node must have the same one")]
    WrongCookie,
    /// The peer speaks the protocol of OTP 22 or older.
    #[error("the peer speaks the handshake of OTP 22 or older")]
    TooOld,
    /// The peer lacks flags this node cannot do without.
    #[error("the peer lacks mandatory flags {0:#x}")]
    MissingFlags(u64),
    /// The peer's name is no node name, or it is ours.
    #[error("unacceptable node name {0:?}")]
    BadName(String),
    /// What connected does not speak the protocol at all.
    #[error("it speaks {0}")]
    NotErlang(&'static str),
    /// Another node than the one dialled answered.
    #[error("dialled {expected}, {found} answered")]
    WrongNode {
        /// The name dialled.
        expected: String,
        /// The name in the challenge.
        found: String,
    },
    /// The peer is at the same time connecting to us, and that attempt goes first.
    #[error("the peer is connecting to us at the same time")]
    Simultaneous,
    /// The peer does not want us.
    #[error("the peer does not allow the connection")]
    NotAllowed,
    /// There is a connection to that node already, and it works.
    #[error("already connected")]
    AlreadyConnected,
    /// The peer keeps its present connection to us.
    #[error("the peer keeps its present connection")]
    Declined,
    /// There are as many connections as the settings allow.
    #[error("too many connections")]
    TooManyConnections,
}

/// Why an established connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The socket broke.
    #[error("socket: {0}")]
    Io(String),
    /// The peer was silent for the whole tick time.
    #[error("nothing heard for {0:?} (tick time)")]
    Silent(Duration),
    /// The peer took no data for the write timeout.
    #[error("the peer took no data for {0:?}")]
    Stalled(Duration),
    /// A lane that never drops was full.
    #[error("lane {0:?} is full")]
    Overflow(Lane),
    /// A newer connection of the same node took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// The peer broke the protocol or a limit.
    #[error("protocol: {0}")]
    Protocol(ProtocolError),
    /// Closed by this node's user.
    #[error("{0}")]
    Requested(&'static str),
    /// This node is shutting down.
    #[error("shutting down")]
    Shutdown,
}

/// How a peer broke the protocol, or a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame longer than the limit.
    #[error("frame of {len} bytes, limit {limit}")]
    FrameTooLong {
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A message whose fragments together exceed the limit.
    #[error("message above {0} bytes")]
    MessageTooLong(usize),
    /// More unfinished fragmented messages than allowed.
    #[error("unfinished messages above {0} bytes or in too great a number")]
    ReassemblyFull(usize),
    /// A frame that starts with no known frame type.
    #[error("unknown frame type")]
    FrameType,
    /// A fragment out of place.
    #[error("fragment: {0}")]
    Fragment(&'static str),
    /// The list of atoms of a frame makes no sense.
    #[error("atom cache: {0}")]
    AtomCache(&'static str),
    /// The references to atoms in a term make no sense.
    #[error("atom cache: {0}")]
    Expand(#[from] gater_term::ExpandError),
    /// A control message that is no tuple of a known shape.
    #[error("malformed control message")]
    Control,
    /// A term that does not decode, from a process that is known.
    #[error("term: {error}, sent by the process {sender}")]
    TermOf {
        /// The pid as its own node prints it, and its node.
        sender: String,
        /// What is wrong with the term.
        error: gater_term::ScanError,
    },
    /// A term that does not decode.
    #[error("term: {0}")]
    Term(#[from] gater_term::ScanError),
    /// A message without its payload.
    #[error("payload missing")]
    PayloadMissing,
}

impl ProtocolError {
    /// The same error of a term, with the process that sent it.
    pub(crate) fn sent_by(self, sender: Option<&RawPid<'_>>) -> Self {
        match (self, sender) {
            (Self::Term(error), Some(pid)) => {
                let node = String::from_utf8_lossy(pid.node);
                Self::TermOf { sender: format!("<0.{}.{}> of {node}", pid.id, pid.serial), error }
            }
            (error, _) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_with_all_its_causes_and_each_of_them_once() {
        let address = "10.0.0.1:4369".parse().unwrap();
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let dial = DialError::Connect { address, source: refused() };
        let text = "cannot connect to 10.0.0.1:4369: connection refused";
        assert_eq!(Chain(&dial).to_string(), text);
        let start = StartError::Epmd(EpmdError::Unreachable { address, source: refused() });
        let text = "cannot register with EPMD: no EPMD at 10.0.0.1:4369: connection refused";
        assert_eq!(Chain(&start).to_string(), text);
        let shake = DialError::Handshake(HandshakeError::WrongCookie);
        assert_eq!(Chain(&shake).to_string(), shake.to_string());
        let broken = DialError::Handshake(refused().into());
        assert_eq!(Chain(&broken).to_string(), "handshake: connection refused");
    }
}
