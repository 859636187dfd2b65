//! Promises about groups: the state of one, and its members.

use proptest::{collection::vec, option, prelude::*};
use runtime::ids::{ConversationId, GroupId};

use super::{Fixture, NUMBER_MAX, Talk, check, message_id, state_of, user};
use crate::{
    limits::WINDOWS_MAX,
    model::{ConversationState, GroupState, MemberState, Membership, Role, Watermark, Window},
    store::{ConversationUpdate, SequencedBatch, Store},
};

fn group(number: u128) -> ConversationId {
    ConversationId::group(GroupId::from_bytes(number.to_be_bytes()))
}

/// A member that says of itself by which version it was changed.
fn member(number: u128, version: u64, role: Option<Role>) -> MemberState {
    let mut member = MemberState::new(user(number));
    member.membership = Some(Membership {
        version,
        role,
        windows: vec![Window {
            from_seq: version + 1,
            to_seq: role.is_none().then_some(version + 2),
        }],
    });
    member
}

/// A batch that names these members of a group, and no event.
fn changed(conversation: ConversationId, members: Vec<MemberState>) -> SequencedBatch {
    let mut state = ConversationState::new(conversation);
    state.members = members;
    batch_of(state)
}

fn batch_of(state: ConversationState) -> SequencedBatch {
    SequencedBatch {
        events: Vec::new(),
        conversations: vec![ConversationUpdate {
            state,
            base_head_seq: 0,
        }],
    }
}

async fn members_of(store: &dyn Store, conversation: ConversationId) -> Vec<MemberState> {
    state_of(store, conversation).await.unwrap().members
}

pub(crate) async fn a_group_comes_back_as_it_was(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut state = ConversationState::new(group(9));
    state.head_seq = 90;
    for (number, role, windows) in [
        (1, Some(Role::Owner), 1),
        (2, Some(Role::Admin), 2),
        (3, Some(Role::Member), WINDOWS_MAX),
        (4, None, WINDOWS_MAX),
        (5, None, 0),
    ] {
        let mut one = member(number, number as u64, role);
        let windows = (0..windows as u64).map(|place| Window {
            from_seq: 1 + 3 * place,
            to_seq: Some(2 + 3 * place),
        });
        let membership = one.membership.as_mut().unwrap();
        membership.windows = windows.collect();
        if role.is_some() {
            membership.windows.last_mut().unwrap().to_seq = None;
        }
        state.members.push(one);
    }
    let largest = state.members[0].membership.as_mut().unwrap();
    largest.version = NUMBER_MAX;
    largest.windows[0] = Window {
        from_seq: NUMBER_MAX,
        to_seq: Some(NUMBER_MAX),
    };
    // Each setting by itself.
    for (version, announcement, history_all) in
        [(1, true, false), (2, false, true), (NUMBER_MAX, true, true)]
    {
        state.group = GroupState {
            version,
            announcement,
            history_all,
        };
        store.persist(batch_of(state.clone())).await.unwrap();
        assert_eq!(state_of(store, group(9)).await, Some(state.clone()));
    }
}

pub(crate) async fn what_no_membership_can_be_is_refused(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let too_large = |window| {
        let mut one = member(1, 1, Some(Role::Member));
        one.membership.as_mut().unwrap().windows = vec![window];
        one
    };
    let mut too_many = member(1, 1, Some(Role::Member));
    let windows = &mut too_many.membership.as_mut().unwrap().windows;
    *windows = windows.repeat(WINDOWS_MAX + 1);
    let refused = [
        member(1, NUMBER_MAX + 1, None),
        too_many,
        too_large(Window {
            from_seq: NUMBER_MAX + 1,
            to_seq: None,
        }),
        // As a number it could be taken for a window that is open.
        too_large(Window {
            from_seq: 1,
            to_seq: Some(u64::MAX),
        }),
    ];
    for one in refused {
        let batch = changed(group(1), vec![one]);
        assert!(store.persist(batch).await.is_err());
        assert_eq!(state_of(store, group(1)).await, None);
    }
}

