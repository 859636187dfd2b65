use proptest::prelude::*;
use runtime::ids::MessageId;

use super::*;
use crate::model::{Marks, Watermark};

const AFTER: i64 = 10;

fn key(user: u8, conversation: u8) -> Key {
    let [user, peer] = [user, 100 + conversation].map(|n| UserId::from_bytes([n; 16]));
    (user, ConversationId::direct(user, peer).unwrap())
}

fn at(seq: u64) -> Watermark {
    Watermark {
        seq,
        message_index: seq,
    }
}

fn change(key: Key, own: Marks, message: Option<(u64, bool)>) -> InboxChange {
    let (user, conversation) = key;
    let peer = conversation.peer_of(user).unwrap();
    InboxChange {
        user,
        conversation,
        last: at(message.map_or(0, |(seq, _)| seq)),
        preview: message.map(|(seq, is_own)| Preview {
            sender: if is_own { user } else { peer },
            message_id: MessageId::generate(),
            seq,
            time_unix_ms: 0,
            text: String::new(),
            joined: false,
            attachment_count: 0,
            video_count: 0,
        }),
        own,
        peer: Marks::default(),
        joined_seq: 0,
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

/// What happens at one row.
#[derive(Debug, Clone, Copy)]
enum Event {
    Message {
        of: (u8, u8),
    },
    Own {
        of: (u8, u8),
    },
    Delivered {
        of: (u8, u8),
    },
    Read {
        of: (u8, u8),
    },
    Wait {
        ms: i64,
    },
    /// The registry is sure that the user is not there.
    Absent {
        user: u8,
    },
    /// Reads again from the position, as after a crash.
    Crash,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let of = || (1_u8..4, 1_u8..3);
    let event = prop_oneof![
        5 => of().prop_map(|of| Event::Message { of }),
        1 => of().prop_map(|of| Event::Own { of }),
        2 => of().prop_map(|of| Event::Delivered { of }),
        2 => of().prop_map(|of| Event::Read { of }),
        3 => (1_i64..8).prop_map(|ms| Event::Wait { ms }),
        1 => (1_u8..4).prop_map(|user| Event::Absent { user }),
        1 => Just(Event::Crash),
    ];
    proptest::collection::vec(event, 0..50)
}

/// A partition with its rows, as a store has them.
#[derive(Default)]
struct World {
    now: i64,
    log: Vec<(i64, InboxChange)>,
    /// Of each row: the last seq, what was delivered, and what was read.
    rows: HashMap<Key, (u64, u64, u64)>,
    pending: Pending,
    read: u64,
    /// The largest seq of each row that was told.
    told: HashMap<Key, u64>,
    /// Rows of which it was told that they were read.
    reads: usize,
}

impl World {
    fn append(&mut self, change: InboxChange) {
        self.log.push((self.now, change));
        self.catch_up();
    }

    fn catch_up(&mut self) {
        while let Some((time, change)) = self.log.get(self.read as usize) {
            self.pending.take_in(self.read, change, time + AFTER);
            self.read += 1;
        }
    }

    /// Looks at what is due, as the writer does: the rows decide.
    fn look(&mut self) {
        loop {
            let due = self.pending.take_due(self.now, 2);
            if due.is_empty() {
                return;
            }
            for waiting in &due.messages {
                let (_, delivered, read) = self.rows[&waiting.key];
                if waiting.preview.seq > delivered.max(read) {
                    let told = self.told.entry(waiting.key).or_default();
                    *told = (*told).max(waiting.preview.seq);
                }
            }
            self.reads += due.reads.len();
            self.pending.done(&due);
        }
    }
}

proptest! {
    #[test]
    fn who_has_not_received_a_message_in_time_is_told_before_the_position_passes_it_and_nobody_else(
        events in events(),
    ) {
        let mut world = World::default();
        // When each message came, and its row.
        let mut sent: Vec<(u64, Key, u64, i64)> = Vec::new();
        let mut absent: BTreeSet<UserId> = BTreeSet::new();
        for event in events {
            match event {
                Event::Message { of: (user, conversation) } => {
                    let key = key(user, conversation);
                    let row = world.rows.entry(key).or_default();
                    row.0 += 1;
                    let (seq, delivered, read) = *row;
                    // What was read before stands in the records of messages, too.
                    let own = Marks { delivered: at(delivered), read: at(read) };
                    sent.push((world.log.len() as u64, key, seq, world.now));
                    world.append(change(key, own, Some((seq, false))));
                }
                Event::Own { of: (user, conversation) } => {
                    let key = key(user, conversation);
                    let row = world.rows.entry(key).or_default();
                    row.0 += 1;
                    *row = (row.0, row.0, row.0);
                    let seq = row.0;
                    let own = Marks { delivered: at(seq), read: at(seq) };
                    world.append(change(key, own, Some((seq, true))));
                }
                Event::Delivered { of: (user, conversation) }
                | Event::Read { of: (user, conversation) } => {
                    let key = key(user, conversation);
                    let row = world.rows.entry(key).or_default();
                    row.1 = row.0;
                    if matches!(event, Event::Read { .. }) {
                        row.2 = row.0;
                    }
                    let own = Marks { delivered: at(row.1), read: at(row.2) };
                    world.append(change(key, own, None));
                }
                Event::Wait { ms } => world.now += ms,
                Event::Absent { user } => {
                    let (user, _) = key(user, 1);
                    absent.insert(user);
                    world.pending.absent(&BTreeSet::from([user]));
                }
                Event::Crash => {
                    world.read = world.pending.position(world.read);
                    world.pending = Pending::default();
                    world.catch_up();
                }
            }
            world.look();
            let position = world.pending.position(world.read);
            for (offset, key, seq, came) in &sent {
                let (_, delivered, read) = world.rows[key];
                let has_it = *seq <= delivered.max(read);
                let is_told = world.told.get(key).is_some_and(|told| told >= seq);
                let is_passed = *offset < position;
                let is_late = world.now >= came + AFTER;
                if !has_it && (is_passed || is_late) {
                    prop_assert!(is_told, "{seq} of {key:?} is lost");
                }
                // Too early only where the registry was sure, or an older one was late.
                if is_told && !absent.contains(&key.0) {
                    let first = sent.iter().filter(|(_, k, ..)| k == key).map(|(.., c)| *c).min();
                    prop_assert!(world.now >= first.unwrap() + AFTER, "told too early");
                }
            }
        }
        // Once all is received, nothing keeps the position.
        let keys: Vec<_> = world.rows.keys().copied().collect();
        for key in keys {
            let row = world.rows.get_mut(&key).unwrap();
            row.1 = row.0;
            let own = Marks { delivered: at(row.1), read: at(0) };
            world.append(change(key, own, None));
        }
        world.look();
        prop_assert_eq!(world.pending.position(world.read), world.read);
        prop_assert_eq!(world.pending.len(), 0);
    }
}

#[test]
fn more_than_may_wait_are_looked_at_before_their_time() {
    let mut pending = Pending::default();
    for number in 0..=PENDING_MAX as u64 {
        let mut id = [1; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let user = UserId::from_bytes(id);
        let conversation = ConversationId::direct(user, UserId::from_bytes([200; 16])).unwrap();
        let message = change((user, conversation), Marks::default(), Some((1, false)));
        pending.take_in(number, &message, 1_000_000);
    }
    assert_eq!(pending.next_due(), Some(0));
    let due = pending.take_due(0, 512);
    assert_eq!(due.messages.len(), 1);
    assert_eq!(pending.len(), PENDING_MAX);
    assert_eq!(pending.position(1_000_000), 0);
    pending.done(&due);
    assert_eq!(pending.position(1_000_000), 1);
}

#[test]
fn many_messages_of_a_conversation_are_one_that_is_due_by_the_first_of_them() {
    let mut pending = Pending::default();
    let key = key(1, 1);
    for seq in 1..=50 {
        let mut message = change(key, Marks::default(), Some((seq, false)));
        message.mentioned_seq = if seq == 7 { 7 } else { 0 };
        pending.take_in(seq, &message, 100 + seq as i64);
    }
    assert_eq!(pending.next_due(), Some(101));
    let due = pending.take_due(101, 8);
    let [waiting] = due.messages.as_slice() else {
        panic!("{due:?}");
    };
    let told = (
        waiting.preview.seq,
        waiting.message_index,
        waiting.mentioned_seq,
    );
    assert_eq!(told, (50, 50, 7));
}
