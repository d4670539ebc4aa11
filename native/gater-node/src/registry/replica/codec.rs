//! Encodes values on disk and in messages between gateways: one byte of version, then the value in
//! the format of [postcard](https://postcard.jamesmunns.com/wire-format).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the log, its metadata and snapshots on disk. It is the only version that is
/// written and read.
pub const DISK: u8 = 1;

/// The version of messages between gateways. Answers of version 1 contained errors of the consensus
/// library, messages of version 2 did not name the sender, and those of version 3 did not contain the
/// progress of a gateway.
pub const WIRE: u8 = 4;

/// The reason why bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A program of another version wrote the bytes.
    #[error("a record has version {found}, this program reads {expected}")]
    Version {
        /// The version in the bytes.
        found: u8,
        /// The version that this program reads.
        expected: u8,
    },
    /// There are no bytes.
    #[error("a record is empty")]
    Empty,
    /// The bytes do not have the form of the value, or the value cannot be encoded.
    #[error("a record is damaged: {0}")]
    Malformed(#[from] postcard::Error),
}

/// Returns the encoded `value` in `version`.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(postcard::to_extend(value, vec![version])?)
}

/// Returns the value of `bytes`, which must have `version`.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&found, rest)) if found == version => Ok(postcard::from_bytes(rest)?),
        Some((&found, _)) => Err(CodecError::Version { found, expected: version }),
        None => Err(CodecError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::{EntryForm, Formed};
    use super::super::types::{Batch, Entry, LogId};
    use super::*;
    use gater_core::registry::Command;
    use gater_term::{Atom, Pid};
    use openraft::{CommittedLeaderId, EntryPayload, Membership};

    fn entry(payload: EntryPayload<super::super::types::TypeConfig>) -> Entry {
        Entry { log_id: LogId::new(CommittedLeaderId::new(3, u64::MAX), 7), payload }
    }

    #[test]
    fn every_kind_of_entry_survives_encoding() {
        let pid = Pid { node: Atom::new("a@h").unwrap(), id: 1, serial: 2, creation: u32::MAX };
        let command = Command::Register { store: Atom::new("Größe").unwrap(), pid };
        let members = std::collections::BTreeSet::from([1, u64::MAX]);
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Batch { origin: None, commands: vec![command].into() }),
            EntryPayload::Membership(Membership::new(vec![members], None)),
        ] {
            let entry = entry(payload);
            let bytes = encode(DISK, &entry.form()).unwrap();
            assert_eq!(Entry::of(decode(DISK, &bytes).unwrap()), entry);
            // Bytes that are cut at any place result in an error.
            assert!((0..bytes.len()).all(|end| decode::<EntryForm>(DISK, &bytes[..end]).is_err()));
        }
    }

    #[test]
    fn a_record_of_another_version_is_named_as_such() {
        assert!(matches!(decode::<u64>(DISK, &[9, 1]), Err(CodecError::Version { found: 9, .. })));
        assert!(matches!(decode::<u64>(DISK, &[]), Err(CodecError::Empty)));
    }
}
