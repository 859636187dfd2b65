use std::collections::BTreeSet;

use super::*;

mod memory;
mod model;

const LEASE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(20);
const SILENT: Duration = Duration::from_secs(15);

fn config() -> Config {
    Config {
        edge_grace: GRACE,
        lease: LEASE,
        warm_up: WARM_UP,
        // Longer than any test but those of silence.
        edge_silent: LEASE * 100,
        ..Config::default()
    }
}

/// A registry, and the time.
struct Setup {
    registry: Registry,
    now: Now,
    seen: HashMap<UserId, i64>,
}

impl Setup {
    fn new(config: Config) -> Self {
        let instant = Instant::now();
        Self {
            registry: Registry::new(config, instant),
            now: Now {
                instant,
                unix_ms: 1_000_000,
            },
            seen: HashMap::new(),
        }
    }

    fn note(&mut self, seen: Seen) {
        for (user, unix_ms) in seen {
            let time = self.seen.entry(user).or_insert(unix_ms);
            *time = (*time).max(unix_ms);
        }
    }

    fn announce(
        &mut self,
        key: StreamKey,
        announcement: Announcement,
    ) -> Result<(), RegistryError> {
        let mut seen = Seen::new();
        let result = self
            .registry
            .announce(key, announcement, self.now, &mut seen);
        self.note(seen);
        result
    }

    /// Opens a stream with a snapshot of these sessions.
    fn edge(&mut self, name: &str, epoch: u64, opened: &[(UserId, u64)]) -> StreamKey {
        let key = self.open(name, epoch).unwrap();
        self.announce(key, snapshot(opened)).unwrap();
        key
    }

    fn open(&mut self, name: &str, epoch: u64) -> Result<StreamKey, RegistryError> {
        self.registry.open_stream(name, epoch, self.now.instant)
    }

    fn is_complete(&self) -> bool {
        self.registry.is_complete(self.now.instant)
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += i64::try_from(time.as_millis()).unwrap();
        let seen = self.registry.expire(self.now);
        self.note(seen);
    }

    fn edges_of(&mut self, user: UserId) -> BTreeSet<String> {
        let (routes, _) = self.registry.routes("nobody", &[user], self.now.instant);
        routes.iter().flat_map(|(_, edges)| names(edges)).collect()
    }

    fn lease(&mut self, subscriber: &str, user: UserId) -> Duration {
        self.registry
            .routes(subscriber, &[user], self.now.instant)
            .1
    }

    fn changes(&mut self, watch: u32) -> Result<Vec<UserRoute>, RegistryError> {
        self.registry.changes(watch, 1_000, self.now.instant)
    }
}

fn names(edges: &[Arc<str>]) -> Vec<String> {
    edges.iter().map(|edge| edge.to_string()).collect()
}

fn snapshot(opened: &[(UserId, u64)]) -> Announcement {
    Announcement {
        snapshot: true,
        opened: opened.to_vec(),
        ..Announcement::default()
    }
}

fn opened(user: UserId, session_id: u64) -> Announcement {
    Announcement {
        opened: vec![(user, session_id)],
        ..Announcement::default()
    }
}

fn closed(user: UserId, session_id: u64) -> Announcement {
    Announcement {
        closed: vec![(user, session_id)],
        ..Announcement::default()
    }
}

fn set<const N: usize>(edges: [&str; N]) -> BTreeSet<String> {
    edges.into_iter().map(str::to_owned).collect()
}

#[test]
fn an_edge_that_comes_back_within_the_grace_keeps_its_sessions() {
    let mut setup = Setup::new(config());
    let user = UserId::generate();
    let key = setup.edge("a", 1, &[(user, 1)]);
    setup.registry.close_stream(key, setup.now);
    setup.pass(GRACE - Duration::from_secs(1));
    assert_eq!(setup.edges_of(user), set(["a"]));
    let key = setup.edge("a", 1, &[(user, 1)]);
    setup.pass(GRACE * 2);
    assert_eq!(setup.edges_of(user), set(["a"]));
    let ended = setup.now.unix_ms;
    setup.registry.close_stream(key, setup.now);
    setup.pass(GRACE);
    assert!(setup.edges_of(user).is_empty());
    assert!(!setup.registry.is_online(user));
    // Not when the grace was over.
    assert_eq!(setup.seen[&user], ended);
}

