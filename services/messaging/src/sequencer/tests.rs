//! The sequencer against a reference: every interleaving of sends, retries, crashes between any two
//! steps, replays and zombies gives one dense order, the one that the log alone decides.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use event_log::Record;
use proptest::prelude::*;
use proto::log::v1::verdict::Verdict;
use runtime::ids::{ConversationId, MessageId, UserId};

use super::core::{Batch, Core, Name, Output};
use crate::{
    codec::{self, Origin},
    model::{ConversationState, Event, InboxChange, InboxRow, Marks, Watermark},
};

mod cases;
mod reference;

use reference::{Expected, expect};

/// What can happen. Nodes are 0 and 1: both read the same partition into the same store, so each is a
/// zombie to the other.
#[derive(Debug, Clone)]
enum Op {
    Send {
        conversation: usize,
        by_high: bool,
        id: u8,
    },
    Marks {
        conversation: usize,
        by_high: bool,
        delivered: u64,
        read: u64,
    },
    Outsider {
        id: u8,
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
    /// The answer arrives.
    Arrive {
        node: usize,
    },
    /// Outputs go out, then the batch goes to the store.
    Persist {
        node: usize,
    },
    /// The node learns that the store has the batch.
    Persisted {
        node: usize,
    },
    Publish {
        node: usize,
    },
    SavePosition {
        node: usize,
    },
    Crash {
        node: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..2_usize;
    prop_oneof![
        6 => (0..3_usize, any::<bool>(), 0..10_u8)
            .prop_map(|(conversation, by_high, id)| Op::Send { conversation, by_high, id }),
        2 => (0..3_usize, any::<bool>(), 0..12_u64, 0..12_u64).prop_map(
            |(conversation, by_high, delivered, read)| Op::Marks {
                conversation, by_high, delivered, read,
            }
        ),
        1 => (0..10_u8).prop_map(|id| Op::Outsider { id }),
        1 => Just(Op::Garbage),
        6 => (node.clone(), 1..5_usize).prop_map(|(node, count)| Op::Ingest { node, count }),
        4 => node.clone().prop_map(|node| Op::Read { node }),
        4 => node.clone().prop_map(|node| Op::Arrive { node }),
        3 => node.clone().prop_map(|node| Op::Persist { node }),
        3 => node.clone().prop_map(|node| Op::Persisted { node }),
        3 => node.clone().prop_map(|node| Op::Publish { node }),
        2 => node.clone().prop_map(|node| Op::SavePosition { node }),
        1 => node.prop_map(|node| Op::Crash { node }),
    ]
}

/// The store, as its trait promises.
#[derive(Default)]
struct Store {
    events: BTreeMap<(ConversationId, u64), Event>,
    states: HashMap<ConversationId, ConversationState>,
    position: u64,
}

impl Store {
    fn persist(&mut self, batch: &Batch) {
        for update in &batch.sequenced.conversations {
            let head = self
                .states
                .get(&update.state.conversation)
                .map_or(0, |s| s.head_seq);
            assert!(
                head >= update.base_head_seq,
                "a batch was built on a head that is not stored"
            );
        }
        for event in &batch.sequenced.events {
            let key = (event.conversation, event.seq);
            let stored = self.events.entry(key).or_insert_with(|| event.clone());
            assert_eq!(stored, event, "two events at one place");
        }
        for update in &batch.sequenced.conversations {
            let new = &update.state;
            let state = self
                .states
                .entry(new.conversation)
                .or_insert_with(|| ConversationState::new(new.conversation));
            state.head_seq = state.head_seq.max(new.head_seq);
            state.last_message_index = state.last_message_index.max(new.last_message_index);
            state.last_time_unix_ms = state.last_time_unix_ms.max(new.last_time_unix_ms);
            state.applied_end = state.applied_end.max(new.applied_end);
            for member in &new.members {
                let known = state.member_mut(member.user);
                known.message_id_max = known.message_id_max.max(member.message_id_max);
                known.marks = known.marks.max(member.marks);
            }
        }
    }

    fn load(&self, asked: &[ConversationId]) -> Vec<ConversationState> {
        asked
            .iter()
            .filter_map(|conversation| self.states.get(conversation).cloned())
            .collect()
    }

    fn find(&self, asked: &[Name]) -> Vec<Event> {
        let named = |name: &Name| {
            self.events
                .values()
                .find(|e| (e.conversation, e.sender, e.message_id) == *name)
                .cloned()
        };
        asked.iter().filter_map(named).collect()
    }
}

enum Answered {
    Loaded(Vec<ConversationId>, Vec<ConversationState>),
    Found(Vec<Name>, Vec<Event>),
}

/// One process that sequences the partition.
struct Node {
    core: Core,
    arriving: Vec<Answered>,
    /// A batch that the store has, and the node does not know it yet.
    told: Option<Batch>,
    /// What must be published before the position may cover it.
    publishing: Option<(Vec<InboxChange>, u64)>,
    position: u64,
}

impl Node {
    fn start(position: u64) -> Self {
        // Room for two conversations, so that they are forgotten and loaded again all the time.
        let core = Core::with_cache(position, 2);
        Self {
            core,
            arriving: Vec::new(),
            told: None,
            publishing: None,
            position,
        }
    }

    fn is_busy(&self) -> bool {
        self.told.is_some() || self.publishing.is_some()
    }
}

/// Everything, and what came of it.
struct World {
    conversations: [ConversationId; 3],
    outsider: UserId,
    log: Vec<Record>,
    store: Store,
    nodes: [Node; 2],
    inbox: Vec<InboxChange>,
    /// Verdicts by the offset of their record.
    verdicts: BTreeMap<u64, Vec<Verdict>>,
}

fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 16])
}

