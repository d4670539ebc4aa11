//! Refused messages of other gateways: each is counted by reason, and the log names the sender of
//! one of them from time to time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The interval at which the log reports refusals of one kind.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The reason why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The node is not a gateway of this cluster.
    NotGateway,
    /// The node has the name of a gateway, but not the id of that gateway.
    NotMember,
    /// The node has not proved that it knows the key of the cluster.
    NotProved,
    /// The proof of the node is wrong.
    WrongProof,
    /// The message is not one that gateways send.
    Form,
    /// No honest gateway sends a message with this content.
    Content,
    /// The message belongs to the bootstrap of a cluster and is out of order.
    Bootstrap,
    /// There were too many messages.
    TooMany,
    /// The node belongs to another cluster.
    OtherCluster,
    /// The message would change an entry that is committed on this gateway.
    RolledBack,
    /// The node has the id of this gateway.
    OwnId,
    /// The node asks for a proof of the key, and this gateway has no key.
    NoKey,
}

impl Reason {
    /// Returns a description of the event and of the possible remedy.
    fn text(self) -> &'static str {
        match self {
            Self::NotGateway => {
                "a node that is no gateway of this cluster sends messages of gateways: they are \
                 refused. If it is to be one, start it with --cluster and let it in with \
                 `esdb-gater cluster add`"
            }
            Self::NotMember => {
                "a node with the name of a gateway, but not with its id, sends messages of \
                 members: they are refused. If it has lost its data directory, \
                 `esdb-gater cluster add` puts it in the place of the lost one"
            }
            Self::NotProved => {
                "a gateway has not proved that it knows the key of the cluster: its messages are \
                 refused. Give all gateways the same cluster.key (--cluster-key-file)"
            }
            Self::WrongProof => {
                "a gateway does not know the key of the cluster: its messages are refused. Give \
                 all gateways the same cluster.key (--cluster-key-file)"
            }
            Self::Form => {
                "a message in no form that this gateway knows is refused: gateways of one cluster \
                 have to be of versions that know the same messages"
            }
            Self::Content => "a message that no sound gateway sends is refused",
            Self::Bootstrap => "a message about the bootstrap of the cluster is refused",
            Self::TooMany => "more messages than a gateway has reason to send: they are refused",
            Self::OtherCluster => {
                "a gateway belongs to another cluster: its messages are refused. Check both data \
                 directories and --cluster"
            }
            Self::RolledBack => {
                "the gateway that leads would change entries that are committed here: it, or one \
                 that elected it, runs with an older copy of its data directory. Nothing is \
                 changed here. Stop the gateway whose directory was restored, empty the directory, \
                 start it and let it in with `esdb-gater cluster add`"
            }
            Self::OwnId => {
                "another gateway has the id of this one: one of the two runs with a copy of the \
                 data directory of the other. Stop the one with the copy, and start it with an \
                 empty directory"
            }
            Self::NoKey => {
                "a gateway asks for a proof of the key of the cluster, and this one has none. Give \
                 all gateways the same cluster.key (--cluster-key-file)"
            }
        }
    }
}

/// The refused messages of this gateway.
#[derive(Default)]
pub struct Refusals {
    total: AtomicU64,
    told: Mutex<BTreeMap<Reason, Told>>,
}

/// The state of the log for one reason.
#[derive(Default)]
struct Told {
    /// The time of the last report.
    last: Option<Instant>,
    /// The number of refusals since.
    since: u64,
}

impl Refusals {
    /// Counts a refused message of the node `peer`. `detail` describes this message.
    pub fn count(&self, reason: Reason, peer: &str, detail: &dyn std::fmt::Display) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let count = {
            let mut told = self.told.lock();
            let of_reason = told.entry(reason).or_default();
            of_reason.since += 1;
            if of_reason.last.is_some_and(|last| now.duration_since(last) < TELL_EVERY) {
                return;
            }
            of_reason.last = Some(now);
            std::mem::take(&mut of_reason.since)
        };
        let total = self.total();
        tracing::warn!(%peer, %detail, count, total, "{}", reason.text());
    }

    /// Returns the number of refused messages.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}
