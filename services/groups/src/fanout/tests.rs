//! The fan-out against a reference: through every interleaving of changes, messages, late and repeated
//! records, late answers, crashes and zombies, each member of a version gets its events, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::Message;
use proto::log::v1 as log;
use runtime::ids::{GroupId, UserId};
use tokio::time::{Duration, Instant};

use super::{core::Core, limits::FORGET_AFTER_MS};
use crate::model::{Roster, Sequenced, Stint};

mod cases;
mod deferred;
mod reference;
mod running;

use reference::{World, merge, record};

/// What can happen. Nodes are 0 and 1: both read the same partition, so each is a zombie to the other.
#[derive(Debug, Clone)]
enum Op {
    /// The store has a change; the log will have it later.
    Change {
        group: usize,
        kind: u8,
        users: u8,
    },
    /// The log carries out the next change of the store.
    Emit {
        group: usize,
        late: bool,
    },
    Message {
        group: usize,
        sender: usize,
        late: bool,
    },
    Marks {
        group: usize,
    },
    /// Records that were late are in the log now.
    Release,
    /// The sequencer was restarted: some of its last records come again.
    Again {
        group: usize,
        count: usize,
    },
    Garbage,
    Ingest {
        node: usize,
        count: usize,
    },
    /// The store answers what was asked; the answer is on its way.
    Read {
        node: usize,
    },
    /// An answer arrives.
    Arrive {
        node: usize,
    },
    /// Some of the next append are in the log.
    Append {
        node: usize,
        percent: usize,
    },
    /// The node learns that all of them are.
    Appended {
        node: usize,
    },
    Note {
        node: usize,
    },
    Noted {
        node: usize,
    },
    SavePosition {
        node: usize,
    },
    Pass {
        ms: u64,
    },
    /// So much time that nothing from before it is still on its way.
    LongPause,
    /// The store has which groups are deferred.
    Defer {
        node: usize,
    },
    Deferred {
        node: usize,
    },
    Forget {
        node: usize,
    },
    Crash {
        node: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (node, group) = (0..2_usize, 0..2_usize);
    prop_oneof![
        4 => (group.clone(), 0..5_u8, any::<u8>())
            .prop_map(|(group, kind, users)| Op::Change { group, kind, users }),
        4 => (group.clone(), prop::bool::weighted(0.1))
            .prop_map(|(group, late)| Op::Emit { group, late }),
        6 => (group.clone(), 0..8_usize, prop::bool::weighted(0.1))
            .prop_map(|(group, sender, late)| Op::Message { group, sender, late }),
        1 => group.clone().prop_map(|group| Op::Marks { group }),
        2 => Just(Op::Release),
        1 => (group, 1..12_usize).prop_map(|(group, count)| Op::Again { group, count }),
        1 => Just(Op::Garbage),
        8 => (node.clone(), 1..5_usize).prop_map(|(node, count)| Op::Ingest { node, count }),
        5 => node.clone().prop_map(|node| Op::Read { node }),
        5 => node.clone().prop_map(|node| Op::Arrive { node }),
        4 => (node.clone(), 0..101_usize)
            .prop_map(|(node, percent)| Op::Append { node, percent }),
        4 => node.clone().prop_map(|node| Op::Appended { node }),
        3 => node.clone().prop_map(|node| Op::Note { node }),
        3 => node.clone().prop_map(|node| Op::Noted { node }),
        3 => node.clone().prop_map(|node| Op::SavePosition { node }),
        4 => (0..1_500_u64).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::LongPause),
        3 => node.clone().prop_map(|node| Op::Defer { node }),
        3 => node.clone().prop_map(|node| Op::Deferred { node }),
        2 => node.clone().prop_map(|node| Op::Forget { node }),
        1 => node.prop_map(|node| Op::Crash { node }),
    ]
}

/// One node's fan-out of the partition, and what is on its way.
struct Node {
    core: Core,
    asked: Vec<GroupId>,
    answers: Vec<(GroupId, Roster)>,
    appending: Option<Vec<event_log::NewRecord>>,
    noting: Vec<Sequenced>,
    deferring: Vec<(GroupId, u64)>,
}

/// So few that groups are dropped from the cache.
const MEMBERS_CACHED_MAX: usize = 24;
/// Of six users: groups cross it often, and shrink below it again.
const DEFERRED_ABOVE: usize = 4;

impl Node {
    fn new(position: u64) -> Self {
        Self {
            core: Core::new(position, MEMBERS_CACHED_MAX, DEFERRED_ABOVE),
            asked: Vec::new(),
            answers: Vec::new(),
            appending: None,
            noting: Vec::new(),
            deferring: Vec::new(),
        }
    }
}

type Rows = BTreeMap<(UserId, GroupId), log::InboxRecord>;

