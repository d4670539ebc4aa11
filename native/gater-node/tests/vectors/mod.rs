//! The golden vectors in `tests/vectors` of what this program stores and sends.

use std::fmt::Write;
use std::path::Path;

/// Set, the vectors are written instead of compared.
const WRITE: &str = "GATER_WRITE_VECTORS";

/// Fails unless the vectors in `file` are these: names, and the bytes of each.
pub fn check(file: &str, vectors: &[(&str, Vec<u8>)]) {
    let mut text = String::new();
    for (name, bytes) in vectors {
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(text, "{name} {hex}").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    if std::env::var_os(WRITE).is_some() {
        return std::fs::write(path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<_> = text.lines().filter(|line| !golden.lines().any(|l| l == *line)).collect();
    assert!(
        changed.is_empty() && text.lines().count() == golden.lines().count(),
        "what is stored or sent has another form than {file} has. If that is meant, raise the \
         version in codec.rs and run this again with {WRITE}=1. Now it is:\n{}",
        changed.join("\n")
    );
}
