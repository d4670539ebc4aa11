//! What gateways tell each other when they meet: who they are, and how far they have come, so that
//! one which runs with an older copy of its data directory is found out.

use std::sync::Arc;

use gater_dist::Connection;

use super::Cluster;
use super::links;
use super::rpc::Told;
use super::wire::{Answer, Hello, Question};
use crate::registry::replica::{NodeId, Role};

/// The greatest number of gateways that are remembered as running with an older copy.
const MAX_ROLLED_BACK: usize = 256;
/// The log line about a gateway whose disk has gone back in time.
pub(super) const ROLLED_BACK: &str = "this gateway runs with an older copy of its data directory, so that what it \
    acknowledged since may be missing: it takes part in nothing. Stop it, empty the data directory, \
    start it, and let it in with `esdb-gater cluster add`";

impl Cluster {
    /// Asks a gateway to introduce itself and to report what it remembers of this one, and notifies
    /// the tasks that wait for its connection.
    pub(super) fn greet(self: &Arc<Self>, connection: &Arc<Connection>) {
        if !self.trust.has_proved(connection) {
            return;
        }
        let (cluster, name) = (self.clone(), connection.peer().name.as_str().to_owned());
        tokio::spawn(async move {
            // If the answer is lost, the task that keeps the connection asks again.
            if let Ok(told) = cluster.rpc.ask(&name, Question::Hello, links::ANSWER_WITHIN).await {
                cluster.hear(&told).await;
            }
            cluster.links.changed();
        });
    }

    /// Asks a gateway for a proof of the key, unless it was asked before.
    pub(super) fn challenge(&self, connection: &Arc<Connection>) {
        if let Some(challenge) = self.trust.challenge(connection) {
            self.rpc.send_key(connection, challenge);
        }
    }

    /// Handles the introduction of a gateway: its id, the members that it knows, and what it
    /// remembers of this one.
    pub(super) async fn hear(&self, told: &Told) {
        let Answer::Hello(hello) = &told.answer else { return };
        let name = told.over.peer().name.as_str();
        if hello.id != told.from {
            return;
        }
        self.trust.vouch(name, told.from, &hello.members);
        self.trust.hear(name, told.cluster.filter(|_| hello.founded));
        if let Some(remembered) = &hello.remembered
            && let Err(why) = self.past.judge(remembered)
        {
            self.withdraw(&format!("{name} remembers: {why}")).await;
        }
        self.note_rolled_back(told.from, name, hello.rolled_back);
        let is_member = |id| self.replica.has_member(|member, _| member == id);
        match self.witnesses.hear(told.from, hello.statement.clone(), is_member).await {
            Ok(()) => {
                if self.witnesses.is_ahead() {
                    self.heard.notify_one();
                }
                if !self.trust.is_introduced(&told.over) {
                    self.trust.introduce(&told.over);
                    self.links.changed();
                }
            }
            Err(error) => self.no_disk(&error, ()),
        }
    }

    /// Takes this gateway out of all activity, since its disk has gone back in time.
    pub(super) async fn withdraw(&self, why: &str) {
        self.rpc.withdraw();
        self.replica.retire();
        match self.past.withdraw(why).await {
            Ok(true) => tracing::error!(why, "{}", ROLLED_BACK),
            Ok(false) => {}
            Err(error) => self.no_disk(&error, ()),
        }
    }

    fn note_rolled_back(&self, id: NodeId, name: &str, is_rolled_back: bool) {
        let mut rolled_back = self.rolled_back.lock();
        if !is_rolled_back {
            rolled_back.remove(&id);
        } else if rolled_back.len() < MAX_ROLLED_BACK
            && rolled_back.insert(id, name.to_owned()).is_none()
        {
            tracing::warn!(
                gateway = name,
                "the gateway runs with an older copy of its data directory and takes part in \
                 nothing: stop it, empty the directory, start it, and let it in with \
                 `esdb-gater cluster add {name}`"
            );
        }
    }

    pub(super) fn hello(&self, to: NodeId) -> Hello {
        let view = self.view();
        Hello {
            statement: self.past.statement(self.replica.progress()),
            remembered: self.witnesses.of(to),
            rolled_back: self.is_rolled_back(),
            id: view.id,
            founded: view.role != Role::Waiting,
            led: view.leader.is_some(),
            members: view.members.into_iter().map(|(id, (member, _))| (id, member.name)).collect(),
        }
    }
}
