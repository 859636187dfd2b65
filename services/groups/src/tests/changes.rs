use std::sync::atomic::Ordering;

use proto::{
    error::v1::ErrorReason as R,
    groups::v1::{self as pb, Role},
    log::v1::GroupChangeKind,
};
use runtime::ids::UserId;

use super::harness::*;

fn users<const N: usize>() -> [UserId; N] {
    std::array::from_fn(|_| UserId::generate())
}

#[tokio::test]
async fn a_change_is_an_event_and_is_answered_with_its_seq() {
    let (server, sequencer) = Server::start().await;
    let [ann, bob, carl] = users();
    let made = server.create(ann, &[bob, bob, ann]).await;
    let group = made.group.unwrap();
    assert_eq!(made.seq, 2);
    assert_eq!(group.conversation_id, format!("g:{}", group.group_id));
    assert_eq!((group.version, group.member_count), (1, 2));
    assert_eq!(group.role(), Role::Owner);
    let id_of = group.group_id;
    let added = server.add(bob, &id_of, &[carl]).await.unwrap();
    assert_eq!((added.seq, added.group.unwrap().version), (4, 2));
    let give = pb::SetRoleRequest {
        request_id: id(),
        group_id: id_of.clone(),
        if_version: 2,
        user_id: bob.to_string(),
        role: Role::Admin.into(),
    };
    let given = read(server.calls().set_role(server.by(ann, give.clone())).await).unwrap();
    assert_eq!(given.seq, 6);
    // Nothing changes, so there is no event.
    let again = pb::SetRoleRequest {
        request_id: id(),
        if_version: 0,
        ..give.clone()
    };
    let again = read(server.calls().set_role(server.by(ann, again)).await).unwrap();
    assert_eq!((again.seq, again.group.unwrap().version), (0, 3));
    let stale = pb::SetRoleRequest {
        request_id: id(),
        ..give
    };
    let stale = read(server.calls().set_role(server.by(ann, stale)).await).unwrap_err();
    assert_eq!(
        (stale.reason, stale.field.as_str()),
        (R::GroupVersionChanged, "if_version")
    );
    let remove = pb::RemoveMemberRequest {
        request_id: id(),
        group_id: id_of.clone(),
        if_version: 0,
        user_id: carl.to_string(),
    };
    let removed = read(
        server
            .calls()
            .remove_member(server.by(bob, remove.clone()))
            .await,
    );
    assert_eq!(removed.unwrap().group.unwrap().member_count, 2);
    let remove = pb::RemoveMemberRequest {
        request_id: id(),
        ..remove
    };
    let removed = read(server.calls().remove_member(server.by(bob, remove)).await);
    assert_eq!(reason(removed), R::MemberNotFound);
    let transfer = pb::TransferOwnershipRequest {
        request_id: id(),
        group_id: id_of.clone(),
        if_version: 0,
        user_id: bob.to_string(),
    };
    let passed = read(
        server
            .calls()
            .transfer_ownership(server.by(ann, transfer))
            .await,
    )
    .unwrap();
    assert_eq!(passed.group.unwrap().role(), Role::Admin);
    assert_eq!(server.leave(bob, &id_of).await.unwrap().seq, 12);
    assert_eq!(server.get(ann, &id_of).await.unwrap().role(), Role::Owner);
    assert_eq!(server.leave(ann, &id_of).await.unwrap().seq, 14);
    assert_eq!(reason(server.get(ann, &id_of).await), R::GroupNotFound);
    use GroupChangeKind as K;
    let told: Vec<K> = sequencer.changes(&id_of).iter().map(|c| c.kind()).collect();
    assert_eq!(
        told,
        [
            K::Created,
            K::Added,
            K::Roles,
            K::Removed,
            K::Roles,
            K::Left,
            K::Left
        ]
    );
    assert_eq!(server.groups.service.waiting.len(), 0);
}

