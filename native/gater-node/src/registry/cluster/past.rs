//! Detects that the disk of a gateway has gone back in time.
//!
//! Consensus relies on the disks of a majority. A gateway that is started on an older copy of its
//! data directory has forgotten votes that it gave and entries that it acknowledged, and with its
//! help entries that a majority holds can be lost. It cannot detect this by itself. Each gateway
//! therefore counts its starts, draws a number for each, and reports its progress to the others in
//! a [`Statement`]; they remember the last one and return it when they meet again ([`Witnesses`]).
//! A gateway takes part in nothing over a connection before it has received what the other
//! remembers.
//!
//! A statement contains a MAC with a key that only the data directory has. Another gateway can
//! therefore not claim more progress than this gateway has reported itself.

use std::collections::BTreeMap;

use gater_core::sign::Key;
use openraft::AnyError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::registry::replica::{LogStore, NodeId, Progress, Replica};

/// The names of the parts of the past among the metadata of the data directory.
const SEAL_NOTE: &str = "seal";
const STARTS_NOTE: &str = "starts";
const VERDICT_NOTE: &str = "rolled_back";
const WITNESSES_NOTE: &str = "witnesses";
/// The first bytes under the MAC, so that no other use of the key produces the same bytes.
const PURPOSE: &[u8] = b"esdb-gater: statement of a gateway, 1";
/// The greatest number of starts that a data directory remembers. Statements of earlier starts
/// cannot be checked.
const MAX_STARTS: usize = 64;
/// The greatest number of gateways whose statements are remembered.
const MAX_WITNESSED: usize = 256;

/// One start of a gateway: its number, and a random number that was drawn for it.
pub type Start = (u64, u64);

/// The progress of a gateway, as it reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    start: Start,
    progress: Progress,
    mac: [u8; 32],
}

impl Statement {
    /// Returns the progress in the statement.
    pub fn progress(&self) -> Progress {
        self.progress
    }
}

#[cfg(test)]
impl Statement {
    /// Returns the statement of a gateway with some progress.
    pub fn example() -> Self {
        let progress = Progress { term: 5, candidate: 9, settled: 300 };
        Self { start: (3, 7), progress, mac: [7; 32] }
    }
}

/// The reason why a data directory is known to be an older copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolledBack {
    /// A later start of this gateway is known.
    #[error("start {told} of this gateway is known, and the directory knows of none after {own}")]
    LaterStart {
        /// The start that is known.
        told: u64,
        /// The present start.
        own: u64,
    },
    /// Another start with the same number is known.
    #[error("start {0} of this gateway was another one")]
    OtherStart(u64),
    /// The reported progress exceeds that of the directory.
    #[error("it has told of {told}, and begins with {own}")]
    LessProgress {
        /// The reported progress.
        told: Progress,
        /// The progress at the start.
        own: Progress,
    },
}

/// The past of this gateway.
pub struct Past {
    id: NodeId,
    log: LogStore,
    key: Key,
    /// The starts so far; the present one is the last.
    starts: Vec<Start>,
    /// The progress of this gateway at its start.
    began: Progress,
    /// The reason why it takes part in nothing.
    verdict: Mutex<Option<String>>,
}

impl Past {
    /// Begins a start, which is on the disk when this returns.
    pub async fn begin(replica: &Replica) -> Result<Self, AnyError> {
        let log = replica.log().clone();
        let seal: [u8; 32] = match log.metadata(SEAL_NOTE)? {
            Some(seal) => seal,
            None => {
                let mut seal = [0; 32];
                getrandom::fill(&mut seal).map_err(|error| AnyError::error(error.to_string()))?;
                log.set_metadata(SEAL_NOTE, &seal).await?;
                seal
            }
        };
        let mut starts: Vec<Start> = log.metadata(STARTS_NOTE)?.unwrap_or_default();
        let number = starts.last().map_or(0, |(number, _)| *number).saturating_add(1);
        let drawn = getrandom::u64().map_err(|error| AnyError::error(error.to_string()))?;
        starts.push((number, drawn));
        let surplus = starts.len().saturating_sub(MAX_STARTS);
        starts.drain(..surplus);
        log.set_metadata(STARTS_NOTE, &starts).await?;
        let verdict = Mutex::new(log.metadata(VERDICT_NOTE)?);
        let (id, began) = (replica.node_id(), replica.began());
        Ok(Self { id, log, key: Key::new(&seal), starts, began, verdict })
    }

