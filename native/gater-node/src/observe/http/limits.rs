//! How many connections there are, and which gives way.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Connections at a time. When there is one more, the oldest is closed.
pub const MAX_CONNECTIONS: usize = 64;

/// The connections that are open.
#[derive(Debug, Default)]
pub struct Places(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// The oldest first.
    connections: VecDeque<(u64, CancellationToken)>,
}

/// The place of an open connection, which is given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    places: Arc<Places>,
    given_up: CancellationToken,
}

impl Places {
    /// Takes a place. Connections that were made from then on count: the oldest gives way if there
    /// are too many.
    pub fn take(self: &Arc<Self>) -> Place {
        let mut open = self.0.lock();
        while open.connections.len() >= MAX_CONNECTIONS {
            if let Some((_, oldest)) = open.connections.pop_front() {
                oldest.cancel();
            }
        }
        open.last += 1;
        let given_up = CancellationToken::new();
        let number = open.last;
        open.connections.push_back((number, given_up.clone()));
        Place { number, places: self.clone(), given_up }
    }
}

impl Place {
    /// Resolves when the connection is to give way.
    pub fn given_up(&self) -> impl Future<Output = ()> + Send + use<> {
        self.given_up.clone().cancelled_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock();
        if let Ok(at) = open.connections.binary_search_by_key(&self.number, |(number, _)| *number) {
            open.connections.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_connection_gives_way() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<_> = (0..MAX_CONNECTIONS).map(|_| places.take()).collect();
        assert!(taken.iter().all(|place| !place.given_up.is_cancelled()));
        drop(taken.remove(5));
        taken.push(places.take());
        assert!(taken.iter().all(|place| !place.given_up.is_cancelled()));
        taken.push(places.take());
        let given_up: Vec<_> = taken.iter().map(|place| place.given_up.is_cancelled()).collect();
        assert_eq!(given_up.iter().filter(|given_up| **given_up).count(), 1);
        assert!(given_up[0]);
        drop(taken);
        assert!(places.0.lock().connections.is_empty());
    }
}
