//! Frames: what is written at one go, so that it can be told from what was not written whole.
//!
//! Layout, numbers big endian: [`MAGIC`]; length of the payload (4 bytes); sequence number
//! (8 bytes), which grows by one with every frame; CRC-32 of length, sequence number and
//! payload (4 bytes); the payload.

/// How a frame begins. `ff 00` is in no payload but by chance: not in UTF-8, and not in a
/// number as postcard writes it. So nobody who chooses names can put a frame into a frame.
const MAGIC: [u8; 4] = [0xff, 0x00, 0xff, b'w'];

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 20;

/// A frame that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub sequence: u64,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Its length with the header.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Empties `buffer` and leaves room for a header; the payload is put behind it.
pub fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
}

/// Makes a frame of the `buffer` that [`begin`] began. `None` if the payload has 4 GiB.
pub fn seal(buffer: &mut [u8], sequence: u64) -> Option<()> {
    let (header, payload) = buffer.split_first_chunk_mut::<HEADER_BYTES>()?;
    let length = u32::try_from(payload.len()).ok()?.to_be_bytes();
    let sequence = sequence.to_be_bytes();
    let checksum = checksum(length, sequence, payload).to_be_bytes();
    let fields = MAGIC.into_iter().chain(length).chain(sequence).chain(checksum);
    header.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    Some(())
}

/// The frame that `bytes` begin with.
pub fn decode(bytes: &[u8]) -> Option<Frame<'_>> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (&length, rest) = rest.split_first_chunk::<4>()?;
    let (&sequence, rest) = rest.split_first_chunk::<8>()?;
    let (&expected, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..usize::try_from(u32::from_be_bytes(length)).ok()?)?;
    let whole = checksum(length, sequence, payload) == u32::from_be_bytes(expected);
    whole.then_some(Frame { sequence: u64::from_be_bytes(sequence), payload })
}

/// The first frame anywhere in `bytes`.
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