#[test]
fn a_later_process_of_an_edge_replaces_the_earlier() {
    let mut setup = Setup::new(config());
    let (before, after) = (UserId::generate(), UserId::generate());
    let old = setup.edge("a", 5, &[(before, 1)]);
    assert_eq!(setup.open("a", 4), Err(RegistryError::StaleEpoch));
    let new = setup.open("a", 6).unwrap();
    assert_eq!(
        setup.announce(old, opened(before, 2)),
        Err(RegistryError::Replaced)
    );
    // The same session id, which now is another user's.
    setup.announce(new, snapshot(&[(after, 1)])).unwrap();
    assert!(setup.edges_of(before).is_empty());
    assert_eq!(setup.edges_of(after), set(["a"]));
    // The end of the old stream is not the end of the edge.
    setup.registry.close_stream(old, setup.now);
    setup.pass(GRACE * 2);
    assert_eq!(setup.edges_of(after), set(["a"]));
    assert_eq!(setup.open("a", 5), Err(RegistryError::StaleEpoch));
}

#[test]
fn a_process_whose_clock_went_back_takes_over_as_soon_as_the_one_before_is_gone() {
    let mut setup = Setup::new(Config {
        edge_silent: SILENT,
        ..config()
    });
    let (before, after) = (UserId::generate(), UserId::generate());
    let key = setup.edge("a", 5, &[(before, 1)]);
    assert_eq!(setup.open("a", 1), Err(RegistryError::StaleEpoch));
    setup.registry.close_stream(key, setup.now);
    // Without waiting for the grace.
    let key = setup.edge("a", 1, &[(after, 1)]);
    assert!(setup.edges_of(before).is_empty());
    assert_eq!(setup.edges_of(after), set(["a"]));
    // Nor for the network to notice that nobody is at the other end any more.
    setup.announce(key, Announcement::default()).unwrap();
    setup.pass(SILENT);
    let newer = setup.edge("a", 0, &[(before, 1)]);
    assert_eq!(setup.edges_of(before), set(["a"]));
    assert_eq!(
        setup.announce(key, opened(after, 2)),
        Err(RegistryError::Replaced)
    );
    assert_eq!(setup.announce(newer, opened(after, 2)), Ok(()));
}

#[test]
fn a_silent_edge_is_forgotten_after_the_grace_unless_it_speaks_again() {
    let mut setup = Setup::new(Config {
        edge_silent: SILENT,
        ..config()
    });
    let user = UserId::generate();
    let key = setup.edge("a", 1, &[(user, 1)]);
    setup.pass(WARM_UP);
    assert!(!setup.is_complete());
    // It was stopped, and goes on as if nothing had been.
    setup.announce(key, Announcement::default()).unwrap();
    assert!(setup.is_complete());
    for _ in 0..5 {
        setup.pass(SILENT - Duration::from_secs(1));
        setup.announce(key, Announcement::default()).unwrap();
        assert!(setup.is_complete());
    }
    setup.pass(SILENT);
    setup.pass(GRACE - Duration::from_secs(1));
    assert_eq!(setup.edges_of(user), set(["a"]));
    setup.pass(Duration::from_secs(1));
    assert!(setup.edges_of(user).is_empty());
    let late = setup.announce(key, opened(user, 2));
    assert_eq!(late, Err(RegistryError::Replaced));
    assert!(setup.is_complete());
}

#[test]
fn absence_is_certain_only_when_all_edges_have_told_everything() {
    let mut setup = Setup::new(config());
    let user = UserId::generate();
    let key = setup.edge("a", 1, &[(user, 1)]);
    // Others may not have come yet.
    assert!(!setup.is_complete() && !setup.registry.is_warm(setup.now.instant));
    setup.pass(WARM_UP - Duration::from_millis(1));
    assert!(!setup.is_complete());
    setup.pass(Duration::from_millis(1));
    assert!(setup.is_complete() && setup.registry.is_warm(setup.now.instant));
    // One that comes late, with a snapshot in parts.
    let late = setup.open("b", 1).unwrap();
    assert!(!setup.is_complete());
    let first = Announcement {
        continues: true,
        ..snapshot(&[(user, 1)])
    };
    setup.announce(late, first).unwrap();
    assert!(!setup.is_complete());
    setup.announce(late, snapshot(&[])).unwrap();
    assert!(setup.is_complete());
    // One that is reconnecting may have new sessions.
    setup.registry.close_stream(key, setup.now);
    assert!(!setup.is_complete());
    let key = setup.edge("a", 1, &[(user, 1)]);
    assert!(setup.is_complete());
    // One that does not come back is gone, with what it held.
    setup.registry.close_stream(key, setup.now);
    setup.pass(GRACE);
    assert!(setup.is_complete());
}

