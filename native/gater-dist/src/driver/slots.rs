//! The places for unfinished handshakes, and who gives way when all are taken.
//!
//! Everybody who reaches the port takes a place until the cookie is asked for. So the address with the
//! most unfinished handshakes gives way, its oldest first; and those that have named a node which was
//! connected before give way last.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The places for unfinished handshakes.
pub struct Slots {
    /// The number of sockets with an unfinished handshake never exceeds the number of places, except
    /// for the one that waits for a place.
    places: Arc<Semaphore>,
    /// The oldest first.
    under_way: Mutex<Vec<Handshake>>,
}

struct Handshake {
    number: u64,
    source: IpAddr,
    /// Whether it has named a node that was connected before.
    known: bool,
    given_up: CancellationToken,
}

/// A place that is taken. Returned when dropped.
pub struct Slot {
    number: u64,
    given_up: CancellationToken,
    slots: Arc<Slots>,
    _place: OwnedSemaphorePermit,
}

impl Slots {
    /// Returns so many places, one at least.
    pub fn new(places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places.max(1)));
        Self { places, under_way: Mutex::default() }
    }

    /// Returns a place for a handshake with `source`. If there is none, another handshake gives way,
    /// and its socket is closed before this returns.
    pub async fn take(self: &Arc<Self>, source: IpAddr) -> Option<Slot> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.make_room();
                self.places.clone().acquire_owned().await.ok()?
            }
        };
        let mut under_way = self.under_way.lock();
        let number = under_way.last().map_or(0, |last| last.number + 1);
        let given_up = CancellationToken::new();
        let source = network(source);
        under_way.push(Handshake { number, source, known: false, given_up: given_up.clone() });
        Some(Slot { number, given_up, slots: self.clone(), _place: place })
    }

    fn make_room(&self) {
        let mut under_way = self.under_way.lock();
        let mut counts: HashMap<IpAddr, usize> = HashMap::default();
        for handshake in &*under_way {
            *counts.entry(handshake.source).or_default() += 1;
        }
        let count = |handshake: &Handshake| counts.get(&handshake.source).copied().unwrap_or(0);
        // Of equals the first, which is the oldest.
        let first = under_way.iter().enumerate().rev().max_by_key(|(_, h)| (!h.known, count(h)));
        if let Some((at, _)) = first {
            under_way.remove(at).given_up.cancel();
        }
    }
}

impl Slot {
    /// Resolves when the handshake is to give way.
    pub async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// The handshake has named a node that was connected before.
    pub fn is_known(&self) {
        let mut under_way = self.slots.under_way.lock();
        if let Ok(at) = under_way.binary_search_by_key(&self.number, |h| h.number)
            && let Some(handshake) = under_way.get_mut(at)
        {
            handshake.known = true;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut under_way = self.slots.under_way.lock();
        if let Ok(at) = under_way.binary_search_by_key(&self.number, |h| h.number) {
            under_way.remove(at);
        }
    }
}

/// Returns what one sender of connections has for an address: of IPv6 a whole network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// As a handshake that ends when it is given up.
    async fn taken(slots: &Arc<Slots>, held: &mut Vec<(IpAddr, Slot)>, source: IpAddr) {
        let mut taking = std::pin::pin!(slots.take(source));
        // Polled once it has had another one give way.
        let slot = tokio::select! {
            biased;
            slot = &mut taking => slot,
            () = std::future::ready(()) => {
                held.retain(|(_, slot)| !slot.given_up.is_cancelled());
                taking.await
            }
        };
        held.push((source, slot.unwrap()));
    }

    fn count(held: &[(IpAddr, Slot)], source: IpAddr) -> usize {
        held.iter().filter(|(of, _)| *of == source).count()
    }

    #[tokio::test]
    async fn a_flood_from_one_address_gives_way_to_others() {
        let (slots, mut held) = (Arc::new(Slots::new(8)), Vec::new());
        taken(&slots, &mut held, from(1)).await;
        for _ in 0..100 {
            taken(&slots, &mut held, from(9)).await;
        }
        taken(&slots, &mut held, from(2)).await;
        assert_eq!([from(1), from(2), from(9)].map(|source| count(&held, source)), [1, 1, 6]);
    }

    #[tokio::test]
    async fn known_nodes_give_way_last_from_whatever_address() {
        let (slots, mut held) = (Arc::new(Slots::new(8)), Vec::new());
        for _ in 0..2 {
            taken(&slots, &mut held, from(9)).await;
        }
        held.iter().for_each(|(_, slot)| slot.is_known());
        for _ in 0..100 {
            taken(&slots, &mut held, from(9)).await;
        }
        assert_eq!(held.iter().filter(|(_, slot)| slot.number < 2).count(), 2);
        assert_eq!(held.len(), 8);
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let address = |text: &str| network(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::2:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), from(1));
        assert_ne!(address("::ffff:10.0.0.1"), from(2));
    }
}
