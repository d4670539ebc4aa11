//! What waits to be written on one connection.

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

/// A tick is answered if the last answer is older than this: less than the second in which the
/// shortest `net_ticktime` of OTP has a node send the next one.
const ANSWER_TICKS_AFTER: Duration = Duration::from_millis(500);

/// What became of what was pushed.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is queued.
    Taken,
    /// Messages had to go.
    Dropped(Vec<Loss>),
    /// The lane never drops and is full: these are lost with the connection.
    Overflow(Vec<Loss>),
}

/// Why messages had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossReason {
    /// Their lane was full.
    QueueFull,
    /// They waited on a connection that ended. Of what was being written nobody knows.
    ConnectionLost,
}

/// Messages of one kind that had to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: LossReason,
    /// What they have in common.
    pub prefix: Option<Arc<Prefix>>,
    /// Messages.
    pub messages: u32,
    /// Bytes.
    pub bytes: usize,
}

/// What became of what was to be gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coalesced {
    /// It is in the batch, or its rest in its lane.
    Taken {
        /// It is the first: the corker is to call [`Outbox::flush`].
        first: bool,
    },
    /// It is to be pushed.
    Refused,
}

/// The queue between those who send and those who write.
///
/// Whoever has the duty to write has it alone. While nothing waits nobody has it, and the
/// first to send takes it: a corker puts frames straight into the batch and writes
/// them when it has handled what it has read, everybody else wakes the writer task.
/// What comes while somebody else has the duty waits in the lanes, for the writer task, and
/// what the peer is not to be sent yet waits there for its answer.
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
    /// Absent only while somebody writes it.
    batch: Option<Box<Batch>>,
    /// Absent before the connection is up and when it is gone.
    socket: Option<Arc<OwnedWriteHalf>>,
    /// Whether anything was written since the last tick.
    wrote: bool,
    /// When a tick of the peer was answered last.
    answered_tick: Option<Instant>,
    window: Window,
    /// Since when lanes wait for an answer of the peer.
    held: Option<Instant>,
    /// Bytes that were put into frames, in all.
    framed: u64,
}

impl Inner {
    /// Returns whether anything may be written that waits.
    fn ready(&self) -> bool {
        self.lanes.waits(self.lowest())
    }

    /// Returns the lowest lane that may be written.
    fn lowest(&self) -> Lane {
        if self.phase == Phase::Open { self.window.lowest() } else { Lane::Low }
    }
}

/// Who writes. Invariant: if nobody does, the batch is written, and what is in the lanes waits
/// for an answer of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Nobody,
    /// The writer task.
    Task,
    /// Who has this number, see [`super::cork`].
    Corker(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is taken; what is there is still written.
    Draining,
    Closed,
}

/// What the writer task is to do.
#[derive(Debug)]
pub enum Next {
    /// Write this, and give it back.
    Write(Box<Batch>),
    /// Wait for [`Outbox::woken`].
    Wait,
    /// End: everything is written, or nothing matters any more.
    End,
}

impl Outbox {
    /// Returns an empty queue, which the writer task is to look after first.
    /// Whether the peer answers `probes` decides if it is waited for, see the module `window`.
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

    /// Lets corkers write to `socket`.
    pub fn attach(&self, socket: Arc<OwnedWriteHalf>) {
        self.inner.lock().socket = Some(socket);
    }

    /// Has `write` put frames into the batch, if `corker` has the duty or nobody. It
    /// gives back what is left of an item for `lane` when enough is gathered.
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
        // What others have queued meanwhile goes first: what is sent under a lock of the
        // sender's leaves in the order in which the lock was held.
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
            // A flood is the task's business: it may go on elsewhere meanwhile.
            self.hand_over(guard);
        }
        Coalesced::Taken { first: first && !full }
    }

    /// Writes what `corker` has gathered, without waiting. What the socket does not
    /// take, or all if it is not to be written `here`, is left to the writer task.
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
        // An error shows again when the writer task tries.
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

    /// Queues an item, as `corker` if that is who calls: nothing it gathers later may
    /// go before the item.
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

    /// What the writer task does next. `written` is what it was given last.
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
            // It hands over if it does not finish.
            return Next::Wait;
        }
        let Some(mut batch) = inner.batch.take() else { return Next::Wait };
        if batch.is_written() {
            batch.clear();
            // In order of priority.
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

    /// The peer has answered something; whether that is this probe is what `is_probe` tells.
    /// Returns how long the answer took.
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

    /// Fills in what the queue knows.
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

    /// Since when something waits for the peer to answer, if it does.
    pub fn held(&self) -> Option<Instant> {
        self.inner.lock().held
    }

    /// An empty frame for the writer task to write next, if nobody has written since
    /// the last time.
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

    /// The peer has sent an empty frame `now`: sends one back, unless something is being written
    /// or was sent back just before. So a peer that is to hear something every few seconds
    /// does, whatever the rhythm of this node, and two nodes that do so do not go on for ever.
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

    /// Takes nothing more; the writer task ends when everything is written.
    pub fn drain(&self) {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Open {
            inner.phase = Phase::Draining;
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Forgets what waits, which it gives; the writer task ends.
    pub fn close(&self) -> Vec<(Lane, Loss)> {
        let mut inner = self.inner.lock();
        inner.phase = Phase::Closed;
        // Gives back the memory at once: a handle of the connection may live on.
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

    /// Lets go of the socket.
    pub fn detach(&self) {
        self.inner.lock().socket = None;
    }
}

/// What was dropped, summed up by prefix.
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
