//! Changes of the members: gateways are added, removed and admitted by the leader, one at a time.

use std::sync::Arc;
use std::time::Duration;

use gater_dist::Chain;
use gater_term::Atom;
use tokio::time::{Instant, timeout_at};

use super::links;
use super::rpc::Told;
use super::wire::{Answer, Hello, Question};
use super::{ADD_WITHIN, Cluster};
use crate::registry::replica::{Member, MemberError, NodeId};

/// The time within which a gateway that is to be admitted must introduce itself, and the pause
/// between two questions.
const INVITE_WITHIN: Duration = Duration::from_secs(5);
const INVITE_AGAIN: Duration = Duration::from_millis(100);

impl Cluster {
    /// Adds the gateway `name` to the cluster through the leader. The error is a text for people.
    pub async fn add(self: &Arc<Self>, name: &str) -> Result<(), String> {
        self.in_turn(self.through_leader(Question::Add(name.to_owned()))).await
    }

    /// Removes the gateway `name` from the cluster through the leader. The error is a text for
    /// people.
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<(), String> {
        self.in_turn(self.through_leader(Question::Remove(name.to_owned()))).await
    }

    /// Runs a change, unless too many changes are in progress.
    pub(super) async fn in_turn(
        &self,
        change: impl Future<Output = Result<(), String>>,
    ) -> Result<(), String> {
        let Ok(_turn) = self.changes.try_acquire() else {
            return Err("too many changes of the cluster are under way".into());
        };
        change.await
    }

    async fn through_leader(self: &Arc<Self>, question: Question) -> Result<(), String> {
        let view = self.view();
        let Some(leader) = view.leader else { return Err("no gateway leads".into()) };
        if leader == view.id {
            return match question {
                Question::Add(name) => self.add_here(&name).await,
                Question::Remove(name) => self.remove_here(&name).await,
                Question::Admit { id, name } => self.admit(id, name).await,
                _ => Err("not a question for the leader".into()),
            };
        }
        let name = view.name_of(leader).unwrap_or_default();
        match self.rpc.ask(name, question, ADD_WITHIN).await {
            Ok(Told { answer: Answer::Done(done), .. }) => done,
            Ok(_) => {
                Err(format!("{name} belongs to another cluster, or does not know this gateway"))
            }
            Err(error) => Err(format!("{name} leads: {error}")),
        }
    }

    /// Admits a new gateway that was listed from the start.
    pub(super) async fn admit(self: &Arc<Self>, id: NodeId, name: String) -> Result<(), String> {
        let view = self.view();
        if view.is_voter(id) {
            return Ok(());
        }
        if !self.listed.contains(&name) {
            return Err(format!(
                "it is not on the list of {}: `esdb-gater cluster add {name}` lets it in",
                self.own_name
            ));
        }
        if view.members.iter().any(|(other, (member, _))| *other != id && member.name == name) {
            return Err(format!(
                "{name} is a member with another data directory: if that one is lost, \
                 `esdb-gater cluster add {name}` puts this one in its place"
            ));
        }
        if view.leader != Some(view.id) {
            return Box::pin(self.through_leader(Question::Admit { id, name })).await;
        }
        tracing::info!(gateway = name, "joins the cluster");
        self.enter(id, name).await
    }

    pub(super) async fn add_here(&self, name: &str) -> Result<(), String> {
        let node = Atom::new(name).map_err(|_| format!("{name:?} is not a node name"))?;
        if node == self.own_name {
            return Ok(());
        }
        let dialled = self.rpc.node().connect(&node).await;
        dialled.map_err(|error| format!("{name} cannot be reached: {}", Chain(&error)))?;
        let Some(hello) = self.invite(name).await else {
            return Err(format!(
                "{name} does not answer as a gateway does: it has to run with --cluster naming \
                 the members, and with the same cluster.key if they have one"
            ));
        };
        let view = self.view();
        if view.is_voter(hello.id) {
            return Ok(());
        }
        // A member without a vote has the registry of this cluster.
        if hello.founded && !view.members.contains_key(&hello.id) {
            return Err(format!(
                "{name} has a registry of its own: start it with --cluster on an empty data directory"
            ));
        }
        tracing::info!(gateway = name, "is added to the cluster");
        self.enter(hello.id, name.to_owned()).await
    }

    /// Asks a gateway that is to be admitted to introduce itself. It may not know this gateway yet,
    /// and the key may still have to be proved.
    async fn invite(&self, name: &str) -> Option<Hello> {
        self.trust.invite(name);
        let until = Instant::now() + INVITE_WITHIN;
        while Instant::now() < until {
            if let Some(connection) = self.rpc.any_connection(name) {
                self.challenge(&connection);
            }
            if let Ok(Told { from, answer: Answer::Hello(hello), .. }) =
                self.rpc.ask(name, Question::Hello, links::ANSWER_WITHIN).await
                && hello.id == from
            {
                return Some(hello);
            }
            tokio::time::sleep(INVITE_AGAIN).await;
        }
        None
    }

    /// Makes a gateway a member, and gives it a vote as soon as it has caught up.
    async fn enter(&self, id: NodeId, name: String) -> Result<(), String> {
        let until = Instant::now() + ADD_WITHIN;
        let busy = |_| "another change of the members takes too long: ask again".to_owned();
        let for_people = |error: MemberError| error.to_string();
        self.links.also(&name);
        let joined = async {
            self.replica.take_name(self.own_name.as_str()).await?;
            self.replica.add_learner(id, Member { name: name.clone() }).await
        };
        timeout_at(until, joined).await.map_err(busy)?.map_err(for_people)?;
        match timeout_at(until, self.replica.caught_up(id)).await {
            Ok(result) => result.map_err(for_people)?,
            Err(_) => {
                return Err(format!(
                    "{name} is a member and does not vote yet: it has not caught up in time, and \
                     votes as soon as it has"
                ));
            }
        }
        timeout_at(until, self.replica.promote(id)).await.map_err(busy)?.map_err(for_people)
    }

    pub(super) async fn remove_here(&self, name: &str) -> Result<(), String> {
        let view = self.view();
        // A gateway without others may have had another name before, or none.
        let alone = view.members.len() <= 1 && view.votes() && self.own_name.as_str() == name;
        let removed = if alone { Err(MemberError::Last) } else { self.replica.remove(name).await };
        match removed {
            Ok(()) => {
                tracing::info!(gateway = name, "was removed from the cluster");
                Ok(())
            }
            Err(error) => {
                tracing::info!(gateway = name, %error, "was not removed from the cluster");
                Err(format!("{name} was not removed: {error}"))
            }
        }
    }
}