fn message_id(number: u8) -> MessageId {
    MessageId::from_bytes([number + 1; 16])
}

impl World {
    fn new() -> Self {
        let of = |one, other| ConversationId::direct(user(one), user(other)).unwrap();
        Self {
            conversations: [of(1, 2), of(1, 3), of(2, 3)],
            outsider: user(9),
            log: Vec::new(),
            store: Store::default(),
            nodes: [Node::start(0), Node::start(0)],
            inbox: Vec::new(),
            verdicts: BTreeMap::new(),
        }
    }

    fn append(&mut self, payload: Bytes) {
        // Offsets have gaps, and the log's clock goes back now and then.
        let offset = self
            .log
            .last()
            .map_or(0, |last| last.offset + 1 + last.offset % 2);
        let time_unix_ms =
            1_000 + 10 * i64::try_from(offset).unwrap() - 25 * i64::from(offset.is_multiple_of(3));
        let (key, headers) = (Bytes::new(), Vec::new());
        self.log.push(Record {
            offset,
            time_unix_ms,
            key,
            payload,
            headers,
        });
    }

    fn send(&mut self, conversation: ConversationId, sender: UserId, id: u8) {
        let offset = self
            .log
            .last()
            .map_or(0, |last| last.offset + 1 + last.offset % 2);
        let origin = Origin {
            edge: "edge".to_owned(),
            session_id: 1,
            request_id: offset,
        };
        // Another text each time: the first one must stay.
        let text = format!("{id} at {offset}");
        self.append(codec::encode_send(
            conversation,
            sender,
            message_id(id),
            text,
            origin,
        ));
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Send {
                conversation,
                by_high,
                id,
            } => {
                let conversation = self.conversations[conversation];
                self.send(
                    conversation,
                    conversation.members()[usize::from(by_high)],
                    id,
                );
            }
            Op::Outsider { id } => self.send(self.conversations[0], self.outsider, id),
            Op::Marks {
                conversation,
                by_high,
                delivered,
                read,
            } => {
                let conversation = self.conversations[conversation];
                let user = conversation.members()[usize::from(by_high)];
                let mark = |n: u64| Watermark {
                    seq: n,
                    message_index: n,
                };
                let marks = Marks {
                    delivered: mark(delivered),
                    read: mark(read),
                };
                self.append(codec::encode_marks(conversation, &[(user, marks)]));
            }
            Op::Garbage => self.append(Bytes::from_static(b"\xff garbage")),
            Op::Ingest { node, count } => self.ingest(node, count),
            Op::Read { node } => self.read(node),
            Op::Arrive { node } => self.arrive(node),
            Op::Persist { node } => self.persist(node),
            Op::Persisted { node } => {
                let node = &mut self.nodes[node];
                if let Some(batch) = node.told.take() {
                    node.core.persisted();
                    let inbox = batch.inbox.into_iter().map(|(change, _)| change);
                    node.publishing = Some((inbox.collect(), batch.covers));
                }
            }
            Op::Publish { node } => {
                let node = &mut self.nodes[node];
                if let Some((inbox, covers)) = node.publishing.take() {
                    self.inbox.extend(inbox);
                    node.position = node.position.max(covers);
                }
            }
            Op::SavePosition { node } => self.save(node),
            Op::Crash { node } => self.nodes[node] = Node::start(self.store.position),
        }
    }

    fn ingest(&mut self, node: usize, count: usize) {
        let core = &mut self.nodes[node].core;
        let next = core.next_offset();
        for record in self
            .log
            .iter()
            .filter(|record| record.offset >= next)
            .take(count)
        {
            core.ingest(record).unwrap();
        }
    }

    fn read(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let loads = node.core.take_loads();
        if !loads.is_empty() {
            let states = self.store.load(&loads);
            node.arriving.push(Answered::Loaded(loads, states));
        }
        let finds = node.core.take_finds();
        if !finds.is_empty() {
            let events = self.store.find(&finds);
            node.arriving.push(Answered::Found(finds, events));
        }
    }

    fn arrive(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.arriving.is_empty() {
            return;
        }
        match node.arriving.remove(0) {
            Answered::Loaded(asked, states) => node.core.loaded(&asked, states),
            Answered::Found(asked, events) => node.core.found(&asked, events),
        }
    }

    fn outputs(&mut self, node: usize) {
        for output in self.nodes[node].core.take_outputs() {
            if let Output::Answer { answer, .. } = output {
                let verdict = answer.verdict.verdict.unwrap();
                self.verdicts
                    .entry(answer.request_id)
                    .or_default()
                    .push(verdict);
            }
        }
    }

    fn persist(&mut self, node: usize) {
        self.outputs(node);
        let node = &mut self.nodes[node];
        if node.is_busy() {
            return;
        }
        match node.core.cut() {
            Some(batch) => {
                self.store.persist(&batch);
                node.told = Some(batch);
            }
            None => node.position = node.position.max(node.core.low_water()),
        }
    }

    fn save(&mut self, node: usize) {
        self.store.position = self.store.position.max(self.nodes[node].position);
    }

    /// Both nodes finish everything.
    fn settle(&mut self) {
        for node in 0..2 {
            for _ in 0..10_000 {
                self.ingest(node, usize::MAX);
                self.read(node);
                self.arrive(node);
                self.persist(node);
                self.run(&Op::Persisted { node });
                self.run(&Op::Publish { node });
                self.save(node);
                let end = self.log.last().map_or(0, |last| last.offset + 1);
                if self.nodes[node].position == end {
                    break;
                }
            }
        }
    }

    fn check(&self) {
        let expected: Expected = expect(&self.log);
        let stored: Vec<Event> = self.store.events.values().cloned().collect();
        assert_eq!(
            stored, expected.events,
            "the history is not what the log says"
        );
        for (offset, verdict) in &expected.verdicts {
            let got = self
                .verdicts
                .get(offset)
                .map(Vec::as_slice)
                .unwrap_or_default();
            assert!(!got.is_empty(), "no verdict for the record at {offset}");
            assert!(
                got.iter().all(|got| got == verdict),
                "{got:?} is not {verdict:?}"
            );
        }
        let mut rows: BTreeMap<(UserId, ConversationId), InboxRow> = BTreeMap::new();
        for change in &self.inbox {
            let row = rows
                .entry((change.user, change.conversation))
                .or_insert_with(|| InboxRow::new(change.conversation));
            row.merge(change);
            // At any time, also in the middle of a replay: what a row ends with is what it shows.
            let shown = row.preview.as_ref().map_or(0, |preview| preview.seq);
            assert_eq!(
                shown, row.last.seq,
                "a row shows another message than its last"
            );
        }
        assert_eq!(rows, expected.rows, "the lists are not what the log says");
        let end = self.log.last().map_or(0, |last| last.offset + 1);
        assert_eq!(
            self.store.position, end,
            "the position did not get to the end"
        );
    }
}

proptest! {
    #[test]
    fn every_interleaving_of_crashes_and_replays_gives_the_order_that_the_log_decides(
        ops in proptest::collection::vec(op(), 1..160)
    ) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.settle();
        world.check();
    }
}
