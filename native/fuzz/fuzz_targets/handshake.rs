//! Two nodes that shake hands, of which the input changes some messages: most go through, so that
//! what comes after the digests is reached.
#![no_main]

use std::collections::VecDeque;

use gater_dist::protocol::handshake::{Acceptor, Dialer, Local, Status, Step};
use gater_term::Atom;
use libfuzzer_sys::fuzz_target;
use secrecy::SecretSlice;

/// What the input does to each message.
struct Changes<'a>(&'a [u8]);

impl Changes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn made(&mut self, mut message: Vec<u8>) -> Vec<u8> {
        match self.next() {
            None | Some(0..=191) => {}
            Some(192..=223) => {
                if let (Some(at), Some(flip)) = (self.next(), self.next())
                    && let Some(byte) = message.get_mut(usize::from(at))
                {
                    *byte ^= flip;
                }
            }
            Some(224..=239) => message.truncate(usize::from(self.next().unwrap_or(0))),
            Some(_) => {
                let len = usize::from(self.next().unwrap_or(0)).min(self.0.len());
                message = self.0[..len].to_vec();
                self.0 = &self.0[len..];
            }
        }
        message
    }
}

fuzz_target!(|input: &[u8]| {
    let (Ok(gater), Ok(other)) = (Atom::new("gater@127.0.0.1"), Atom::new("a@127.0.0.1")) else {
        return;
    };
    let cookie = || SecretSlice::from(b"cookie".to_vec());
    let local = |name: &Atom| Local { name: name.clone(), creation: 1, cookie: cookie() };
    let mut changes = Changes(input);
    let status = changes.next().unwrap_or(0);
    let mut acceptor = Acceptor::new(local(&gater), 7);
    let (mut dialer, first) = Dialer::new(local(&other), gater.clone(), 9);
    let mut to_acceptor = VecDeque::from([changes.made(first)]);
    let mut to_dialer = VecDeque::new();
    for _ in 0..16 {
        if let Some(message) = to_acceptor.pop_front() {
            let answers = match acceptor.handle(&message) {
                Ok(Step::Send(answers) | Step::Done(answers, _)) => answers,
                Ok(Step::Named) => {
                    acceptor.status(if status % 2 == 0 { Status::Ok } else { Status::Alive }).0
                }
                _ => Vec::new(),
            };
            to_dialer.extend(answers.into_iter().map(|answer| changes.made(answer)));
        } else if let Some(message) = to_dialer.pop_front() {
            let answers = match dialer.handle(&message) {
                Ok(Step::Send(answers) | Step::Done(answers, _)) => answers,
                Ok(Step::Alive) => vec![dialer.alive(status % 3 == 0)],
                _ => Vec::new(),
            };
            to_acceptor.extend(answers.into_iter().map(|answer| changes.made(answer)));
        } else {
            break;
        }
    }
});
