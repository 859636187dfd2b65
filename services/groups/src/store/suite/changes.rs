//! Promises about changes.

use runtime::ids::UserId;
use uuid::Uuid;

use super::*;
use crate::{
    model::{Group, Member, Role},
    store::OUTSTANDING_PER_GROUP_MAX,
};

pub(crate) async fn a_change_is_all_there_and_so_is_what_the_log_is_told(store: &dyn Store) {
    let made = made(store, 3).await;
    let expected = Group {
        group_id: made.group,
        version: 1,
        name: "a name".to_owned(),
        description: "line\nline".to_owned(),
        picture: "picture".to_owned(),
        settings: Settings::default(),
        member_count: 3,
        created_unix_ms: NOW,
    };
    let (group, role) = store.group(made.group, made.owner).await.unwrap().unwrap();
    assert_eq!((group, role), (expected.clone(), Role::Owner));
    let dave = UserId::generate();
    assert_eq!(store.group(made.group, dave).await.unwrap(), None);
    let add = Command::Add { users: vec![dave] };
    let changed = change(store, made.members[1], made.group, add)
        .await
        .unwrap();
    assert_eq!((changed.version, changed.seq), (2, None));
    let seen = changed.answer.group.unwrap();
    assert_eq!((seen.version, seen.member_count, seen.role), (2, 4, 1));
    let settings = Settings::from_bits(0b10110);
    let update = Command::Update {
        name: Some("another".to_owned()),
        description: None,
        picture: Some(String::new()),
        settings: Some(settings),
    };
    change(store, made.owner, made.group, update).await.unwrap();
    let (group, role) = store.group(made.group, dave).await.unwrap().unwrap();
    let expected = Group {
        version: 3,
        name: "another".to_owned(),
        picture: String::new(),
        settings,
        member_count: 4,
        ..expected
    };
    assert_eq!((group, role), (expected, Role::Member));
    let give = Command::SetRole {
        user: dave,
        role: Role::Admin,
    };
    change(store, made.owner, made.group, give).await.unwrap();
    let remove = Command::Remove {
        user: made.members[1],
    };
    change(store, dave, made.group, remove).await.unwrap();
    let (version, members) = store
        .members(made.group, made.owner, None, 10)
        .await
        .unwrap()
        .unwrap();
    let mut expected = vec![
        (made.owner, Role::Owner, 1),
        (made.members[2], Role::Member, 1),
        (dave, Role::Admin, 2),
    ];
    expected.sort();
    let found = |m: &Member| (m.user_id, m.role, m.joined_version);
    assert_eq!(members.iter().map(found).collect::<Vec<_>>(), expected);
    assert_eq!(version, 5);
    assert_eq!(outstanding(store, made.group).await, [1, 2, 3, 4, 5]);
    // The owner goes, and the admin is next; what comes in between is in the same version.
    change(store, made.owner, made.group, Command::Leave)
        .await
        .unwrap();
    let (group, role) = store.group(made.group, dave).await.unwrap().unwrap();
    assert_eq!(
        (group.version, group.member_count, role),
        (6, 2, Role::Owner)
    );
}

