//! One established connection to a peer, as the user of the node sees it.

use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::HashMap;
use gater_term::{Atom, Pid};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::driver::batch::Batch;
use crate::driver::caller_stats::{CallerStats, Seen};
use crate::driver::cork;
use crate::driver::item::Item;
use crate::driver::outbox::{Coalesced, Loss, LossReason, Outbox, Outcome};
use crate::driver::work::Work;
use crate::gen_server::From;
use crate::protocol::answer::{Answer, Reply};
use crate::protocol::encode::{Format, Signal};
use crate::protocol::flags::{self, Watch};
use crate::{
    ConnectionStats, DownReason, Draft, Events, Lane, LaneLimits, LocalPid, Payload, SharedTerm,
};

/// The length in bytes up to which a message is written into frames at once where possible. It is
/// small enough that one write has room for many messages.
const COALESCED_BELOW: usize = 16 << 10;

/// The node at the other end of a [`Connection`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name of the node.
    pub name: Atom,
    /// The incarnation of the node.
    pub creation: u32,
    /// The distribution flags that the peer offered.
    pub flags: u64,
    /// Whether the peer is a hidden node.
    pub hidden: bool,
}

impl Peer {
    /// Returns a hidden node that is connected without a handshake. Frames in both directions have
    /// no distribution header, and therefore use neither the atom cache nor fragments.
    pub fn without_handshake(name: Atom, creation: u32) -> Self {
        let flags = flags::OFFERED & !(flags::DIST_HDR_ATOM_CACHE | flags::FRAGMENTS);
        Self { name, creation, flags, hidden: true }
    }

    /// Returns whether the peer executes Erlang functions on request, which only BEAMs do.
    pub fn is_beam(&self) -> bool {
        self.flags & flags::SPAWN != 0
    }
}

/// An established connection. Sending never blocks, since messages are queued in lanes.
pub struct Connection {
    peer: Peer,
    format: Format,
    fragment_bytes: usize,
    outbox: Outbox,
    work: Work,
    monitors: Mutex<Monitors>,
    events: Arc<dyn Events>,
    me: Weak<Connection>,
    started: Instant,
    /// The time of the last received bytes, in milliseconds after `started`.
    heard_at: AtomicU64,
    bytes_in: AtomicU64,
    caller_stats: Mutex<CallerStats>,
    /// The reason of the end, which is set once and before `ending` is cancelled.
    reason: Mutex<Option<DownReason>>,
    ending: CancellationToken,
    ended: CancellationToken,
}

/// The monitored processes of the peer.
#[derive(Debug, Default)]
struct Monitors {
    last: u64,
    by_pid: HashMap<LocalPid, u64>,
}