#[tokio::test]
async fn a_retry_is_one_change_with_one_answer_and_an_id_is_for_one_change() {
    let (server, sequencer) = Server::start().await;
    let [ann, bob] = users();
    let request = pb::CreateGroupRequest {
        request_id: id(),
        name: "a name".to_owned(),
        ..pb::CreateGroupRequest::default()
    };
    let create = async |request: &pb::CreateGroupRequest| {
        let request = server.by(ann, request.clone());
        read(server.calls().create_group(request).await)
    };
    let (one, two) = tokio::join!(create(&request), create(&request));
    let first = one.unwrap();
    assert_eq!(first, two.unwrap());
    let group = first.group.clone().unwrap().group_id;
    server.add(ann, &group, &[bob]).await.unwrap();
    assert_eq!(create(&request).await.unwrap(), first);
    let other = pb::CreateGroupRequest {
        name: "another".to_owned(),
        ..request.clone()
    };
    let error = create(&other).await.unwrap_err();
    assert_eq!(
        (error.reason, error.field.as_str()),
        (R::RequestIdReused, "request_id")
    );
    // Also another method with the same words.
    let leave = pb::LeaveGroupRequest {
        request_id: request.request_id,
        group_id: group.clone(),
    };
    let error = read(server.calls().leave_group(server.by(ann, leave)).await);
    assert_eq!(reason(error), R::RequestIdReused);
    assert_eq!(sequencer.changes(&group).len(), 2);
    let list = pb::ListGroupsRequest::default();
    let list = read(server.calls().list_groups(server.by(ann, list)).await).unwrap();
    assert_eq!(list.groups.len(), 1);
}

#[tokio::test]
async fn users_must_exist_and_profile_is_asked_once() {
    let (server, _sequencer) = Server::start().await;
    let [ann, bob, carl] = users();
    let group = server.create(ann, &[bob]).await.group.unwrap().group_id;
    let refused = server.add(ann, &group, &[carl, nobody()]).await;
    assert_eq!(reason(refused), R::UserNotFound);
    server.profiles.away.store(true, Ordering::SeqCst);
    // Carl was seen.
    server.add(ann, &group, &[carl]).await.unwrap();
    let unknown = server.add(ann, &group, &users::<1>()).await;
    assert_eq!(reason(unknown), R::Unavailable);
    // Lists come without the names that are not known.
    server.create(bob, &[]).await;
    let list = pb::ListMembersRequest {
        group_id: group.clone(),
        ..pb::ListMembersRequest::default()
    };
    let list = read(server.calls().list_members(server.by(ann, list)).await).unwrap();
    assert_eq!((list.members.len(), list.version), (3, 2));
    let name = |user: UserId| {
        let member = list.members.iter().find(|m| m.user_id == user.to_string());
        member.unwrap().username.clone()
    };
    assert_eq!((name(ann), name(bob)), (String::new(), format!("u-{bob}")));
}