    /// Returns the present statement of this gateway.
    pub fn statement(&self, progress: Progress) -> Statement {
        let start = self.starts.last().copied().unwrap_or_default();
        Statement { start, progress, mac: self.mac(start, progress) }
    }

    fn mac(&self, (number, drawn): Start, progress: Progress) -> [u8; 32] {
        let mut text = PURPOSE.to_vec();
        let Progress { term, candidate, settled } = progress;
        for part in [self.id, number, drawn, term, candidate, settled] {
            text.extend(part.to_be_bytes());
        }
        self.key.mac(&text)
    }

    /// Compares the directory with what another gateway remembers of this one.
    pub fn judge(&self, told: &Statement) -> Result<(), RolledBack> {
        if !bool::from(self.mac(told.start, told.progress).ct_eq(&told.mac)) {
            // This directory has never made such a statement.
            return Ok(());
        }
        let (number, drawn) = told.start;
        let own = self.starts.last().map_or(0, |(number, _)| *number);
        if number > own {
            return Err(RolledBack::LaterStart { told: number, own });
        }
        if self.starts.iter().any(|(known, other)| *known == number && *other != drawn) {
            return Err(RolledBack::OtherStart(number));
        }
        if number < own && !self.began.covers(&told.progress) {
            return Err(RolledBack::LessProgress { told: told.progress, own: self.began });
        }
        Ok(())
    }

    /// Returns the reason why this gateway takes part in nothing, if it does not.
    pub fn verdict(&self) -> Option<String> {
        self.verdict.lock().clone()
    }

    /// Takes this gateway out of all activity, also after a restart. Returns whether it took part
    /// before.
    pub async fn withdraw(&self, why: &str) -> Result<bool, AnyError> {
        if self.verdict.lock().replace(why.to_owned()).is_some() {
            return Ok(false);
        }
        self.log.set_metadata(VERDICT_NOTE, &why).await?;
        Ok(true)
    }
}

/// The statements of other gateways that this gateway remembers.
pub struct Witnesses {
    log: LogStore,
    known: Mutex<Known>,
}

struct Known {
    statements: BTreeMap<NodeId, Statement>,
    /// Whether the memory contains more than the disk.
    is_ahead: bool,
}

impl Witnesses {
    /// Loads the statements from the data directory.
    pub fn open(log: LogStore) -> Result<Self, AnyError> {
        let statements = log.metadata(WITNESSES_NOTE)?.unwrap_or_default();
        Ok(Self { log, known: Mutex::new(Known { statements, is_ahead: false }) })
    }

    /// Returns the last statement of a gateway.
    pub fn of(&self, id: NodeId) -> Option<Statement> {
        self.known.lock().statements.get(&id).cloned()
    }

    /// Remembers the statement of a gateway. A new start is on the disk when this returns; progress
    /// is on the disk after [`Witnesses::keep`].
    pub async fn hear(
        &self,
        id: NodeId,
        statement: Statement,
        is_member: impl Fn(NodeId) -> bool,
    ) -> Result<(), AnyError> {
        let is_new = {
            let mut known = self.known.lock();
            let before = known.statements.get(&id);
            if before == Some(&statement) {
                return Ok(());
            }
            let is_new = before.is_none_or(|before| before.start != statement.start);
            known.statements.insert(id, statement);
            known.is_ahead = true;
            if is_new {
                known.statements.retain(|other, _| *other == id || is_member(*other));
                while known.statements.len() > MAX_WITNESSED {
                    known.statements.pop_first();
                }
            }
            is_new
        };
        if is_new { self.keep().await } else { Ok(()) }
    }

