//! How much memory a session takes; run by hand, see the README.

use super::*;

/// As many as a large node holds, so that the rest of the process does not count.
const SESSIONS: u64 = 500_000;

#[test]
#[ignore = "prints a figure and promises none"]
fn bytes_per_session() {
    let before = resident_bytes();
    let mut setup = Setup::new(config());
    let users: Vec<UserId> = (0..SESSIONS).map(|_| UserId::generate()).collect();
    let listed = resident_bytes();
    let key = setup.edge("a", 1, &[]);
    for (user, session_id) in users.iter().zip(0..) {
        setup.announce(key, opened(*user, session_id)).unwrap();
        setup.seen.clear();
    }
    let announced = resident_bytes();
    setup.registry.watch("asker").unwrap();
    for some in users.chunks(1_000) {
        setup.registry.routes("asker", some, setup.now.instant);
    }
    let leased = resident_bytes();
    let each = |bytes: u64| bytes / SESSIONS;
    println!("the ids alone: {} bytes a session", each(listed - before));
    println!("a session: {} bytes", each(announced - listed));
    println!(
        "a lease of its user: {} bytes more",
        each(leased - announced)
    );
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() * 1_024
}