impl Monitors {
    /// Returns the number of a new monitor of a process, or `None` if the process is monitored
    /// already.
    fn begin(&mut self, process: LocalPid) -> Option<u64> {
        let Entry::Vacant(entry) = self.by_pid.entry(process) else { return None };
        self.last += 1;
        Some(*entry.insert(self.last))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(
        peer: Peer,
        format: Format,
        lanes: [LaneLimits; 5],
        fragment_bytes: usize,
        events: Arc<dyn Events>,
    ) -> Arc<Self> {
        let batch = Batch::new(format.clone(), fragment_bytes);
        let outbox = Outbox::new(lanes, batch, format.watch == Watch::Monitor);
        Arc::new_cyclic(|me| Self {
            peer,
            format,
            fragment_bytes,
            outbox,
            work: Work::default(),
            monitors: Mutex::default(),
            events,
            me: me.clone(),
            started: Instant::now(),
            heard_at: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            caller_stats: Mutex::default(),
            reason: Mutex::new(None),
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
        })
    }

    /// Returns the node at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Sends `payload` to the process of the peer with the numbers `to`. Returns false if the
    /// message will not be sent, because the connection has ended or the payload is empty and
    /// therefore not a term.
    ///
    /// A [`LocalPid`] does not name its node; see [`Connection::send_pid`].
    pub fn send(&self, lane: Lane, to: LocalPid, payload: &Payload) -> bool {
        !payload.is_empty() && self.push(lane, Item::One(to, payload.clone()))
    }

    /// Does the same as [`Connection::send`], and also returns false if `to` is not a process of
    /// the peer.
    pub fn send_pid(&self, lane: Lane, to: &Pid, payload: &Payload) -> bool {
        to.node == self.peer.name && self.send(lane, to.into(), payload)
    }

    /// Sends `payload` to several processes of the peer. The payload is queued once. Returns false
    /// in the same cases as [`Connection::send`].
    pub fn send_many(&self, lane: Lane, to: &[LocalPid], payload: &Payload) -> bool {
        match to {
            _ if payload.is_empty() => false,
            [] => true,
            [one] => self.push(lane, Item::One(*one, payload.clone())),
            several => self
                .push(lane, Item::Many { to: several.into(), from: 0, payload: payload.clone() }),
        }
    }

    /// Sends a message to several processes of the peer. A short message is written into frames at
    /// once if the calling thread handles bytes that have just arrived on a connection.
    pub fn send_draft(&self, lane: Lane, to: &[LocalPid], draft: &Draft<'_>) {
        let mut rest = to;
        if draft.len() <= self.fragment_bytes.min(COALESCED_BELOW)
            && let Some(corker) = cork::corker()
        {
            let coalesced = self.outbox.coalesce(corker, lane, |batch| {
                rest = to.get(batch.add_draft(to, draft)..).unwrap_or_default();
                match rest {
                    [] => None,
                    [one] => Some(Item::One(*one, draft.payload().clone())),
                    several => Some(Item::Many {
                        to: several.into(),
                        from: 0,
                        payload: draft.payload().clone(),
                    }),
                }
            });
            if self.is_coalesced(coalesced) {
                return;
            }
        }
        self.send_many(lane, to, draft.payload());
    }

    /// Sends `payload` to a registered name on the peer. Returns false in the same cases as
    /// [`Connection::send`], and for a name of more than 255 characters, which is not an atom.
    pub fn send_name(&self, lane: Lane, name: &str, payload: &Payload) -> bool {
        if payload.is_empty() || Atom::new(name).is_err() {
            return false;
        }
        let control = self.format.send_name(name);
        self.push(lane, Item::Signal(Signal { control, payload: payload.clone() }))
    }

    /// Answers a call that arrived on this connection with the encoded term `reply`. The reply is
    /// sent in the control lane.
    pub fn reply(&self, from: &From, reply: impl Into<Bytes>) {
        self.answer(from, Reply::Own(reply.into()));
    }

    /// Does the same as [`Connection::reply`], with a reply that is sent to other callers as well.
    pub fn reply_shared(&self, from: &From, reply: &Arc<SharedTerm>) {
        self.answer(from, Reply::Shared(reply.clone()));
    }

    fn answer(&self, from: &From, reply: Reply) {
        self.work.charge(reply.bytes());
        let at_once = cork::corker().is_some();
        self.caller_stats.lock().answered(&from.pid, at_once, || self.age());
        self.push(Lane::Control, Item::Answer(Answer { from: from.clone(), reply }));
    }

    /// Monitors a process of the peer. [`Events::exited`](crate::Events::exited) reports its end
    /// once, however often the process is monitored. Returns false, and does nothing, if the pid
    /// does not belong to the peer.
    pub fn monitor(&self, pid: &Pid) -> bool {
        if pid.node != self.peer.name {
            return false;
        }
        let mut monitors = self.monitors.lock();
        if let Some(number) = monitors.begin(pid.into())
            && self.format.watch != Watch::Connection
        {
            // The lock is held, so that the signals of one pid are sent in the order of the calls.
            let signal = self.format.monitor(true, pid.into(), number);
            self.push(Lane::Control, Item::Signal(signal));
        }
        true
    }

    /// Does the same as [`Connection::monitor`] for many processes of the peer. They take one entry
    /// of the lane, however many they are.
    pub fn monitor_all(&self, processes: impl Iterator<Item = LocalPid>) {
        let mut monitors = self.monitors.lock();
        let begun = |process| monitors.begin(process).map(|number| (process, number));
        let of: Box<[_]> = processes.filter_map(begun).collect();
        if !of.is_empty() && self.format.watch != Watch::Connection {
            self.push(Lane::Control, Item::Monitors { of, from: 0 });
        }
    }

    /// Stops monitoring a process.
    pub fn demonitor(&self, pid: &Pid) {
        let mut monitors = self.monitors.lock();
        if pid.node == self.peer.name
            && let Some(number) = monitors.by_pid.remove(&pid.into())
            && self.format.watch != Watch::Connection
        {
            let signal = self.format.monitor(false, pid.into(), number);
            self.push(Lane::Control, Item::Signal(signal));
        }
    }

    /// Handles the report that a monitored process has ended. Returns whether it belongs to a
    /// monitor of this connection.
    pub(crate) fn monitor_ended(&self, pid: LocalPid, reference: &[u8]) -> bool {
        let mut monitors = self.monitors.lock();
        let asked = monitors
            .by_pid
            .get(&pid)
            .is_some_and(|number| self.format.monitor_reference(*number) == reference);
        if asked {
            monitors.by_pid.remove(&pid);
        }
        asked
    }

    /// Handles the end of a process of the peer that may be linked to this node. Returns whether
    /// this connection monitors the process by a link.
    pub(crate) fn link_broken(&self, pid: LocalPid) -> bool {
        self.format.watch == Watch::Link && self.monitors.lock().by_pid.remove(&pid).is_some()
    }

    /// Returns the monitored processes that end with this connection. There are none, unless the
    /// peer has no other way to report the end of a process.
    pub(crate) fn end_with_it(&self) -> Vec<LocalPid> {
        match self.format.watch {
            Watch::Connection => self.monitors.lock().by_pid.drain().map(|(pid, _)| pid).collect(),
            Watch::Monitor | Watch::Link => Vec::new(),
        }
    }

    /// Requests an answer from a silent peer of a kind that answers. A BEAM may send no empty
    /// frames for a quarter of its own `net_ticktime`, which may be minutes.
    pub(crate) fn liveness_probe(&self) {
        if self.format.watch == Watch::Monitor {
            self.push(Lane::Control, Item::Signal(self.format.liveness_probe()));
        }
    }

    /// Handles the answer of the peer to a probe.
    pub(crate) fn probe_answered(&self, reference: &[u8]) {
        let took = self.outbox.answered(|number| self.format.is_probe(number, reference));
        if let (Some(took), Some(me)) = (took, self.me.upgrade()) {
            self.events.read_by(&me, took);
        }
    }

    /// The bytes that wait in a lane to be written.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.outbox.waiting(lane)
    }

