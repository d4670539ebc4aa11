//! Tests with two handshakes that run against each other in memory.

use std::collections::VecDeque;

use super::*;

fn local(name: &str, cookie: &str) -> Local {
    Local {
        name: Atom::new(name).unwrap(),
        creation: 77,
        cookie: cookie.as_bytes().to_vec().into(),
    }
}

type Ended = Result<Peer, HandshakeError>;

/// Runs both sides until neither can continue. An error of one side closes the socket.
fn run(dial: Local, expected: &str, accept: Local, status: Status, alive: bool) -> (Ended, Ended) {
    let (mut dialer, first) = Dialer::new(dial, Atom::new(expected).unwrap(), 1);
    let mut acceptor = Acceptor::new(accept, 2);
    let (mut dialer_end, mut acceptor_end) = (None, None);
    let mut to_acceptor = VecDeque::from([first]);
    let mut to_dialer = VecDeque::new();
    loop {
        if let Some(message) = to_acceptor.pop_front() {
            if acceptor_end.is_some() {
                continue;
            }
            match acceptor.handle(&message) {
                Ok(Step::Named) => {
                    let (messages, go_on) = acceptor.status(status);
                    to_dialer.extend(messages);
                    acceptor_end = go_on.err().map(Err);
                }
                Ok(Step::Send(messages)) => to_dialer.extend(messages),
                Ok(Step::Done(messages, peer)) => {
                    to_dialer.extend(messages);
                    acceptor_end = Some(Ok(peer));
                }
                Ok(step) => panic!("{step:?}"),
                Err(error) => acceptor_end = Some(Err(error)),
            }
        } else if let Some(message) = to_dialer.pop_front() {
            if dialer_end.is_some() {
                continue;
            }
            match dialer.handle(&message) {
                Ok(Step::Wait) => {}
                Ok(Step::Alive) => {
                    to_acceptor.push_back(dialer.alive(alive));
                    if !alive {
                        dialer_end = Some(Err(HandshakeError::AlreadyConnected));
                    }
                }
                Ok(Step::Send(messages)) => to_acceptor.extend(messages),
                Ok(Step::Done(messages, peer)) => {
                    to_acceptor.extend(messages);
                    dialer_end = Some(Ok(peer));
                }
                Ok(step) => panic!("{step:?}"),
                Err(error) => dialer_end = Some(Err(error)),
            }
        } else {
            let dialer_end = dialer_end.unwrap_or_else(|| Err(dialer.closed()));
            return (dialer_end, acceptor_end.unwrap_or_else(|| Err(acceptor.closed())));
        }
    }
}

fn with_status(status: Status, alive: bool) -> (Ended, Ended) {
    run(local("a@h", "c"), "b@h", local("b@h", "c"), status, alive)
}

#[test]
fn both_sides_learn_name_and_creation() {
    for status in [Status::Ok, Status::OkSimultaneous, Status::Alive] {
        let (dialer, acceptor) = with_status(status, true);
        let (dialer, acceptor) = (dialer.unwrap(), acceptor.unwrap());
        assert_eq!((dialer.name.as_str(), dialer.creation, dialer.hidden), ("b@h", 77, true));
        assert_eq!((acceptor.name.as_str(), acceptor.creation), ("a@h", 77));
        assert_eq!(acceptor.flags, flags::OFFERED);
    }
}

#[test]
fn a_declined_alive_ends_both_sides() {
    let (dialer, acceptor) = with_status(Status::Alive, false);
    assert!(matches!(dialer, Err(HandshakeError::AlreadyConnected)));
    assert!(matches!(acceptor, Err(HandshakeError::Declined)));
}

#[test]
fn refusals_reach_the_dialer() {
    let (dialer, _) = with_status(Status::Nok, true);
    assert!(matches!(dialer, Err(HandshakeError::Simultaneous)));
    let (dialer, _) = with_status(Status::NotAllowed, true);
    assert!(matches!(dialer, Err(HandshakeError::NotAllowed)));
}

#[test]
fn a_wrong_cookie_is_known_to_both_sides() {
    let (dialer, acceptor) =
        run(local("a@h", "right"), "b@h", local("b@h", "wrong"), Status::Ok, true);
    assert!(matches!(dialer, Err(HandshakeError::WrongCookie)), "{dialer:?}");
    assert!(matches!(acceptor, Err(HandshakeError::WrongCookie)), "{acceptor:?}");
}

