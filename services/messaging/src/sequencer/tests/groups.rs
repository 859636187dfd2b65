//! Single promises about groups (I8), each with the history that would break it.

use proto::{error::v1::ErrorReason, log::v1::verdict::Verdict};
use runtime::ids::{ConversationId, GroupId, MessageId};

use super::{
    cases::accepted,
    world::{Said, World, change, message_id, user},
};
use crate::{
    limits::MARKS_FANOUT_MEMBERS_MAX,
    model::{Marks, Watermark, Window},
    sequencer::core::{Core, Output},
};

const MEMBER: u32 = 1;
const ADMIN: u32 = 2;
const OWNER: u32 = 3;

impl World {
    /// User 1 owns it, users 2 and 3 are members.
    fn with_group() -> Self {
        let mut world = Self::new();
        let members = [(1, OWNER), (2, MEMBER), (3, MEMBER)];
        world.change(1, change(&members, false, false));
        world
    }

    fn next_change(&mut self, members: &[(u8, u32)]) {
        self.change(self.group_version + 1, change(members, false, false));
    }

    fn last_verdict(&self) -> Verdict {
        self.verdicts[&self.log.last().unwrap().offset][0]
    }

    fn windows(&self, number: u8) -> Vec<Window> {
        let member = self.store.states[&self.group].member(user(number)).unwrap();
        member.membership.clone().unwrap().windows
    }

    fn says(&mut self, number: u8, id: u8) -> Verdict {
        self.send(self.group, user(number), id);
        self.settle();
        self.check();
        self.last_verdict()
    }
}

fn rejected(reason: ErrorReason) -> Verdict {
    Verdict::Rejected(reason as u32)
}

#[test]
fn a_removed_member_sends_nothing_after_his_removal() {
    let mut world = World::with_group();
    world.send(world.group, user(2), 1);
    world.next_change(&[(2, 0)]);
    world.send(world.group, user(2), 2);
    // Without a pause, and later, when all was forgotten and loaded again.
    world.settle();
    assert_eq!(world.last_verdict(), rejected(ErrorReason::NotAMember));
    for conversation in world.conversations {
        world.send(conversation, user(3), 1);
        world.settle();
    }
    assert_eq!(world.says(2, 3), rejected(ErrorReason::NotAMember));
    let of_group = world.store.events.keys().filter(|(c, _)| *c == world.group);
    assert_eq!(of_group.count(), 3);
    let window = Window {
        from_seq: 1,
        to_seq: Some(3),
    };
    assert_eq!(world.windows(2), [window], "he reads his own removal");
}

#[test]
fn a_retry_of_a_removed_members_accepted_message_is_a_duplicate() {
    let mut world = World::with_group();
    world.send(world.group, user(2), 1);
    world.next_change(&[(2, 0)]);
    world.send(world.group, user(2), 1);
    world.settle();
    world.check();
    let retry = accepted(&world, world.log.last().unwrap().offset);
    assert_eq!((retry.seq, retry.duplicate), (2, true));
    // Also when only the store knows it.
    for conversation in world.conversations {
        world.send(conversation, user(3), 1);
        world.settle();
    }
    world.says(2, 1);
    let retry = accepted(&world, world.log.last().unwrap().offset);
    assert_eq!((retry.seq, retry.duplicate), (2, true));
}

#[test]
fn what_was_refused_is_taken_once_its_sender_is_a_member() {
    let mut world = World::with_group();
    assert_eq!(world.says(4, 1), rejected(ErrorReason::NotAMember));
    world.next_change(&[(4, MEMBER)]);
    assert!(matches!(world.says(4, 1), Verdict::Accepted(a) if !a.duplicate && a.seq == 3));
}