pub(crate) async fn the_membership_of_the_larger_version_wins_in_any_order(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let changes = [
        member(1, 3, Some(Role::Admin)),
        member(1, 5, None),
        member(1, 9, Some(Role::Member)),
    ];
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for (with, order) in (1..).map(group).zip(orders) {
        let mut newest = None;
        for at in order {
            let batch = changed(with, vec![changes[at].clone()]);
            store.persist(batch).await.unwrap();
            // As a whole: version, role and windows.
            newest = newest.max(Some(at));
            let expected = newest.map(|at| changes[at].clone());
            assert_eq!(members_of(store, with).await, expected.as_slice());
        }
    }
    // What is stored stays when another comes with its version.
    let other = member(1, 9, None);
    store.persist(changed(group(1), vec![other])).await.unwrap();
    assert_eq!(members_of(store, group(1)).await, changes[2..]);
}

pub(crate) async fn marks_and_memberships_rise_apart(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut first = member(1, 5, Some(Role::Admin));
    first.marks.read.seq = 7;
    store
        .persist(changed(group(1), vec![first.clone()]))
        .await
        .unwrap();
    // Further marks with an older membership, and with none.
    let mut older = member(1, 4, None);
    older.marks.delivered.seq = 8;
    older.message_id_max = Some(message_id(3));
    let mut none = MemberState::new(user(1));
    none.marks.read.seq = 9;
    // Older marks with a newer membership.
    let newer = member(1, 6, Some(Role::Owner));
    for change in [older, none, newer.clone()] {
        store
            .persist(changed(group(1), vec![change]))
            .await
            .unwrap();
    }
    let mut expected = newer;
    expected.message_id_max = Some(message_id(3));
    expected.marks.delivered.seq = 8;
    expected.marks.read.seq = 9;
    assert_eq!(members_of(store, group(1)).await, [expected]);
}

pub(crate) async fn the_state_of_a_group_of_the_larger_version_wins_in_any_order(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let given = |version, announcement, history_all| GroupState {
        version,
        announcement,
        history_all,
    };
    for (number, versions) in [(1, [1, 2, 3]), (2, [3, 1, 2]), (3, [2, 3, 1])] {
        for version in versions {
            let mut state = ConversationState::new(group(number));
            state.group = given(version, version == 2, version != 2);
            store.persist(batch_of(state)).await.unwrap();
        }
        let stored = state_of(store, group(number)).await.unwrap();
        assert_eq!(stored.group, given(3, false, true));
    }
    // What is stored stays, when another comes with its version or with none.
    for other in [given(3, true, false), given(0, true, false)] {
        let mut state = ConversationState::new(group(1));
        state.group = other;
        state.head_seq = 7;
        store.persist(batch_of(state)).await.unwrap();
        let stored = state_of(store, group(1)).await.unwrap();
        assert_eq!((stored.head_seq, stored.group), (7, given(3, false, true)));
    }
}

pub(crate) async fn members_that_a_batch_does_not_name_stay(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut members: Vec<_> = (1..=50)
        .map(|number| member(number, 1, Some(Role::Member)))
        .collect();
    store
        .persist(changed(group(1), members.clone()))
        .await
        .unwrap();
    store.persist(changed(group(1), Vec::new())).await.unwrap();
    assert_eq!(members_of(store, group(1)).await, members);
    // Some of them, and one that is new, in the middle and at the end.
    for (version, places) in [(2, [0, 7]), (3, [48, 49]), (4, [7, 24])] {
        let named: Vec<_> = places
            .iter()
            .map(|at| member(1 + *at as u128, version, None))
            .collect();
        for (at, one) in places.iter().zip(&named) {
            members[*at] = one.clone();
        }
        store.persist(changed(group(1), named)).await.unwrap();
        assert_eq!(members_of(store, group(1)).await, members);
    }
    let new = member(51, 5, Some(Role::Member));
    members.push(new.clone());
    store.persist(changed(group(1), vec![new])).await.unwrap();
    assert_eq!(members_of(store, group(1)).await, members);
}

