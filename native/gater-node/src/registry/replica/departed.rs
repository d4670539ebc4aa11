//! The gateways that have left the cluster deliberately.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The greatest number of names that are remembered; the oldest are forgotten.
const MAX_NAMES: usize = 256;

/// The gateways that were members and are no longer, the latest last. The cluster does not miss
/// them.
///
/// The list is replicated, so that a gateway also knows removals from the time before it joined, or
/// while it was disconnected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed(Vec<String>);

impl Departed {
    /// Returns whether the gateway `name` has left and has not returned.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|departed| departed == name)
    }

    /// Records that the members were `before` and are `now`.
    pub fn changed(&mut self, before: &BTreeSet<&str>, now: &BTreeSet<&str>) {
        self.0.retain(|name| !now.contains(name.as_str()));
        for name in before.difference(now) {
            // A gateway without others has an empty name.
            if !name.is_empty() && !self.contains(name) {
                self.0.push((*name).to_owned());
            }
        }
        let surplus = self.0.len().saturating_sub(MAX_NAMES);
        self.0.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_removed_is_not_missed_until_it_is_a_member_again() {
        let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        let mut departed = Departed::default();
        departed.changed(&set(&["a"]), &set(&["a", "b"]));
        assert_eq!(departed, Departed::default());
        departed.changed(&set(&["a", "b"]), &set(&["a"]));
        assert!(departed.contains("b"));
        departed.changed(&set(&["a"]), &set(&["a", "b"]));
        assert_eq!(departed, Departed::default());
    }

    #[test]
    fn the_oldest_names_are_forgotten() {
        let mut departed = Departed::default();
        let names: Vec<_> = (0..=MAX_NAMES).map(|number| format!("gateway{number}@h")).collect();
        for name in &names {
            departed.changed(&BTreeSet::from([name.as_str()]), &BTreeSet::new());
        }
        assert!(!departed.contains(&names[0]));
        assert!(departed.contains(&names[1]) && departed.contains(&names[MAX_NAMES]));
    }
}
