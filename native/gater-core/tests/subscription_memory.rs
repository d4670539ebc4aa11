//! Measures the memory of a million subscriptions. Every case runs in a process of its own, since
//! memory that an earlier case freed would hide the memory that the next one takes.
#![cfg(target_os = "linux")]

use gater_core::channel::{Subscribers, Topic};
use gater_term::LocalPid;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn topic(n: u32) -> Topic {
    Topic::new(format!("orders.customer.{n:08}").as_bytes()).unwrap()
}

fn pid(id: u32) -> LocalPid {
    LocalPid { id, serial: 0, creation: 1 }
}

/// Returns the bytes per subscription of 100,000 topics with 10 subscribers each. `subscriber`
/// returns the node and the process by topic and number.
fn cost(subscriber: impl Fn(u32, u32) -> (u64, u32)) -> usize {
    let before = resident_bytes();
    let mut table = Subscribers::<u64>::default();
    for t in 0..100_000 {
        let topic = topic(t);
        for n in 0..10 {
            let (peer, id) = subscriber(t, n);
            assert!(table.subscribe(&topic, peer, pid(id)));
        }
    }
    assert_eq!((table.len(), table.topics()), (1_000_000, 100_000));
    let cost = (resident_bytes() - before) / table.len();
    for peer in 0..10 {
        table.remove_peer(&peer);
        table.go_on(usize::MAX);
    }
    assert!(table.is_empty());
    cost
}

const CASES: [&str; 4] = [
    "the same ten processes of one node",
    "the same ten processes of ten nodes",
    "processes with one topic each, of one node",
    "processes with one topic each, of ten nodes",
];

fn cost_of(case: &str) -> usize {
    let one_node = case.ends_with("one node");
    let same = case.starts_with("the same");
    cost(|t, n| (if one_node { 0 } else { u64::from(n) }, if same { n } else { t * 10 + n }))
}

#[test]
fn a_subscription_takes_at_most_150_bytes() {
    const CASE: &str = "SUBSCRIPTION_MEMORY_CASE";
    const ANSWER: &str = "bytes per subscription: ";
    if let Ok(case) = std::env::var(CASE) {
        println!("\n{ANSWER}{}", cost_of(&case));
        return;
    }
    for case in CASES {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.arg("--nocapture").env(CASE, case).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix(ANSWER));
        let bytes: usize = line.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        println!("{case}: {bytes} bytes");
        assert!(bytes <= 150, "{case}: {bytes} bytes");
    }
}
