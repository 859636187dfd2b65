//! Everything that may happen, in any order, against a model that is too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::{collection::vec, prelude::*};

use super::*;

const EDGES: [&str; 3] = ["a", "b", "c"];
const SUBSCRIBERS: [&str; 2] = ["x", "y"];
const USERS: u8 = 5;

#[derive(Debug, Clone)]
enum Op {
    /// A stream of an edge, with an epoch so much above or below the last.
    Open {
        edge: usize,
        epoch: i8,
    },
    Snapshot {
        edge: usize,
        continues: bool,
        opened: Vec<(u8, u64)>,
    },
    Change {
        edge: usize,
        opened: Vec<(u8, u64)>,
        closed: Vec<(u8, u64)>,
    },
    /// The newest stream but so many ends.
    End {
        edge: usize,
        older: usize,
    },
    Pass {
        seconds: u64,
    },
    Watch {
        subscriber: usize,
    },
    Unwatch {
        subscriber: usize,
    },
    Ask {
        subscriber: usize,
        users: Vec<u8>,
    },
    Read {
        subscriber: usize,
        max: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let edge = 0..EDGES.len();
    let subscriber = 0..SUBSCRIBERS.len();
    let sessions = || vec((0..USERS, 0..6_u64), 0..5);
    let op = prop_oneof![
        2 => (edge.clone(), -1..2_i8).prop_map(|(edge, epoch)| Op::Open { edge, epoch }),
        4 => (edge.clone(), any::<bool>(), sessions())
            .prop_map(|(edge, continues, opened)| Op::Snapshot { edge, continues, opened }),
        8 => (edge.clone(), sessions(), sessions())
            .prop_map(|(edge, opened, closed)| Op::Change { edge, opened, closed }),
        2 => (edge, 0..2_usize).prop_map(|(edge, older)| Op::End { edge, older }),
        3 => (1..9_u64).prop_map(|seconds| Op::Pass { seconds }),
        1 => subscriber.clone().prop_map(|subscriber| Op::Watch { subscriber }),
        1 => subscriber.clone().prop_map(|subscriber| Op::Unwatch { subscriber }),
        5 => (subscriber.clone(), vec(0..USERS, 1..4))
            .prop_map(|(subscriber, users)| Op::Ask { subscriber, users }),
        4 => (subscriber, 1..4_usize).prop_map(|(subscriber, max)| Op::Read { subscriber, max }),
    ];
    vec(op, 1..80)
}

#[derive(Default)]
struct ModelEdge {
    streams: Vec<StreamKey>,
    epoch: u64,
    known: bool,
    heard: Option<Instant>,
    ended: Option<Now>,
    /// None before the first part, then whether it goes on.
    snapshot: Option<bool>,
    sessions: BTreeMap<u64, UserId>,
    /// Named in the running snapshot.
    fresh: BTreeSet<u64>,
}

/// What an asker remembers, as delivery does.
#[derive(Default)]
struct ModelAsker {
    watch: Option<u32>,
    routes: HashMap<UserId, (BTreeSet<String>, Instant)>,
}

struct World {
    setup: Setup,
    edges: Vec<ModelEdge>,
    askers: Vec<ModelAsker>,
    seen: HashMap<UserId, i64>,
}

fn user(n: u8) -> UserId {
    UserId::from_bytes([n + 1; 16])
}

fn sessions(named: &[(u8, u64)]) -> Vec<(UserId, u64)> {
    named
        .iter()
        .map(|(n, session_id)| (user(*n), *session_id))
        .collect()
}

impl World {
    fn new() -> Self {
        let config = Config {
            changes_per_watcher_max: 3,
            leases_per_watcher_max: 3,
            edge_silent: SILENT,
            ..config()
        };
        Self {
            setup: Setup::new(config),
            edges: EDGES.iter().map(|_| ModelEdge::default()).collect(),
            askers: SUBSCRIBERS.iter().map(|_| ModelAsker::default()).collect(),
            seen: HashMap::new(),
        }
    }

