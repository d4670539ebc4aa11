//! A message body shared by every connection it goes to.

use bytes::{BufMut, Bytes, BytesMut};

/// Bodies up to this many bytes are copied when a payload is made, so that a
/// small message never pins the receive buffer it was read from.
pub const COPY_BELOW: usize = 4 << 10;

/// One encoded term, without the version byte, in two parts: what the sender
/// encoded itself and, after it, what it only passes on.
///
/// Cloning shares both parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    head: Bytes,
    body: Bytes,
}

impl Payload {
    /// Makes a payload of `head` followed by `body`; together they are one term.
    ///
    /// `body` may be a slice of a received message: it is shared when it is long
    /// and copied when it is short.
    pub fn new(head: impl AsRef<[u8]>, body: Bytes) -> Self {
        let head = head.as_ref();
        if body.len() > COPY_BELOW {
            return Self { head: Bytes::copy_from_slice(head), body };
        }
        let mut whole = BytesMut::with_capacity(head.len() + body.len());
        whole.put_slice(head);
        whole.put_slice(&body);
        Self { head: whole.freeze(), body: Bytes::new() }
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there is nothing in it, which is no term.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// The first part.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The second part, possibly empty.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl From<Vec<u8>> for Payload {
    fn from(term: Vec<u8>) -> Self {
        Self { head: Bytes::new(), body: term.into() }
    }
}

impl From<Bytes> for Payload {
    /// Takes `term` as it is, without copying: meant for bytes of one's own.
    fn from(term: Bytes) -> Self {
        Self { head: Bytes::new(), body: term }
    }
}