#[test]
fn a_stream_begins_with_a_whole_snapshot() {
    let mut setup = Setup::new(config());
    let users: Vec<UserId> = (0..3).map(|_| UserId::generate()).collect();
    let key = setup.edge("a", 1, &[(users[0], 0), (users[1], 1)]);
    setup.registry.close_stream(key, setup.now);
    let key = setup.open("a", 1).unwrap();
    let early = setup.announce(key, opened(users[2], 2));
    assert_eq!(early, Err(RegistryError::SnapshotExpected));
    let first = Announcement {
        continues: true,
        ..snapshot(&[(users[1], 1)])
    };
    setup.announce(key, first).unwrap();
    // What the parts so far do not name is still there.
    assert_eq!(setup.edges_of(users[0]), set(["a"]));
    let early = setup.announce(key, opened(users[2], 2));
    assert_eq!(early, Err(RegistryError::SnapshotExpected));
    setup.announce(key, snapshot(&[(users[2], 2)])).unwrap();
    assert!(setup.edges_of(users[0]).is_empty());
    assert_eq!(setup.edges_of(users[1]), set(["a"]));
    assert_eq!(setup.edges_of(users[2]), set(["a"]));
}

#[test]
fn who_was_told_a_route_is_told_its_changes() {
    let mut setup = Setup::new(config());
    let user = UserId::generate();
    let a = setup.edge("a", 1, &[(user, 1)]);
    let b = setup.edge("b", 1, &[]);
    assert_eq!(setup.lease("asker", user), Duration::ZERO);
    let (watch, _) = setup.registry.watch("asker").unwrap();
    assert_eq!(setup.lease("asker", user), LEASE);
    // A second session on the same edge changes no route.
    setup.announce(a, opened(user, 2)).unwrap();
    assert!(setup.changes(watch).unwrap().is_empty());
    setup.announce(b, opened(user, 1)).unwrap();
    let told = setup.changes(watch).unwrap();
    assert_eq!(names(&told[0].1), ["a", "b"]);
    // The last session ends, and the lease with it; whoever comes back is not leased again.
    for announcement in [closed(user, 1), closed(user, 2)] {
        setup.announce(a, announcement).unwrap();
    }
    setup.announce(b, closed(user, 1)).unwrap();
    setup.announce(b, opened(user, 2)).unwrap();
    assert!(
        setup
            .changes(watch)
            .unwrap()
            .iter()
            .all(|(_, edges)| edges.is_empty())
    );
}

#[test]
fn a_watcher_that_does_not_read_is_ended() {
    let mut setup = Setup::new(Config {
        changes_per_watcher_max: 3,
        ..config()
    });
    let users: Vec<(UserId, u64)> = (0..4).map(|id| (UserId::generate(), id)).collect();
    let key = setup.edge("a", 1, &users);
    let (slow, _) = setup.registry.watch("slow").unwrap();
    let (quick, _) = setup.registry.watch("quick").unwrap();
    for (user, session_id) in &users {
        setup.lease("slow", *user);
        setup.lease("quick", *user);
        setup.announce(key, closed(*user, *session_id)).unwrap();
        assert_eq!(setup.changes(quick).unwrap().len(), 1);
    }
    assert_eq!(setup.changes(slow), Err(RegistryError::WatchEnded));
    assert!(setup.changes(quick).is_ok());
}

#[test]
fn leases_are_bounded_and_end() {
    let mut setup = Setup::new(Config {
        leases_per_watcher_max: 4,
        ..config()
    });
    let users: Vec<(UserId, u64)> = (0..5).map(|id| (UserId::generate(), id)).collect();
    setup.edge("a", 1, &users);
    let (watch, _) = setup.registry.watch("asker").unwrap();
    for _ in 0..3 {
        // Asking again takes no further place.
        for (user, _) in &users[..4] {
            assert_eq!(setup.lease("asker", *user), LEASE);
        }
    }
    assert_eq!(setup.lease("asker", users[4].0), Duration::ZERO);
    setup.pass(LEASE * 2 + Duration::from_secs(5));
    assert_eq!(setup.registry.watches.leases(watch), 0);
    assert!(
        setup
            .registry
            .users
            .values()
            .all(|entry| entry.leases.is_empty())
    );
    assert_eq!(setup.lease("asker", users[4].0), LEASE);
}

#[test]
fn a_full_registry_refuses() {
    let mut setup = Setup::new(Config {
        sessions_max: 2,
        edges_max: 1,
        watchers_max: 1,
        ..config()
    });
    let user = UserId::generate();
    let key = setup.edge("a", 1, &[(user, 1), (user, 2)]);
    assert_eq!(
        setup.announce(key, opened(user, 3)),
        Err(RegistryError::Full)
    );
    assert_eq!(setup.open("b", 1), Err(RegistryError::Full));
    setup.registry.watch("one").unwrap();
    assert!(matches!(
        setup.registry.watch("two"),
        Err(RegistryError::Full)
    ));
    // The same again is another one in its place.
    assert!(setup.registry.watch("one").is_ok());
}
