//! What several processes do at the same moment.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::*;
use crate::{
    decide::{Command, Refusal},
    model::Settings,
};

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_of_one_group_are_all_made_each_in_a_version_of_its_own() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let made = made(&stores[0], 1).await;
    let adds = (0..36).zip(stores.iter().cycle()).map(|(_, store)| {
        let users = vec![UserId::generate()];
        change(store, made.owner, made.group, Command::Add { users })
    });
    let mut versions: Vec<u64> = join_all(adds)
        .await
        .into_iter()
        .map(|changed| changed.unwrap().version)
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=37).collect::<Vec<u64>>());
    let (group, _) = stores[1]
        .group(made.group, made.owner)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((group.version, group.member_count), (37, 37));
    let waiting = outstanding(&stores[2], made.group).await;
    assert_eq!(waiting, (1..=37).collect::<Vec<u64>>());
    let page = stores[2].members(made.group, made.owner, None, 100).await;
    assert_eq!(page.unwrap().unwrap().1.len(), 37);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_to_several_processes_at_once_is_carried_out_once() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for _ in 0..10 {
        let ann = UserId::generate();
        let creating = request(ann, None, create(Vec::new(), Settings::default()));
        let creates = (0..6).zip(stores.iter().cycle()).map(|(_, store)| {
            let mut again = creating.clone();
            again.act.group_id = GroupId::generate();
            store.change(again)
        });
        let created = join_all(creates).await;
        let groups: BTreeSet<GroupId> = created.into_iter().map(|c| c.unwrap().group).collect();
        assert_eq!(groups.len(), 1);
        assert_eq!(stores[0].groups(ann, None, 10).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_for_one_lets_one_in_and_a_group_never_has_more_than_it_may() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let invite = |n: u8, uses_max| Command::Invite {
        invitation_id: Uuid::from_bytes([n; 16]),
        token_hash: [n; 32],
        expires_unix_ms: 0,
        uses_max,
    };
    let made = made(&stores[0], 1).await;
    let inviting = invite(1, 1);
    change(&stores[0], made.owner, made.group, inviting)
        .await
        .unwrap();
    let inviting = invite(2, 0);
    change(&stores[0], made.owner, made.group, inviting)
        .await
        .unwrap();
    for (token, let_in) in [(1, 1), (2, 3)] {
        let joins = (0..12).zip(stores.iter().cycle()).map(|(_, store)| {
            let token_hash = [token; 32];
            let mut join = request(UserId::generate(), None, Command::Join { token_hash });
            join.limits.members_max = 5;
            store.change(join)
        });
        let joined = join_all(joins).await;
        let refused = joined.iter().filter_map(|joined| match joined {
            Ok(_) => None,
            Err(ChangeError::Refused(refusal)) => Some(*refusal),
            Err(error) => panic!("{error}"),
        });
        let expected = |refusal: &Refusal| match token {
            1 => *refusal == Refusal::InvitationInvalid,
            _ => matches!(refusal, Refusal::LimitReached { .. }),
        };
        assert!(refused.clone().all(|refusal| expected(&refusal)));
        assert_eq!(refused.count(), 12 - let_in);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_admins_who_go_at_once_leave_one_owner_or_no_group() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for _ in 0..10 {
        let made = made(&stores[0], 6).await;
        let leaves = made.members[..5].iter().zip(stores.iter().cycle());
        let left = leaves.map(|(user, store)| change(store, *user, made.group, Command::Leave));
        for left in join_all(left).await {
            left.unwrap();
        }
        let last = made.members[5];
        let (group, role) = stores[0].group(made.group, last).await.unwrap().unwrap();
        assert_eq!(
            (group.version, group.member_count, role),
            (6, 1, Role::Owner)
        );
        change(&stores[0], last, made.group, Command::Leave)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_taken_by_one_while_its_events_are_seen() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let mut seen = Vec::new();
    for _ in 0..30 {
        let made = made(&stores[0], 2).await;
        let leave = change(&stores[0], made.owner, made.group, Command::Leave);
        leave.await.unwrap();
        seen.extend([2, 1].map(|version| Sequenced {
            group: made.group,
            version,
            seq: version,
        }));
    }
    // All are due again each time.
    for round in 1..=8 {
        let due = suite::NOW + round * 2 * DUE_MAX_MS;
        let takes = stores.iter().cycle().take(12);
        let taken = join_all(takes.map(|store| store.take_due(due, 5))).await;
        let all: Vec<GroupId> = taken.into_iter().flat_map(Result::unwrap).collect();
        let once: BTreeSet<GroupId> = all.iter().copied().collect();
        assert!(!once.is_empty());
        assert_eq!(once.len(), all.len());
    }
    // Each is told in an order of its own, and nobody is refused because others are in his way.
    let due = suite::NOW + 100 * DUE_MAX_MS;
    let takes = stores.iter().cycle().take(12);
    let takes = join_all(takes.map(|store| store.take_due(due, 20)));
    let notes = (0..12).zip(stores.iter().cycle()).map(|(n, store)| {
        let mut changes = seen.clone();
        changes.rotate_left(n * 5);
        if n % 2 == 0 {
            changes.reverse();
        }
        store.note_sequenced(changes)
    });
    let (taken, noted) = tokio::join!(takes, join_all(notes));
    assert!(taken.into_iter().all(|taken| taken.is_ok()));
    assert!(noted.into_iter().all(|noted| noted.is_ok()));
    for change in seen {
        assert_eq!(outstanding(&stores[1], change.group).await, [0; 0]);
    }
}
