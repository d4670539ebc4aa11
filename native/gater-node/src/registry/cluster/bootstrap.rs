//! The bootstrap of a cluster, by which new gateways become one cluster exactly once, whichever of
//! them are up.
//!
//! The gateways that bootstrap a cluster know each other's names (`--cluster`), but not the ids of
//! their data directories, and a cluster begins with a set of ids on which all of them must agree.
//! They agree as in [Paxos](https://lamport.azurewebsites.net/pubs/paxos-simple.pdf): a proposer
//! has a majority of the names promise to take part in its ballot and in none before, proposes the
//! cluster that the latest of them has accepted already, or else the gateways that it reaches, and
//! has a majority accept that. Promises are on the disk before they are given. A cluster that a
//! majority has accepted is the only one that can ever be accepted, so any gateway may begin
//! consensus with it, any number of times.

use std::collections::{BTreeMap, BTreeSet};

use openraft::AnyError;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::registry::replica::{LogStore, NodeId};

/// The id of a cluster, drawn at random when it is bootstrapped.
pub type ClusterId = u64;

/// The order of attempts: a number, and the gateway that attempts.
pub type Ballot = (u64, NodeId);

/// The greatest number of a ballot, and the greatest distance to the ballots before it. A gateway
/// begins at most five ballots in a second.
const MAX_BALLOT: u64 = 1 << 48;
const MAX_BALLOT_STEP: u64 = 1 << 24;

/// The name of the [`BootstrapState`] among the metadata of the data directory.
const NOTE: &str = "founding";

/// The initial state of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The ballot in which it is proposed.
    pub ballot: Ballot,
    /// The id of the cluster.
    pub cluster: ClusterId,
    /// Its first members: their ids and node names.
    pub members: BTreeMap<NodeId, String>,
}

/// The promises and the accepted proposal of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapState {
    promised: Option<Ballot>,
    accepted: Option<Founding>,
}

impl Founding {
    /// Returns whether a gateway that bootstraps a cluster of `listed` with others could propose
    /// this: every member has its own name, and known gateways have the right ids.
    pub fn is_sound(&self, listed: &BTreeSet<String>, known: &[(NodeId, &str)]) -> bool {
        let names: BTreeSet<_> = self.members.values().map(String::as_str).collect();
        names.len() == self.members.len()
            && names.len() >= majority(listed.len())
            && names.iter().all(|name| listed.contains(*name))
            && known.iter().all(|(id, name)| {
                self.members.iter().all(|(other, named)| (other == id) == (named == name))
            })
    }
}

impl BootstrapState {
    /// Returns whether a ballot of that number may come next.
    fn is_near(&self, ballot: Ballot) -> bool {
        let promised = self.promised.map_or(0, |(number, _)| number);
        ballot.0 <= promised.saturating_add(MAX_BALLOT_STEP) && ballot.0 <= MAX_BALLOT
    }

    /// Promises to take part in no ballot before `ballot`. Returns the proposal that was accepted
    /// so far, or `None` if a later ballot was promised.
    fn prepare(&mut self, ballot: Ballot) -> Option<Option<Founding>> {
        if self.promised > Some(ballot) {
            return None;
        }
        self.promised = Some(ballot);
        Some(self.accepted.clone())
    }

    /// Accepts a proposal unless a later ballot was promised. Returns whether it was accepted.
    fn accept(&mut self, founding: Founding) -> bool {
        if self.promised > Some(founding.ballot) {
            return false;
        }
        self.promised = Some(founding.ballot);
        self.accepted = Some(founding);
        true
    }
}

/// The part of one gateway in the bootstrap, stored on its disk.
pub struct Bootstrap {
    log: LogStore,
    seed: Mutex<BootstrapState>,
}

impl Bootstrap {
    /// Loads the state from the data directory. Blocks for a moment.
    pub fn open(log: LogStore) -> Result<Self, AnyError> {
        let seed: BootstrapState = log.metadata(NOTE)?.unwrap_or_default();
        if let Some((number, _)) = seed.promised
            && number > MAX_BALLOT
            && !log.has_entries()
        {
            return Err(AnyError::error(format!(
                "ballot {number} of the bootstrap was promised, which no bootstrap comes to"
            )));
        }
        Ok(Self { log, seed: Mutex::new(seed) })
    }

    /// Promises to take part in `ballot` and in none before it. Returns the proposal that was
    /// accepted so far, or `None` if a later ballot was promised.
    pub async fn prepare(&self, ballot: Ballot) -> Result<Option<Option<Founding>>, AnyError> {
        let mut seed = self.seed.lock().await;
        let mut next = seed.clone();
        let answer = next.prepare(ballot);
        self.keep(&mut seed, next).await?;
        Ok(answer)
    }

