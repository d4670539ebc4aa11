//! The name under which messages are published and subscribed within a channel.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A topic: any 1 to 255 bytes, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<[u8]>);

/// The reason why bytes are not a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The topic is empty.
    #[error("a topic has at least one byte")]
    Empty,
    /// The topic has more than [`Topic::MAX_BYTES`].
    #[error("a topic has at most {} bytes", Topic::MAX_BYTES)]
    TooLong,
}

impl TopicError {
    /// Returns the reason as callers see it in `{bad_topic, Reason}`.
    pub fn as_atom(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
        }
    }
}

impl Topic {
    /// The length of the longest topic, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Returns the topic that consists of `bytes`.
    pub fn new(bytes: &[u8]) -> Result<Self, TopicError> {
        Self::check(bytes).map(|bytes| Self(bytes.into()))
    }

    /// Checks that `bytes` are a topic, without keeping them.
    pub fn check(bytes: &[u8]) -> Result<&[u8], TopicError> {
        match bytes.len() {
            0 => Err(TopicError::Empty),
            1..=Self::MAX_BYTES => Ok(bytes),
            _ => Err(TopicError::TooLong),
        }
    }

    /// Returns the bytes of the topic.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Topic {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<<\"{}\">>", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_1_to_255_bytes() {
        assert_eq!(Topic::new(b""), Err(TopicError::Empty));
        assert_eq!(Topic::new(b"x").unwrap().as_bytes(), b"x");
        assert_eq!(Topic::new(&[0xff; 255]).unwrap().as_bytes().len(), 255);
        assert_eq!(Topic::new(&[0; 256]), Err(TopicError::TooLong));
    }
}
