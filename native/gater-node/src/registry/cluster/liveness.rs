//! Decides when the workers of an unreachable node are given up.
//!
//! A lost connection does not mean that the node is dead: the network may have failed, and another
//! gateway may still reach the node. The leader gives up an incarnation of a node when none of the
//! gateways has reached it for the grace time, according to their own answers. A gateway that does
//! not answer counts as reaching the node until it has been disconnected for as long. Without a
//! leader, and therefore without a majority, nothing is given up.

use std::sync::Arc;

use gater_core::registry::Command;
use gater_term::Atom;

use super::Cluster;
use super::links::ANSWER_WITHIN;
use super::rpc::Told;
use super::wire::{Answer, Question};
use crate::transport::peers::PeerRef;

/// The number of incarnations in one question.
const ASK_FOR: usize = 1024;

impl Cluster {
    /// Gives up the incarnations of `lost`, which this gateway has not reached for the grace time,
    /// that no other gateway has reached either. Does nothing on other gateways than the leader.
    pub async fn give_up(self: &Arc<Self>, lost: &[PeerRef]) {
        for lost in lost.chunks(ASK_FOR) {
            let view = self.view();
            if view.leader != Some(view.id) {
                return;
            }
            let mut reached = vec![false; lost.len()];
            let question: Vec<(Atom, u32)> =
                lost.iter().map(|peer| (peer.node().clone(), peer.creation())).collect();
            for name in self.gateways().into_iter().filter(|name| name != self.name()) {
                let question = Question::Reached(question.clone());
                match self.rpc.ask(&name, question, ANSWER_WITHIN).await {
                    Ok(Told { answer: Answer::Flags(flags), .. })
                        if flags.len() == reached.len() =>
                    {
                        for (reached, flag) in reached.iter_mut().zip(flags) {
                            *reached |= flag;
                        }
                    }
                    _ if self.links.away_for(&name) >= self.lost_grace => {}
                    _ => return,
                }
            }
            for (peer, _) in lost.iter().zip(reached).filter(|(_, reached)| !reached) {
                tracing::info!(node = %peer.node(), creation = peer.creation(),
                    "no gateway has reached the node for the grace time: its workers are given up");
                let command =
                    Command::Purge { node: peer.node().clone(), creation: peer.creation() };
                if let Err(error) = self.replica.propose(command).await {
                    tracing::warn!(%error, "a removal was not written and is tried again");
                    return;
                }
            }
        }
    }
}