pub(crate) async fn a_request_that_comes_again_is_answered_the_same(store: &dyn Store) {
    let (ann, bob) = (UserId::generate(), UserId::generate());
    let creating = request(ann, None, create(vec![bob], Settings::default()));
    let first = store.change(creating.clone()).await.unwrap();
    // Whoever repeats it names another new group; there is one all the same.
    let mut again = creating.clone();
    again.act.group_id = GroupId::generate();
    assert_eq!(store.change(again.clone()).await.unwrap(), first);
    assert_eq!(store.groups(ann, None, 10).await.unwrap().len(), 1);
    // As it was then, also when it has changed, and with the seq as soon as that is known.
    change(store, ann, first.group, Command::Leave)
        .await
        .unwrap();
    let id = creating.request.unwrap().request_id;
    assert_eq!(store.seq_of(ann, id).await.unwrap(), None);
    sequenced(store, first.group, 1, 41).await;
    assert_eq!(store.seq_of(ann, id).await.unwrap(), Some(41));
    assert_eq!(store.seq_of(bob, id).await.unwrap(), None);
    let expected = Changed {
        seq: Some(41),
        ..first.clone()
    };
    assert_eq!(store.change(again.clone()).await.unwrap(), expected);
    // The same id for something else is refused; another user's is another one.
    again.request.as_mut().unwrap().digest = [8; 32];
    assert_eq!(
        refusal(store.change(again.clone()).await),
        Refusal::RequestIdReused
    );
    again.act.actor = bob;
    assert_ne!(store.change(again).await.unwrap().group, first.group);
    // What changed nothing is answered the same too, and does not happen later.
    let add = Command::Add { users: vec![bob] };
    let nothing = request(bob, Some(first.group), add);
    let answered = store.change(nothing.clone()).await.unwrap();
    assert_eq!((answered.version, answered.seq), (0, None));
    let carl = Command::Add {
        users: vec![UserId::generate()],
    };
    change(store, bob, first.group, carl).await.unwrap();
    assert_eq!(store.change(nothing).await.unwrap(), answered);
    assert_eq!(
        store
            .group(first.group, bob)
            .await
            .unwrap()
            .unwrap()
            .0
            .version,
        3
    );
}

pub(crate) async fn what_is_refused_changes_nothing(store: &dyn Store) {
    let made = made(store, 2).await;
    let before = store.group(made.group, made.owner).await.unwrap();
    let stranger = UserId::generate();
    let add = || Command::Add {
        users: vec![stranger],
    };
    let refused = change(store, stranger, made.group, add()).await;
    assert_eq!(refusal(refused), Refusal::GroupNotFound);
    let nowhere = change(store, stranger, GroupId::generate(), add()).await;
    assert_eq!(refusal(nowhere), Refusal::GroupNotFound);
    let remove = Command::Remove { user: made.owner };
    let refused = change(store, made.members[1], made.group, remove).await;
    assert_eq!(refusal(refused), Refusal::RoleNotSufficient);
    let mut stale = request(made.owner, Some(made.group), add());
    stale.act.if_version = 2;
    let refused = store.change(stale.clone()).await;
    assert_eq!(refusal(refused), Refusal::VersionChanged(1));
    let mut full = request(made.owner, Some(made.group), add());
    full.limits.members_max = 2;
    let refused = refusal(store.change(full).await);
    assert!(matches!(refused, Refusal::LimitReached { max: 2, .. }));
    assert_eq!(store.group(made.group, made.owner).await.unwrap(), before);
    assert_eq!(store.group(made.group, stranger).await.unwrap(), None);
    assert_eq!(outstanding(store, made.group).await, [1]);
    // A refused request is not known: it may come again, and be carried out.
    stale.act.if_version = 1;
    assert_eq!(store.change(stale).await.unwrap().version, 2);
}

pub(crate) async fn a_user_is_in_so_many_groups_at_most(store: &dyn Store) {
    let ann = UserId::generate();
    let max = LIMITS.groups_per_user_max;
    for _ in 0..max {
        let command = create(Vec::new(), Settings::default());
        store.change(request(ann, None, command)).await.unwrap();
    }
    let another = request(ann, None, create(Vec::new(), Settings::default()));
    let refused = refusal(store.change(another.clone()).await);
    assert!(matches!(refused, Refusal::LimitReached { max: m, .. } if m == max));
    let made = made(store, 1).await;
    let add = || Command::Add { users: vec![ann] };
    let refused = refusal(change(store, made.owner, made.group, add()).await);
    assert!(matches!(refused, Refusal::LimitReached { max: m, .. } if m == max));
    let (group, _) = store.groups(ann, None, 1).await.unwrap().remove(0);
    change(store, ann, group.group_id, Command::Leave)
        .await
        .unwrap();
    change(store, made.owner, made.group, add()).await.unwrap();
}

fn invite(n: u8, expires_unix_ms: i64, uses_max: u32) -> Command {
    Command::Invite {
        invitation_id: Uuid::from_bytes([n; 16]),
        token_hash: [n; 32],
        expires_unix_ms,
        uses_max,
    }
}

