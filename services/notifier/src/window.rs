//! What was read of a partition and is not dealt with yet: bounded, merged by conversation, and one round
//! of a user at a time, so that what he is told comes in order.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use runtime::ids::UserId;

use crate::record::Offline;

/// What one user is to be told of one conversation, and the records that say so.
#[derive(Clone)]
pub(crate) struct Item {
    /// What the records say together.
    pub(crate) offline: Offline,
    /// Where they are.
    pub(crate) offsets: Vec<u64>,
}

/// The records of a partition from the first one that is not dealt with.
pub(crate) struct Window {
    /// The records that are not dealt with.
    open: BTreeSet<u64>,
    /// After the last record that was read.
    end: u64,
    /// What waits, by user.
    waiting: HashMap<UserId, Vec<Item>>,
    /// Users with something that waits and nothing that is under way, the first one first.
    queue: VecDeque<UserId>,
    /// Users with something that is under way.
    busy: HashSet<UserId>,
}

impl Window {
    /// Begins at a position.
    pub(crate) fn new(position: u64) -> Self {
        Self {
            open: BTreeSet::new(),
            end: position,
            waiting: HashMap::new(),
            queue: VecDeque::new(),
            busy: HashSet::new(),
        }
    }

    /// Records that are not dealt with.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Everything below is dealt with.
    pub(crate) fn position(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.end)
    }

    /// A record that needs nothing.
    pub(crate) fn skip(&mut self, offset: u64) {
        self.end = self.end.max(offset + 1);
    }

    /// Takes a record in.
    pub(crate) fn add(&mut self, offset: u64, offline: Offline) {
        self.end = self.end.max(offset + 1);
        self.open.insert(offset);
        let offsets = vec![offset];
        self.put(Item { offline, offsets });
    }

    fn put(&mut self, item: Item) {
        let user = item.offline.subject.user;
        // Who is not busy is in the queue exactly if something waits for him.
        if !self.waiting.contains_key(&user) && !self.busy.contains(&user) {
            self.queue.push_back(user);
        }
        let items = self.waiting.entry(user).or_default();
        let same = |other: &&mut Item| other.offline.subject == item.offline.subject;
        match items.iter_mut().find(same) {
            Some(other) => {
                other.offsets.extend(&item.offsets);
                other.offline.merge(item.offline);
            }
            None => items.push(item),
        }
    }

    /// What is to be dealt with next: all that waits of at most `users_max` users. They get no more of it
    /// before it is back.
    pub(crate) fn take(&mut self, users_max: usize, conversations_max: usize) -> Vec<Item> {
        let mut taken = Vec::new();
        for _ in 0..users_max {
            let Some(user) = self.queue.pop_front() else {
                break;
            };
            let Some(mut items) = self.waiting.remove(&user) else {
                continue;
            };
            if items.len() > conversations_max {
                let rest = items.split_off(conversations_max);
                self.waiting.insert(user, rest);
            }
            self.busy.insert(user);
            taken.extend(items);
        }
        taken
    }

    /// Whether something can be taken.
    pub(crate) fn is_ready(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What was taken is back: these users are not busy any more, these records are dealt with, and these
    /// items are not.
    pub(crate) fn give_back(
        &mut self,
        users: impl IntoIterator<Item = UserId>,
        done: impl IntoIterator<Item = u64>,
        again: impl IntoIterator<Item = Item>,
    ) {
        for offset in done {
            self.open.remove(&offset);
        }
        for user in users {
            if self.busy.remove(&user) && self.waiting.contains_key(&user) {
                self.queue.push_back(user);
            }
        }
        for item in again {
            self.put(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use runtime::ids::ConversationId;

    use super::*;
    use crate::model::Subject;

    fn subject(user: u8, conversation: u8) -> Subject {
        let [user, peer] = [user, 100 + conversation].map(|n| UserId::from_bytes([n; 16]));
        let conversation = ConversationId::direct(user, peer).unwrap();
        Subject { user, conversation }
    }

    fn read(subject: Subject, read_seq: u64) -> Offline {
        Offline {
            subject,
            message: None,
            read_seq,
            inbox_version: read_seq,
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add {
            user: u8,
            conversation: u8,
        },
        Skip,
        Take,
        /// The round at this place of those under way comes back, with or without success.
        Back {
            at: usize,
            again: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1_u8..5, 1_u8..4).prop_map(|(user, conversation)| Step::Add { user, conversation }),
            1 => Just(Step::Skip),
            3 => Just(Step::Take),
            3 => (0_usize..4, any::<bool>()).prop_map(|(at, again)| Step::Back { at, again }),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn each_record_is_dealt_with_before_the_position_passes_it_and_no_user_twice_at_a_time(
            steps in steps(),
        ) {
            let mut window = Window::new(0);
            let mut under_way: Vec<Vec<Item>> = Vec::new();
            let mut open = BTreeSet::new();
            let mut next = 0;
            let finish = |window: &mut Window, round: Vec<Item>, again: bool, open: &mut BTreeSet<u64>| {
                let users: HashSet<_> = round.iter().map(|item| item.offline.subject.user).collect();
                if again {
                    window.give_back(users, [], round);
                } else {
                    let done: Vec<_> = round.iter().flat_map(|item| item.offsets.clone()).collect();
                    done.iter().for_each(|offset| { open.remove(offset); });
                    window.give_back(users, done, []);
                }
            };
            for step in steps {
                match step {
                    Step::Add { user, conversation } => {
                        window.add(next, read(subject(user, conversation), next));
                        open.insert(next);
                        next += 1;
                    }
                    Step::Skip => { window.skip(next); next += 1; }
                    Step::Take => {
                        let taken = window.take(2, 2);
                        for other in &under_way {
                            for (one, two) in taken.iter().zip(other) {
                                prop_assert_ne!(one.offline.subject.user, two.offline.subject.user);
                            }
                        }
                        if !taken.is_empty() { under_way.push(taken); }
                    }
                    Step::Back { at, again } => {
                        if at < under_way.len() {
                            let round = under_way.remove(at);
                            finish(&mut window, round, again, &mut open);
                        }
                    }
                }
                let first_open = open.first().copied().unwrap_or(next);
                prop_assert_eq!(window.position(), first_open);
                prop_assert_eq!(window.len(), open.len());
            }
            // Nothing is forgotten: in the end all of it can be taken and dealt with.
            for round in under_way { finish(&mut window, round, false, &mut open); }
            while window.is_ready() {
                let round = window.take(2, 2);
                finish(&mut window, round, false, &mut open);
            }
            prop_assert_eq!(window.position(), next);
            prop_assert_eq!(window.len(), 0);
        }
    }

    #[test]
    fn many_messages_of_one_conversation_become_one_item_and_users_take_turns() {
        let mut window = Window::new(5);
        for offset in 5..55 {
            window.add(offset, read(subject(1, 1), offset));
        }
        window.add(55, read(subject(2, 1), 55));
        let taken = window.take(8, 8);
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[0].offsets.len(), 50);
        assert_eq!(taken[0].offline.read_seq, 54);
        assert_eq!(window.position(), 5);
    }
}