#[test]
fn another_node_than_the_one_dialled_is_refused() {
    let (dialer, _) = run(local("a@h", "c"), "x@h", local("b@h", "c"), Status::Ok, true);
    assert!(matches!(dialer, Err(HandshakeError::WrongNode { .. })), "{dialer:?}");
}

#[test]
fn our_own_name_and_malformed_names_are_refused() {
    for bad in ["b@h", "noat", "a@", "a b@h", "@h"] {
        let (_, acceptor) = run(local(bad, "c"), "b@h", local("b@h", "c"), Status::Ok, true);
        assert!(matches!(acceptor, Err(HandshakeError::BadName(_))), "{bad}: {acceptor:?}");
    }
}

#[test]
fn a_node_without_a_name_is_given_one_and_the_same_when_it_returns() {
    let named = |host: &str, creation: u32, challenge, status| {
        let mut message = vec![b'N'];
        message.put_u64(flags::OFFERED | flags::NAME_ME);
        message.put_u32(creation);
        message.put_u16(host.len() as u16);
        message.put_slice(host.as_bytes());
        let mut acceptor = Acceptor::new(local("b@h", "c"), challenge);
        acceptor.handle(&message)?;
        let (messages, go_on) = acceptor.status(status);
        go_on?;
        // The challenge repeats the request.
        let challenge = [b"N", &(flags::OFFERED | flags::NAME_ME).to_be_bytes()[..]].concat();
        assert!(messages[1].starts_with(&challenge), "{messages:?}");
        Ok::<_, HandshakeError>((messages[0].clone(), acceptor.peer().unwrap().clone()))
    };
    let (status, first) = named("h", 0, 12345, Status::Ok).unwrap();
    assert!(first.name.as_str().ends_with("@h"), "{first:?}");
    assert!(first.creation > 3);
    let mut expected = b"snamed:".to_vec();
    expected.put_u16(first.name.as_str().len() as u16);
    expected.put_slice(first.name.as_str().as_bytes());
    expected.put_u32(first.creation);
    assert_eq!(status, expected);
    // The node's previous connection may still exist.
    for status in [Status::Ok, Status::Alive] {
        let (_, again) = named("h", first.creation, 999, status).unwrap();
        assert_eq!((again.name, again.creation), (first.name.clone(), first.creation));
    }
    let (_, other) = named("h", 0, 54321, Status::Ok).unwrap();
    assert_ne!(other.name, first.name);
    for bad in ["", "h h", "a@h", "h@"] {
        let refused = named(bad, 0, 1, Status::Ok);
        assert!(matches!(refused, Err(HandshakeError::BadName(_))), "{bad}: {refused:?}");
    }
    let refused = named("h", 0, 1, Status::NotAllowed);
    assert!(matches!(refused, Err(HandshakeError::TooManyConnections)), "{refused:?}");
}

#[test]
fn a_peer_without_mandatory_flags_is_refused() {
    let mut message = vec![b'N'];
    message.put_u64(flags::MANDATORY_25 & !flags::MAP_TAG);
    message.put_u32(0);
    message.put_u16(3);
    message.put_slice(b"a@h");
    let refused = Acceptor::new(local("b@h", "c"), 2).handle(&message);
    assert!(matches!(refused, Err(HandshakeError::MissingFlags(flags::MAP_TAG))), "{refused:?}");
}

#[test]
fn every_truncation_and_bit_flip_is_an_error_or_a_step() {
    let (_, first) = Dialer::new(local("a@h", "c"), Atom::new("b@h").unwrap(), 1);
    for len in 0..first.len() {
        assert!(Acceptor::new(local("b@h", "c"), 2).handle(&first[..len]).is_err(), "{len}");
    }
    for bit in 0..first.len() * 8 {
        let mut flipped = first.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = Acceptor::new(local("b@h", "c"), 2).handle(&flipped);
    }
}

#[test]
fn the_digest_is_that_of_otp() {
    // erlang:md5(["cookie", integer_to_list(4242)]).
    let expected = md5::compute("cookie4242").0;
    assert_eq!(digest(&b"cookie".to_vec().into(), 4242), expected);
}