/// Everything, and what is durable of it.
struct Test {
    world: World,
    nodes: [Node; 2],
    now: Instant,
    rows: Rows,
    noted: BTreeSet<(GroupId, u64, u64)>,
    /// By frame, who got it.
    pushed: BTreeMap<u64, BTreeSet<UserId>>,
    position: u64,
    saved: BTreeSet<u64>,
}

impl Test {
    fn new() -> Self {
        Self {
            world: World::new(),
            nodes: [Node::new(0), Node::new(0)],
            now: Instant::now(),
            rows: Rows::new(),
            noted: BTreeSet::new(),
            pushed: BTreeMap::new(),
            position: 0,
            saved: BTreeSet::from([0]),
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Change { group, kind, users } => self.world.change(group, kind, users),
            Op::Emit { group, late } => self.world.emit(group, late),
            Op::Message {
                group,
                sender,
                late,
            } => self.world.message(group, sender, late),
            Op::Marks { group } => self.world.marks(group),
            Op::Release => self.world.release(),
            Op::Again { group, count } => self.world.again(group, count),
            Op::Garbage => self.world.append(b"garbage".to_vec()),
            Op::Ingest { node, count } => self.ingest(node, count),
            Op::Read { node } => {
                for group in std::mem::take(&mut self.nodes[node].asked) {
                    let roster = self.world.roster(group);
                    self.nodes[node].answers.push((group, roster));
                }
            }
            Op::Arrive { node } => {
                if let Some((group, roster)) = self.nodes[node].answers.pop() {
                    self.nodes[node].core.loaded(group, &roster, self.now);
                }
            }
            Op::Append { node, percent } => self.append(node, percent),
            Op::Appended { node } => {
                self.append(node, 100);
                if self.nodes[node].appending.take().is_some() {
                    self.nodes[node].core.appended();
                }
            }
            Op::Note { node } => {
                let node = &mut self.nodes[node];
                node.noting.extend(node.core.cut_sequenced());
                let noted = node.noting.iter().map(|s| (s.group, s.version, s.seq));
                self.noted.extend(noted);
            }
            Op::Noted { node } => {
                self.step(&Op::Note { node });
                self.nodes[node].noting.clear();
                self.nodes[node].core.noted();
            }
            Op::Defer { node } => {
                let node = &mut self.nodes[node];
                node.deferring.extend(node.core.cut_deferred());
                for (group, seq) in &node.deferring {
                    self.world.deferred.entry(*group).or_insert(*seq);
                }
            }
            Op::Deferred { node } => {
                self.step(&Op::Defer { node });
                self.nodes[node].deferring.clear();
                self.nodes[node].core.noted_deferred();
            }
            Op::SavePosition { node } => self.save_position(node),
            Op::Pass { ms } => {
                self.now += Duration::from_millis(ms);
                self.world.time_unix_ms += i64::try_from(ms).unwrap();
            }
            Op::LongPause => {
                self.world.release();
                self.world.time_unix_ms += FORGET_AFTER_MS;
            }
            Op::Forget { node } => {
                let forgettable = self.nodes[node].core.take_forgettable(self.position);
                for (group, version) in forgettable {
                    self.world.forget(group, version);
                }
            }
            Op::Crash { node } => self.nodes[node] = Node::new(self.position),
        }
        for node in &mut self.nodes {
            node.core.go_on(self.now);
            node.asked.extend(node.core.take_loads(self.now));
            for broadcast in node.core.take_pushes(1) {
                let frame = u64::from_be_bytes(broadcast.frame[..].try_into().unwrap());
                let users = self.pushed.entry(frame).or_default();
                users.extend(broadcast.users.iter());
            }
        }
    }

    fn ingest(&mut self, node: usize, count: usize) {
        let node = &mut self.nodes[node];
        for _ in 0..count {
            let next = usize::try_from(node.core.next_offset()).unwrap();
            let Some(record) = self.world.log.get(next) else {
                return;
            };
            node.core.ingest(record, self.now).unwrap();
        }
    }

    fn append(&mut self, node: usize, percent: usize) {
        let node = &mut self.nodes[node];
        if node.appending.is_none() {
            node.appending = node.core.cut_inbox(self.now);
        }
        let records = node.appending.as_deref().unwrap_or_default();
        for record in &records[..records.len() * percent / 100] {
            store(&mut self.rows, record);
        }
    }

    /// The promise of the position: all that is below it has reached everybody.
    fn save_position(&mut self, node: usize) {
        let low_water = self.nodes[node].core.low_water();
        for offset in self.position..low_water {
            for (user, row) in self.world.expected_of(offset) {
                let group = row_group(&row);
                let known = self.rows.get(&(user, group)).cloned();
                let known = known.unwrap_or_default();
                if self.is_computed(group, &known, &row) {
                    continue;
                }
                let mut merged = known.clone();
                merge(&mut merged, &row);
                assert_eq!(merged, known, "offset {offset} is passed");
            }
            if let Some(sequenced) = self.world.sequenced_of(offset) {
                assert!(self.noted.contains(&sequenced), "offset {offset} is passed");
            }
        }
        self.position = self.position.max(low_water);
        self.saved.insert(self.position);
    }

