//! Node names.

/// Returns the name and the host of `node` if it is a node name `name@host` of at most 255
/// characters. The name must consist of letters, digits, `_` and `-`, as OTP demands, and the host
/// of printable ASCII without spaces.
pub fn split(node: &str) -> Option<(&str, &str)> {
    if node.len() > 255 {
        return None;
    }
    let (name, host) = node.split_once('@')?;
    let name_is_good = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let host_is_good =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'@' && b != b'\'');
    (name_is_good && host_is_good).then_some((name, host))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn names_are_judged_as_otp_does() {
        assert_eq!(split("a@b"), Some(("a", "b")));
        assert_eq!(split("x-1_Y@127.0.0.1"), Some(("x-1_Y", "127.0.0.1")));
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b c", "ä@b", "a@b\n", "a'@b"] {
            assert_eq!(split(bad), None, "{bad:?}");
        }
        assert_eq!(split(&format!("{}@b", "a".repeat(254))), None);
    }
}
