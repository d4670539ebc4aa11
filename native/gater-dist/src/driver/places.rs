//! Places for what takes long to fail, such as dials.
//!
//! Any peer can have this node look for nodes that do not exist. So what has never succeeded has only
//! some of the places, and what has failed before has fewer: there is always a place for nodes that
//! have been reached before, and soon one for a node that is dialled for the first time.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The greatest number of outcomes that are remembered. If there are more, failures are forgotten, and
/// everything if that leaves more than half.
const MAX_REMEMBERED: usize = 8192;

/// The outcome of earlier attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// One has succeeded.
    Succeeded,
    /// All have failed.
    Failed,
}

/// Places for attempts, with the outcomes of earlier ones by their object.
#[derive(Debug)]
pub struct Places<K> {
    all: Arc<Semaphore>,
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
    outcomes: Mutex<HashMap<K, Outcome>>,
}

/// A place that is taken. Returned when dropped.
#[derive(Debug)]
pub struct Place {
    _all: OwnedSemaphorePermit,
    _class: Option<OwnedSemaphorePermit>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// Returns `count` places, one at least: half of them for first attempts, and a quarter for
    /// attempts after failures.
    pub fn new(count: usize) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count.max(1)));
        Self {
            all: places(count),
            first: places(count / 2),
            again: places(count / 4),
            outcomes: Mutex::default(),
        }
    }

    /// Waits for a place for an attempt at `object`.
    pub async fn take(&self, object: &K) -> Option<Place> {
        let class = match self.outcomes.lock().get(object) {
            Some(Outcome::Succeeded) => None,
            Some(Outcome::Failed) => Some(self.again.clone()),
            None => Some(self.first.clone()),
        };
        let class = match class {
            Some(class) => Some(class.acquire_owned().await.ok()?),
            None => None,
        };
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Place { _all: all, _class: class })
    }

    /// Whether an attempt at `object` has succeeded before.
    pub fn has_succeeded(&self, object: &K) -> bool {
        self.outcomes.lock().get(object) == Some(&Outcome::Succeeded)
    }

    /// Takes note that an attempt at `object` has ended.
    pub fn ended(&self, object: &K, succeeded: bool) {
        let mut outcomes = self.outcomes.lock();
        if outcomes.len() >= MAX_REMEMBERED && !outcomes.contains_key(object) {
            outcomes.retain(|_, outcome| *outcome == Outcome::Succeeded);
            if outcomes.len() >= MAX_REMEMBERED / 2 {
                outcomes.clear();
            }
        }
        let outcome = if succeeded { Outcome::Succeeded } else { Outcome::Failed };
        let known = outcomes.entry(object.clone()).or_insert(outcome);
        if succeeded {
            *known = outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn taken(places: &Places<u32>, object: u32) -> Option<Place> {
        timeout(Duration::from_millis(1), places.take(&object)).await.ok().flatten()
    }

    #[tokio::test]
    async fn failures_leave_places_for_first_attempts_and_for_what_has_succeeded() {
        let places = Places::new(8);
        (0..100).for_each(|object| places.ended(&object, false));
        places.ended(&200, true);
        places.ended(&200, false);
        let mut held = Vec::new();
        for object in 0..100 {
            held.extend(taken(&places, object).await);
        }
        assert_eq!(held.len(), 2);
        for object in 300..400 {
            held.extend(taken(&places, object).await);
        }
        assert_eq!(held.len(), 6);
        held.extend(taken(&places, 200).await);
        held.extend(taken(&places, 200).await);
        assert_eq!(held.len(), 8);
        held.clear();
        assert!(taken(&places, 1).await.is_some());
    }

    #[test]
    fn outcomes_are_bounded() {
        let places = Places::new(8);
        (0..3 * MAX_REMEMBERED as u32).for_each(|object| places.ended(&object, false));
        assert!(places.outcomes.lock().len() <= MAX_REMEMBERED);
    }
}
