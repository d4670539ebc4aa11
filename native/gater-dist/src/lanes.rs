//! The send queue of one connection, which consists of five bounded lanes.

use std::collections::VecDeque;

/// The priority of a queued message on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Replies, signals of the protocol and traffic between gateways.
    Control,
    /// Messages of critical channels.
    Critical,
    /// Messages of high priority.
    High,
    /// Messages of normal priority.
    Normal,
    /// Messages of low priority.
    Low,
}

impl Lane {
    /// All lanes, in the order in which they are served.
    pub const ALL: [Self; 5] = [Self::Control, Self::Critical, Self::High, Self::Normal, Self::Low];

    /// Returns the name of the lane, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Returns the position of the lane in [`Lane::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The capacity of one lane. An empty lane accepts one item of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLimits {
    /// The greatest number of bytes.
    pub bytes: usize,
    /// The greatest number of messages. An item for several receivers counts once for each
    /// receiver.
    pub messages: u32,
}

/// The outcome of pushing an item.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropped items are to be counted, an overflow is to close the connection"]
pub enum Pushed<T> {
    /// The item is queued.
    Queued,
    /// The low lane is full, and the new item is returned.
    DroppedNewest(T),
    /// The normal lane was full. The new item is queued, and the oldest items, which are returned
    /// oldest first, were removed.
    DroppedOldest(Vec<T>),
    /// A lane that never drops items is full. The item is returned, and the receiver cannot be
    /// served any longer.
    Overflow(T),
}

/// The items that wait to be sent on one connection.
///
/// Higher lanes are served first. A lower lane that has to wait is owed one byte for every
/// [`Lanes::SHARE`] bytes that are sent from the lanes above it, and is served when the debt covers
/// its next item (only the first [`Lanes::TURN_BYTES`] of the item count, since longer items are
/// sent in pieces). A waiting lane therefore sends at least 1/16 of the bytes that are sent above
/// it, and delays a higher lane by at most one turn.
///
/// An item that was sent in part is returned by [`Lanes::put_back`]. It is the next item of its
/// lane and is never dropped, since the receiver holds its beginning. The limits do not count it.
#[derive(Debug)]
pub struct Lanes<T> {
    queues: [Queue<T>; 5],
    limits: [LaneLimits; 5],
}

#[derive(Debug)]
struct Queue<T> {
    /// The items that were sent in part; the last one is sent next.
    begun: Vec<Entry<T>>,
    waiting: VecDeque<Entry<T>>,
    /// The bytes of `waiting` alone.
    bytes: usize,
    messages: u64,
    /// The bytes of `begun` alone.
    begun_bytes: usize,
    begun_messages: u64,
    /// The bytes that lanes above sent while this lane waited, less the bytes that it was credited
    /// for them. Invariant: 0 if the queue is empty, and never more than `(SHARE + 5) *
    /// TURN_BYTES`. From `SHARE * TURN_BYTES` on the lane is due, and only due lanes above it, at
    /// most four with a turn each, are still served first.
    passed_over: usize,
}

#[derive(Debug)]
struct Entry<T> {
    bytes: usize,
    messages: u32,
    item: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            begun: Vec::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            messages: 0,
            begun_bytes: 0,
            begun_messages: 0,
            passed_over: 0,
        }
    }
}

impl<T> Queue<T> {
    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.waiting.is_empty()
    }

    fn takes(&self, bytes: usize, messages: u32, limits: LaneLimits) -> bool {
        self.waiting.is_empty()
            || (self.bytes.saturating_add(bytes) <= limits.bytes
                && self.messages + u64::from(messages) <= u64::from(limits.messages))
    }

    fn push(&mut self, entry: Entry<T>) {
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.messages += u64::from(entry.messages);
        self.waiting.push_back(entry);
    }

    fn pop_waiting(&mut self) -> Option<Entry<T>> {
        let entry = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.messages -= u64::from(entry.messages);
        Some(entry)
    }

    fn pop(&mut self) -> Option<Entry<T>> {
        match self.begun.pop() {
            Some(entry) => {
                self.begun_bytes = self.begun_bytes.saturating_sub(entry.bytes);
                self.begun_messages -= u64::from(entry.messages);
                Some(entry)
            }
            None => self.pop_waiting(),
        }
    }

    /// Returns the number of bytes that the next turn sends, or `None` if the queue is empty.
    fn turn_bytes(&self) -> Option<usize> {
        let next = self.begun.last().or_else(|| self.waiting.front())?;
        Some(turn(next.bytes))
    }
}

