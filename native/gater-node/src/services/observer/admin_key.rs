//! Authenticates orders to a running gateway, such as to stop.
//!
//! The cookie is not sufficient, since no node of the cluster may stop a gateway. An order is
//! sealed with a key that only operators can read: that of the cluster (`cluster.key`), or the one
//! that a gateway keeps in its data directory, in the file `admin.key`, for its owner alone. The
//! seal is a MAC over the order, over the name and the incarnation of the gateway, and over the
//! name of the node that gives the order, which the command line draws at random. It is therefore
//! of no use at another gateway or from another node.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gater_core::sign::Key;
use secrecy::{ExposeSecret, SecretSlice};
use subtle::ConstantTimeEq;

use crate::config::Config;

/// The first bytes under the seal, so that no other use of the key produces the same bytes.
const PURPOSE: &[u8] = b"esdb-gater: order of an operator, 1";
/// The name of the file in the data directory.
pub const FILE: &str = "admin.key";
/// The length of a key that a gateway draws, in bytes.
const KEY_BYTES: usize = 32;
/// The greatest length of a key in bytes.
const MAX_KEY_BYTES: u64 = 4096;

/// An order with its sender and its receiver.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// The node name of the gateway.
    pub gateway: &'a str,
    /// The incarnation of the gateway.
    pub creation: u32,
    /// The name of the node that gives the order.
    pub caller: &'a str,
    /// The order.
    pub order: &'a str,
}

/// A key with which orders are sealed.
pub struct AdminKey(Key);

impl AdminKey {
    /// Returns the key made of these bytes.
    pub fn new(bytes: &SecretSlice<u8>) -> Self {
        Self(Key::new(bytes.expose_secret()))
    }

    /// Reads the key in a data directory.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let mut key = Vec::new();
        File::open(data_dir.join(FILE))?.take(MAX_KEY_BYTES).read_to_end(&mut key)?;
        if key.len() < KEY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the key is too short"));
        }
        Ok(Self::new(&key.into()))
    }

    /// Reads the key in a data directory, or draws one and stores it there.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        match Self::read(data_dir) {
            // A key that a crash or a full disk has torn cannot be used.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                let mut key = vec![0; KEY_BYTES];
                getrandom::fill(&mut key)?;
                let path = data_dir.join(FILE);
                let new = data_dir.join(format!("{FILE}.new"));
                let mut options = OpenOptions::new();
                let mut file =
                    options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
                file.write_all(&key)?;
                fs::rename(&new, &path)?;
                Ok(Self::new(&key.into()))
            }
            read => read,
        }
    }

    /// Returns the key of an operator of the gateway of `config`: that of the cluster, or else the
    /// one in the data directory.
    pub fn find(config: &Config) -> io::Result<Self> {
        match &config.cluster_key {
            Some(key) => Ok(Self::new(key)),
            None => Self::read(&config.data_dir),
        }
    }

    /// Returns the seal of an order.
    pub fn seal(&self, sealed: &Sealed<'_>) -> [u8; 32] {
        let mut text = PURPOSE.to_vec();
        text.extend(sealed.creation.to_be_bytes());
        for part in [sealed.gateway, sealed.caller, sealed.order] {
            // The length prevents a part from being confused with the bytes after it.
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part.as_bytes());
        }
        self.0.mac(&text)
    }

    /// Returns whether `mac` is the seal of an order. The time does not depend on where they
    /// differ.
    pub fn verify(&self, sealed: &Sealed<'_>, mac: &[u8]) -> bool {
        self.seal(sealed).as_slice().ct_eq(mac).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: Sealed<'_> =
        Sealed { gateway: "g@h", creation: 7, caller: "ctl@h", order: "drain" };

    #[test]
    fn a_seal_holds_for_one_order_at_one_gateway_by_one_node() {
        let key = AdminKey::new(&vec![1; 32].into());
        let mac = key.seal(&ORDER);
        assert!(key.verify(&ORDER, &mac));
        for other in [
            Sealed { gateway: "f@h", ..ORDER },
            Sealed { creation: 8, ..ORDER },
            Sealed { caller: "other@h", ..ORDER },
            Sealed { order: "log trace", ..ORDER },
        ] {
            assert!(!key.verify(&other, &mac), "{other:?}");
        }
        assert!(!key.verify(&ORDER, &mac[..31]));
        assert!(!AdminKey::new(&vec![2; 32].into()).verify(&ORDER, &mac));
    }

    #[test]
    fn the_key_of_a_directory_is_drawn_once_and_is_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        assert!(AdminKey::read(directory.path()).is_err());
        let mac = AdminKey::open(directory.path()).unwrap().seal(&ORDER);
        assert!(AdminKey::open(directory.path()).unwrap().verify(&ORDER, &mac));
        assert!(AdminKey::read(directory.path()).unwrap().verify(&ORDER, &mac));
        let path = directory.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"torn").unwrap();
        assert!(!AdminKey::open(directory.path()).unwrap().verify(&ORDER, &mac));
    }
}
