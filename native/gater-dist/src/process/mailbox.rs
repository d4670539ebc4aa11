//! The mailbox of a process.

use std::collections::VecDeque;

use bytes::Bytes;
use gater_term::{Pid, Reference};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Target;

/// The capacity of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The greatest number of waiting messages.
    pub messages: usize,
    /// The greatest number of bytes of waiting messages. An empty mailbox accepts one message of
    /// any size.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 64 << 20 }
    }
}

/// A message or signal that has arrived and is not decoded yet.
#[derive(Debug)]
pub enum Item {
    /// A message, with its sender if the peer names it.
    Message { from: Option<Pid>, body: Bytes },
    /// A monitored process has ended.
    Down { monitor: Reference, target: Target, reason: Bytes },
    /// A linked process has ended, or another process has sent an exit signal.
    Exit { from: Pid, reason: Bytes },
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    messages: usize,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

/// A bounded queue with one receiver.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<Queue>,
    limits: Limits,
    arrived: Notify,
}

fn message_bytes(item: &Item) -> Option<usize> {
    if let Item::Message { body, .. } = item { Some(body.len()) } else { None }
}

impl Mailbox {
    /// Returns an empty mailbox.
    pub fn new(limits: Limits) -> Self {
        Self { queue: Mutex::default(), limits, arrived: Notify::new() }
    }

    /// Adds a message. Returns true if the mailbox is full and this is the first message that is
    /// dropped.
    pub fn offer(&self, from: Option<Pid>, body: Bytes) -> bool {
        let mut queue = self.queue.lock();
        let bytes = queue.bytes.saturating_add(body.len());
        let full = queue.messages >= self.limits.messages
            || (queue.messages > 0 && bytes > self.limits.bytes);
        if queue.closed || full {
            queue.dropped += 1;
            return queue.dropped == 1;
        }
        queue.messages += 1;
        queue.bytes = bytes;
        queue.items.push_back(Item::Message { from, body });
        drop(queue);
        self.arrived.notify_one();
        false
    }

    /// Adds a signal. Their number is bounded by that of monitors and links.
    pub fn put(&self, item: Item) {
        self.queue.lock().items.push_back(item);
        self.arrived.notify_one();
    }

    /// Adds an exit signal that no link has caused. Returns false if it was dropped.
    pub fn offer_exit(&self, from: Pid, reason: Bytes) -> bool {
        let mut queue = self.queue.lock();
        if queue.items.len() >= self.limits.messages.saturating_mul(2) {
            queue.dropped += 1;
            return false;
        }
        queue.items.push_back(Item::Exit { from, reason });
        drop(queue);
        self.arrived.notify_one();
        true
    }

    /// Counts a message that was taken out but could not be used.
    pub fn count_dropped(&self) {
        self.queue.lock().dropped += 1;
    }

    /// Returns the number of dropped messages.
    pub fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    /// Closes the mailbox. Nothing more arrives, but waiting items can still be taken.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Removes the `DOWN` of a monitor that was ended.
    pub fn forget(&self, reference: &Reference) {
        let is_it =
            |item: &Item| matches!(item, Item::Down { monitor, .. } if monitor == reference);
        self.queue.lock().items.retain(|item| !is_it(item));
    }

    /// Returns the next item, or `None` once the mailbox is closed and empty. The method is
    /// cancel-safe.
    pub async fn next(&self) -> Option<Item> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some(item) = queue.items.pop_front() {
                    if let Some(bytes) = message_bytes(&item) {
                        queue.messages -= 1;
                        queue.bytes -= bytes;
                    }
                    return Some(item);
                }
                if queue.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_mailbox_drops_the_newest_message_and_keeps_signals() {
        let mailbox = Mailbox::new(Limits { messages: 1, bytes: 10 });
        let body = || Bytes::from_static(b"\x61\x01");
        assert!(!mailbox.offer(None, body()));
        assert!(mailbox.offer(None, body()), "the first drop is to be logged");
        assert!(!mailbox.offer(None, body()));
        let node = gater_term::Atom::new("a@h").unwrap();
        let from = Pid { node, id: 1, serial: 0, creation: 1 };
        mailbox.put(Item::Exit { from, reason: body() });
        assert_eq!(mailbox.dropped(), 2);
        assert!(matches!(mailbox.next().await, Some(Item::Message { .. })));
        assert!(matches!(mailbox.next().await, Some(Item::Exit { .. })));
        assert!(!mailbox.offer(None, Bytes::from(vec![0; 100])), "an empty one takes any size");
        mailbox.close();
        assert!(mailbox.next().await.is_some());
        assert!(mailbox.next().await.is_none());
    }
}
