//! Promises about lists.

use super::*;
use crate::{model::Snippet, store::PAST_GROUPS_PER_USER_MAX};

pub(crate) async fn groups_and_members_come_in_pages(store: &dyn Store) {
    let ann = UserId::generate();
    let mut groups = Vec::new();
    for _ in 0..5 {
        let others = (0..4).map(|_| UserId::generate()).collect();
        let creating = request(ann, None, create(others, Settings::default()));
        groups.push(store.change(creating).await.unwrap().group);
    }
    made(store, 3).await;
    groups.sort();
    let mut found = Vec::new();
    loop {
        let page = store.groups(ann, found.last().copied(), 2).await.unwrap();
        found.extend(page.iter().map(|(group, _)| group.group_id));
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!(found, groups);
    let mut members: Vec<UserId> = Vec::new();
    loop {
        let page = store.members(groups[0], ann, members.last().copied(), 2);
        let (version, page) = page.await.unwrap().unwrap();
        assert_eq!(version, 1);
        members.extend(page.iter().map(|member| member.user_id));
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!(members.len(), 5);
    assert!(members.is_sorted() && members.contains(&ann));
    let stranger = store.members(groups[0], UserId::generate(), None, 2).await;
    assert_eq!(stranger.unwrap(), None);
    assert_eq!(store.groups(UserId::generate(), None, 2).await.unwrap(), []);
}

pub(crate) async fn who_has_left_sees_the_group_as_it_was(store: &dyn Store) {
    let made = made(store, 3).await;
    let snippet = async |user| {
        let asked = vec![GroupId::generate(), made.group];
        store.snippets(user, asked).await.unwrap().pop()
    };
    let seen = |name: &str, member_count, version| Snippet {
        group_id: made.group,
        name: name.to_owned(),
        picture: "picture".to_owned(),
        member_count,
        version,
    };
    let bob = made.members[1];
    assert_eq!(snippet(bob).await, Some(seen("a name", 3, 1)));
    assert_eq!(snippet(UserId::generate()).await, None);
    change(store, bob, made.group, Command::Leave)
        .await
        .unwrap();
    let rename = Command::Update {
        name: Some("another".to_owned()),
        description: None,
        picture: None,
        settings: None,
    };
    change(store, made.owner, made.group, rename).await.unwrap();
    assert_eq!(snippet(bob).await, Some(seen("a name", 0, 2)));
    assert_eq!(snippet(made.owner).await, Some(seen("another", 2, 3)));
    let add = Command::Add { users: vec![bob] };
    change(store, made.owner, made.group, add).await.unwrap();
    assert_eq!(snippet(bob).await, Some(seen("another", 3, 4)));
    // Also when the group has ended, for whoever was the last.
    for user in &made.members {
        change(store, *user, made.group, Command::Leave)
            .await
            .unwrap();
    }
    assert_eq!(snippet(made.members[2]).await, Some(seen("another", 0, 7)));
    store.forget_stints(vec![(made.group, 7)]).await.unwrap();
    assert_eq!(snippet(made.members[2]).await, Some(seen("another", 0, 7)));
}

pub(crate) async fn the_groups_that_a_user_has_left_are_bounded(store: &dyn Store) {
    let ann = UserId::generate();
    let mut groups = Vec::new();
    for n in 0..PAST_GROUPS_PER_USER_MAX + 2 {
        let creating = request(ann, None, create(Vec::new(), Settings::default()));
        let group = store.change(creating).await.unwrap().group;
        let mut leaving = request(ann, Some(group), Command::Leave);
        leaving.act.now_unix_ms = NOW + i64::try_from(n).unwrap();
        store.change(leaving).await.unwrap();
        groups.push(group);
    }
    let seen = store.snippets(ann, groups.clone()).await.unwrap();
    let mut seen: Vec<GroupId> = seen.iter().map(|snippet| snippet.group_id).collect();
    seen.sort();
    // Made in this order, but perhaps in one millisecond.
    let mut last = groups[2..].to_vec();
    last.sort();
    assert!(seen == last, "{} of {}", seen.len(), last.len());
}