    fn route(&self, user: UserId) -> BTreeSet<String> {
        let holds = |edge: &ModelEdge| edge.sessions.values().any(|held| *held == user);
        let holding = self.edges.iter().zip(EDGES).filter(|(edge, _)| holds(edge));
        holding.map(|(_, name)| name.to_owned()).collect()
    }

    fn note(&mut self, user: UserId, unix_ms: i64) {
        let time = self.seen.entry(user).or_insert(unix_ms);
        *time = (*time).max(unix_ms);
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Open { edge, epoch } => self.open(edge, epoch),
            Op::Snapshot {
                edge,
                continues,
                opened,
            } => {
                let announcement = Announcement {
                    snapshot: true,
                    continues,
                    opened: sessions(&opened),
                    closed: Vec::new(),
                };
                self.announce(edge, announcement);
            }
            Op::Change {
                edge,
                opened,
                closed,
            } => {
                let announcement = Announcement {
                    opened: sessions(&opened),
                    closed: sessions(&closed),
                    ..Announcement::default()
                };
                self.announce(edge, announcement);
            }
            Op::End { edge, older } => {
                let model = &mut self.edges[edge];
                let Some(key) = model.streams.iter().rev().nth(older) else {
                    return;
                };
                self.setup.registry.close_stream(*key, self.setup.now);
                if older == 0 && model.known {
                    model.ended.get_or_insert(self.setup.now);
                }
            }
            Op::Pass { seconds } => self.pass(Duration::from_secs(seconds)),
            Op::Watch { subscriber } => {
                let (watch, _) = self.setup.registry.watch(SUBSCRIBERS[subscriber]).unwrap();
                self.askers[subscriber] = ModelAsker {
                    watch: Some(watch),
                    routes: HashMap::new(),
                };
            }
            Op::Unwatch { subscriber } => {
                if let Some(watch) = self.askers[subscriber].watch {
                    self.setup.registry.unwatch(watch);
                }
                self.askers[subscriber] = ModelAsker::default();
            }
            Op::Ask { subscriber, users } => self.ask(subscriber, &users),
            Op::Read { subscriber, max } => self.read(subscriber, max),
        }
    }

    fn open(&mut self, edge: usize, epoch: i8) {
        let model = &mut self.edges[edge];
        let epoch = model.epoch.saturating_add_signed(epoch.into());
        let opened = self.setup.open(EDGES[edge], epoch);
        if model.known && model.ended.is_none() && epoch < model.epoch {
            assert_eq!(opened, Err(RegistryError::StaleEpoch));
            return;
        }
        model.streams.push(opened.unwrap());
        model.epoch = epoch;
        model.known = true;
        model.heard = Some(self.setup.now.instant);
        model.ended = None;
        model.snapshot = None;
        model.fresh.clear();
    }