    /// Accepts a proposal, unless a later ballot was promised. Returns whether it was accepted.
    pub async fn accept(&self, founding: Founding) -> Result<bool, AnyError> {
        let mut seed = self.seed.lock().await;
        let mut next = seed.clone();
        let accepted = next.accept(founding);
        self.keep(&mut seed, next).await?;
        Ok(accepted)
    }

    /// Returns whether a ballot of another gateway may come next.
    pub async fn is_near(&self, ballot: Ballot) -> bool {
        self.seed.lock().await.is_near(ballot)
    }

    /// Returns the latest promised ballot, and the id of the accepted cluster, if there is one.
    pub async fn state(&self) -> (Option<Ballot>, Option<ClusterId>) {
        let seed = self.seed.lock().await;
        (seed.promised, seed.accepted.as_ref().map(|founding| founding.cluster))
    }

    /// Returns a ballot later than all that this gateway knows.
    pub async fn next_ballot(&self, id: NodeId) -> Ballot {
        let promised = self.seed.lock().await.promised;
        (promised.map_or(0, |(number, _)| number).saturating_add(1), id)
    }

    async fn keep(&self, seed: &mut BootstrapState, next: BootstrapState) -> Result<(), AnyError> {
        if next != *seed {
            self.log.set_metadata(NOTE, &next).await?;
            *seed = next;
        }
        Ok(())
    }
}

/// Returns the proposal after a majority has promised: the latest one that any of them has
/// accepted, which may be decided already, or else `own`.
pub fn proposal(promises: &[Option<Founding>], own: Founding) -> Founding {
    let latest = promises.iter().flatten().max_by_key(|founding| founding.ballot);
    Founding { ballot: own.ballot, ..latest.cloned().unwrap_or(own) }
}

/// Returns the number of gateways that are more than half of `count`.
pub fn majority(count: usize) -> usize {
    count / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn founding(ballot: Ballot) -> Founding {
        let members = BTreeMap::from([(ballot.1, "a@h".to_owned())]);
        Founding { ballot, cluster: ballot.0 * 10 + ballot.1, members }
    }

    proptest! {
        /// With three gateways and any number of proposers whose messages are lost, delayed and
        /// reordered, all proposals that a majority accepts are of one cluster.
        #[test]
        fn two_majorities_never_accept_two_clusters(
            steps in prop::collection::vec((0_usize..3, 1_u64..4, 0_usize..7), 1..60),
        ) {
            let mut seeds = vec![BootstrapState::default(); 3];
            let mut rounds = BTreeMap::<Ballot, (Vec<Option<Founding>>, Option<Founding>, usize)>::new();
            let mut chosen = BTreeSet::new();
            // (the receiver, the proposer, and the kind of message)
            for (asked, proposer, way) in steps {
                let last = rounds.keys().filter(|(_, by)| *by == proposer).max().copied();
                match (way, last) {
                    (0, _) | (_, None) => {
                        let number = rounds.keys().map(|(number, _)| *number).max().unwrap_or(0) + 1;
                        rounds.insert((number, proposer), Default::default());
                    }
                    (1..=3, Some(ballot)) => {
                        let round = rounds.get_mut(&ballot).unwrap();
                        if round.1.is_none() && let Some(accepted) = seeds[asked].prepare(ballot) {
                            // An answer may arrive twice, so only distinct answers are counted.
                            if round.0.len() < majority(3) && round.2 & (1 << asked) == 0 {
                                round.2 |= 1 << asked;
                                round.0.push(accepted);
                            }
                            if round.0.len() == majority(3) {
                                round.1 = Some(proposal(&round.0, founding(ballot)));
                                round.2 = 0;
                            }
                        }
                    }
                    (_, Some(ballot)) => {
                        let round = rounds.get_mut(&ballot).unwrap();
                        if let Some(proposed) = &round.1 && seeds[asked].accept(proposed.clone()) {
                            round.2 |= 1 << asked;
                            if round.2.count_ones() as usize >= majority(3) {
                                chosen.insert(proposed.cluster);
                            }
                        }
                    }
                }
            }
            prop_assert!(chosen.len() <= 1, "{chosen:?}");
        }
    }

    #[test]
    fn a_promise_holds_against_earlier_ballots_only() {
        let mut seed = BootstrapState::default();
        assert_eq!(seed.prepare((2, 7)), Some(None));
        assert_eq!(seed.prepare((1, 9)), None);
        assert!(!seed.accept(founding((1, 9))));
        assert!(seed.accept(founding((2, 7))));
        assert_eq!(seed.prepare((3, 1)), Some(Some(founding((2, 7)))));
    }

    #[test]
    fn what_was_accepted_is_proposed_again() {
        let own = founding((9, 1));
        let earlier = [None, Some(founding((3, 1))), Some(founding((4, 2)))];
        let proposed = proposal(&earlier, own.clone());
        assert_eq!(proposed.cluster, founding((4, 2)).cluster);
        assert_eq!(proposed.ballot, (9, 1));
        assert_eq!(proposal(&[None, None], own.clone()), own);
    }
}
