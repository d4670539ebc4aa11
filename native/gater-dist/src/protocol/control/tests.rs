//! Tests of the shapes of control messages. The shapes that erl_dist can write are covered by the
//! tests of the session.

use proptest::prelude::*;

use super::*;

const PID: [u8; 18] = [88, 119, 3, b'a', b'@', b'h', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];

fn put_pid(out: &mut Vec<u8>) {
    out.extend(PID);
}

#[test]
fn a_pid_is_read_and_kept_as_it_came() {
    let mut term = vec![104, 3, 97, 2, 119, 0];
    put_pid(&mut term);
    let Some(Control::Send { from: None, to: Process::Pid(to) }) = parse(&term) else { panic!() };
    assert_eq!(to, RawPid { raw: &PID, node: b"a@h", id: 1, serial: 2, creation: 3 });
}

#[test]
fn old_pids_are_read() {
    let mut term = vec![104, 3, 97, 1];
    let old = [103, 100, 0, 3, b'a', b'@', b'h', 0, 0, 0, 1, 0, 0, 0, 2, 3];
    term.extend(old);
    term.extend(old);
    let Some(Control::Link { from, .. }) = parse(&term) else { panic!() };
    assert_eq!((from.id, from.serial, from.creation, from.raw), (1, 2, 3, &old[..]));
}

#[test]
fn unlink_ids_of_64_bits_are_kept_as_they_came() {
    let id = [110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255];
    let mut term = vec![104, 4, 97, 35];
    term.extend(id);
    put_pid(&mut term);
    put_pid(&mut term);
    let Some(Control::UnlinkId { id: found, .. }) = parse(&term) else { panic!() };
    assert_eq!(found, id);
}

#[test]
fn a_known_operation_of_a_wrong_shape_is_malformed() {
    for term in [&[104, 2, 97, 2, 119, 0][..], &[104, 0], &[97, 1], &[104, 1, 119, 0], &[]] {
        assert_eq!(parse(term), None);
    }
    assert_eq!(parse(&[104, 3, 97, 1, 106, 106]), None);
}

#[test]
fn an_operation_not_negotiated_is_unknown() {
    assert_eq!(parse(&[104, 1, 97, 37]), Some(Control::Unknown { op: 37 }));
    assert_eq!(parse(&[104, 1, 98, 0, 1, 0, 0]), Some(Control::Unknown { op: 65536 }));
}

proptest! {
    #[test]
    fn no_bytes_are_beyond_parsing(
        op in 0..40_u8, arity in 0..8_u8, rest in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut term = vec![104, arity, 97, op];
        term.extend(&rest);
        let _ = parse(&term);
        let _ = parse(&rest);
    }

    #[test]
    fn truncated_pids_are_malformed(len in 0..18_usize) {
        let mut term = vec![104, 3, 97, 2, 119, 0];
        term.extend(&PID[..len]);
        prop_assert_eq!(parse(&term), None);
    }
}
