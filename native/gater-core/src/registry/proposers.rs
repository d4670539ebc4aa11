//! The last batch of each gateway, so that no batch is carried out twice or out of order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{Outcome, Refusal};

/// The greatest number of proposers that are remembered; every start of a gateway is a new
/// proposer. All gateways must agree on it.
const MAX_PROPOSERS: usize = 64;

/// The identifier of a batch of commands, unique among all batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The id of the gateway's process that wrote the batch, drawn at random when it started.
    pub proposer: u64,
    /// The number of the batch among those of its proposer, which writes one batch at a time.
    pub number: u64,
}

/// The last batch of each proposer.
///
/// A gateway writes its batch again if the answer is lost, and a batch that it has given up may
/// still be in transit. A batch can therefore arrive twice, and after later batches. Only the first
/// copy of each batch takes effect, and none that arrives after a later batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposers(BTreeMap<u64, Last>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    number: u64,
    /// The index of the batch in the log.
    index: u64,
    /// The positions of the commands that were refused.
    refused: Vec<(u32, Refusal)>,
}

impl Proposers {
    /// Returns the outcomes of a batch of `commands` commands if it must not be carried out
    /// (again). The outcomes lack the changes that it made the first time. Returns `None` for a new
    /// batch.
    pub fn earlier(&self, origin: Origin, commands: usize) -> Option<Vec<Outcome>> {
        let last = self.0.get(&origin.proposer).filter(|last| last.number >= origin.number)?;
        let mut outcomes = vec![Outcome::default(); commands];
        // No caller waits for a batch before the last one.
        if last.number == origin.number {
            for (place, refusal) in &last.refused {
                if let Some(outcome) = outcomes.get_mut(*place as usize) {
                    outcome.refused = Some(*refusal);
                }
            }
        }
        Some(outcomes)
    }

    /// Records that the batch at `index` of the log was carried out. If there are too many
    /// proposers, the one that has not written for the longest time is forgotten.
    pub fn carried_out(&mut self, origin: Origin, index: u64, outcomes: &[Outcome]) {
        let refused = (0..)
            .zip(outcomes)
            .filter_map(|(place, outcome)| outcome.refused.map(|refusal| (place, refusal)))
            .collect();
        self.0.insert(origin.proposer, Last { number: origin.number, index, refused });
        if self.0.len() > MAX_PROPOSERS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, last)| last.index)
        {
            let oldest = *oldest.0;
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(proposer: u64, number: u64) -> Origin {
        Origin { proposer, number }
    }

    #[test]
    fn a_batch_counts_once_and_not_after_a_later_one() {
        let mut proposers = Proposers::default();
        assert_eq!(proposers.earlier(origin(1, 1), 2), None);
        let full = Outcome { changes: Vec::new(), refused: Some(Refusal::Full) };
        proposers.carried_out(origin(1, 1), 5, &[Outcome::default(), full.clone()]);
        assert_eq!(proposers.earlier(origin(1, 1), 2), Some(vec![Outcome::default(), full]));
        assert_eq!(proposers.earlier(origin(1, 2), 1), None);
        assert_eq!(proposers.earlier(origin(2, 1), 1), None);
        proposers.carried_out(origin(1, 3), 6, &[Outcome::default()]);
        assert_eq!(proposers.earlier(origin(1, 2), 1), Some(vec![Outcome::default()]));
    }

    #[test]
    fn the_gateway_that_has_not_written_for_longest_is_forgotten() {
        let mut proposers = Proposers::default();
        for proposer in 0..=MAX_PROPOSERS as u64 {
            proposers.carried_out(origin(proposer, 1), proposer, &[]);
        }
        assert_eq!(proposers.0.len(), MAX_PROPOSERS);
        assert_eq!(proposers.earlier(origin(0, 1), 0), None);
        assert!(proposers.earlier(origin(1, 1), 0).is_some());
    }
}