/// Returns the cost of one turn of an item of `bytes`. It is never 0.
fn turn(bytes: usize) -> usize {
    bytes.clamp(1, Lanes::<()>::TURN_BYTES)
}

impl<T> Lanes<T> {
    /// The number of bytes of the lanes above for which a waiting lane gets one byte.
    pub const SHARE: usize = 16;

    /// The number of bytes by which an item counts at most in one turn. A sender is fair if it
    /// sends longer items in pieces of this size and puts the rest back.
    pub const TURN_BYTES: usize = 64 * 1024;

    /// Returns empty lanes with the given limits, in the order of [`Lane::ALL`].
    pub fn new(limits: [LaneLimits; 5]) -> Self {
        Self { queues: Default::default(), limits }
    }

    /// Queues an item that takes `bytes` bytes to send and carries `messages` messages.
    pub fn push(&mut self, lane: Lane, bytes: usize, messages: u32, item: T) -> Pushed<T> {
        let limits = self.limits[lane.index()];
        let queue = &mut self.queues[lane.index()];
        let mut dropped = Vec::new();
        if !queue.takes(bytes, messages, limits) {
            match lane {
                Lane::Low => return Pushed::DroppedNewest(item),
                Lane::Control | Lane::Critical | Lane::High => return Pushed::Overflow(item),
                Lane::Normal => {
                    while !queue.takes(bytes, messages, limits) {
                        // The loop ends, since an empty lane accepts any item.
                        dropped.extend(queue.pop_waiting().map(|entry| entry.item));
                    }
                }
            }
        }
        queue.push(Entry { bytes, messages, item });
        if dropped.is_empty() { Pushed::Queued } else { Pushed::DroppedOldest(dropped) }
    }

    /// Removes and returns the next item to send from the lanes down to `lowest`.
    pub fn pop(&mut self, lowest: Lane) -> Option<(Lane, T)> {
        let open = Lane::ALL.into_iter().take(lowest.index() + 1);
        let first = open.clone().find(|lane| !self.queues[lane.index()].is_empty())?;
        let due = open.skip(first.index() + 1).find(|lane| {
            let queue = &self.queues[lane.index()];
            queue.turn_bytes().is_some_and(|bytes| queue.passed_over >= bytes * Self::SHARE)
        });
        let lane = due.unwrap_or(first);
        let (queue, below) = self.queues[lane.index()..=lowest.index()].split_first_mut()?;
        let entry = queue.pop()?;
        let sent = turn(entry.bytes);
        queue.passed_over =
            if queue.is_empty() { 0 } else { queue.passed_over.saturating_sub(sent * Self::SHARE) };
        for queue in below.iter_mut().filter(|queue| !queue.is_empty()) {
            queue.passed_over += sent;
        }
        Some((lane, entry.item))
    }

    /// Puts back an item of which `bytes` bytes and `messages` messages are still to be sent. It
    /// becomes the next item of its lane.
    pub fn put_back(&mut self, lane: Lane, bytes: usize, messages: u32, item: T) {
        let queue = &mut self.queues[lane.index()];
        queue.begun_bytes = queue.begun_bytes.saturating_add(bytes);
        queue.begun_messages += u64::from(messages);
        queue.begun.push(Entry { bytes, messages, item });
    }

    /// Returns whether an item waits in the lanes down to `lowest`.
    pub fn waits(&self, lowest: Lane) -> bool {
        !self.queues[..=lowest.index()].iter().all(Queue::is_empty)
    }

    /// Returns the items of a lane, in no particular order.
    pub fn iter(&self, lane: Lane) -> impl Iterator<Item = &T> {
        let queue = &self.queues[lane.index()];
        queue.begun.iter().chain(&queue.waiting).map(|entry| &entry.item)
    }

    /// Returns the number of items in a lane.
    #[cfg(test)]
    pub fn items(&self, lane: Lane) -> usize {
        let queue = &self.queues[lane.index()];
        queue.begun.len() + queue.waiting.len()
    }

    /// Returns the number of messages in a lane.
    pub fn messages(&self, lane: Lane) -> u64 {
        let queue = &self.queues[lane.index()];
        queue.begun_messages + queue.messages
    }

    /// Returns the number of bytes in a lane.
    pub fn bytes(&self, lane: Lane) -> usize {
        let queue = &self.queues[lane.index()];
        queue.begun_bytes.saturating_add(queue.bytes)
    }
}

#[cfg(test)]
mod tests;
