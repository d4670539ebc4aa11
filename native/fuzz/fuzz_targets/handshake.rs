//! Both sides of the handshake, fed messages of any length and content.
#![no_main]

use gater_term::Atom;
use gater_dist::protocol::handshake::{Acceptor, Dialer, Local, Status, Step};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

fuzz_target!(|input: &[u8]| {
    let (Ok(name), Ok(other)) = (Atom::new("gater@127.0.0.1"), Atom::new("a@127.0.0.1")) else {
        return;
    };
    let local = Local { name, creation: 1, cookie: SecretString::from("cookie") };
    let mut acceptor = Acceptor::new(local.clone(), 7);
    let (mut dialer, _) = Dialer::new(local, other, 7);
    let mut rest = input;
    while let Some((len, after)) = rest.split_first() {
        let (message, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        if let Ok(Step::Named) = acceptor.handle(message) {
            let _ = acceptor.status(if len % 2 == 0 { Status::Ok } else { Status::Alive });
        }
        if let Ok(Step::Alive) = dialer.handle(message) {
            let _ = dialer.alive(true);
        }
    }
});
