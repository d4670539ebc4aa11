//! `esdb_gater_cluster`: the service through which operators manage the cluster of gateways.

use std::borrow::Cow;
use std::sync::Arc;

use gater_dist::{Connection, gen_server::From};
use gater_term::{Reader, encode};

use super::{OK, error, error_with, unknown_request};
use crate::registry::cluster::Cluster;
use crate::registry::directory::Directory;
use crate::registry::replica::ClusterView;

/// The registered name of the cluster service.
pub const NAME: &str = "esdb_gater_cluster";

/// The cluster service. A clone is another handle.
#[derive(Clone)]
pub struct ClusterService {
    cluster: Arc<Cluster>,
    directory: Arc<Directory>,
}

impl ClusterService {
    /// Returns the service over this gateway's part of the cluster.
    pub fn new(cluster: Arc<Cluster>, directory: Arc<Directory>) -> Self {
        Self { cluster, directory }
    }

    /// Answers a `gen_server:call`: `status`, `{add, Node}`, `{remove, Node}`.
    pub fn call(&self, caller: &Arc<Connection>, from: From, request: &[u8]) {
        match Operation::parse(request) {
            Some(Operation::Status) => caller.reply(&from, self.status()),
            Some(Operation::Change { add, node }) => {
                let (cluster, caller) = (self.cluster.clone(), caller.clone());
                tokio::spawn(async move {
                    let done =
                        if add { cluster.add(&node).await } else { cluster.remove(&node).await };
                    match done {
                        Ok(()) => caller.reply(&from, OK),
                        Err(reason) => {
                            let text = |out: &mut Vec<u8>| encode::binary(out, reason.as_bytes());
                            caller.reply(&from, error_with("not_changed", text));
                        }
                    }
                });
            }
            Some(Operation::NoNode) => caller.reply(&from, error("badarg")),
            None => caller.reply(&from, unknown_request(request)),
        }
    }

    fn role(&self, view: &ClusterView) -> &'static str {
        match () {
            () if self.cluster.is_removed() => "removed",
            () if self.cluster.is_rolled_back() => "rolled_back",
            () => view.role.name(),
        }
    }

    /// Returns `{ok, #{node, id, role, health, term, leader, applied, registrations, refused,
    /// members, unseen, missing}}`.
    fn status(&self) -> Vec<u8> {
        let view = self.cluster.view();
        let own = self.cluster.name();
        // A gateway without others may have had another name before.
        let name_of = |id| match view.name_of(id) {
            _ if id == view.id => own,
            Some(name) => name,
            None => "undefined",
        };
        let mut out = Vec::with_capacity(512);
        encode::tuple(&mut out, 2);
        encode::atom(&mut out, "ok");
        encode::map(&mut out, 12);
        for (key, text) in [
            ("node", own),
            ("role", self.role(&view)),
            ("health", self.cluster.health(&view).name()),
            ("leader", view.leader.map_or("undefined", name_of)),
        ] {
            encode::atom(&mut out, key);
            encode::atom(&mut out, text);
        }
        for (key, number) in [
            ("id", view.id),
            ("term", view.term),
            ("applied", view.applied),
            ("registrations", self.directory.registrations() as u64),
            ("refused", self.cluster.trust().refused()),
        ] {
            encode::atom(&mut out, key);
            encode::uint(&mut out, number);
        }
        encode::atom(&mut out, "members");
        encode::list_of(&mut out, view.members.iter(), |out, (id, (_, votes))| {
            let name = name_of(*id);
            encode::map(out, 5);
            encode::atom(out, "node");
            encode::atom(out, name);
            encode::atom(out, "id");
            encode::uint(out, *id);
            encode::atom(out, "role");
            encode::atom(out, if *votes { "voter" } else { "learner" });
            encode::atom(out, "connected");
            let connected = self.cluster.is_member_connected(&view, *id);
            encode::atom(out, if connected { "true" } else { "false" });
            encode::atom(out, "settled");
            encode::uint(out, self.cluster.settled(*id));
        });
        encode::atom(&mut out, "unseen");
        let unseen = self.cluster.unseen(&view);
        encode::list_of(&mut out, unseen.iter(), |out, name| encode::atom(out, name));
        encode::atom(&mut out, "missing");
        let missing = self.cluster.missing(&view);
        encode::list_of(&mut out, missing.iter(), |out, text| {
            encode::binary(out, text.as_bytes());
        });
        out
    }
}

enum Operation {
    Status,
    Change {
        add: bool,
        node: String,
    },
    /// The gateway to add or remove is not a node name.
    NoNode,
}

impl Operation {
    fn parse(request: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(request);
        if reader.is_atom("status") {
            return Some(Self::Status);
        }
        reader.tuple_of(2).ok()?;
        let add = match &*reader.atom().ok()? {
            "add" => true,
            "remove" => false,
            _ => return None,
        };
        let node = reader.atom().map(Cow::into_owned);
        Some(node.map_or(Self::NoNode, |node| Self::Change { add, node }))
    }
}

/// Reads a request to the cluster, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(request: &[u8]) {
    drop(Operation::parse(request));
}