fn join(n: u8) -> Command {
    Command::Join {
        token_hash: [n; 32],
    }
}

pub(crate) async fn invitations_are_used_and_end(store: &dyn Store) {
    let made = made(store, 2).await;
    for (n, expires, uses_max) in [(1, 0, 0), (2, NOW + 10, 0), (3, 0, 1)] {
        let mut making = request(made.owner, Some(made.group), invite(n, expires, uses_max));
        making.act.now_unix_ms = NOW + i64::from(n);
        let invitation = store
            .change(making)
            .await
            .unwrap()
            .answer
            .invitation
            .unwrap();
        assert_eq!(invitation.uses_max, uses_max);
    }
    let refused = change(store, made.owner, made.group, invite(4, 0, 0)).await;
    assert!(matches!(
        refusal(refused),
        Refusal::LimitReached { max: 3, .. }
    ));
    let ids = async |now| {
        let good = store.invitations(made.group, now).await.unwrap();
        good.iter()
            .map(|i| i.invitation_id.as_bytes()[0])
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(NOW).await, [3, 2, 1]);
    let carl = UserId::generate();
    let joined = store.change(request(carl, None, join(3))).await.unwrap();
    assert_eq!((joined.group, joined.version), (made.group, 2));
    assert_eq!(joined.answer.group.unwrap().role, 1);
    // Who is a member stays one, whatever has become of it, and uses nothing up.
    let again = store.change(request(carl, None, join(3))).await.unwrap();
    assert_eq!((again.version, again.answer.group.unwrap().version), (0, 2));
    let stays = store
        .change(request(made.owner, None, join(1)))
        .await
        .unwrap();
    assert_eq!(stays.version, 0);
    assert_eq!(ids(NOW + 9).await, [2, 1]);
    assert_eq!(ids(NOW + 10).await, [1]);
    assert!(
        store
            .invitations(made.group, NOW)
            .await
            .unwrap()
            .iter()
            .all(|i| i.uses == 0)
    );
    let late = |n| {
        let mut late = request(UserId::generate(), None, join(n));
        late.act.now_unix_ms = NOW + 10;
        late
    };
    for n in [2, 3, 9] {
        assert_eq!(
            refusal(store.change(late(n)).await),
            Refusal::InvitationInvalid,
            "{n}"
        );
    }
    // Those that have ended make room.
    let mut making = request(made.owner, Some(made.group), invite(4, 0, 0));
    making.act.now_unix_ms = NOW + 10;
    store.change(making).await.unwrap();
    let revoke = |n: u8| Command::Revoke {
        invitation_id: Uuid::from_bytes([n; 16]),
    };
    for n in [1, 1, 9] {
        change(store, made.owner, made.group, revoke(n))
            .await
            .unwrap();
    }
    assert_eq!(ids(NOW + 10).await, [4]);
    // Nobody makes that of another group void.
    let other = super::made(store, 1).await;
    change(store, other.owner, other.group, revoke(4))
        .await
        .unwrap();
    assert_eq!(ids(NOW + 10).await, [4]);
    store.change(late(4)).await.unwrap();
    assert_eq!(store.invitations(made.group, NOW).await.unwrap()[0].uses, 1);
}

