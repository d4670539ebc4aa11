//! The messages between gateways about channels, each of which is sent as one binary term in the
//! lane above all channel messages.

use gater_dist::{Connection, Lane, Payload};
use gater_term::{Atom, Pid, Reader, encode};
use serde::{Deserialize, Serialize};

use super::broadcasts::Broadcast;
use crate::registry::replica::NodeId;
use crate::registry::replica::codec::{self, WIRE};

/// The registered name to which gateways send these messages.
pub const NAME: &str = "esdb_gater_relay";

/// A message between gateways about channels.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayMessage {
    /// The greeting of a gateway: the process that receives messages for its subscribers, its id as
    /// a member, and whether it has received the greeting of the other gateway.
    Hello(Pid, NodeId, bool),
    /// The subscribers of the sender desire these topics; with `alone` they desire only these.
    Wants { number: u64, channel: String, topics: Vec<Vec<u8>>, alone: bool },
    /// Everything up to this number is acknowledged.
    Known(u64),
    /// No subscriber of the sender desires this topic any more.
    Gone { channel: String, topic: Vec<u8> },
    /// The last message of a topic, and its time of publication in Unix milliseconds. The message
    /// is complete, as subscribers receive it.
    Last { at: u64, message: Vec<u8> },
    /// The secret to sign with from now on. It is never logged, and is sent with the same
    /// protection with which it arrived.
    Secret(Vec<u8>),
    /// Asks for the subscribers of a topic at the receiver.
    List { number: u64, channel: String, topic: Vec<u8> },
    /// The answer to `List`.
    Listed { number: u64, pids: Vec<Pid> },
    /// The subscription of this process was ended; see [`Ending`](super::local::Ending).
    Ended { number: u64, channel: String, topic: Vec<u8>, pid: Pid, stamp: u64, remember: bool },
    /// Whether nodes of the sender have handlers for publications.
    Listening(bool),
    /// Asks for the number of processes at the receiver that receive messages of these channels and
    /// topics.
    Count { number: u64, of: Vec<(String, Vec<u8>)> },
    /// The answer to `Count`, in the same order.
    Counted { number: u64, counts: Vec<u64> },
    /// Publications, for the listeners at the receiver.
    Broadcasts(Vec<Broadcast>),
    /// Nodes that are newly connected to the sender, or with `alone` all of them, and nodes that
    /// are disconnected.
    Nodes { up: Vec<Atom>, down: Vec<Atom>, alone: bool },
}

impl RelayMessage {
    /// Decodes a received message. Returns `None` if it is not such a message.
    pub fn decode(term: &[u8]) -> Option<Self> {
        codec::decode(WIRE, Reader::new(term).binary().ok()?).ok()
    }
}

/// Sends a message to the gateway at the other end of `connection`.
pub fn send(connection: &Connection, message: &RelayMessage) {
    match codec::encode(WIRE, message) {
        Ok(bytes) => {
            let mut term = Vec::with_capacity(bytes.len() + 8);
            encode::binary(&mut term, &bytes);
            connection.send_name(Lane::Control, NAME, &Payload::from(term));
        }
        Err(error) => tracing::error!(%error, "a message to another gateway was not encoded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sent_as_they_always_were() {
        let pid = Pid { node: Atom::new("a@h").unwrap(), id: 1, serial: 2, creation: u32::MAX };
        let channel = || "esdb_channel_events".to_owned();
        let topic = || b"orders".to_vec();
        let message = vec![104, 4];
        let wants = |alone| {
            let topics = vec![topic(), vec![0xff]];
            RelayMessage::Wants { number: 300, channel: channel(), topics, alone }
        };
        let listed = RelayMessage::Listed { number: 9, pids: vec![pid.clone()] };
        let ended = RelayMessage::Ended {
            number: 9,
            channel: channel(),
            topic: topic(),
            pid: pid.clone(),
            stamp: 1_700_000_000_000_000,
            remember: true,
        };
        let broadcast = Broadcast { channel: channel(), topic: topic(), recipients: 300 };
        let nodes = RelayMessage::Nodes {
            up: vec![Atom::new("a@h").unwrap()],
            down: vec![Atom::new("b@h").unwrap()],
            alone: false,
        };
        let vectors: Vec<_> = [
            ("hello", RelayMessage::Hello(pid, 9, false)),
            ("wants", wants(false)),
            ("wants_alone", wants(true)),
            ("known", RelayMessage::Known(300)),
            ("gone", RelayMessage::Gone { channel: channel(), topic: topic() }),
            ("last", RelayMessage::Last { at: 1_700_000_000_000, message }),
            ("secret", RelayMessage::Secret(b"a secret".to_vec())),
            ("list", RelayMessage::List { number: 9, channel: channel(), topic: topic() }),
            ("listed", listed),
            ("ended", ended),
            ("listening", RelayMessage::Listening(true)),
            ("count", RelayMessage::Count { number: 9, of: vec![(channel(), topic())] }),
            ("counted", RelayMessage::Counted { number: 9, counts: vec![0, 300] }),
            ("broadcasts", RelayMessage::Broadcasts(vec![broadcast])),
            ("nodes", nodes),
        ]
        .into_iter()
        .map(|(name, message)| {
            let bytes = codec::encode(WIRE, &message).unwrap();
            let mut term = Vec::new();
            encode::binary(&mut term, &bytes);
            assert_eq!(RelayMessage::decode(&term), Some(message), "{name}");
            (name, bytes)
        })
        .collect();
        crate::vectors::check("relay.txt", &vectors);
    }
}
