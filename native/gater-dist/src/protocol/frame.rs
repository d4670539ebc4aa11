//! Frames: a length of four bytes and a body.
//!
//! Source: "Protocol between Connected Nodes" and "Distribution Header", ERTS
//! User's Guide.

use crate::ProtocolError;

/// The number of bytes of the length in front of each frame.
pub const LENGTH_BYTES: usize = 4;
const VERSION: u8 = 131;
const DIST_HEADER: u8 = 68;
const DIST_FRAG_HEADER: u8 = 69;
const DIST_FRAG_CONT: u8 = 70;
const PASS_THROUGH: u8 = 112;

/// The extent of the frames in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The number of bytes of the complete frames at its start, including their lengths.
    pub whole: usize,
    /// The number of bytes of the incomplete frame after them, including its length, if the length
    /// has arrived.
    pub next: Option<usize>,
}

/// Measures the frames in `buffer`. Returns an error if a frame exceeds `limit` bytes.
pub fn extent(buffer: &[u8], limit: usize) -> Result<Extent, ProtocolError> {
    let mut whole = 0;
    let mut rest = buffer;
    while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
        let len = u32::from_be_bytes(*length) as usize;
        if len > limit {
            return Err(ProtocolError::FrameTooLong { len, limit });
        }
        let Some(after) = after.get(len..) else {
            return Ok(Extent { whole, next: Some(LENGTH_BYTES + len) });
        };
        whole += LENGTH_BYTES + len;
        rest = after;
    }
    Ok(Extent { whole, next: None })
}

/// Returns the first frame of `frames` and the bytes after it, or `None` at the end.
pub fn first(frames: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, after) = frames.split_first_chunk::<LENGTH_BYTES>()?;
    after.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The body of a frame by its kind. The slices end where the frame ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An empty frame, which shows that the peer is alive.
    Tick,
    /// A list of atoms, a control message and its payload, if any, without version bytes in
    /// between.
    Whole(&'a [u8]),
    /// The first of `id` fragments of the message `sequence`.
    First {
        /// The identifier of the message among the unfinished ones. Never 0.
        sequence: u64,
        /// The number of fragments. Never 0.
        id: u64,
        /// A list of atoms, the control message and the start of the payload.
        data: &'a [u8],
    },
    /// A further fragment. The last fragment has the id 1.
    Next {
        /// The identifier of the message, as in the first fragment.
        sequence: u64,
        /// The number of fragments from this one on, which is one less than in the fragment before.
        /// Never 0.
        id: u64,
        /// The next part of the payload.
        data: &'a [u8],
    },
    /// A control message and its payload, each with a version byte. This form is used if neither
    /// fragments nor the atom cache were negotiated.
    PassThrough(&'a [u8]),
}

/// Parses the body of a frame.
pub fn parse(body: &[u8]) -> Result<Frame<'_>, ProtocolError> {
    match body {
        [] => Ok(Frame::Tick),
        [VERSION, DIST_HEADER, data @ ..] => Ok(Frame::Whole(data)),
        [VERSION, DIST_FRAG_HEADER, rest @ ..] => {
            let (sequence, id, data) = fragment(rest)?;
            Ok(Frame::First { sequence, id, data })
        }
        [VERSION, DIST_FRAG_CONT, rest @ ..] => {
            let (sequence, id, data) = fragment(rest)?;
            Ok(Frame::Next { sequence, id, data })
        }
        [PASS_THROUGH, data @ ..] => Ok(Frame::PassThrough(data)),
        _ => Err(ProtocolError::FrameType),
    }
}

fn fragment(rest: &[u8]) -> Result<(u64, u64, &[u8]), ProtocolError> {
    let cut = ProtocolError::Fragment("header cut short");
    let (sequence, rest) = rest.split_first_chunk::<8>().ok_or(cut.clone())?;
    let (id, rest) = rest.split_first_chunk::<8>().ok_or(cut)?;
    let (sequence, id) = (u64::from_be_bytes(*sequence), u64::from_be_bytes(*id));
    // Zero in either place crashes a BEAM, so no peer sends it in good faith.
    if sequence == 0 {
        return Err(ProtocolError::Fragment("sequence id 0"));
    }
    if id == 0 {
        return Err(ProtocolError::Fragment("fragment id 0"));
    }
    Ok((sequence, id, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_above_the_limit_is_refused_by_its_length_alone() {
        assert!(extent(&[0, 0, 0, 9], 9).is_ok());
        assert_eq!(
            extent(&[0, 0, 0, 10], 9),
            Err(ProtocolError::FrameTooLong { len: 10, limit: 9 })
        );
    }

    #[test]
    fn zero_ids_are_refused() {
        for (sequence, id) in [(0_u64, 1_u64), (1, 0), (0, 0)] {
            for kind in [69, 70] {
                let mut body = vec![131, kind];
                body.extend(sequence.to_be_bytes());
                body.extend(id.to_be_bytes());
                body.push(0);
                assert!(matches!(parse(&body), Err(ProtocolError::Fragment(_))));
            }
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.extend((body.len() as u32).to_be_bytes());
                stream.extend(body);
            }
            let cut = cut.index(stream.len() + 1);
            let at_cut = extent(&stream[..cut], 1000).unwrap();
            prop_assert!(at_cut.whole <= cut);
            if let Some(next) = at_cut.next {
                prop_assert!(at_cut.whole + next > cut);
            }
            let mut rest = &stream[..at_cut.whole];
            let mut found = Vec::new();
            while let Some((body, after)) = first(rest) {
                found.push(body.to_vec());
                rest = after;
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(&found[..], &bodies[..found.len()]);
            prop_assert_eq!(extent(&stream, 1000).unwrap(), Extent { whole: stream.len(), next: None });
        }

        #[test]
        fn no_body_is_beyond_parsing(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&body);
        }
    }
}
