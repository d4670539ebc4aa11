//! The messages that wait to be written on one connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::batch::Batch;
use super::item::Item;
use super::window::Window;
use crate::lanes::{Lane, LaneLimits, Lanes, Pushed};
use crate::{ConnectionStats, LaneDepth, Prefix};

/// The least time between two answers to ticks. It is less than the second after which a node with
/// the shortest `net_ticktime` of OTP sends the next tick.
const ANSWER_TICKS_AFTER: Duration = Duration::from_millis(500);

/// The outcome of pushing an item.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The item is queued.
    Taken,
    /// Messages were dropped.
    Dropped(Vec<Loss>),
    /// The lane never drops messages and is full. These messages are lost with the connection.
    Overflow(Vec<Loss>),
}

/// The reason why messages were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossReason {
    /// Their lane was full.
    QueueFull,
    /// The messages waited on a connection that ended. Messages that were being written are not
    /// counted, since their fate is unknown.
    ConnectionLost,
}

/// Lost messages of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The reason.
    pub reason: LossReason,
    /// The prefix that they have in common.
    pub prefix: Option<Arc<Prefix>>,
    /// The number of messages.
    pub messages: u32,
    /// The number of bytes.
    pub bytes: usize,
}

/// The outcome of coalescing an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coalesced {
    /// The item is in the batch, or its rest is in its lane.
    Taken {
        /// Whether it is the first item of this cork, so that the corker has to call
        /// [`Outbox::flush`].
        first: bool,
    },
    /// The item has to be pushed instead.
    Refused,
}

/// The queue between senders and writers.
///
/// At most one thread or task has the duty to write. While nothing waits, none has it, and the
/// first sender takes it: a corker writes frames directly into the batch and flushes it when it has
/// handled everything it has read, and any other sender wakes the writer task. Items of other
/// senders wait in the lanes for the writer task, and items that the peer must not be sent yet wait
/// there for its answer.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// Wakes the writer task.
    wake: Notify,
}

#[derive(Debug)]
struct Inner {
    lanes: Lanes<Item>,
    duty: Duty,
    phase: Phase,
    /// The batch, which is absent only while it is being written.
    batch: Option<Box<Batch>>,
    /// The socket, which is absent before the connection is established and after its end.
    socket: Option<Arc<OwnedWriteHalf>>,
    /// Whether anything was written since the last tick.
    wrote: bool,
    /// The time of the last answer to a tick of the peer.
    answered_tick: Option<Instant>,
    window: Window,
    /// The time since when lanes wait for an answer of the peer.
    held: Option<Instant>,
    /// The total number of bytes that were put into frames.
    framed: u64,
}

impl Inner {
    /// Returns whether a waiting item may be written.
    fn ready(&self) -> bool {
        self.lanes.waits(self.lowest())
    }

    /// Returns the lowest lane that may be written.
    fn lowest(&self) -> Lane {
        if self.phase == Phase::Open { self.window.lowest() } else { Lane::Low }
    }
}

/// The holder of the duty to write. Invariant: if there is none, the batch is written, and items in
/// the lanes wait for an answer of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Nobody,
    /// The writer task has the duty.
    Task,
    /// The corker with this number has the duty; see [`super::cork`].
    Corker(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No further items are accepted, but waiting ones are still written.
    Draining,
    Closed,
}

/// The next step of the writer task.
#[derive(Debug)]
pub enum Next {
    /// The task writes the batch and gives it back.
    Write(Box<Batch>),
    /// The task waits for [`Outbox::woken`].
    Wait,
    /// The task ends, since everything is written or the connection has ended.
    End,
}

impl Outbox {
    /// Returns an empty queue, of which the writer task has the duty first. `probes` tells whether
    /// the peer answers probes, and therefore whether the queue waits for it; see the module
    /// `window`.
    pub fn new(limits: [LaneLimits; 5], batch: Batch, probes: bool) -> Self {
        let inner = Inner {
            lanes: Lanes::new(limits),
            duty: Duty::Task,
            phase: Phase::Open,
            batch: Some(Box::new(batch)),
            socket: None,
            wrote: false,
            answered_tick: None,
            window: Window::new(probes),
            held: None,
            framed: 0,
        };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }

    /// Sets the `socket` to which corkers write.
    pub fn attach(&self, socket: Arc<OwnedWriteHalf>) {
        self.inner.lock().socket = Some(socket);
    }

