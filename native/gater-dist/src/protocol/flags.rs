//! Distribution flags (`dist.hrl` of the kernel application).

/// The node is visible. Hidden nodes do not set this flag.
pub const PUBLISHED: u64 = 0x1;
/// References of more than one word.
pub const EXTENDED_REFERENCES: u64 = 0x4;
/// Monitors: ops 19, 20, 21.
pub const DIST_MONITOR: u64 = 0x8;
/// Funs.
pub const FUN_TAGS: u64 = 0x10;
/// Monitors of registered names.
pub const DIST_MONITOR_NAME: u64 = 0x20;
/// `NEW_FUN_EXT`.
pub const NEW_FUN_TAGS: u64 = 0x80;
/// Pids and ports of full width.
pub const EXTENDED_PIDS_PORTS: u64 = 0x100;
/// `EXPORT_EXT`.
pub const EXPORT_PTR_TAG: u64 = 0x200;
/// `BIT_BINARY_EXT`.
pub const BIT_BINARIES: u64 = 0x400;
/// `NEW_FLOAT_EXT`.
pub const NEW_FLOATS: u64 = 0x800;
/// Unicode in the I/O protocol.
pub const UNICODE_IO: u64 = 0x1000;
/// The atom cache in distribution headers.
pub const DIST_HDR_ATOM_CACHE: u64 = 0x2000;
/// `SMALL_ATOM_UTF8_EXT`.
pub const SMALL_ATOM_TAGS: u64 = 0x4000;
/// Atoms in UTF-8.
pub const UTF8_ATOMS: u64 = 0x1_0000;
/// Maps.
pub const MAP_TAG: u64 = 0x2_0000;
/// Creations of 32 bits.
pub const BIG_CREATION: u64 = 0x4_0000;
/// Op 22: a message with its sender.
pub const SEND_SENDER: u64 = 0x8_0000;
/// Any term as a trace label.
pub const BIG_SEQTRACE_LABELS: u64 = 0x10_0000;
/// Exit reasons as payload: ops 24 to 28.
pub const EXIT_PAYLOAD: u64 = 0x40_0000;
/// Long messages in fragments.
pub const FRAGMENTS: u64 = 0x80_0000;
/// The handshake of OTP 23.
pub const HANDSHAKE_23: u64 = 0x100_0000;
/// Ops 35 and 36.
pub const UNLINK_ID: u64 = 0x200_0000;
/// Stands for every flag in [`MANDATORY_25`]. It is bit 26, as in `dist.hrl` (the manual says 36).
pub const MANDATORY_25_DIGEST: u64 = 0x400_0000;
/// Op 29: functions are executed on request. The node does not offer it, so `erpc` fails at the
/// caller without a request.
pub const SPAWN: u64 = 1 << 32;
/// The peer asks for a name. The node offers it to a peer that asks.
pub const NAME_ME: u64 = 1 << 33;
/// Node containers of version 4.
pub const V4_NC: u64 = 1 << 34;
/// Op 33: messages to aliases.
pub const ALIAS: u64 = 1 << 35;

/// Op 37: signals with a flag for each variant.
pub const ALTACT_SIG: u64 = 1 << 37;

/// The flags with their names in `dist.hrl`, without `DFLAG_`.
const NAMES: [(u64, &str); 27] = [
    (PUBLISHED, "PUBLISHED"),
    (EXTENDED_REFERENCES, "EXTENDED_REFERENCES"),
    (DIST_MONITOR, "DIST_MONITOR"),
    (FUN_TAGS, "FUN_TAGS"),
    (DIST_MONITOR_NAME, "DIST_MONITOR_NAME"),
    (NEW_FUN_TAGS, "NEW_FUN_TAGS"),
    (EXTENDED_PIDS_PORTS, "EXTENDED_PIDS_PORTS"),
    (EXPORT_PTR_TAG, "EXPORT_PTR_TAG"),
    (BIT_BINARIES, "BIT_BINARIES"),
    (NEW_FLOATS, "NEW_FLOATS"),
    (UNICODE_IO, "UNICODE_IO"),
    (DIST_HDR_ATOM_CACHE, "DIST_HDR_ATOM_CACHE"),
    (SMALL_ATOM_TAGS, "SMALL_ATOM_TAGS"),
    (UTF8_ATOMS, "UTF8_ATOMS"),
    (MAP_TAG, "MAP_TAG"),
    (BIG_CREATION, "BIG_CREATION"),
    (SEND_SENDER, "SEND_SENDER"),
    (BIG_SEQTRACE_LABELS, "BIG_SEQTRACE_LABELS"),
    (EXIT_PAYLOAD, "EXIT_PAYLOAD"),
    (FRAGMENTS, "FRAGMENTS"),
    (HANDSHAKE_23, "HANDSHAKE_23"),
    (UNLINK_ID, "UNLINK_ID"),
    (MANDATORY_25_DIGEST, "MANDATORY_25_DIGEST"),
    (SPAWN, "SPAWN"),
    (V4_NC, "V4_NC"),
    (ALIAS, "ALIAS"),
    (ALTACT_SIG, "ALTACT_SIG"),
];

