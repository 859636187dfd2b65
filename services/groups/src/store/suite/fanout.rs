//! Promises to the fan-out and to the relay.

use super::*;
use crate::{
    model::{Roster, Stint},
    store::{
        DUE_FIRST_MS, DUE_MAX_MS, LogIdentity, PositionAdvance, REQUEST_LIFE_MS, ReaderId,
        StoreError,
    },
};

async fn sorted_stints(store: &dyn Store, group: GroupId) -> Vec<(UserId, u64, Option<u64>)> {
    let stints = store.roster(group).await.unwrap().stints;
    let plain = |s: &Stint| (s.user, s.joined_version, s.left_version);
    let mut stints: Vec<_> = stints.iter().map(plain).collect();
    stints.sort();
    stints
}

pub(crate) async fn stints_say_who_was_a_member_when(store: &dyn Store) {
    let made = made(store, 2).await;
    let (ann, bob) = (made.members[0], made.members[1]);
    change(store, bob, made.group, Command::Leave)
        .await
        .unwrap();
    let add = Command::Add { users: vec![bob] };
    change(store, ann, made.group, add).await.unwrap();
    let remove = Command::Remove { user: bob };
    change(store, ann, made.group, remove).await.unwrap();
    let mut expected = vec![(ann, 1, None), (bob, 1, Some(2)), (bob, 3, Some(4))];
    expected.sort();
    assert_eq!(sorted_stints(store, made.group).await, expected);
    let nobody = store.roster(GroupId::generate()).await.unwrap();
    assert_eq!(nobody, Roster::default());
    // Those that ended at or before a version go, and no others.
    for (forgotten, left) in [(1, 3), (2, 2), (3, 2), (4, 1), (4, 1)] {
        store
            .forget_stints(vec![(made.group, forgotten)])
            .await
            .unwrap();
        assert_eq!(
            sorted_stints(store, made.group).await.len(),
            left,
            "{forgotten}"
        );
    }
    assert_eq!(sorted_stints(store, made.group).await, [(ann, 1, None)]);
    assert!(store.group(made.group, ann).await.unwrap().is_some());
    // An ended group is forgotten when its last event was seen and fanned out.
    change(store, ann, made.group, Command::Leave)
        .await
        .unwrap();
    store.forget_stints(vec![(made.group, 4)]).await.unwrap();
    assert_eq!(sorted_stints(store, made.group).await, [(ann, 1, Some(5))]);
    store.forget_stints(vec![(made.group, 5)]).await.unwrap();
    assert_eq!(store.roster(made.group).await.unwrap(), Roster::default());
}

pub(crate) async fn a_deferred_group_stays_so_also_when_it_shrinks(store: &dyn Store) {
    let (huge, other) = (made(store, 3).await, made(store, 3).await);
    let is_deferred = async |group| store.roster(group).await.unwrap().deferred;
    store.note_deferred(Vec::new()).await.unwrap();
    assert!(!is_deferred(huge.group).await);
    let noted = vec![(huge.group, 7), (GroupId::generate(), 8)];
    // It may come again, and from a reader that is behind.
    for noted in [noted.clone(), noted, vec![(huge.group, 5)]] {
        store.note_deferred(noted).await.unwrap();
        assert!(is_deferred(huge.group).await);
    }
    for member in &huge.members[1..] {
        change(store, *member, huge.group, Command::Leave)
            .await
            .unwrap();
    }
    let roster = store.roster(huge.group).await.unwrap();
    assert!(roster.deferred);
    assert_eq!(roster.stints.len(), 3);
    assert!(!is_deferred(other.group).await);
}

pub(crate) async fn a_change_leaves_the_outbox_only_when_it_was_seen(store: &dyn Store) {
    let made = made(store, 2).await;
    let other = super::made(store, 1).await;
    for user in made.members.iter().rev() {
        change(store, *user, made.group, Command::Leave)
            .await
            .unwrap();
    }
    for _ in 0..2 {
        assert_eq!(outstanding(store, made.group).await, [1, 2, 3]);
    }
    let seen = |version, seq| Sequenced {
        group: made.group,
        version,
        seq,
    };
    let none = Sequenced {
        group: GroupId::generate(),
        version: 1,
        seq: 1,
    };
    for _ in 0..2 {
        let changes = vec![seen(1, 5), none, seen(3, 9), seen(1, 5)];
        store.note_sequenced(changes).await.unwrap();
        assert_eq!(outstanding(store, made.group).await, [2]);
    }
    assert_eq!(outstanding(store, other.group).await, [1]);
    store.note_sequenced(Vec::new()).await.unwrap();
}

