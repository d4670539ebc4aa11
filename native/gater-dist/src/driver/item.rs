//! What can be sent on one connection.

use std::sync::Arc;

use gater_term::LocalPid;

use crate::protocol::answer::{Answer, Reply};
use crate::protocol::encode::Signal;
use crate::{Payload, Prefix};

/// About what a monitor takes on the wire.
const MONITOR_BYTES: usize = 128;

/// Something to send.
#[derive(Debug)]
pub enum Item {
    /// A control message, never fragmented.
    Signal(Signal),
    /// Monitors of processes of the peer by their numbers, those before `from` excepted.
    Monitors {
        /// The processes.
        of: Box<[(LocalPid, u64)]>,
        /// The place of the first one not monitored yet. Invariant: `from < of.len()`.
        from: usize,
    },
    /// The answer to a call, never fragmented.
    Answer(Answer),
    /// A message to one process.
    One(LocalPid, Payload),
    /// A message to several processes, those before `from` excepted.
    Many {
        /// The receivers.
        to: Arc<[LocalPid]>,
        /// The place of the first one not served yet. Invariant: `from < to.len()`.
        from: usize,
        /// What each is sent.
        payload: Payload,
    },
    /// The rest of a message of which some fragments are out.
    Rest(Fragments),
}

/// A message that leaves in fragments.
#[derive(Debug)]
pub struct Fragments {
    /// Tells it apart on its connection. Never 0.
    pub sequence: u64,
    /// Fragments still to be sent. Never 0.
    pub left: u64,
    /// Bytes of the payload that are out.
    pub sent: usize,
    /// What is sent.
    pub payload: Payload,
    /// Whether the atoms of its prefix are references.
    pub cached: bool,
    /// The receivers that come after this one, if any.
    pub then: Option<(Arc<[LocalPid]>, usize)>,
}

impl Item {
    /// Returns the bytes of the message.
    pub fn message_len(&self) -> usize {
        match self {
            Self::Signal(signal) => signal.control.len() + signal.payload.len(),
            Self::Monitors { of, from } => (of.len() - from) * MONITOR_BYTES,
            Self::Answer(answer) => answer.bytes(),
            Self::One(_, payload)
            | Self::Many { payload, .. }
            | Self::Rest(Fragments { payload, .. }) => payload.len(),
        }
    }

    /// Returns whether its bytes are not its own, so that they need not be copied.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Answer(Answer { reply: Reply::Shared(_), .. }))
    }

    /// Returns the prefix of the message.
    pub fn prefix(&self) -> Option<&Arc<Prefix>> {
        match self {
            Self::Signal(signal) => signal.payload.prefix(),
            Self::Monitors { .. } | Self::Answer(_) => None,
            Self::One(_, payload)
            | Self::Many { payload, .. }
            | Self::Rest(Fragments { payload, .. }) => payload.prefix(),
        }
    }

    /// What the item occupies, and how many messages it stands for.
    pub fn size(&self) -> (usize, u32) {
        const ENTRY: usize = 64;
        match self {
            Self::Signal(signal) => (ENTRY + signal.control.len() + signal.payload.len(), 1),
            Self::Monitors { of, .. } => (ENTRY + size_of_val(&**of), 1),
            Self::Answer(answer) => (ENTRY + answer.bytes(), 1),
            Self::One(_, payload) => (ENTRY + payload.len(), 1),
            Self::Many { to, from, payload } => {
                let left = to.len() - from;
                (
                    ENTRY + payload.len() + left * size_of::<LocalPid>(),
                    u32::try_from(left).unwrap_or(u32::MAX),
                )
            }
            Self::Rest(rest) => {
                let then = rest.then.as_ref().map_or(0, |(to, from)| to.len() - from);
                let more = then * size_of::<LocalPid>();
                (
                    ENTRY + rest.payload.len().saturating_sub(rest.sent) + more,
                    1 + u32::try_from(then).unwrap_or(u32::MAX - 1),
                )
            }
        }
    }
}