pub(crate) async fn who_waits_is_let_in_or_not(store: &dyn Store) {
    let settings = Settings {
        approve_joining: true,
        ..Settings::default()
    };
    let made = made_with(store, 2, settings).await;
    change(store, made.owner, made.group, invite(1, 0, 3))
        .await
        .unwrap();
    let mut users: Vec<UserId> = (0..3).map(|_| UserId::generate()).collect();
    users.sort();
    for user in &users {
        for _ in 0..2 {
            let asked = store.change(request(*user, None, join(1))).await.unwrap();
            assert_eq!((asked.version, asked.answer.group.clone()), (0, None));
            assert!(asked.answer.waits_for_approval);
        }
    }
    // Each has used it once.
    let refused = store
        .change(request(UserId::generate(), None, join(1)))
        .await;
    assert_eq!(refusal(refused), Refusal::InvitationInvalid);
    change(store, made.owner, made.group, invite(2, 0, 0))
        .await
        .unwrap();
    let refused = store
        .change(request(UserId::generate(), None, join(2)))
        .await;
    assert!(matches!(
        refusal(refused),
        Refusal::LimitReached { max: 3, .. }
    ));
    let waiting = store.join_requests(made.group, None, 2).await.unwrap();
    assert_eq!(waiting[0].user_id, users[0]);
    assert_eq!(waiting[1].requested_unix_ms, NOW);
    let rest = store
        .join_requests(made.group, Some(users[1]), 2)
        .await
        .unwrap();
    assert_eq!(rest.len(), 1);
    let answer = |n: usize, approve| Command::Answer {
        user: users[n],
        approve,
    };
    let refused = change(store, made.members[1], made.group, answer(0, true)).await;
    assert_eq!(refusal(refused), Refusal::RoleNotSufficient);
    let in_ = change(store, made.owner, made.group, answer(0, true))
        .await
        .unwrap();
    assert_eq!(in_.version, 2);
    let out = change(store, made.owner, made.group, answer(1, false))
        .await
        .unwrap();
    assert_eq!((out.version, out.answer.waits_for_approval), (0, false));
    for n in [0, 1] {
        let refused = change(store, made.owner, made.group, answer(n, true)).await;
        assert_eq!(refusal(refused), Refusal::JoinRequestNotFound);
    }
    // Who is added waits no more.
    let add = Command::Add {
        users: vec![users[2]],
    };
    change(store, made.owner, made.group, add).await.unwrap();
    assert_eq!(store.join_requests(made.group, None, 9).await.unwrap(), []);
    assert!(store.group(made.group, users[1]).await.unwrap().is_none());
    assert!(store.group(made.group, users[0]).await.unwrap().is_some());
}

pub(crate) async fn an_ended_group_leaves_what_the_log_still_needs(store: &dyn Store) {
    let settings = Settings {
        approve_joining: true,
        ..Settings::default()
    };
    let made = made_with(store, 1, settings).await;
    change(store, made.owner, made.group, invite(1, 0, 0))
        .await
        .unwrap();
    store
        .change(request(UserId::generate(), None, join(1)))
        .await
        .unwrap();
    let left = change(store, made.owner, made.group, Command::Leave)
        .await
        .unwrap();
    assert_eq!((left.version, left.answer.group), (2, None));
    assert_eq!(store.invitations(made.group, NOW).await.unwrap(), []);
    assert_eq!(store.join_requests(made.group, None, 9).await.unwrap(), []);
    let refused = store
        .change(request(UserId::generate(), None, join(1)))
        .await;
    assert_eq!(refusal(refused), Refusal::InvitationInvalid);
    let refused = change(store, made.owner, made.group, Command::Leave).await;
    assert_eq!(refusal(refused), Refusal::GroupNotFound);
    assert_eq!(outstanding(store, made.group).await, [1, 2]);
    assert_eq!(store.roster(made.group).await.unwrap().stints.len(), 1);
}

pub(crate) async fn changes_that_wait_for_the_log_are_bounded(store: &dyn Store) {
    let made = made(store, 1).await;
    let rename = |n: usize| Command::Update {
        name: Some(format!("name {n}")),
        description: None,
        picture: None,
        settings: None,
    };
    for n in 1..OUTSTANDING_PER_GROUP_MAX {
        change(store, made.owner, made.group, rename(n))
            .await
            .unwrap();
    }
    let busy = change(store, made.owner, made.group, rename(0)).await;
    assert!(matches!(busy, Err(ChangeError::Busy)), "{busy:?}");
    // What changes nothing needs no room, another group has its own, and there is room again.
    let same = rename(OUTSTANDING_PER_GROUP_MAX - 1);
    change(store, made.owner, made.group, same).await.unwrap();
    super::made(store, 1).await;
    sequenced(store, made.group, 1, 1).await;
    change(store, made.owner, made.group, rename(0))
        .await
        .unwrap();
}