    /// Calls `write` to put frames into the batch, if `corker` or nobody has the duty. `write`
    /// returns the rest of an item for `lane` when the batch is full.
    pub fn coalesce(
        &self,
        corker: u64,
        lane: Lane,
        write: impl FnOnce(&mut Batch) -> Option<Item>,
    ) -> Coalesced {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let first = inner.duty == Duty::Nobody;
        let mine = first || inner.duty == Duty::Corker(corker);
        // Items that other senders have queued are sent first. Items that are sent under a lock of
        // the sender are therefore sent in the order in which the lock was held.
        if inner.phase != Phase::Open
            || !mine
            || lane > inner.window.lowest()
            || inner.lanes.waits(lane)
        {
            return Coalesced::Refused;
        }
        let Some(batch) = inner.batch.as_mut() else { return Coalesced::Refused };
        let before = batch.bytes_added();
        let rest = write(batch);
        inner.framed += (batch.bytes_added() - before) as u64;
        if let Some(probe) = inner.window.sent(lane, batch.bytes_added() - before, Instant::now) {
            batch.probe(probe);
        }
        let full = rest.is_some() || !batch.has_room();
        inner.duty = Duty::Corker(corker);
        if let Some(rest) = rest {
            let (bytes, messages) = rest.size();
            inner.lanes.put_back(lane, bytes, messages, rest);
        }
        if full {
            // The writer task writes a full batch, since it may continue on another thread.
            self.hand_over(guard);
        }
        Coalesced::Taken { first: first && !full }
    }

    /// Writes the frames that `corker` has collected, without waiting. Bytes that the socket does
    /// not accept, or all bytes unless `here` is set, are left to the writer task.
    pub fn flush(&self, corker: u64, here: bool) {
        let mut inner = self.inner.lock();
        if inner.duty != Duty::Corker(corker) {
            return;
        }
        let socket = inner.socket.clone().filter(|_| here);
        let Some((socket, mut batch)) = socket.and_then(|s| Some((s, inner.batch.take()?))) else {
            return self.hand_over(inner);
        };
        drop(inner);
        // The writer task meets an error again when it tries to write.
        let written = batch.try_write(&socket).unwrap_or(false);
        if written {
            batch.clear();
        }
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Closed {
            return;
        }
        inner.batch = Some(batch);
        inner.wrote = true;
        if written && inner.phase == Phase::Open && !inner.ready() {
            inner.duty = Duty::Nobody;
        } else {
            self.hand_over(inner);
        }
    }

    fn hand_over(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.duty = Duty::Task;
        drop(inner);
        self.wake.notify_one();
    }

