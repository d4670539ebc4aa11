//! The items of the send queue of a connection.

use std::sync::Arc;

use gater_term::LocalPid;

use crate::protocol::answer::{Answer, Reply};
use crate::protocol::encode::Signal;
use crate::{Payload, Prefix};

/// The approximate number of bytes of a monitor signal.
const MONITOR_BYTES: usize = 128;

/// An item of the send queue.
#[derive(Debug)]
pub enum Item {
    /// A control message, which is never fragmented.
    Signal(Signal),
    /// Monitors of several processes of the peer. Those before `from` are already sent.
    Monitors {
        /// The processes with the numbers of their monitors.
        of: Box<[(LocalPid, u64)]>,
        /// The index of the first process that is not monitored yet. Invariant: `from < of.len()`.
        from: usize,
    },
    /// The answer to a call, which is never fragmented.
    Answer(Answer),
    /// A message to one process.
    One(LocalPid, Payload),
    /// A message to several processes. Those before `from` are already served.
    Many {
        /// The receivers.
        to: Arc<[LocalPid]>,
        /// The index of the first receiver that is not served yet. Invariant: `from < to.len()`.
        from: usize,
        /// The message.
        payload: Payload,
    },
    /// The rest of a message of which some fragments are sent.
    Rest(Fragments),
}

/// A message that is sent in fragments.
#[derive(Debug)]
pub struct Fragments {
    /// The identifier of the message among the unfinished ones of its connection. Never 0.
    pub sequence: u64,
    /// The number of fragments that are still to be sent. Never 0.
    pub left: u64,
    /// The number of bytes of the payload that are sent.
    pub sent: usize,
    /// The payload.
    pub payload: Payload,
    /// Whether the atoms of its prefix are references.
    pub cached: bool,
    /// The receivers after this one, if any, and the index of the next.
    pub then: Option<(Arc<[LocalPid]>, usize)>,
}

impl Item {
    /// Returns the length of the message in bytes.
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

    /// Returns whether the bytes of the message are shared and therefore not copied.
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

    /// Returns the number of bytes that the item occupies, and the number of messages it stands
    /// for.
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
