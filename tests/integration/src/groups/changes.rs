//! Changes of groups: once, in order, by those who may.

use harness::{TestServer, refused, request_id};
use proto::{
    error::v1::ErrorReason,
    groups::v1::{
        AddMembersRequest, CreateInvitationRequest, GetGroupRequest, GroupSettings,
        JoinGroupRequest, Role, SetRoleRequest, UpdateGroupRequest,
    },
    messaging::v1::{GroupChangeKind, event::Kind},
};

#[tokio::test]
async fn a_change_that_is_sent_twice_is_one_event_and_is_answered_the_same() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let (group, created) = ada
        .create_group("engines", &[], GroupSettings::default())
        .await;
    assert_eq!(created, 1);
    let request = AddMembersRequest {
        request_id: request_id(),
        group_id: group.group_id.clone(),
        if_version: 0,
        user_ids: vec![grace.user_id.clone()],
    };
    let first = ada.groups().add_members(request.clone()).await;
    let first = first.unwrap().into_inner();
    let again = ada.groups().add_members(request.clone()).await;
    assert_eq!(again.unwrap().into_inner(), first);
    assert_eq!(first.seq, 2);
    let changed = AddMembersRequest {
        user_ids: vec![ada.user_id.clone()],
        ..request
    };
    let refusal = refused(ada.groups().add_members(changed).await);
    assert_eq!(refusal.reason, ErrorReason::RequestIdReused);
    let history = ada.history(&group.conversation_id, 2).await;
    let versions: Vec<_> = history
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::GroupChange(change)) => Some((event.seq, change.version, change.kind())),
            _ => None,
        })
        .collect();
    assert_eq!(
        versions,
        [
            (1, 1, GroupChangeKind::Created),
            (2, 2, GroupChangeKind::Added)
        ]
    );
}

#[tokio::test]
async fn concurrent_changes_are_all_there_or_aborted_and_none_is_lost() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (group, _) = ada
        .create_group("engines", &[], GroupSettings::default())
        .await;
    let mut users = Vec::new();
    for n in 0..12 {
        users.push(server.user(&format!("user{n:02}")).await);
    }
    let adding = users.iter().map(|user| {
        let (ada, group) = (ada.clone(), group.clone());
        let request = AddMembersRequest {
            request_id: request_id(),
            group_id: group.group_id,
            // Half of them are for whatever the group is at.
            if_version: u64::from(user.username.ends_with(['1', '3', '5', '7', '9'])),
            user_ids: vec![user.user_id.clone()],
        };
        tokio::spawn(async move { ada.groups().add_members(request).await })
    });
    let adding: Vec<_> = adding.collect();
    let (mut added, mut seqs) = (0, Vec::new());
    for answer in adding {
        match answer.await.unwrap() {
            Ok(answer) => {
                added += 1;
                seqs.push(answer.into_inner().seq);
            }
            Err(status) => {
                let refusal = harness::Refusal::from(&status);
                assert_eq!(refusal.reason, ErrorReason::GroupVersionChanged);
            }
        }
    }
    assert!(added >= 6, "{added}");
    seqs.sort_unstable();
    assert_eq!(seqs, (2..2 + added).collect::<Vec<u64>>());
    let request = GetGroupRequest {
        group_id: group.group_id,
    };
    let now = ada.groups().get_group(request).await.unwrap().into_inner();
    let now = now.group.unwrap();
    assert_eq!(u64::from(now.member_count), 1 + added);
    assert_eq!(now.version, 1 + added);
}

#[tokio::test]
async fn roles_and_announcement_mode_hold_for_calls_and_for_sends() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let grace = server.user("grace").await;
    let alan = server.user("alan").await;
    let announcement = GroupSettings {
        announcement: true,
        add_by_admins: true,
        ..GroupSettings::default()
    };
    let (group, _) = ada.create_group("news", &[&grace], announcement).await;
    let id = &group.conversation_id;
    let refusal = refused(grace.send(id, uuid::Uuid::now_v7(), "may I?").await);
    assert_eq!(refusal.reason, ErrorReason::AdminsOnly);
    let refusal = refused(grace.add_members(&group, &[&alan]).await);
    assert_eq!(refusal.reason, ErrorReason::RoleNotSufficient);
    let promote = SetRoleRequest {
        request_id: request_id(),
        group_id: group.group_id.clone(),
        if_version: 0,
        user_id: grace.user_id.clone(),
        role: Role::Admin.into(),
    };
    let promoted = ada.groups().set_role(promote).await.unwrap().into_inner();
    let sent = grace.send(id, uuid::Uuid::now_v7(), "I may").await.unwrap();
    assert!(sent.seq > promoted.seq);
    grace.add_members(&group, &[&alan]).await.unwrap();
    let quieter = UpdateGroupRequest {
        request_id: request_id(),
        group_id: group.group_id.clone(),
        name: Some("chat".to_owned()),
        settings: Some(GroupSettings::default()),
        ..UpdateGroupRequest::default()
    };
    ada.groups().update_group(quieter).await.unwrap();
    alan.send(id, uuid::Uuid::now_v7(), "hello").await.unwrap();
}

#[tokio::test]
async fn an_invitation_lets_in_as_many_as_it_says_and_nobody_when_it_is_void() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let (group, _) = ada
        .create_group("engines", &[], GroupSettings::default())
        .await;
    let invite = CreateInvitationRequest {
        request_id: request_id(),
        group_id: group.group_id.clone(),
        expires_in_seconds: 3600,
        uses_max: 1,
    };
    let made = ada.groups().create_invitation(invite).await.unwrap();
    let token = made.into_inner().token;
    let join = |token: &str| JoinGroupRequest {
        request_id: request_id(),
        token: token.to_owned(),
    };
    let grace = server.user("grace").await;
    let joined = grace.groups().join_group(join(&token)).await.unwrap();
    let joined = joined.into_inner();
    assert!(joined.seq > 1 && !joined.waits_for_approval);
    grace
        .send(&group.conversation_id, uuid::Uuid::now_v7(), "hello")
        .await
        .unwrap();
    let alan = server.user("alan").await;
    for token in [token.as_str(), "not a token"] {
        let refusal = refused(alan.groups().join_group(join(token)).await);
        assert_eq!(refusal.reason, ErrorReason::InvitationInvalid);
    }
}
