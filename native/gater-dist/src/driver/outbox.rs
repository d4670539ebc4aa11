//! What waits to be written on one connection.

use std::sync::Arc;

use gater_core::channel::{Lane, LaneLimits, Lanes, LocalPid, Pushed};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::protocol::encode::Signal;
use crate::{Payload, Queued};

/// Something to send.
#[derive(Debug)]
pub enum Item {
    /// A control message, never fragmented.
    Signal(Signal),
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
    /// Whether the atoms of its opening are references.
    pub cached: bool,
    /// The receivers that come after this one, if any.
    pub then: Option<(Arc<[LocalPid]>, usize)>,
}

impl Item {
    /// What the item occupies, and how many messages it stands for.
    fn size(&self) -> (usize, u32) {
        const ENTRY: usize = 64;
        match self {
            Self::Signal(signal) => (ENTRY + signal.control.len() + signal.payload.len(), 1),
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

/// What became of what was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is queued, or the connection is about to end and nothing matters any more.
    Taken,
    /// This many messages, of this many bytes, had to go.
    Dropped {
        /// Messages.
        messages: u32,
        /// Bytes.
        bytes: usize,
    },
    /// The lane never drops and is full.
    Overflow,
}

/// The queue between those who send and the writer task.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Wakes the writer, which waits only when the lanes are empty.
    wake: Notify,
}

#[derive(Debug)]
struct Inner {
    lanes: Lanes<Item>,
    writer_waits: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is taken; what is there is still written.
    Draining,
    Closed,
}

/// What the writer is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Write what it was given.
    Write,
    /// Wait for [`Outbox::woken`].
    Wait,
    /// End: everything is written, or nothing matters any more.
    End,
}

impl Outbox {
    /// An empty queue.
    pub fn new(limits: [LaneLimits; 5]) -> Self {
        let inner = Inner { lanes: Lanes::new(limits), writer_waits: false, phase: Phase::Open };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }

    /// Queues an item.
    pub fn push(&self, lane: Lane, item: Item) -> Outcome {
        let (bytes, messages) = item.size();
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Outcome::Taken;
        }
        let pushed = inner.lanes.push(lane, bytes, messages, item);
        let wake = std::mem::take(&mut inner.writer_waits);
        drop(inner);
        if wake {
            self.wake.notify_one();
        }
        match pushed {
            Pushed::Queued => Outcome::Taken,
            Pushed::DroppedNewest(_) => Outcome::Dropped { messages, bytes },
            Pushed::DroppedOldest(items) => {
                let sizes = items.iter().map(Item::size);
                let (bytes, messages) = sizes
                    .fold((0, 0_u32), |sum, size| (sum.0 + size.0, sum.1.saturating_add(size.1)));
                Outcome::Dropped { messages, bytes }
            }
            Pushed::Overflow(_) => Outcome::Overflow,
        }
    }

    /// Takes items in order of priority while `take` asks for more. It gives back
    /// what is left of the item if it did not use it up, and whether to go on.
    pub fn take(&self, mut take: impl FnMut(Item) -> (Option<Item>, bool)) -> Next {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Closed {
            return Next::End;
        }
        if inner.lanes.is_empty() {
            if inner.phase == Phase::Draining {
                return Next::End;
            }
            inner.writer_waits = true;
            return Next::Wait;
        }
        while let Some((lane, item)) = inner.lanes.pop() {
            let (rest, more) = take(item);
            if let Some(rest) = rest {
                let (bytes, messages) = rest.size();
                inner.lanes.put_back(lane, bytes, messages, rest);
            }
            if !more {
                break;
            }
        }
        Next::Write
    }

    /// Waits until there is something to do after [`Next::Wait`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes nothing more; the writer ends when everything is written.
    pub fn drain(&self) {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Draining;
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Forgets what waits; the writer ends.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.phase = Phase::Closed;
        // Gives back the memory at once: a handle of the connection may live on.
        let lanes = std::mem::replace(
            &mut inner.lanes,
            Lanes::new([LaneLimits { bytes: 0, messages: 0 }; 5]),
        );
        drop(inner);
        drop(lanes);
        self.wake.notify_one();
    }

    /// What waits.
    pub fn queued(&self) -> Queued {
        let inner = self.inner.lock();
        Queued {
            bytes: Lane::ALL.map(|lane| inner.lanes.bytes(lane)),
            items: Lane::ALL.map(|lane| inner.lanes.items(lane)),
        }
    }
}
