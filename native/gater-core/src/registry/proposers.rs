//! What each gateway has written so far, so that nothing is carried out twice or late.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{Outcome, Refusal};

/// Gateways, or lives of one, that are remembered. All gateways must agree on it.
const MAX_PROPOSERS: usize = 64;

/// Names a batch of commands among all there ever are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The life of the gateway that wrote it: drawn at random when it started.
    pub proposer: u64,
    /// Counts its batches. It writes one at a time.
    pub number: u64,
}

/// The last batch of each gateway.
///
/// A gateway whose answer is lost writes its batch again, and what it has given up may still
/// be on its way: so a batch can come twice, and after later ones. Only the first of each
/// counts, and none that comes after a later one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposers(BTreeMap<u64, Last>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    number: u64,
    /// Where it stood in the log.
    index: u64,
    /// The places of commands that were refused.
    refused: Vec<(u32, Refusal)>,
}

impl Proposers {
    /// The outcomes of a batch of so many `commands` that is not to be carried out, without
    /// the changes it made when it was.
    pub fn earlier(&self, origin: Origin, commands: usize) -> Option<Vec<Outcome>> {
        let last = self.0.get(&origin.proposer).filter(|last| last.number >= origin.number)?;
        let mut outcomes = vec![Outcome::default(); commands];
        // Nobody waits for one before the last.
        if last.number == origin.number {
            for (place, refusal) in &last.refused {
                if let Some(outcome) = outcomes.get_mut(*place as usize) {
                    outcome.refused = Some(*refusal);
                }
            }
        }
        Some(outcomes)
    }

    /// The batch at `index` of the log was carried out. The gateway that has not written for
    /// longest is forgotten if there are too many.
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
