//! Reassembles fragmented messages.
//!
//! No memory is reserved for announced lengths: memory grows with the bytes that have arrived.
//! Invariant: the sum of the capacities of the buffers and a fixed charge per unfinished message is
//! at most [`Limits::total`].

use std::collections::hash_map::Entry;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::HashMap;

use super::atom_cache::Encoded;
use crate::ProtocolError;

/// The number of bytes that are free in front of a message of several fragments, so that its start
/// can grow when its atoms are written out.
pub const ROOM: usize = 1024;
/// The number of bytes that an unfinished message is charged besides its data.
const CHARGE: usize = 256;

/// The limits on the unfinished messages of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The greatest length of a message in bytes, including the control message.
    pub message: usize,
    /// The greatest total length of all unfinished messages in bytes.
    pub total: usize,
    /// The time after which an unfinished message that has not grown may be discarded when room is
    /// needed, since its sender has died while sending it.
    pub stale: Duration,
}

#[derive(Debug)]
struct Unfinished {
    next_id: u64,
    /// The atoms to which its terms refer, as they were in its first fragment.
    atoms: Vec<Encoded>,
    data: BytesMut,
    /// The number of bytes that are charged besides the data.
    kept: usize,
    charged: usize,
    /// The time of the last fragment since the start of the connection.
    grown_at: Duration,
}

/// The unfinished messages of one connection.
#[derive(Debug)]
pub struct Reassembly {
    limits: Limits,
    open: HashMap<u64, Unfinished>,
    charged: usize,
}

