//! Frames: units that are written at once, with which an incomplete write is detected.
//!
//! Layout, with big-endian numbers: [`MAGIC`]; the length of the payload (4 bytes); the sequence
//! number (8 bytes), which grows by one with every frame; the CRC-32 of length, sequence number and
//! payload (4 bytes); the payload.

/// The first bytes of a frame. `ff 00` occurs in payloads only by chance, neither in UTF-8 nor in a
/// number as postcard encodes it, so no chosen name can forge a frame within a frame.
const MAGIC: [u8; 4] = [0xff, 0x00, 0xff, b'w'];

/// The number of bytes before the payload.
pub const HEADER_BYTES: usize = 20;

/// A complete frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub sequence: u64,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Returns the length of the frame with its header.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Clears `buffer` and reserves the header. The caller appends the payload.
pub fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
}

/// Completes the frame in the `buffer` that [`begin`] prepared. Returns `None` if the payload has 4
/// GiB or more.
pub fn seal(buffer: &mut [u8], sequence: u64) -> Option<()> {
    let (header, payload) = buffer.split_first_chunk_mut::<HEADER_BYTES>()?;
    let length = u32::try_from(payload.len()).ok()?.to_be_bytes();
    let sequence = sequence.to_be_bytes();
    let checksum = checksum(length, sequence, payload).to_be_bytes();
    let fields = MAGIC.into_iter().chain(length).chain(sequence).chain(checksum);
    header.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    Some(())
}

/// Returns the frame at the start of `bytes`.
pub fn decode(bytes: &[u8]) -> Option<Frame<'_>> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (&length, rest) = rest.split_first_chunk::<4>()?;
    let (&sequence, rest) = rest.split_first_chunk::<8>()?;
    let (&expected, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..usize::try_from(u32::from_be_bytes(length)).ok()?)?;
    let whole = checksum(length, sequence, payload) == u32::from_be_bytes(expected);
    whole.then_some(Frame { sequence: u64::from_be_bytes(sequence), payload })
}

/// Returns the first frame anywhere in `bytes`.
pub fn find(bytes: &[u8]) -> Option<Frame<'_>> {
    (0..bytes.len()).find_map(|at| decode(bytes.get(at..)?))
}

fn checksum(length: [u8; 4], sequence: [u8; 8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(&sequence);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut buffer = vec![1, 2, 3];
        begin(&mut buffer);
        buffer.extend(payload);
        seal(&mut buffer, sequence).unwrap();
        buffer
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_whatever_follows() {
        let mut bytes = frame(7, b"payload");
        bytes.extend([9; 30]);
        let decoded = decode(&bytes).unwrap();
        assert_eq!(decoded, Frame { sequence: 7, payload: b"payload" });
        assert_eq!(decoded.bytes(), bytes.len() - 30);
        assert_eq!(decode(&frame(0, b"")).unwrap().payload, b"");
    }

    #[test]
    fn a_frame_cut_anywhere_is_none_be_there_zeros_or_nothing() {
        let whole = frame(u64::MAX, b"some payload");
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), None);
            let mut zeroed = whole.clone();
            zeroed[end..].fill(0);
            assert_eq!(decode(&zeroed), None, "{end}");
        }
    }

    #[test]
    fn every_flipped_bit_shows() {
        let whole = frame(3, b"some payload");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "{bit}");
        }
    }

    #[test]
    fn a_frame_is_found_behind_anything() {
        let mut bytes = frame(1, b"damaged")[1..].to_vec();
        bytes.extend(frame(2, b"whole"));
        assert_eq!(find(&bytes).unwrap().sequence, 2);
        assert_eq!(find(&bytes[..bytes.len() - 1]), None);
    }
}