#[test]
fn changes_out_of_order_are_ignored_until_their_turn() {
    let mut world = World::with_group();
    let joins = |number| change(&[(number, MEMBER)], false, false);
    world.change(3, joins(5));
    assert_eq!(world.says(5, 1), rejected(ErrorReason::NotAMember));
    world.change(1, joins(5));
    world.change(2, joins(4));
    assert_eq!(world.says(5, 1), rejected(ErrorReason::NotAMember));
    // Now it is its turn, once.
    world.change(3, joins(5));
    world.change(3, joins(5));
    world.change(2, joins(4));
    assert!(matches!(world.says(5, 1), Verdict::Accepted(a) if (a.seq, a.message_index) == (4, 1)));
    assert_eq!(world.store.states[&world.group].group.version, 3);
}

#[test]
fn who_joins_again_has_two_windows() {
    let mut world = World::with_group();
    world.next_change(&[(2, 0)]);
    world.send(world.group, user(1), 1);
    world.next_change(&[(2, ADMIN)]);
    world.send(world.group, user(1), 2);
    world.settle();
    world.check();
    let first = Window {
        from_seq: 1,
        to_seq: Some(2),
    };
    let second = Window {
        from_seq: 4,
        to_seq: None,
    };
    assert_eq!(world.windows(2), [first, second]);
    // What was said between them is not unread to him, what comes after them is.
    let state = &world.store.states[&world.group];
    let joined_at = Watermark {
        seq: 4,
        message_index: 1,
    };
    assert_eq!(state.member(user(2)).unwrap().marks.read, joined_at);
    // With all of the history the two become one.
    world.next_change(&[(2, 0)]);
    world.change(5, change(&[(2, MEMBER)], false, true));
    world.settle();
    world.check();
    let all = Window {
        from_seq: 1,
        to_seq: None,
    };
    assert_eq!(world.windows(2), [all]);
}

#[test]
fn a_group_for_announcements_takes_them_from_admins_alone() {
    let mut world = World::with_group();
    world.change(2, change(&[(2, ADMIN)], true, false));
    assert_eq!(world.says(3, 1), rejected(ErrorReason::AdminsOnly));
    assert!(matches!(world.says(2, 1), Verdict::Accepted(_)));
    assert!(matches!(world.says(1, 1), Verdict::Accepted(_)));
    world.next_change(&[]);
    assert!(matches!(world.says(3, 1), Verdict::Accepted(_)));
}

#[test]
fn only_members_are_mentioned_and_only_admins_mention_all() {
    let mut world = World::with_group();
    let mut says = |number, id, mentioned: &[u8], mentions_all| {
        let mentioned = mentioned.iter().map(|number| user(*number)).collect();
        let said = Said {
            mentioned,
            mentions_all,
            ..Said::default()
        };
        world.say(world.group, user(number), message_id(id), said);
        world.settle();
        world.check();
        world.last_verdict()
    };
    let no_member = rejected(ErrorReason::MentionNotAMember);
    assert_eq!(says(2, 1, &[3, 4], false), no_member);
    let refused = rejected(ErrorReason::AdminsOnly);
    assert_eq!(says(2, 1, &[], true), refused);
    assert!(matches!(says(2, 1, &[3, 1], false), Verdict::Accepted(_)));
    assert!(matches!(says(1, 1, &[], true), Verdict::Accepted(_)));
}

#[test]
fn no_message_takes_the_name_of_a_change() {
    let mut world = World::with_group();
    let name = MessageId::of_change(2);
    world.say(world.group, user(1), name, Said::default());
    world.next_change(&[(4, MEMBER)]);
    world.settle();
    world.check();
    let refused = rejected(ErrorReason::FieldMalformed);
    assert_eq!(world.verdicts[&world.log[1].offset][0], refused);
}

#[test]
fn who_has_left_is_marked_no_further_than_he_was_there() {
    let mut world = World::with_group();
    world.next_change(&[(2, 0)]);
    for id in 1..5 {
        world.send(world.group, user(1), id);
    }
    let far = Watermark {
        seq: 6,
        message_index: 4,
    };
    let marks = Marks {
        delivered: far,
        read: far,
    };
    world.marks(world.group, user(2), marks);
    world.marks(world.group, user(8), marks);
    world.settle();
    world.check();
    let state = &world.store.states[&world.group];
    assert_eq!(state.member(user(2)).unwrap().marks.read.seq, 2);
    assert!(state.member(user(8)).is_none(), "he was never there");
}