impl Reassembly {
    /// Returns a value without unfinished messages.
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: HashMap::default(), charged: 0 }
    }

    /// Returns the number of bytes that are charged for the unfinished messages.
    pub fn charged(&self) -> usize {
        self.charged
    }

    /// Returns the number of unfinished messages.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Handles the first of `id` fragments with the atoms to which the message refers. `now` counts
    /// from any fixed time. Returns the control message and the payload if there are no further
    /// fragments.
    pub fn first(
        &mut self,
        sequence: u64,
        id: u64,
        data: &[u8],
        atoms: &[Encoded],
        now: Duration,
    ) -> Result<Option<Bytes>, ProtocolError> {
        if data.len() > self.limits.message {
            return Err(ProtocolError::MessageTooLong(self.limits.message));
        }
        // Empty fragments are legal, but no sender needs more fragments than the message has bytes.
        if id > self.limits.message as u64 {
            return Err(ProtocolError::Fragment("more fragments than a message may have bytes"));
        }
        if self.open.contains_key(&sequence) {
            return Err(ProtocolError::Fragment("sequence already open"));
        }
        if id == 1 {
            return Ok(Some(Bytes::copy_from_slice(data)));
        }
        let mut whole = BytesMut::with_capacity(ROOM + data.len());
        whole.put_bytes(0, ROOM);
        whole.put_slice(data);
        let data = whole;
        let atoms = atoms.to_vec();
        let kept = CHARGE + atoms.iter().map(|atom| CHARGE + atom.len()).sum::<usize>();
        let charged = data.capacity() + kept;
        self.make_room(charged, now)?;
        self.charged += charged;
        let unfinished = Unfinished { next_id: id - 1, atoms, data, kept, charged, grown_at: now };
        self.open.insert(sequence, unfinished);
        Ok(None)
    }

    /// Handles a further fragment. After the last one, returns the control message and the payload
    /// behind [`ROOM`] meaningless bytes, and the atoms to which they refer.
    pub fn next(
        &mut self,
        sequence: u64,
        id: u64,
        data: &[u8],
        now: Duration,
    ) -> Result<Option<(BytesMut, Vec<Encoded>)>, ProtocolError> {
        let Entry::Occupied(mut entry) = self.open.entry(sequence) else {
            return Err(ProtocolError::Fragment("continues a message that was not begun"));
        };
        let message = entry.get_mut();
        if id != message.next_id {
            return Err(ProtocolError::Fragment("out of sequence"));
        }
        let so_far = message.data.len() - ROOM;
        if data.len() > self.limits.message.saturating_sub(so_far) {
            return Err(ProtocolError::MessageTooLong(self.limits.message));
        }
        message.data.extend_from_slice(data);
        message.grown_at = now;
        if id == 1 {
            let finished = entry.remove();
            self.charged -= finished.charged;
            if self.open.is_empty() {
                self.open.shrink_to_fit();
            }
            return Ok(Some((finished.data, finished.atoms)));
        }
        message.next_id = id - 1;
        let charged = message.data.capacity() + message.kept;
        let more = charged.saturating_sub(message.charged);
        message.charged += more;
        self.charged += more;
        self.make_room(0, now)?;
        Ok(None)
    }

    /// Discards stale messages if `more` bytes do not fit otherwise.
    fn make_room(&mut self, more: usize, now: Duration) -> Result<(), ProtocolError> {
        if self.charged.saturating_add(more) <= self.limits.total {
            return Ok(());
        }
        let stale = self.limits.stale;
        let charged = &mut self.charged;
        self.open.retain(|_, message| {
            let keep = now.saturating_sub(message.grown_at) < stale;
            if !keep {
                *charged -= message.charged;
            }
            keep
        });
        if self.charged.saturating_add(more) <= self.limits.total {
            Ok(())
        } else {
            Err(ProtocolError::ReassemblyFull(self.limits.total))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn limits(message: usize, total: usize) -> Limits {
        Limits { message, total, stale: Duration::from_secs(60) }
    }

    #[test]
    fn fragments_out_of_place_are_refused() {
        let mut reassembly = Reassembly::new(limits(100, 10_000));
        assert!(reassembly.next(5, 1, b"x", NOW).is_err());
        reassembly.first(5, 3, b"a", &[], NOW).unwrap();
        assert!(reassembly.first(5, 3, b"a", &[], NOW).is_err());
        assert!(reassembly.next(5, 1, b"gap", NOW).is_err());
        assert!(reassembly.next(5, 3, b"again", NOW).is_err());
    }

    #[test]
    fn an_announced_count_costs_nothing_and_is_capped() {
        let mut reassembly = Reassembly::new(limits(1 << 20, 1 << 21));
        reassembly.first(1, 1 << 20, b"a", &[], NOW).unwrap();
        assert!(reassembly.charged() < 2000);
        for id in [(1 << 20) + 1, 1 << 32, 1 << 40, 1 << 63, u64::MAX] {
            assert!(reassembly.first(2, id, b"a", &[], NOW).is_err());
        }
    }

    #[test]
    fn a_message_above_the_limit_is_refused() {
        let mut reassembly = Reassembly::new(limits(10, 10_000));
        assert!(reassembly.first(1, 1, &[0; 11], &[], NOW).is_err());
        reassembly.first(1, 3, &[0; 10], &[], NOW).unwrap();
        assert!(reassembly.next(1, 2, b"", NOW).unwrap().is_none());
        assert!(reassembly.next(1, 1, b"x", NOW).is_err());
    }

    #[test]
    fn abandoned_messages_give_way_only_when_stale() {
        let mut reassembly = Reassembly::new(limits(1000, 4000));
        reassembly.first(1, 2, &[0; 1000], &[], NOW).unwrap();
        assert_eq!(
            reassembly.first(2, 2, &[0; 1000], &[], Duration::from_secs(59)),
            Err(ProtocolError::ReassemblyFull(4000))
        );
        assert_eq!(reassembly.first(3, 2, &[0; 1000], &[], Duration::from_secs(60)), Ok(None));
        assert_eq!(reassembly.open(), 1);
    }

    proptest! {
        #[test]
        fn interleaved_messages_arrive_equal_and_leave_nothing(
            messages in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..6), 1..8),
            turns in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let mut reassembly = Reassembly::new(limits(1000, 100_000));
            let mut at = vec![0; messages.len()];
            let mut done = 0;
            let mut turns = turns.iter().cycle();
            while done < messages.len() {
                let turn = turns.next().unwrap().index(messages.len());
                let turn = (turn..messages.len()).chain(0..turn)
                    .find(|&m| at[m] < messages[m].len()).unwrap();
                let fragments = &messages[turn];
                let id = (fragments.len() - at[turn]) as u64;
                let sequence = turn as u64 + 1;
                let data = &fragments[at[turn]];
                let result = if at[turn] == 0 {
                    reassembly.first(sequence, id, data, &[], NOW).unwrap()
                } else {
                    reassembly.next(sequence, id, data, NOW).unwrap()
                        .map(|(whole, _)| whole.freeze().slice(ROOM..))
                };
                at[turn] += 1;
                prop_assert_eq!(result.is_some(), at[turn] == fragments.len());
                if let Some(whole) = result {
                    prop_assert_eq!(&whole[..], &fragments.concat()[..]);
                    done += 1;
                }
            }
            prop_assert_eq!(reassembly.charged(), 0);
            prop_assert_eq!(reassembly.open(), 0);
        }
    }
}
