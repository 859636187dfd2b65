//! The sequencer against a reference: every interleaving of sends, retries, changes of groups, crashes
//! between any two steps, replays and zombies gives one dense order, the one that the log alone decides.

use bytes::Bytes;
use proptest::prelude::*;

use crate::model::{Marks, Watermark};

mod cases;
mod driver;
mod groups;
mod reference;
mod store;
mod world;

use world::{Said, World, change, message_id, user};

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
    /// Of any user, member or not.
    GroupSend {
        by: u8,
        id: u8,
        mentioned: Option<u8>,
        mentions_all: bool,
    },
    GroupMarks {
        of: u8,
        delivered: u64,
        read: u64,
    },
    /// The change after the last one; or one that comes again, or too early, by so much.
    GroupChange {
        ahead: i64,
        members: Vec<(u8, u32)>,
        announcement: bool,
        history_all: bool,
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
    /// The log confirms one of the fan-outs.
    FannedOut {
        node: usize,
        which: usize,
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
    let members = proptest::collection::btree_map(1..6_u8, 0..4_u32, 0..4);
    prop_oneof![
        4 => (0..3_usize, any::<bool>(), 0..10_u8)
            .prop_map(|(conversation, by_high, id)| Op::Send { conversation, by_high, id }),
        1 => (0..3_usize, any::<bool>(), 0..12_u64, 0..12_u64).prop_map(
            |(conversation, by_high, delivered, read)| Op::Marks {
                conversation, by_high, delivered, read,
            }
        ),
        1 => (0..10_u8).prop_map(|id| Op::Outsider { id }),
        6 => (1..6_u8, 0..10_u8, proptest::option::weighted(0.2, 1..6_u8), proptest::bool::weighted(0.1))
            .prop_map(|(by, id, mentioned, mentions_all)| Op::GroupSend {
                by, id, mentioned, mentions_all,
            }),
        2 => (1..6_u8, 0..20_u64, 0..20_u64)
            .prop_map(|(of, delivered, read)| Op::GroupMarks { of, delivered, read }),
        5 => (
            prop_oneof![6 => Just(0_i64), 1 => -3..3_i64],
            members,
            proptest::bool::weighted(0.2),
            proptest::bool::weighted(0.2),
        ).prop_map(|(ahead, members, announcement, history_all)| Op::GroupChange {
            ahead, members: members.into_iter().collect(), announcement, history_all,
        }),
        1 => Just(Op::Garbage),
        6 => (node.clone(), 1..5_usize).prop_map(|(node, count)| Op::Ingest { node, count }),
        4 => node.clone().prop_map(|node| Op::Read { node }),
        4 => node.clone().prop_map(|node| Op::Arrive { node }),
        3 => node.clone().prop_map(|node| Op::Persist { node }),
        3 => node.clone().prop_map(|node| Op::Persisted { node }),
        3 => node.clone().prop_map(|node| Op::Publish { node }),
        4 => (node.clone(), 0..8_usize).prop_map(|(node, which)| Op::FannedOut { node, which }),
        2 => node.clone().prop_map(|node| Op::SavePosition { node }),
        1 => node.prop_map(|node| Op::Crash { node }),
    ]
}

impl World {
    fn run(&mut self, op: &Op) {
        let marks = |delivered: u64, read: u64| {
            let mark = |n: u64| Watermark {
                seq: n,
                message_index: n,
            };
            Marks {
                delivered: mark(delivered),
                read: mark(read),
            }
        };
        match op {
            Op::Send {
                conversation,
                by_high,
                id,
            } => {
                let conversation = self.conversations[*conversation];
                let members = conversation.direct_members().unwrap();
                self.send(conversation, members[usize::from(*by_high)], *id);
            }
            Op::Outsider { id } => self.send(self.conversations[0], self.outsider, *id),
            Op::Marks {
                conversation,
                by_high,
                delivered,
                read,
            } => {
                let conversation = self.conversations[*conversation];
                let user = conversation.direct_members().unwrap()[usize::from(*by_high)];
                self.marks(conversation, user, marks(*delivered, *read));
            }
            Op::GroupSend {
                by,
                id,
                mentioned,
                mentions_all,
            } => {
                let said = Said {
                    mentioned: mentioned.iter().map(|number| user(*number)).collect(),
                    mentions_all: *mentions_all,
                };
                self.say(self.group, user(*by), message_id(*id), said);
            }
            Op::GroupMarks {
                of,
                delivered,
                read,
            } => self.marks(self.group, user(*of), marks(*delivered, *read)),
            Op::GroupChange {
                ahead,
                members,
                announcement,
                history_all,
            } => {
                let next = self.group_version + 1;
                let version = next.saturating_add_signed(*ahead).max(1);
                // More would make some forget their oldest windows.
                if version < 24 {
                    self.change(version, change(members, *announcement, *history_all));
                }
            }
            Op::Garbage => self.append(Bytes::from_static(b"\xff garbage")),
            Op::Ingest { node, count } => self.ingest(*node, *count),
            Op::Read { node } => self.read(*node),
            Op::Arrive { node } => self.arrive(*node),
            Op::Persist { node } => self.persist(*node),
            Op::Persisted { node } => self.persisted(*node),
            Op::Publish { node } => self.publish(*node),
            Op::FannedOut { node, which } => self.fanned_out(*node, *which),
            Op::SavePosition { node } => self.save(*node),
            Op::Crash { node } => self.crash(*node),
        }
    }
}

proptest! {
    #[test]
    fn every_interleaving_of_crashes_and_replays_gives_the_order_that_the_log_decides(
        ops in proptest::collection::vec(op(), 1..200)
    ) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.settle();
        world.check();
    }
}
