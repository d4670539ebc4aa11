//! The destination of a message.

use std::fmt;

use gater_term::{Atom, Pid};

use super::SendError;
use crate::protocol::name;

/// A process as a program names it: by pid, by a name on this node, or by name and node.
///
/// ```
/// use gater_dist::process::Destination;
///
/// let here = Destination::from("server");
/// let there = Destination::from(("server", "beam@host"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Pid(Pid),
    Name(String, Option<String>),
}

impl From<Pid> for Destination {
    fn from(pid: Pid) -> Self {
        Self(Kind::Pid(pid))
    }
}

impl From<&Pid> for Destination {
    fn from(pid: &Pid) -> Self {
        pid.clone().into()
    }
}

impl From<&str> for Destination {
    fn from(name: &str) -> Self {
        Self(Kind::Name(name.to_owned(), None))
    }
}

impl From<(&str, &str)> for Destination {
    fn from((name, node): (&str, &str)) -> Self {
        Self(Kind::Name(name.to_owned(), Some(node.to_owned())))
    }
}

impl Destination {
    /// Returns the process that the destination names, as seen from the node `own`.
    pub(super) fn resolve(self, own: &Atom) -> Result<Target, SendError> {
        let (name, node) = match self.0 {
            Kind::Pid(pid) => return Ok(Target::Pid(pid)),
            Kind::Name(name, node) => (name, node),
        };
        let node = match node {
            None => own.clone(),
            Some(node) => match (name::split(&node), Atom::new(&node)) {
                (Some(_), Ok(atom)) => atom,
                _ => return Err(SendError::BadName(node)),
            },
        };
        match Atom::new(&name) {
            Ok(name) if !matches!(name.as_str(), "" | "undefined") => {
                Ok(Target::Name { name, node })
            }
            _ => Err(SendError::BadName(name)),
        }
    }
}

/// A process to which a message is sent or that is monitored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The process with this pid.
    Pid(Pid),
    /// The process with this registered name.
    Name {
        /// The name.
        name: Atom,
        /// The node on which it is registered.
        node: Atom,
    },
}

impl Target {
    /// Returns the node of the process.
    pub fn node(&self) -> &Atom {
        match self {
            Self::Pid(pid) => &pid.node,
            Self::Name { node, .. } => node,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "{pid:?}"),
            Self::Name { name, node } => write!(f, "{{{name},{node}}}"),
        }
    }
}