    /// Counts work that this peer has asked for, in units of about a nanosecond: what a byte costs
    /// that is copied. Other peers have their turn when much was done. To be called by what handles
    /// a message of this peer, and by nobody else.
    pub fn charge(&self, units: usize) {
        self.work.charge(units);
    }

    /// Has `long` done on another thread, before the next message of this peer is handled: what one
    /// message asks for and takes more than a millisecond. Of all peers only a few have theirs done at a
    /// time. To be called by what handles a message of this peer, once for each.
    pub fn run_blocking(&self, long: impl FnOnce() + Send + 'static) {
        if let Some(long) = self.work.run_blocking(Box::new(long)) {
            long();
        }
    }

    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// Closes the connection at once. Queued messages are lost.
    pub fn close(&self, reason: &'static str) {
        self.end(DownReason::Requested(reason));
    }

    /// Returns whether the connection has ended or is about to end.
    pub fn is_closed(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Queues an item. Returns false if the connection has ended.
    fn push(&self, lane: Lane, item: Item) -> bool {
        let corker = cork::corker();
        let mut item = Some(item);
        if let Some(number) = corker
            && item
                .as_ref()
                .is_some_and(|item| item.message_len() <= COALESCED_BELOW || item.is_shared())
        {
            let coalesced = self
                .outbox
                .coalesce(number, lane, |batch| item.take().and_then(|item| batch.add(item)));
            if self.is_coalesced(coalesced) {
                return true;
            }
        }
        let Some(item) = item else { return true };
        match self.outbox.push(corker, lane, item) {
            Outcome::Taken => true,
            Outcome::Dropped(losses) => {
                let open = losses.iter().all(|loss| loss.reason != LossReason::ConnectionLost);
                self.lost(losses.into_iter().map(|loss| (lane, loss)));
                open
            }
            Outcome::Overflow(losses) => {
                self.lost(losses.into_iter().map(|loss| (lane, loss)));
                self.end(DownReason::Overflow(lane));
                false
            }
        }
    }

    fn lost(&self, losses: impl IntoIterator<Item = (Lane, Loss)>) {
        if let Some(me) = self.me.upgrade() {
            for (lane, loss) in losses {
                self.events.dropped(&me, lane, &loss);
            }
        }
    }

    fn is_coalesced(&self, coalesced: Coalesced) -> bool {
        if coalesced == (Coalesced::Taken { first: true })
            && let Some(me) = self.me.upgrade()
        {
            cork::flush_later(me);
        }
        coalesced != Coalesced::Refused
    }

    /// Queues a signal. Returns false if the connection has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.push(Lane::Control, Item::Signal(signal))
    }

    /// Returns the format of frames for this peer.
    pub(crate) fn format(&self) -> &Format {
        &self.format
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Resolves when the connection is to end.
    pub async fn closed(&self) {
        self.ending.cancelled().await;
    }

    /// Ends the connection. Only the reason of the first call is kept.
    pub(crate) fn end(&self, reason: DownReason) {
        self.reason.lock().get_or_insert(reason);
        let losses = self.outbox.close();
        self.ending.cancel();
        self.lost(losses);
    }

    pub(crate) fn reason(&self) -> DownReason {
        self.reason.lock().clone().unwrap_or(DownReason::Closed)
    }

    /// Returns a token that is cancelled when the connection is to end.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Returns a token that is cancelled when the connection has ended and its end was reported.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Returns the receiver of the events of this connection.
    pub(crate) fn events(&self) -> &Arc<dyn Events> {
        &self.events
    }

    /// Returns the time since the connection was established.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the connection tells about itself.
    pub fn stats(&self) -> ConnectionStats {
        let mut stats = ConnectionStats {
            age: self.age(),
            silence: self.silence(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            ..ConnectionStats::default()
        };
        self.outbox.stats(&mut stats);
        stats
    }

    /// Records that bytes have arrived.
    pub(crate) fn heard(&self, age: Duration, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.heard_at.store(millis, Ordering::Relaxed);
    }

    /// Returns the caller statistics since the last call.
    pub(crate) fn caller_stats(&self) -> Seen {
        self.caller_stats.lock().take()
    }

    /// Returns the time since bytes last arrived.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_at.load(Ordering::Relaxed));
        self.age().saturating_sub(heard)
    }
}