    /// Queues an item, as `corker` if the caller is one. No later item of that corker may be sent
    /// before it.
    pub fn push(&self, corker: Option<u64>, lane: Lane, item: Item) -> Outcome {
        let (bytes, messages) = item.size();
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return Outcome::Dropped(losses(LossReason::ConnectionLost, [&item]));
        }
        let pushed = inner.lanes.push(lane, bytes, messages, item);
        let mine = match inner.duty {
            Duty::Nobody => inner.ready(),
            Duty::Corker(number) => corker == Some(number),
            Duty::Task => false,
        };
        if mine {
            self.hand_over(inner);
        } else {
            drop(inner);
        }
        match pushed {
            Pushed::Queued => Outcome::Taken,
            Pushed::DroppedNewest(item) => Outcome::Dropped(losses(LossReason::QueueFull, [&item])),
            Pushed::DroppedOldest(items) => Outcome::Dropped(losses(LossReason::QueueFull, &items)),
            Pushed::Overflow(item) => {
                Outcome::Overflow(losses(LossReason::ConnectionLost, [&item]))
            }
        }
    }

    /// Returns the next step of the writer task. `written` is the batch that it was given last.
    pub fn next(&self, written: Option<Box<Batch>>) -> Next {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.phase == Phase::Closed {
            return Next::End;
        }
        if written.is_some() {
            inner.batch = written;
        }
        if matches!(inner.duty, Duty::Corker(_)) {
            // The corker hands over the duty if it does not finish.
            return Next::Wait;
        }
        let Some(mut batch) = inner.batch.take() else { return Next::Wait };
        if batch.is_written() {
            batch.clear();
            // The lanes are served in the order of priority.
            while batch.has_room()
                && let Some((lane, item)) = inner.lanes.pop(inner.lowest())
            {
                let before = batch.bytes_added();
                if let Some(rest) = batch.add(item) {
                    let (bytes, messages) = rest.size();
                    inner.lanes.put_back(lane, bytes, messages, rest);
                }
                inner.framed += (batch.bytes_added() - before) as u64;
                if let Some(probe) =
                    inner.window.sent(lane, batch.bytes_added() - before, Instant::now)
                {
                    batch.probe(probe);
                }
            }
        }
        if batch.is_written() {
            inner.batch = Some(batch);
            if inner.phase == Phase::Draining {
                return Next::End;
            }
            inner.duty = Duty::Nobody;
            if inner.lanes.waits(Lane::Low) {
                inner.held.get_or_insert_with(Instant::now);
            }
            return Next::Wait;
        }
        inner.duty = Duty::Task;
        inner.wrote = true;
        Next::Write(batch)
    }

    /// Handles an answer of the peer. `is_probe` tells whether it belongs to the probe with a
    /// number. Returns the time that the answer took.
    pub fn answered(&self, is_probe: impl Fn(u64) -> bool) -> Option<Duration> {
        let mut inner = self.inner.lock();
        if !inner.window.awaited().is_some_and(is_probe) {
            return None;
        }
        let now = Instant::now();
        let took = inner.window.answered(now);
        inner.held = inner.held.filter(|_| !inner.ready()).map(|_| now);
        if inner.duty == Duty::Nobody && inner.ready() {
            self.hand_over(inner);
        }
        took
    }

    /// Fills in the values of `stats` that the queue knows.
    pub fn stats(&self, stats: &mut ConnectionStats) {
        let inner = self.inner.lock();
        for (depth, lane) in stats.lanes.iter_mut().zip(Lane::ALL) {
            let (messages, bytes) = (inner.lanes.messages(lane), inner.lanes.bytes(lane));
            *depth = LaneDepth { messages, bytes };
        }
        stats.bytes_out = inner.framed;
        stats.unread = inner.window.unread();
        stats.held = inner.held.map(|since| since.elapsed());
        stats.round_trip = inner.window.latest();
    }

    /// Returns the time since when an item has been waiting for an answer of the peer, if one does.
    pub fn held(&self) -> Option<Instant> {
        self.inner.lock().held
    }

    /// Makes the writer task write an empty frame, if nothing was written since the last call.
    pub fn tick(&self) {
        let mut inner = self.inner.lock();
        if !std::mem::take(&mut inner.wrote)
            && inner.duty == Duty::Nobody
            && let Some(batch) = inner.batch.as_mut()
        {
            batch.trim();
            batch.tick();
            inner.duty = Duty::Task;
        }
    }

    /// Answers an empty frame that the peer sent at `now` with another one, unless something is
    /// being written or such an answer was sent recently. A peer that needs a sign of life every
    /// few seconds therefore receives one, whatever the tick time of this node, and two such nodes
    /// do not answer each other for ever.
    pub fn answer_tick(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let lately = |at: Instant| now.saturating_duration_since(at) < ANSWER_TICKS_AFTER;
        if inner.duty != Duty::Nobody || inner.answered_tick.is_some_and(lately) {
            return;
        }
        inner.answered_tick = Some(now);
        if let Some(batch) = inner.batch.as_mut() {
            batch.tick();
            self.hand_over(inner);
        }
    }

    /// Returns the bytes that wait in a lane.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.inner.lock().lanes.bytes(lane)
    }

    /// Waits until there is something to do after [`Next::Wait`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Accepts no more items. The writer task ends when everything is written.
    pub fn drain(&self) {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Draining;
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Removes and returns the waiting items. The writer task ends.
    pub fn close(&self) -> Vec<(Lane, Loss)> {
        let mut inner = self.inner.lock();
        inner.phase = Phase::Closed;
        // The memory is freed at once, since a handle of the connection may live on.
        let lanes = std::mem::replace(
            &mut inner.lanes,
            Lanes::new([LaneLimits { bytes: 0, messages: 0 }; 5]),
        );
        let batch = inner.batch.take();
        drop(inner);
        drop(batch);
        self.wake.notify_one();
        let lost = |lane| {
            let losses = losses(LossReason::ConnectionLost, lanes.iter(lane));
            losses.into_iter().map(move |loss| (lane, loss))
        };
        Lane::ALL.into_iter().flat_map(lost).collect()
    }

    /// Drops the socket.
    pub fn detach(&self) {
        self.inner.lock().socket = None;
    }
}

/// Returns the dropped messages, summed up by prefix.
fn losses<'a>(reason: LossReason, items: impl IntoIterator<Item = &'a Item>) -> Vec<Loss> {
    let mut losses: Vec<Loss> = Vec::new();
    for item in items {
        let prefix = item.prefix();
        let (more_bytes, more) = item.size();
        match losses.iter_mut().find(|loss| loss.prefix.as_ref() == prefix) {
            Some(Loss { messages, bytes, .. }) => {
                (*messages, *bytes) = (messages.saturating_add(more), *bytes + more_bytes);
            }
            None => {
                let prefix = prefix.cloned();
                losses.push(Loss { reason, prefix, messages: more, bytes: more_bytes });
            }
        }
    }
    losses
}

#[cfg(test)]
mod tests;
