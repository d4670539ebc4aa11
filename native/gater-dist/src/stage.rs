//! The stages of a connection, at which it may fail.

use std::fmt;

use crate::{DialError, DownReason, HandshakeError};

/// A stage of establishing a connection, or the connection itself. Logs, metrics and tools use the
/// same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The name of the node is checked.
    Name,
    /// The addresses of its host are resolved.
    Resolve,
    /// The EPMD of its host is asked for its port.
    Epmd,
    /// A TCP connection is opened.
    Tcp,
    /// Names, flags and incarnations are exchanged.
    Handshake,
    /// Both ends prove that they know the cookie.
    Authentication,
    /// The connection is established.
    Established,
}

impl Stage {
    /// All stages, in the order in which a dial goes through them.
    pub const ALL: [Self; 7] = [
        Self::Name,
        Self::Resolve,
        Self::Epmd,
        Self::Tcp,
        Self::Handshake,
        Self::Authentication,
        Self::Established,
    ];

    /// Returns the name of the stage, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Resolve => "resolve",
            Self::Epmd => "epmd",
            Self::Tcp => "tcp",
            Self::Handshake => "handshake",
            Self::Authentication => "authentication",
            Self::Established => "established",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl DialError {
    /// Returns the stage at which the dial failed. A failure on this node, such as too many
    /// connections, counts as one of the TCP connection, which is then not opened.
    pub fn stage(&self) -> Stage {
        match self {
            Self::BadName(_) => Stage::Name,
            Self::Resolve(_) => Stage::Resolve,
            Self::Epmd(_) | Self::NotRunning(_) => Stage::Epmd,
            Self::Connect { .. } | Self::TooManyConnections | Self::Unlisted | Self::Stopped => {
                Stage::Tcp
            }
            Self::Handshake(error) => error.stage(),
        }
    }
}

impl HandshakeError {
    /// Returns the stage at which the handshake failed. A peer that closes the connection instead
    /// of proving that it knows the cookie has also failed at the authentication.
    pub fn stage(&self) -> Stage {
        match self {
            Self::WrongCookie => Stage::Authentication,
            _ => Stage::Handshake,
        }
    }
}

/// The names of errors for counting, which are few and contain nothing that a peer chooses.
impl DialError {
    /// Returns the name of the kind of this error.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadName(_) => "bad_name",
            Self::Resolve(_) => "unknown_host",
            Self::Epmd(_) => "epmd",
            Self::NotRunning(_) => "not_running",
            Self::Connect { .. } => "connect",
            Self::Handshake(error) => error.label(),
            Self::TooManyConnections => "too_many_connections",
            Self::Unlisted => "unlisted",
            Self::Stopped => "stopped",
        }
    }
}

impl HandshakeError {
    /// Returns the name of the kind of this error.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Closed(_) => "closed",
            Self::Io(_) => "io",
            Self::Malformed(_) => "malformed",
            Self::TooLong(_) => "too_long",
            Self::WrongCookie => "wrong_cookie",
            Self::TooOld => "too_old",
            Self::MissingFlags(_) => "missing_flags",
            Self::BadName(_) => "bad_name",
            Self::NotErlang(_) => "not_erlang",
            Self::WrongNode { .. } => "wrong_node",
            Self::Simultaneous => "simultaneous",
            Self::NotAllowed => "not_allowed",
            Self::AlreadyConnected => "already_connected",
            Self::Declined => "declined",
            Self::TooManyConnections => "too_many_connections",
        }
    }
}

impl DownReason {
    /// Returns the name of the kind of this reason.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Io(_) => "io",
            Self::Silent(_) => "silent",
            Self::Stalled(_) => "stalled",
            Self::Overflow(_) => "overflow",
            Self::Replaced => "replaced",
            Self::Protocol(_) => "protocol",
            Self::Unfinished(_) | Self::SlowFrame(_) => "unfinished",
            Self::Requested(_) => "requested",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EpmdError;

    #[test]
    fn an_error_of_a_dial_names_the_stage_it_came_to() {
        let stage = |error: DialError| error.stage().as_str();
        assert_eq!(stage(DialError::BadName("x".into())), "name");
        assert_eq!(stage(DialError::Resolve("a@h".into())), "resolve");
        assert_eq!(stage(EpmdError::Protocol("?".into()).into()), "epmd");
        assert_eq!(stage(DialError::NotRunning("a@h".into())), "epmd");
        assert_eq!(stage(HandshakeError::TooOld.into()), "handshake");
        assert_eq!(stage(HandshakeError::WrongCookie.into()), "authentication");
    }
}