    fn announce(&mut self, edge: usize, announcement: Announcement) {
        let online: BTreeSet<UserId> = self.online();
        let now = self.setup.now;
        let Some(key) = self.edges[edge].streams.last().copied() else {
            return;
        };
        let result = self.setup.announce(key, announcement.clone());
        let model = &mut self.edges[edge];
        if !model.known {
            assert_eq!(result, Err(RegistryError::Replaced));
            return;
        }
        if !announcement.snapshot && model.snapshot != Some(false) {
            assert_eq!(result, Err(RegistryError::SnapshotExpected));
            return;
        }
        assert_eq!(result, Ok(()));
        model.heard = Some(now.instant);
        model.ended = None;
        let mut ended = Vec::new();
        if announcement.snapshot && model.snapshot != Some(true) {
            model.fresh.clear();
        }
        for (user, session_id) in announcement.opened {
            model.fresh.insert(session_id);
            ended.extend(
                model
                    .sessions
                    .insert(session_id, user)
                    .filter(|before| *before != user),
            );
            if !online.contains(&user) {
                ended.push(user); // Seen now as well.
            }
        }
        for (user, session_id) in announcement.closed {
            if model.sessions.get(&session_id) == Some(&user) {
                model.sessions.remove(&session_id);
                ended.push(user);
            }
        }
        if announcement.snapshot {
            model.snapshot = Some(announcement.continues);
            if !announcement.continues {
                let fresh = std::mem::take(&mut model.fresh);
                let gone = model.sessions.extract_if(.., |id, _| !fresh.contains(id));
                ended.extend(gone.map(|(_, user)| user));
            }
        }
        for user in ended {
            self.note(user, now.unix_ms);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.setup.pass(time);
        for edge in 0..EDGES.len() {
            let now = self.setup.now;
            let model = &mut self.edges[edge];
            if model.known
                && model
                    .heard
                    .is_some_and(|heard| now.instant - heard >= SILENT)
            {
                model.ended.get_or_insert(now);
            }
            let Some(ended) = model.ended else {
                continue;
            };
            if self.setup.now.instant - ended.instant >= GRACE {
                let streams = std::mem::take(&mut model.streams);
                let gone = std::mem::take(model).sessions;
                self.edges[edge].streams = streams;
                for user in gone.into_values() {
                    self.note(user, ended.unix_ms);
                }
            }
        }
    }

    fn ask(&mut self, subscriber: usize, users: &[u8]) {
        let users: Vec<UserId> = users.iter().map(|n| user(*n)).collect();
        let now = self.setup.now.instant;
        let name = SUBSCRIBERS[subscriber];
        let (routes, lease) = self.setup.registry.routes(name, &users, now);
        for (user, edges) in routes {
            let edges = names(&edges).into_iter().collect();
            if lease > Duration::ZERO {
                let asker = &mut self.askers[subscriber];
                assert!(asker.watch.is_some(), "a lease without a watch");
                asker.routes.insert(user, (edges, now + lease));
            }
        }
    }

    fn read(&mut self, subscriber: usize, max: usize) {
        let asker = &mut self.askers[subscriber];
        let Some(watch) = asker.watch else {
            return;
        };
        match self
            .setup
            .registry
            .changes(watch, max, self.setup.now.instant)
        {
            Err(_) => *asker = ModelAsker::default(),
            Ok(changes) => {
                for (user, edges) in changes {
                    if edges.is_empty() {
                        asker.routes.remove(&user);
                    } else if let Some((known, _)) = asker.routes.get_mut(&user) {
                        *known = names(&edges).into_iter().collect();
                    }
                }
            }
        }
    }

    fn online(&self) -> BTreeSet<UserId> {
        self.edges
            .iter()
            .flat_map(|edge| edge.sessions.values().copied())
            .collect()
    }

    fn check(&mut self) {
        let online = self.online();
        for n in 0..USERS {
            let user = user(n);
            assert_eq!(self.setup.edges_of(user), self.route(user), "routes of {n}");
            assert_eq!(self.setup.registry.is_online(user), online.contains(&user));
            assert_eq!(
                self.setup.seen.get(&user),
                self.seen.get(&user),
                "{n} last seen"
            );
        }
        let sessions: usize = self.edges.iter().map(|edge| edge.sessions.len()).sum();
        assert_eq!(self.setup.registry.edges.sessions(), sessions);
        let told = |edge: &ModelEdge| edge.ended.is_none() && edge.snapshot == Some(false);
        let in_step = self.edges.iter().all(|edge| !edge.known || told(edge));
        assert_eq!(self.setup.registry.edges.are_in_step(), in_step);
        for asker in &self.askers {
            let Some(watch) = asker
                .watch
                .filter(|w| self.setup.registry.watches.is_on(*w))
            else {
                continue; // He finds out when he reads, and forgets everything.
            };
            let untold = self.setup.registry.watches.untold(watch);
            for (user, (edges, until)) in &asker.routes {
                let valid = *until > self.setup.now.instant;
                if valid && *edges != self.route(*user) {
                    assert!(
                        untold.contains(user),
                        "{user} has a stale route and is not told"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_registry_is_as_the_model_and_nobody_keeps_a_stale_route(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
            world.check();
        }
    }
}