#[tokio::test]
async fn lists_come_in_pages_that_belong_to_their_call() {
    let (server, _sequencer) = Server::start().await;
    let ann = UserId::generate();
    let others: [UserId; 6] = users();
    let group = server.create(ann, &others).await.group.unwrap().group_id;
    let mut request = pb::ListMembersRequest {
        group_id: group,
        page_size: 3,
        ..pb::ListMembersRequest::default()
    };
    let mut members = Vec::new();
    loop {
        let page = server.by(ann, request.clone());
        let page = read(server.calls().list_members(page).await).unwrap();
        members.extend(page.members.into_iter().map(|member| member.user_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut all: Vec<String> = others
        .iter()
        .chain([&ann])
        .map(ToString::to_string)
        .collect();
    all.sort();
    assert_eq!(members, all);
    let other = server.create(ann, &[]).await.group.unwrap().group_id;
    let foreign = pb::ListMembersRequest {
        group_id: other,
        ..request.clone()
    };
    let refused = read(server.calls().list_members(server.by(ann, foreign)).await);
    assert_eq!(reason(refused), R::PageTokenInvalid);
    let mut groups = Vec::new();
    let mut request = pb::ListGroupsRequest {
        page_size: 1,
        ..pb::ListGroupsRequest::default()
    };
    loop {
        let page = server.by(ann, request.clone());
        let page = read(server.calls().list_groups(page).await).unwrap();
        groups.extend(page.groups);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(groups.len(), 2);
}

#[tokio::test]
async fn what_is_not_in_its_form_is_refused_with_its_field() {
    let (server, _sequencer) = Server::start().await;
    let ann = UserId::generate();
    let create = async |change: &dyn Fn(&mut pb::CreateGroupRequest)| {
        let mut request = pb::CreateGroupRequest {
            request_id: id(),
            name: "a name".to_owned(),
            ..pb::CreateGroupRequest::default()
        };
        change(&mut request);
        let answer = read(server.calls().create_group(server.by(ann, request)).await);
        answer.map_err(|error| (error.reason, error.field))
    };
    let field = |reason, name: &str| Err((reason, name.to_owned()));
    type Set = Box<dyn Fn(&mut pb::CreateGroupRequest)>;
    let cases: Vec<(Set, R, &str)> = vec![
        (
            Box::new(|r| r.request_id.clear()),
            R::FieldRequired,
            "request_id",
        ),
        (
            Box::new(|r| r.request_id = "x".into()),
            R::FieldMalformed,
            "request_id",
        ),
        (Box::new(|r| r.name = "  ".into()), R::FieldRequired, "name"),
        (
            Box::new(|r| r.name = "ä".repeat(101)),
            R::TextTooLong,
            "name",
        ),
        (
            Box::new(|r| r.name = "a\nb".into()),
            R::FieldMalformed,
            "name",
        ),
        (
            Box::new(|r| r.name = "a\0b".into()),
            R::TextNotStorable,
            "name",
        ),
        (
            Box::new(|r| r.description = "x".repeat(513)),
            R::TextTooLong,
            "description",
        ),
        (
            Box::new(|r| r.description = "a\tb".into()),
            R::FieldMalformed,
            "description",
        ),
        (
            Box::new(|r| r.picture_receipt = "x".repeat(257)),
            R::ReceiptInvalid,
            "picture_receipt",
        ),
        (
            Box::new(|r| r.user_ids = vec!["x".into()]),
            R::FieldMalformed,
            "user_ids[0]",
        ),
        (
            Box::new(|r| r.user_ids = vec![id(); 201]),
            R::FieldOutOfRange,
            "user_ids",
        ),
        (
            Box::new(|r| {
                r.settings = Some(pb::GroupSettings {
                    history_access: 7,
                    ..pb::GroupSettings::default()
                });
            }),
            R::FieldMalformed,
            "settings.history_access",
        ),
    ];
    for (set, reason, name) in cases {
        assert_eq!(create(&*set).await, field(reason, name));
    }
    let most = |r: &mut pb::CreateGroupRequest| {
        r.name = "ä".repeat(100);
        r.description = format!("{}\n", "ä".repeat(511));
        r.user_ids = (0..199).map(|_| UserId::generate().to_string()).collect();
    };
    let made = create(&most).await.unwrap().group.unwrap();
    assert_eq!(made.member_count, 200);
    let full = server.add(ann, &made.group_id, &users::<1>()).await;
    assert_eq!(reason(full), R::LimitReached);
    for role in [0, 3, 9] {
        let give = pb::SetRoleRequest {
            request_id: id(),
            group_id: made.group_id.clone(),
            if_version: 0,
            user_id: ann.to_string(),
            role,
        };
        let error = read(server.calls().set_role(server.by(ann, give)).await).unwrap_err();
        assert_eq!(error.field, "role");
    }
}

#[tokio::test]
async fn a_user_who_changes_too_much_waits_and_nobody_else_does() {
    let number = |n| std::num::NonZeroU32::new(n).unwrap();
    let server = Server::with(crate::Config {
        changes_per_second: number(1),
        changes_burst: number(2),
        reads_per_second: number(1),
        reads_burst: number(3),
        ..crate::Config::default()
    })
    .await;
    let [ann, bob] = users();
    let group = uuid::Uuid::now_v7().to_string();
    for _ in 0..2 {
        assert_eq!(reason(server.leave(ann, &group).await), R::GroupNotFound);
    }
    let limited = server.leave(ann, &group).await.unwrap_err();
    assert_eq!(limited.reason, R::RateLimited);
    assert!(limited.retry_after.is_some());
    assert_eq!(reason(server.leave(bob, &group).await), R::GroupNotFound);
    for _ in 0..3 {
        assert_eq!(reason(server.get(ann, &group).await), R::GroupNotFound);
    }
    assert_eq!(reason(server.get(ann, &group).await), R::RateLimited);
}