pub(crate) async fn what_is_due_comes_ever_later(store: &dyn Store) {
    let made = made(store, 1).await;
    let due = async |now| store.take_due(now, 10).await.unwrap();
    let mut now = NOW + DUE_FIRST_MS;
    assert_eq!(due(now - 1).await, []);
    let mut pause = DUE_FIRST_MS;
    for _ in 0..12 {
        assert_eq!(due(now).await, [made.group]);
        pause = (pause * 2).min(DUE_MAX_MS);
        // Taken by one, it is due for nobody.
        assert_eq!(due(now + pause - 1).await, []);
        now += pause;
    }
    // Unless the log did not take it.
    store.put_back(vec![made.group], now).await.unwrap();
    assert_eq!(due(now + DUE_FIRST_MS - 1).await, []);
    now += DUE_FIRST_MS;
    assert_eq!(due(now).await, [made.group]);
    assert_eq!(due(now + 2 * DUE_FIRST_MS - 1).await, []);
    // Groups come the one that waits longest first, each once, up to the limit.
    let mut others = Vec::new();
    for _ in 0..3 {
        let other = super::made(store, 1).await;
        change(store, other.owner, other.group, Command::Leave)
            .await
            .unwrap();
        others.push(other.group);
    }
    others.sort();
    let mut taken = Vec::new();
    for _ in 0..4 {
        let groups = store.take_due(NOW + DUE_FIRST_MS, 2).await.unwrap();
        assert!(groups.len() <= 2);
        taken.extend(groups);
    }
    taken.sort();
    assert_eq!(taken, others);
    sequenced(store, made.group, 1, 1).await;
    assert!(!due(now + DUE_MAX_MS).await.contains(&made.group));
}

pub(crate) async fn old_requests_are_forgotten_in_steps(store: &dyn Store) {
    let ann = UserId::generate();
    let mut requests = Vec::new();
    for n in 0..5 {
        let mut creating = request(ann, None, create(Vec::new(), Settings::default()));
        creating.act.now_unix_ms = NOW + n;
        store.change(creating.clone()).await.unwrap();
        requests.push(creating);
    }
    let old = NOW + REQUEST_LIFE_MS;
    assert_eq!(store.forget_requests(old, 10).await.unwrap(), 0);
    assert_eq!(store.forget_requests(old + 3, 2).await.unwrap(), 2);
    assert_eq!(store.forget_requests(old + 3, 2).await.unwrap(), 1);
    assert_eq!(store.forget_requests(old + 3, 2).await.unwrap(), 0);
    // The others are known.
    for (n, mut request) in requests.into_iter().enumerate() {
        request.act.group_id = GroupId::generate();
        let groups = store.groups(ann, None, 10).await.unwrap().len();
        store.change(request).await.unwrap();
        let after = store.groups(ann, None, 10).await.unwrap().len();
        assert_eq!(after > groups, n < 3, "{n}");
    }
}

const FANOUT: ReaderId = ReaderId {
    reader: "fanout",
    topic: "fanout",
    partition: 0,
};

fn log() -> LogIdentity {
    LogIdentity {
        log_id: "log one".to_owned(),
        topic_id: "topic one".to_owned(),
        partitions: 4,
    }
}

pub(crate) async fn a_position_starts_at_zero_only_rises_and_says_when_it_went_back(
    store: &dyn Store,
) {
    assert_eq!(store.open_reader(FANOUT, log()).await.unwrap(), 0);
    let save = async |reader: ReaderId, from, to| {
        store
            .save_position(PositionAdvance { reader, from, to })
            .await
    };
    for (from, to, expected) in [(0, 5, 5), (3, 4, 5), (5, 9, 9), (0, 0, 9)] {
        save(FANOUT, from, to).await.unwrap();
        assert_eq!(store.open_reader(FANOUT, log()).await.unwrap(), expected);
    }
    let back = save(FANOUT, 10, 12).await;
    assert!(
        matches!(back, Err(StoreError::PositionBelowSaved)),
        "{back:?}"
    );
    assert_eq!(store.open_reader(FANOUT, log()).await.unwrap(), 9);
    let another = ReaderId {
        partition: 1,
        ..FANOUT
    };
    let never = save(another.clone(), 1, 2).await;
    assert!(matches!(never, Err(StoreError::PositionBelowSaved)));
    save(another.clone(), 0, 2).await.unwrap();
    assert_eq!(store.open_reader(another, log()).await.unwrap(), 2);
    store.sync().await.unwrap();
}

pub(crate) async fn another_log_is_refused(store: &dyn Store) {
    store.open_reader(FANOUT, log()).await.unwrap();
    let other = LogIdentity {
        topic_id: "topic two".to_owned(),
        ..log()
    };
    let next = ReaderId {
        partition: 1,
        ..FANOUT
    };
    for reader in [FANOUT, next] {
        let refused = store.open_reader(reader, other.clone()).await;
        assert!(matches!(refused, Err(StoreError::OtherLog { .. })));
    }
    let users = ReaderId {
        topic: "users",
        ..FANOUT
    };
    assert_eq!(store.open_reader(users, other).await.unwrap(), 0);
}