#[test]
fn a_batch_carries_only_the_members_that_it_changed() {
    let mut world = World::with_group();
    world.settle();
    world.send(world.group, user(2), 1);
    world.ingest(0, usize::MAX);
    world.read(0);
    world.arrive(0);
    let batch = world.nodes[0].core.cut().unwrap();
    let members = &batch.sequenced.conversations[0].state.members;
    let users: Vec<_> = members.iter().map(|member| member.user).collect();
    assert_eq!(users, [user(2)]);
    assert_eq!(batch.inbox.len(), 1, "the others come of the fan-out");
}

#[test]
fn a_change_that_came_again_is_handed_out_once_more_by_a_replay_alone() {
    let mut world = World::with_group();
    world.next_change(&[(4, MEMBER)]);
    let version = world.group_version;
    world.change(version, change(&[(5, MEMBER)], false, false));
    world.settle();
    let sent = world.fanned_out.len();
    assert_eq!(sent, 4, "two changes by two nodes");
    // A third reader of the same log, from the start: what it hands out is what they did.
    world.store.position = 0;
    world.crash(0);
    world.settle();
    world.check();
    assert_eq!(world.fanned_out.len(), sent + 2);
}

#[test]
fn marks_of_a_large_group_are_kept_and_not_pushed() {
    for (members, pushed) in [
        (MARKS_FANOUT_MEMBERS_MAX, 1),
        (MARKS_FANOUT_MEMBERS_MAX + 1, 0),
    ] {
        let mut world = World::new();
        let mut created = change(&[], false, false);
        for number in 0..members as u128 {
            created.members.push(proto::log::v1::GroupMember {
                user_id: (number + 1).to_be_bytes().to_vec(),
                role: MEMBER,
            });
        }
        world.change(1, created);
        world.settle();
        let reader = runtime::ids::UserId::from_bytes(1_u128.to_be_bytes());
        // One who is known to have got nowhere yet.
        let mark = |n| Watermark {
            seq: n,
            message_index: n,
        };
        let sender = runtime::ids::UserId::from_bytes(2_u128.to_be_bytes());
        world.send(world.group, sender, 1);
        let marks = Marks {
            delivered: mark(2),
            read: mark(2),
        };
        world.marks(world.group, reader, marks);
        world.ingest(0, usize::MAX);
        world.read(0);
        world.arrive(0);
        let outputs = world.nodes[0].core.take_outputs();
        let fan_outs = outputs.iter();
        let fan_outs = fan_outs.filter(|o| matches!(o, Output::Derived(_)));
        assert_eq!(fan_outs.count(), 1 + pushed, "the message, and the marks");
        let batch = world.nodes[0].core.cut().unwrap();
        let members = &batch.sequenced.conversations[0].state.members;
        let read = Watermark {
            seq: 2,
            message_index: 1,
        };
        assert_eq!(members[0].marks.read, read, "they are kept all the same");
    }
}

#[test]
fn a_partition_keeps_no_more_members_in_memory_than_it_may() {
    let mut world = World::new();
    let members: Vec<_> = (1..=10).map(|number| (number, MEMBER)).collect();
    let (members_max, groups) = (60, 40_u8);
    world.nodes[0].core = Core::with_cache(0, 1_000, members_max);
    for number in 0..groups {
        world.group = ConversationId::group(GroupId::from_bytes([number + 1; 16]));
        world.change(1, change(&members, false, false));
        world.ingest(0, usize::MAX);
        world.read(0);
        world.arrive(0);
        world.nodes[0].core.take_outputs();
        let batch = world.nodes[0].core.cut().unwrap();
        world.store.persist(&batch.sequenced);
        world.nodes[0].core.persisted();
        let kept = world.nodes[0].core.cached_members();
        assert!(kept <= members_max + members.len(), "{kept} are kept");
    }
}
