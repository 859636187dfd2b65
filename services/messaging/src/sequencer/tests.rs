//! The sequencer against a reference: every interleaving of sends, retries, changes of groups, crashes
//! between any two steps, replays and zombies gives one dense order, the one that the log alone decides.

use bytes::Bytes;
use proptest::prelude::*;
use proto::{error::v1::ErrorReason, log::v1::GroupInfoChange};
use runtime::ids::BlobId;

use crate::model::{Marks, Watermark};

mod cases;
mod driver;
mod groups;
mod reference;
mod references;
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
        attached: Attached,
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
        attached: Attached,
    },
    /// Of the blob service.
    Barrier {
        as_of: i64,
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
        /// Of the first blobs, none, or what is no blob.
        picture: Option<u8>,
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
    /// The log confirms one of the derived records.
    Derived {
        node: usize,
        which: usize,
    },
    PassBarrier {
        node: usize,
    },
    SavePosition {
        node: usize,
    },
    Crash {
        node: usize,
    },
}

/// The numbers of attachments, and whether a receipt of one has expired.
type Attached = (Vec<u8>, bool);

fn attached() -> impl Strategy<Value = Attached> {
    let some = proptest::sample::subsequence(vec![1, 2, 3, 4], 1..4);
    prop_oneof![
        2 => Just((Vec::new(), false)),
        2 => (some, proptest::bool::weighted(0.4)),
    ]
}

fn said((attachments, is_expired): &Attached) -> Said {
    Said {
        attachments: attachments.clone(),
        refused_unless_duplicate: match is_expired {
            true => ErrorReason::ReceiptExpired as u32,
            false => 0,
        },
        ..Said::default()
    }
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..2_usize;
    let members = proptest::collection::btree_map(1..6_u8, 0..4_u32, 0..4);
    prop_oneof![
        4 => (0..3_usize, any::<bool>(), 0..10_u8, attached()).prop_map(
            |(conversation, by_high, id, attached)| Op::Send { conversation, by_high, id, attached }
        ),
        1 => (0..3_usize, any::<bool>(), 0..12_u64, 0..12_u64).prop_map(
            |(conversation, by_high, delivered, read)| Op::Marks {
                conversation, by_high, delivered, read,
            }
        ),
        1 => (0..10_u8).prop_map(|id| Op::Outsider { id }),
        6 => (
            1..6_u8,
            0..10_u8,
            proptest::option::weighted(0.2, 1..6_u8),
            proptest::bool::weighted(0.1),
            attached(),
        ).prop_map(|(by, id, mentioned, mentions_all, attached)| Op::GroupSend {
            by, id, mentioned, mentions_all, attached,
        }),
        1 => (0..9_i64).prop_map(|as_of| Op::Barrier { as_of }),
        2 => (1..6_u8, 0..20_u64, 0..20_u64)
            .prop_map(|(of, delivered, read)| Op::GroupMarks { of, delivered, read }),
        5 => (
            prop_oneof![6 => Just(0_i64), 1 => -3..3_i64],
            members,
            proptest::bool::weighted(0.2),
            proptest::bool::weighted(0.2),
            proptest::option::weighted(0.4, 0..4_u8),
        ).prop_map(|(ahead, members, announcement, history_all, picture)| Op::GroupChange {
            ahead, members: members.into_iter().collect(), announcement, history_all, picture,
        }),
        1 => Just(Op::Garbage),
        6 => (node.clone(), 1..5_usize).prop_map(|(node, count)| Op::Ingest { node, count }),
        4 => node.clone().prop_map(|node| Op::Read { node }),
        4 => node.clone().prop_map(|node| Op::Arrive { node }),
        3 => node.clone().prop_map(|node| Op::Persist { node }),
        3 => node.clone().prop_map(|node| Op::Persisted { node }),
        3 => node.clone().prop_map(|node| Op::Publish { node }),
        5 => (node.clone(), 0..8_usize).prop_map(|(node, which)| Op::Derived { node, which }),
        3 => node.clone().prop_map(|node| Op::PassBarrier { node }),
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
                attached,
            } => {
                let conversation = self.conversations[*conversation];
                let sender = conversation.direct_members().unwrap()[usize::from(*by_high)];
                self.say(conversation, sender, message_id(*id), said(attached));
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
                attached,
            } => {
                let said = Said {
                    mentioned: mentioned.iter().map(|number| user(*number)).collect(),
                    mentions_all: *mentions_all,
                    ..said(attached)
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
                picture,
            } => {
                let next = self.group_version + 1;
                let version = next.saturating_add_signed(*ahead).max(1);
                // More would make some forget their oldest windows.
                if version < 24 {
                    let mut change = change(members, *announcement, *history_all);
                    change.info = picture.map(|number| GroupInfoChange {
                        picture: Some(match number {
                            0 => String::new(),
                            1 => "https://example.org/picture".to_owned(),
                            blob => BlobId::from_bytes([blob; 16]).to_string(),
                        }),
                        ..GroupInfoChange::default()
                    });
                    self.change(version, change);
                }
            }
            Op::Barrier { as_of } => self.barrier(*as_of),
            Op::Garbage => self.append(Bytes::from_static(b"\xff garbage")),
            Op::Ingest { node, count } => self.ingest(*node, *count),
            Op::Read { node } => self.read(*node),
            Op::Arrive { node } => self.arrive(*node),
            Op::Persist { node } => self.persist(*node),
            Op::Persisted { node } => self.persisted(*node),
            Op::Publish { node } => self.publish(*node),
            Op::Derived { node, which } => self.derived(*node, *which),
            Op::PassBarrier { node } => self.pass_barrier(*node),
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