    /// Whether what an event makes of a row needs no record: the group is huge, the event is not about the
    /// user, and his row says that it is completed when it is read, or that he has left since.
    fn is_computed(
        &self,
        group: GroupId,
        known: &log::InboxRecord,
        of_event: &log::InboxRecord,
    ) -> bool {
        let is_about = of_event.own.is_some() || of_event.left_seq > 0;
        let says_so = known.deferred_seq > 0 || known.left_seq >= of_event.last_seq;
        self.world.was_huge(group, DEFERRED_ABOVE) && !is_about && says_so
    }

    /// One node does all that is left.
    fn finish(&mut self, node: usize) {
        for _ in 0..1_000 {
            self.step(&Op::Ingest {
                node,
                count: usize::MAX,
            });
            self.step(&Op::Read { node });
            while !self.nodes[node].answers.is_empty() {
                self.step(&Op::Arrive { node });
            }
            self.step(&Op::Appended { node });
            self.step(&Op::Noted { node });
            self.step(&Op::Deferred { node });
            self.step(&Op::Pass { ms: 600 });
            if self.nodes[node].core.low_water() == self.world.log.len() as u64 {
                return;
            }
        }
        panic!("the partition does not end");
    }

    fn assert_all_is_there(&self, when: &str) {
        let expected = self.world.expected_rows();
        let users = |rows: &Rows| rows.keys().copied().collect::<Vec<_>>();
        assert_eq!(users(&self.rows), users(&expected), "rows, {when}");
        for ((user, group), expected) in expected {
            let mut known = self.rows[&(user, group)].clone();
            let deferred_seq = std::mem::take(&mut known.deferred_seq);
            if !self.world.was_huge(group, DEFERRED_ABOVE) {
                assert_eq!((&known, deferred_seq), (&expected, 0), "{when}");
                continue;
            }
            let has_left = expected.left_seq > expected.joined_seq;
            let is_deferred = self.world.deferred.contains_key(&group);
            if is_deferred && !has_left {
                assert!(deferred_seq > 0, "a member is left out, {when}: {known:?}");
            }
            if deferred_seq == 0 && !has_left {
                assert_eq!(known, expected, "{when}");
            }
            // What a read completes, and of who has left, nothing but the preview.
            let seq = |row: &log::InboxRecord| row.preview.as_ref().map(|preview| preview.seq);
            assert!(seq(&known) <= seq(&expected), "{when}");
            known.preview.clone_from(&expected.preview);
            // Of a huge group, those who are named hear of it, and not all.
            assert!(known.mentioned_seq <= expected.mentioned_seq, "{when}");
            known.mentioned_seq = expected.mentioned_seq;
            if !has_left {
                assert!(known.last_seq >= deferred_seq, "{when}: {known:?}");
                assert!(known.last_seq <= expected.last_seq, "{when}: {known:?}");
                (known.last_seq, known.last_message_index) =
                    (expected.last_seq, expected.last_message_index);
            }
            assert_eq!(known, expected, "{when}");
        }
    }
}

fn store(rows: &mut Rows, record: &event_log::NewRecord) {
    let row = log::InboxRecord::decode(record.payload.clone()).unwrap();
    assert_eq!(record.key[..], row.user_id[..], "the key is the user");
    // Who does not know of deferred rows, or of mentions, must stop at the first one.
    let expected = match (row.mentioned_seq, row.deferred_seq) {
        (1.., _) => 5,
        (0, 1..) => 3,
        (0, 0) => 2,
    };
    assert_eq!(row.schema_version, expected);
    let user = UserId::from_slice(&row.user_id).unwrap();
    let known = rows.entry((user, row_group(&row))).or_default();
    merge(known, &row);
}

fn row_group(row: &log::InboxRecord) -> GroupId {
    let conversation = runtime::ids::ConversationId::from_slice(&row.conversation_id).unwrap();
    conversation.group_id().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_member_of_a_version_gets_its_events_and_nobody_else_does(
        ops in prop::collection::vec(op(), 1..200)
    ) {
        let mut test = Test::new();
        for op in &ops {
            test.step(op);
        }
        test.step(&Op::Release);
        test.step(&Op::Crash { node: 0 });
        test.finish(0);
        test.save_position(0);
        test.assert_all_is_there("at the end");
        prop_assert_eq!(&test.pushed, &test.world.expected_pushes());
        for position in test.saved.clone() {
            test.nodes[0] = Node::new(position);
            test.finish(0);
            test.assert_all_is_there("replayed");
            prop_assert_eq!(&test.pushed, &test.world.expected_pushes());
        }
    }
}