/// Returns the names of `flags`. A flag without a name is described by its bit.
pub fn names(flags: u64) -> Vec<String> {
    let bits = (0..u64::BITS).map(|bit| 1 << bit).filter(|flag| flags & flag != 0);
    bits.map(|flag: u64| {
        let known = NAMES.iter().find(|(named, _)| *named == flag);
        known.map_or_else(
            || format!("bit {}", flag.trailing_zeros()),
            |(_, name)| (*name).to_owned(),
        )
    })
    .collect()
}

/// The flags that every node since OTP 25 must have.
pub const MANDATORY_25: u64 = EXTENDED_REFERENCES
    | FUN_TAGS
    | NEW_FUN_TAGS
    | EXTENDED_PIDS_PORTS
    | EXPORT_PTR_TAG
    | BIT_BINARIES
    | NEW_FLOATS
    | UTF8_ATOMS
    | MAP_TAG
    | BIG_CREATION
    | HANDSHAKE_23;

/// The flags that this node offers.
pub const OFFERED: u64 = MANDATORY_25
    | MANDATORY_25_DIGEST
    | DIST_MONITOR
    | DIST_HDR_ATOM_CACHE
    | DIST_MONITOR_NAME
    | UNICODE_IO
    | SMALL_ATOM_TAGS
    | SEND_SENDER
    | BIG_SEQTRACE_LABELS
    | EXIT_PAYLOAD
    | FRAGMENTS
    | UNLINK_ID
    | V4_NC
    | ALIAS;

/// Returns `flags` with the flags for which the digest bit stands.
pub fn expand(flags: u64) -> u64 {
    if flags & MANDATORY_25_DIGEST == 0 { flags } else { flags | MANDATORY_25 }
}

/// Returns the mandatory flags that are missing in the expanded `flags`.
pub fn missing(flags: u64) -> u64 {
    MANDATORY_25 & !flags
}

/// Returns whether this node and a peer that offers `theirs` use the atom cache. A reference to the
/// cache crashes a BEAM that has not negotiated it.
pub fn atom_cache(theirs: u64) -> bool {
    theirs & OFFERED & DIST_HDR_ATOM_CACHE != 0
}

/// Returns whether frames have a distribution header.
pub fn header(theirs: u64) -> bool {
    theirs & OFFERED & (DIST_HDR_ATOM_CACHE | FRAGMENTS) != 0
}

/// The ways in which the end of a peer's processes is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Monitors, as between BEAMs.
    Monitor,
    /// Links, since nodes of Java's `jinterface` close the connection when they receive a monitor.
    Link,
    /// The end of the connection. Programs of C's `ei` receive both kinds of signal, but do not
    /// answer them: such a node has no process but the program itself.
    Connection,
}

/// Returns the way in which the processes of a peer that offers `theirs` are monitored. Monitors
/// need both flags, since `ei` offers only the first.
pub fn watch(theirs: u64) -> Watch {
    let offers = |flag| theirs & flag != 0;
    match (offers(DIST_MONITOR), offers(DIST_MONITOR_NAME)) {
        (true, true) => Watch::Monitor,
        (false, _) if offers(UNLINK_ID) => Watch::Link,
        _ => Watch::Connection,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_is_what_real_nodes_were_tried_with() {
        // As offered by OTP 25 and 27, except for SPAWN and PUBLISHED.
        let otp = 0xd_07df_7fbd_u64;
        assert_eq!(OFFERED & !otp, 0);
        assert_eq!(otp & !OFFERED, PUBLISHED | SPAWN);
    }

    #[test]
    fn every_flag_of_an_offer_has_a_name_and_others_are_called_by_their_bit() {
        let unnamed = |flags| names(flags).into_iter().filter(|name| name.starts_with("bit "));
        assert_eq!(unnamed(OFFERED).count(), 0);
        assert_eq!(names(PUBLISHED | SPAWN | 1 << 38), ["PUBLISHED", "SPAWN", "bit 38"]);
    }

    #[test]
    fn foreign_nodes_are_watched_by_what_they_offer() {
        // As offered by a BEAM of OTP 25, by jinterface 1.13.1 and by ei 5.3.
        for (theirs, expected) in [
            (0xd_07df_7fbd, Watch::Monitor),
            (0x4_0707_0f94, Watch::Link),
            (0x4_0707_4f9c, Watch::Connection),
            (MANDATORY_25, Watch::Connection),
        ] {
            assert_eq!(watch(theirs), expected, "{theirs:#x}");
        }
    }

    #[test]
    fn the_digest_stands_for_the_mandatory_flags() {
        assert_eq!(missing(expand(MANDATORY_25_DIGEST)), 0);
        assert_eq!(missing(expand(0)), MANDATORY_25);
    }
}