    /// Returns whether the memory contains more than the disk.
    pub fn is_ahead(&self) -> bool {
        self.known.lock().is_ahead
    }

    /// Writes the changes to the disk.
    pub async fn keep(&self) -> Result<(), AnyError> {
        let statements = {
            let mut known = self.known.lock();
            if !std::mem::take(&mut known.is_ahead) {
                return Ok(());
            }
            known.statements.clone()
        };
        self.log.set_metadata(WITNESSES_NOTE, &statements).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::replica::{NoNetwork, Settings};

    async fn replica() -> Replica {
        Replica::open_in_memory(Settings::default(), NoNetwork, Box::new(|_| ())).await.unwrap()
    }

    /// Returns the past after a restore: the directory is taken back to an earlier start.
    fn restored(of: &Past, starts: usize) -> Past {
        Past {
            id: of.id,
            log: of.log.clone(),
            key: of.key.clone(),
            starts: of.starts[..starts].to_vec(),
            began: of.began,
            verdict: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_older_than_its_statements_is_recognised() {
        let replica = replica().await;
        let (first, began) = (Past::begin(&replica).await.unwrap(), replica.began());
        let second = Past::begin(&replica).await.unwrap();
        let third = Past::begin(&replica).await.unwrap();
        assert_eq!(third.judge(&first.statement(began)), Ok(()));
        assert_eq!(third.judge(&third.statement(replica.progress())), Ok(()));
        // The directory is restored to the first start, and started again: a second start with
        // another number.
        let mut other = restored(&second, 1);
        let late = RolledBack::LaterStart { told: 3, own: 1 };
        assert_eq!(other.judge(&third.statement(began)), Err(late));
        other.starts.push((2, second.starts[1].1.wrapping_add(1)));
        assert_eq!(other.judge(&second.statement(began)), Err(RolledBack::OtherStart(2)));
        // The start is the same, but the directory lacks progress that was reported later.
        let further = Progress { settled: began.settled + 1, ..began };
        let verdict = third.judge(&second.statement(further));
        assert_eq!(verdict, Err(RolledBack::LessProgress { told: further, own: began }));
        let voted = Progress { term: began.term + 1, ..began };
        assert!(third.judge(&second.statement(voted)).is_err());
    }

    #[tokio::test]
    async fn nobody_else_can_have_a_gateway_believe_that_it_was_rolled_back() {
        let (replica, other) = (replica().await, replica().await);
        let past = Past::begin(&replica).await.unwrap();
        let mut forged = past.statement(replica.progress());
        forged.start.0 += 1;
        assert_eq!(past.judge(&forged), Ok(()));
        let stranger = Past::begin(&other).await.unwrap();
        let mut theirs = stranger.statement(other.progress());
        theirs.start.0 += 1;
        assert_eq!(past.judge(&theirs), Ok(()));
    }

    #[tokio::test]
    async fn a_verdict_and_what_is_remembered_survive_a_start() {
        let replica = replica().await;
        let past = Past::begin(&replica).await.unwrap();
        assert!(past.withdraw("so").await.unwrap());
        assert!(!past.withdraw("so").await.unwrap());
        assert_eq!(Past::begin(&replica).await.unwrap().verdict().as_deref(), Some("so"));
        let witnesses = Witnesses::open(replica.log().clone()).unwrap();
        let statement = past.statement(replica.progress());
        witnesses.hear(7, statement.clone(), |_| true).await.unwrap();
        let again = Witnesses::open(replica.log().clone()).unwrap();
        assert_eq!(again.of(7), Some(statement));
        // A former member is forgotten when another gateway is heard.
        again.hear(8, past.statement(replica.progress()), |_| false).await.unwrap();
        assert_eq!(Witnesses::open(replica.log().clone()).unwrap().of(7), None);
    }
}
