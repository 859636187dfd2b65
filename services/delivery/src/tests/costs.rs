//! What a push and a route cost; run by hand:
//! `cargo test --release -p delivery costs -- --ignored --nocapture`

use super::*;
use crate::routes::{Route, Target};

/// Half of what the cache holds, so that its shards evict none.
const USERS: u32 = 100_000;
const PUSHES: u32 = 2_000_000;

/// Takes everything and keeps nothing.
struct Sink;

impl LocalEdge for Sink {
    fn broadcast(&self, _: &Broadcast) -> u32 {
        0
    }

    fn answer(&self, _: Answer) {}

    fn end_sessions(&self, _: UserId, _: DeviceId) {}
}

#[tokio::test]
#[ignore = "prints figures and promises none"]
async fn costs() {
    let (_, registry) = Registry::start();
    let delivery = Delivery::start(
        DeliveryConfig::new(HERE, "test"),
        Arc::new(Sink),
        &Registries::one(registry),
        Arc::new(|_| Err("no other edge".into())),
        &Tasks::new(),
    );
    let routes = delivery.inner.routes.clone();
    eventually("the watch is in force", || routes.is_watched()).await;
    let users: Vec<UserId> = (0..USERS).map(|_| UserId::generate()).collect();
    let before = resident_bytes();
    let until = Instant::now() + Duration::from_secs(600);
    let lookup = routes.begin_lookup(0);
    let here = users.iter().map(|user| (*user, Route::One(Target::Here)));
    routes.end_lookup(&lookup, here, until);
    let bytes = resident_bytes().saturating_sub(before);
    println!("a route: {} bytes", bytes / u64::from(USERS));

    let frame = Bytes::from_static(&[0; 300]);
    let begun = Instant::now();
    for n in 0..PUSHES {
        let at = n as usize * 7_919 % (users.len() - 1);
        delivery.push(Broadcast {
            users: [users[at], users[at + 1]].into(),
            frame: frame.clone(),
            except_session_id: 0,
            inbox_version: 0,
        });
    }
    println!("a warm push to two users: {:?}", begun.elapsed() / PUSHES);
    assert_eq!(delivery.stats().cold_dropped, 0);
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() * 1_024
}
