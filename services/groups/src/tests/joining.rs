use proto::{error::v1::ErrorReason as R, groups::v1 as pb};
use runtime::{ids::UserId, status::ApiError};

use super::harness::*;

async fn invite(
    server: &Server,
    actor: UserId,
    request: pb::CreateInvitationRequest,
) -> Result<pb::CreateInvitationResponse, ApiError> {
    let request = server.by(actor, request);
    read(server.calls().create_invitation(request).await)
}

async fn join(
    server: &Server,
    actor: UserId,
    token: &str,
) -> Result<pb::JoinGroupResponse, ApiError> {
    let request = pb::JoinGroupRequest {
        request_id: id(),
        token: token.to_owned(),
    };
    read(server.calls().join_group(server.by(actor, request)).await)
}

#[tokio::test]
async fn who_has_the_token_joins_until_the_invitation_ends() {
    let (server, _sequencer) = Server::start().await;
    let [ann, bob, carl, dave] = std::array::from_fn(|_| UserId::generate());
    let group = server.create(ann, &[bob]).await.group.unwrap().group_id;
    let request = pb::CreateInvitationRequest {
        request_id: id(),
        group_id: group.clone(),
        expires_in_seconds: 60,
        uses_max: 1,
    };
    let refused = invite(&server, bob, request.clone()).await;
    assert_eq!(reason(refused), R::RoleNotSufficient);
    let made = invite(&server, ann, request.clone()).await.unwrap();
    let invitation = made.invitation.clone().unwrap();
    assert_eq!(invitation.expires_unix_ms, NOW + 60_000);
    assert_eq!(made.token.len(), 43);
    // A retry shows the same token, and makes no second one.
    assert_eq!(invite(&server, ann, request.clone()).await.unwrap(), made);
    let list = || pb::ListInvitationsRequest {
        group_id: group.clone(),
    };
    let listed = read(
        server
            .calls()
            .list_invitations(server.by(ann, list()))
            .await,
    )
    .unwrap();
    assert_eq!(listed.invitations, std::slice::from_ref(&invitation));
    let refused = read(
        server
            .calls()
            .list_invitations(server.by(bob, list()))
            .await,
    );
    assert_eq!(reason(refused), R::RoleNotSufficient);

    let joined = join(&server, carl, &made.token).await.unwrap();
    assert_eq!((joined.seq, joined.group.unwrap().member_count), (4, 3));
    let stays = join(&server, bob, &made.token).await.unwrap();
    assert_eq!((stays.seq, stays.group.unwrap().version), (0, 2));
    for token in [&made.token, "x", &"A".repeat(43)] {
        let refused = join(&server, dave, token).await.unwrap_err();
        assert_eq!(
            (refused.reason, refused.field.as_str()),
            (R::InvitationInvalid, "token")
        );
    }
    assert_eq!(reason(join(&server, dave, "").await), R::FieldRequired);
    let request = pb::CreateInvitationRequest {
        request_id: id(),
        uses_max: 0,
        ..request
    };
    let made = invite(&server, ann, request.clone()).await.unwrap();
    let revoke = pb::RevokeInvitationRequest {
        group_id: group.clone(),
        invitation_id: made.invitation.unwrap().invitation_id,
    };
    for _ in 0..2 {
        let revoke = server.by(ann, revoke.clone());
        read(server.calls().revoke_invitation(revoke).await).unwrap();
    }
    assert_eq!(
        reason(join(&server, dave, &made.token).await),
        R::InvitationInvalid
    );
    let request = pb::CreateInvitationRequest {
        request_id: id(),
        ..request
    };
    let made = invite(&server, ann, request.clone()).await.unwrap();
    server.clock.advance(60_000);
    assert_eq!(
        reason(join(&server, dave, &made.token).await),
        R::InvitationInvalid
    );
    let too_long = pb::CreateInvitationRequest {
        request_id: id(),
        expires_in_seconds: 365 * 86_400 + 1,
        ..request
    };
    assert_eq!(
        reason(invite(&server, ann, too_long).await),
        R::FieldOutOfRange
    );
}

#[tokio::test]
async fn who_needs_approval_waits_for_it() {
    let (server, sequencer) = Server::start().await;
    let [ann, bob, carl] = std::array::from_fn(|_| UserId::generate());
    let request = pb::CreateGroupRequest {
        request_id: id(),
        name: "a name".to_owned(),
        settings: Some(pb::GroupSettings {
            approve_joining: true,
            ..pb::GroupSettings::default()
        }),
        ..pb::CreateGroupRequest::default()
    };
    let group = read(server.calls().create_group(server.by(ann, request)).await);
    let group = group.unwrap().group.unwrap().group_id;
    let request = pb::CreateInvitationRequest {
        request_id: id(),
        group_id: group.clone(),
        ..pb::CreateInvitationRequest::default()
    };
    let token = invite(&server, ann, request).await.unwrap().token;
    for user in [bob, carl, carl] {
        let waits = join(&server, user, &token).await.unwrap();
        assert_eq!(
            (waits.seq, waits.group, waits.waits_for_approval),
            (0, None, true)
        );
    }
    let list = || pb::ListJoinRequestsRequest {
        group_id: group.clone(),
        ..pb::ListJoinRequestsRequest::default()
    };
    let waiting = read(
        server
            .calls()
            .list_join_requests(server.by(ann, list()))
            .await,
    )
    .unwrap();
    assert_eq!(waiting.join_requests.len(), 2);
    let first = &waiting.join_requests[0];
    assert_eq!(first.username, format!("u-{}", first.user_id));
    let answer = async |user: UserId, approve| {
        let request = pb::AnswerJoinRequestRequest {
            request_id: id(),
            group_id: group.clone(),
            user_id: user.to_string(),
            approve,
        };
        read(
            server
                .calls()
                .answer_join_request(server.by(ann, request))
                .await,
        )
    };
    let let_in = answer(bob, true).await.unwrap();
    assert_eq!((let_in.seq, let_in.group.unwrap().member_count), (4, 2));
    let not = answer(carl, false).await.unwrap();
    assert_eq!((not.seq, not.group.unwrap().member_count), (0, 2));
    assert_eq!(reason(answer(carl, true).await), R::JoinRequestNotFound);
    let refused = read(
        server
            .calls()
            .list_join_requests(server.by(bob, list()))
            .await,
    );
    assert_eq!(reason(refused), R::RoleNotSufficient);
    assert_eq!(sequencer.changes(&group).len(), 2);
}