pub(crate) async fn one_member_comes_with_the_conversation(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(2);
    store.persist(talk.batch(0, &events)).await.unwrap();
    let members = (1..=20).map(|number| member(number, 3, Some(Role::Member)));
    let mut state = ConversationState::new(group(1));
    state.group.version = 3;
    state.head_seq = 5;
    state.members = members.collect();
    store.persist(batch_of(state.clone())).await.unwrap();
    for (state, number) in [
        (&talk.state, 1),
        (&talk.state, 2),
        (&talk.state, 3),
        (&state, 1),
        (&state, 13),
        (&state, 99),
    ] {
        let mut expected = state.clone();
        expected
            .members
            .retain(|member| member.user == user(number));
        let of = store.load_conversation_of(state.conversation, user(number));
        assert_eq!(of.await.unwrap(), Some(expected), "of {number}");
    }
    let none = store.load_conversation_of(group(2), user(1)).await.unwrap();
    assert_eq!(none, None);
    // Nobody has done anything yet.
    store.persist(changed(group(2), Vec::new())).await.unwrap();
    let empty = store.load_conversation_of(group(2), user(1)).await.unwrap();
    assert_eq!(empty, Some(ConversationState::new(group(2))));
}

pub(crate) async fn a_member_of_a_direct_conversation_has_no_membership(
    fixture: &mut impl Fixture,
) {
    let store = fixture.store();
    let mut talk = Talk::between(1, 2);
    let events = talk.messages(4);
    store.persist(talk.batch(0, &events)).await.unwrap();
    let stored = state_of(store, talk.id()).await.unwrap();
    assert_eq!(stored.members.len(), 2);
    assert!(
        stored
            .members
            .iter()
            .all(|member| member.membership.is_none())
    );
    assert_eq!(stored.group, GroupState::default());
}

fn any_membership() -> impl Strategy<Value = Membership> {
    let windows = vec((0..50_u64, option::of(0..50_u64)), 0..=WINDOWS_MAX);
    // Of one version there is one membership: the log says so.
    (0..6_u64, windows).prop_map(|(version, windows)| Membership {
        version,
        role: Role::from_number(version as u32 % 4),
        windows: windows
            .into_iter()
            .map(|(from_seq, to_seq)| Window { from_seq, to_seq })
            .collect(),
    })
}

fn any_member() -> impl Strategy<Value = MemberState> {
    let marks = (0..9_u64, 0..9_u64);
    let parts = (
        1..=5_u128,
        option::of(1..9_u128),
        marks,
        option::of(any_membership()),
    );
    parts.prop_map(|(number, id, (seq, message_index), membership)| {
        let mut member = MemberState::new(user(number));
        member.message_id_max = id.map(message_id);
        member.marks.read = Watermark { seq, message_index };
        member.membership = membership;
        member
    })
}

pub(crate) async fn groups_are_what_their_batches_make_them(fixture: &mut impl Fixture) {
    let store = fixture.store();
    let case = std::sync::atomic::AtomicU64::new(1);
    let group_states = (0..6_u64, any::<bool>(), any::<bool>());
    let batches = vec((group_states, vec(any_member(), 0..5)), 1..10);
    check(48, batches, async |batches| {
        let case = case.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut expected = ConversationState::new(group(u128::from(case)));
        for ((version, announcement, history_all), mut members) in batches {
            members.sort_by_key(|member| member.user);
            members.dedup_by_key(|member| member.user);
            let mut state = ConversationState::new(expected.conversation);
            state.members = members;
            state.group = GroupState {
                version,
                announcement,
                history_all,
            };
            if version > expected.group.version {
                expected.group = state.group;
            }
            for member in &state.members {
                let known = expected.member(member.user).cloned();
                let merged = match known {
                    Some(known) => known.merged(member.clone()),
                    None => member.clone(),
                };
                *expected.member_mut(member.user) = merged;
            }
            if version == 0 {
                // A state of version 0 is none; only what a conversation begins with is kept of it.
                state.group = GroupState::default();
            }
            store.persist(batch_of(state)).await.unwrap();
            let stored = state_of(store, expected.conversation).await;
            assert_eq!(stored.as_ref(), Some(&expected));
            for number in 1..=5 {
                let of = store.load_conversation_of(expected.conversation, user(number));
                let of = of.await.unwrap().unwrap();
                let member = expected.member(user(number)).cloned();
                assert_eq!(of.members, member.as_slice());
            }
        }
    });
}
