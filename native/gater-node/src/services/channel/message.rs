//! What gateways tell each other about channels, and how it travels: as one binary term in
//! the lane above all messages.

use gater_dist::{Connection, Lane, Payload};
use gater_term::{Pid, Reader, encode};
use serde::{Deserialize, Serialize};

use crate::registry::replica::codec::{self, WIRE};

/// The registered name that gateways send what they want to.
pub const NAME: &str = "esdb_gater_relay";

/// What gateways tell each other about channels.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayMessage {
    /// This process of mine takes what my subscribers want.
    Hello(Pid),
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
    use gater_term::Atom;

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
        let vectors: Vec<_> = [
            ("hello", RelayMessage::Hello(pid)),
            ("wants", wants(false)),
            ("wants_alone", wants(true)),
            ("known", RelayMessage::Known(300)),
            ("gone", RelayMessage::Gone { channel: channel(), topic: topic() }),
            ("last", RelayMessage::Last { at: 1_700_000_000_000, message }),
            ("secret", RelayMessage::Secret(b"a secret".to_vec())),
            ("list", RelayMessage::List { number: 9, channel: channel(), topic: topic() }),
            ("listed", listed),
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
