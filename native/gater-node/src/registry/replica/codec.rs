//! Bytes of what is kept on disk and of what gateways tell each other: one byte of version,
//! then the value in [postcard](https://postcard.jamesmunns.com/wire-format)'s form.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of what is on disk: of the log, its notes and snapshots. It is the one that is
/// written, and the only one that is read.
pub const DISK: u8 = 1;

/// The version of messages between gateways. Version 1 had the consensus library's own errors
/// in its answers, version 2 did not name the sender, version 3 did not tell how far a gateway has
/// come.
pub const WIRE: u8 = 4;

/// Why bytes make no value.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The program that wrote them was another one.
    #[error("a record has version {found}, this program reads {expected}")]
    Version {
        /// The version they say they have.
        found: u8,
        /// The version that is read.
        expected: u8,
    },
    /// There are none.
    #[error("a record is empty")]
    Empty,
    /// They are not of this form, or the value cannot be put in it.
    #[error("a record is damaged: {0}")]
    Malformed(#[from] postcard::Error),
}

/// The bytes of `value` in `version`.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(postcard::to_extend(value, vec![version])?)
}

/// The value of `bytes`, which must be of `version`.
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
            // Cut anywhere, it is an error and nothing else.
            assert!((0..bytes.len()).all(|end| decode::<EntryForm>(DISK, &bytes[..end]).is_err()));
        }
    }

    #[test]
    fn a_record_of_another_version_is_named_as_such() {
        assert!(matches!(decode::<u64>(DISK, &[9, 1]), Err(CodecError::Version { found: 9, .. })));
        assert!(matches!(decode::<u64>(DISK, &[]), Err(CodecError::Empty)));
    }
}
