//! What gateways tell each other about channels, and how it travels: as one binary term in
//! the lane above all messages.

use gater_dist::{Connection, Lane, Payload};
use gater_term::{Atom, Pid, Reader, encode};
use serde::{Deserialize, Serialize};

use super::broadcasts::Broadcast;
use crate::registry::replica::NodeId;
use crate::registry::replica::codec::{self, WIRE};

/// The registered name that gateways send what they want to.
pub const NAME: &str = "esdb_gater_relay";

/// What gateways tell each other about channels.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayMessage {
    /// This process of mine takes what my subscribers want; I am the member with this id; and
    /// whether I have had your greeting.
    Hello(Pid, NodeId, bool),
    /// My subscribers want these topics, too; or these alone.
    Wants { number: u64, channel: String, topics: Vec<Vec<u8>>, alone: bool },
    /// What was told up to this number is known.
    Known(u64),
    /// Nobody here wants this topic any more.
    Gone { channel: String, topic: Vec<u8> },
    /// The last message of a topic, and when it was published in Unix milliseconds.
    /// The message is whole, as a subscriber gets it.
    Last { at: u64, message: Vec<u8> },
    /// Sign with this from now on. Not logged, and no more secret on the way than it was
    /// on the way here.
    Secret(Vec<u8>),
    /// Who is subscribed to this at yours?
    List { number: u64, channel: String, topic: Vec<u8> },
    /// These are.
    Listed { number: u64, pids: Vec<Pid> },
    /// Somebody has ended the subscription of this process; see [`Ending`](super::local::Ending).
    Ended { number: u64, channel: String, topic: Vec<u8>, pid: Pid, stamp: u64, remember: bool },
    /// Whether handlers of nodes at mine want to hear of publications.
    Listening(bool),
    /// How many processes at yours get what is published to these channels and topics?
    Count { number: u64, of: Vec<(String, Vec<u8>)> },
    /// So many, in that order.
    Counted { number: u64, counts: Vec<u64> },
    /// These were published, for the listeners at yours.
    Broadcasts(Vec<Broadcast>),
    /// Nodes that are connected to mine, or the only ones, and nodes that are not any more.
    Nodes { up: Vec<Atom>, down: Vec<Atom>, alone: bool },
}

impl RelayMessage {
    /// Reads a message that was received; `None` if it is not one.
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
