//! The errors of the crate, by who is to blame.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::Lane;
use crate::protocol::control::RawPid;

/// Displays an error with the whole chain of its causes, as in "cannot connect to 10.0.0.1:4369:
/// connection refused". Logs and people should see an error in this form.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors display their cause themselves.
            if !shown.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            next = cause.source();
        }
        Ok(())
    }
}

/// The reason why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name is not of the form `name@host`.
    #[error("{0:?} is not a node name (name@host)")]
    BadName(String),
    /// The listening socket could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address on which the node was to listen.
        address: std::net::SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// EPMD could not be reached or refused the registration.
    #[error("cannot register with EPMD")]
    Epmd(#[from] EpmdError),
}

/// The reason why a request to EPMD failed.
#[derive(Debug, thiserror::Error)]
pub enum EpmdError {
    /// Nothing answers at the address of EPMD.
    #[error("no EPMD at {address}")]
    Unreachable {
        /// The address that was tried.
        address: std::net::SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// Another node of this name is registered on that machine.
    #[error("the name {0} is already registered: is another node of that name running?")]
    NameTaken(String),
    /// EPMD did not answer in time.
    #[error("EPMD did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer is invalid, or the connection to EPMD broke.
    #[error("EPMD: {0}")]
    Protocol(String),
}

/// The reason why a connection to a node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not have the form `name@host`, or it is the name of this node.
    #[error("{0:?} cannot be dialled: not the name of another node")]
    BadName(String),
    /// The host is unknown.
    #[error("cannot resolve the host of {0}")]
    Resolve(String),
    /// The request to EPMD on the host of the node failed.
    #[error(transparent)]
    Epmd(#[from] EpmdError),
    /// EPMD does not know the node, so it is not running.
    #[error("{0} is not registered with its EPMD")]
    NotRunning(String),
    /// The node does not accept the connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address that EPMD returned.
        address: std::net::SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// The settings allow no more connections.
    #[error("too many connections")]
    TooManyConnections,
    /// This node was started by [`Node::unlisted`](crate::Node::unlisted).
    #[error("this node has no distribution of its own and dials nobody")]
    Unlisted,
    /// The node is shutting down.
    #[error("shutting down")]
    Stopped,
}

/// The reason why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The handshake took too long.
    #[error("not finished within {0:?}")]
    Timeout(Duration),
    /// The peer closed the socket. After a challenge reply this means that the cookies differ.
    #[error("closed by the peer while waiting for {0}")]
    Closed(&'static str),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer sent bytes that are not the expected handshake message.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The message is longer than any handshake message.
    #[error("handshake message of {0} bytes")]
    TooLong(usize),
    /// The cookies of the peer and of this node differ.
    #[error("wrong cookie: the peer and this node must have the same one")]
    WrongCookie,
    /// The peer speaks the protocol of OTP 22 or older.
    #[error("the peer speaks the handshake of OTP 22 or older")]
    TooOld,
    /// The peer lacks flags that this node requires.
    #[error("the peer lacks mandatory flags {0:#x}")]
    MissingFlags(u64),
    /// The name of the peer is not a node name, or it is the name of this node.
    #[error("unacceptable node name {0:?}")]
    BadName(String),
    /// The peer speaks another protocol.
    #[error("it speaks {0}")]
    NotErlang(&'static str),
    /// The node that answered is not the node that was dialled.
    #[error("dialled {expected}, {found} answered")]
    WrongNode {
        /// The name of the dialled node.
        expected: String,
        /// The name in the challenge.
        found: String,
    },
    /// The peer is connecting to this node at the same time, and its attempt takes precedence.
    #[error("the peer is connecting to us at the same time")]
    Simultaneous,
    /// The peer does not allow the connection.
    #[error("the peer does not allow the connection")]
    NotAllowed,
    /// A working connection to the node exists already.
    #[error("already connected")]
    AlreadyConnected,
    /// The peer keeps its existing connection to this node.
    #[error("the peer keeps its present connection")]
    Declined,
    /// The settings allow no more connections.
    #[error("too many connections")]
    TooManyConnections,
}

/// The reason why an established connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The peer closed the connection.
    #[error("closed by the peer")]
    Closed,
    /// The socket failed.
    #[error("socket: {0}")]
    Io(String),
    /// The peer was silent for the whole tick time.
    #[error("nothing heard for {0:?} (tick time)")]
    Silent(Duration),
    /// The peer took no data during the write timeout.
    #[error("the peer took no data for {0:?}")]
    Stalled(Duration),
    /// A lane that never drops messages was full.
    #[error("lane {0:?} is full")]
    Overflow(Lane),
    /// A newer connection to the same node replaced this one.
    #[error("replaced by a newer connection")]
    Replaced,
    /// The peer violated the protocol or exceeded a limit.
    #[error("protocol: {0}")]
    Protocol(ProtocolError),
    /// All peers together had more than this many bytes of unfinished messages, and this one the most.
    #[error("unfinished messages of all peers above {0} bytes, of which this one had the most")]
    Unfinished(usize),
    /// The peer did not finish a frame in time.
    #[error("a frame was not finished within {0:?}")]
    SlowFrame(Duration),
    /// The user of this node closed the connection.
    #[error("{0}")]
    Requested(&'static str),
    /// This node is shutting down.
    #[error("shutting down")]
    Shutdown,
}

/// The way in which a peer violated the protocol or exceeded a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The frame is longer than the limit.
    #[error("frame of {len} bytes, limit {limit}")]
    FrameTooLong {
        /// The announced length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The fragments of a message together exceed the limit.
    #[error("message above {0} bytes")]
    MessageTooLong(usize),
    /// The peer has more unfinished fragmented messages than allowed.
    #[error("unfinished messages above {0} bytes or in too great a number")]
    ReassemblyFull(usize),
    /// The frame starts with an unknown frame type.
    #[error("unknown frame type")]
    FrameType,
    /// The fragment does not continue its message.
    #[error("fragment: {0}")]
    Fragment(&'static str),
    /// The list of atoms of the frame is invalid.
    #[error("atom cache: {0}")]
    AtomCache(&'static str),
    /// The references to atoms in a term are invalid.
    #[error("atom cache: {0}")]
    Expand(#[from] gater_term::ExpandError),
    /// The control message is not a tuple of a known shape.
    #[error("malformed control message")]
    Control,
    /// A term from a known process does not decode.
    #[error("term: {error}, sent by the process {sender}")]
    TermOf {
        /// The pid as its own node prints it, and the name of the node.
        sender: String,
        /// The reason why the term does not decode.
        error: gater_term::ScanError,
    },
    /// A term does not decode.
    #[error("term: {0}")]
    Term(#[from] gater_term::ScanError),
    /// The payload of a message is missing.
    #[error("payload missing")]
    PayloadMissing,
}

impl ProtocolError {
    /// Returns the same error with the process that sent the term.
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
