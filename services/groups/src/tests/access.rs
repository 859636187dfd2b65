use prost::Message;
use prost_types::FileDescriptorSet;
use proto::groups::v1::{
    BatchGetSnippetsRequest, directory_service_client::DirectoryServiceClient,
};
use tonic_prost::ProstCodec;

use super::harness::*;
use crate::{SERVICES, policy};
use proto::error::v1::ErrorReason;
use runtime::{
    auth::Access,
    ids::{GroupId, UserId},
    status::read_status,
};

/// Every method of the services, as a path.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap().file;
    let mut paths = Vec::new();
    for file in files {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if SERVICES.contains(&name.as_str()) {
                let of_service = service.method.iter();
                paths.extend(of_service.map(|m| format!("/{name}/{}", m.name())));
            }
        }
    }
    paths
}

#[tokio::test]
async fn each_method_is_for_its_kind_of_caller_only() {
    let (server, _sequencer) = Server::start().await;
    let user = server.token(UserId::generate());
    let service = server.service.bearer().unwrap();
    let service = service.to_str().unwrap().trim_start_matches("Bearer ");
    let paths = methods();
    assert_eq!(paths.len(), 17);
    for path in paths {
        let refused = match policy(&path).unwrap() {
            Access::User => service,
            Access::Service => user.as_str(),
            other => panic!("{path}: {other:?}"),
        };
        for (token, expected) in [
            (Some(refused), ErrorReason::CallerNotAllowed),
            (None, ErrorReason::TokenMissing),
        ] {
            let mut client = tonic::client::Grpc::new(server.channel.clone());
            client.ready().await.unwrap();
            let request = match token {
                Some(token) => with_token(token, ()),
                None => tonic::Request::new(()),
            };
            let codec = ProstCodec::<(), ()>::default();
            let path = path.parse().unwrap();
            let status = client.unary(request, path, codec).await.unwrap_err();
            assert_eq!(read_status(&status).reason, expected);
        }
    }
}

#[tokio::test]
async fn who_is_not_a_member_is_told_of_no_group() {
    let (server, _sequencer) = Server::start().await;
    let (ann, bob, eve) = (UserId::generate(), UserId::generate(), UserId::generate());
    let group = server.create(ann, &[bob]).await.group.unwrap().group_id;
    server.leave(bob, &group).await.unwrap();
    let nowhere = GroupId::generate().to_string();
    for (user, group) in [(eve, &group), (bob, &group), (ann, &nowhere)] {
        let by = || (id(), group.clone());
        let mut calls = server.calls();
        macro_rules! refused {
            ($($method:ident($request:expr)),* $(,)?) => {$(
                let answer = read(calls.$method(server.by(user, $request)).await);
                assert_eq!(reason(answer), ErrorReason::GroupNotFound, stringify!($method));
            )*};
        }
        use proto::groups::v1::*;
        let (request_id, group_id) = by();
        let user_id = ann.to_string();
        refused! {
            update_group(UpdateGroupRequest {
                request_id: id(), group_id: group_id.clone(), name: Some("x".to_owned()),
                ..UpdateGroupRequest::default()
            }),
            add_members(AddMembersRequest {
                request_id: id(), group_id: group_id.clone(), if_version: 9,
                user_ids: vec![nobody().to_string()],
            }),
            remove_member(RemoveMemberRequest {
                request_id: id(), group_id: group_id.clone(), if_version: 9, user_id: user_id.clone(),
            }),
            leave_group(LeaveGroupRequest { request_id, group_id: group_id.clone() }),
            set_role(SetRoleRequest {
                request_id: id(), group_id: group_id.clone(), if_version: 0,
                user_id: user_id.clone(), role: 2,
            }),
            transfer_ownership(TransferOwnershipRequest {
                request_id: id(), group_id: group_id.clone(), if_version: 0, user_id: user_id.clone(),
            }),
            get_group(GetGroupRequest { group_id: group_id.clone() }),
            list_members(ListMembersRequest {
                group_id: group_id.clone(), ..ListMembersRequest::default()
            }),
            create_invitation(CreateInvitationRequest {
                request_id: id(), group_id: group_id.clone(), ..CreateInvitationRequest::default()
            }),
            list_invitations(ListInvitationsRequest { group_id: group_id.clone() }),
            revoke_invitation(RevokeInvitationRequest {
                group_id: group_id.clone(), invitation_id: id(),
            }),
            list_join_requests(ListJoinRequestsRequest {
                group_id: group_id.clone(), ..ListJoinRequestsRequest::default()
            }),
            answer_join_request(AnswerJoinRequestRequest {
                request_id: id(), group_id: group_id.clone(), user_id, approve: true,
            }),
        }
    }
}

#[tokio::test]
async fn other_services_get_what_a_user_sees_of_groups() {
    let (server, _sequencer) = Server::start().await;
    let (ann, bob) = (UserId::generate(), UserId::generate());
    let group = server.create(ann, &[bob]).await.group.unwrap().group_id;
    server.leave(bob, &group).await.unwrap();
    let group = GroupId::parse(&group).unwrap().as_bytes().to_vec();
    let mut directory = DirectoryServiceClient::new(server.service.on(server.channel.clone()));
    let mut seen = async |user: UserId| {
        let request = BatchGetSnippetsRequest {
            user_id: user.as_bytes().to_vec(),
            group_ids: vec![group.clone(), vec![9; 16]],
        };
        let snippets = directory.batch_get_snippets(request).await.unwrap();
        let snippets = snippets.into_inner().snippets.into_iter();
        snippets
            .map(|s| (s.name, s.member_count, s.version))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(ann).await, [("a name".to_owned(), 1, 2)]);
    assert_eq!(seen(bob).await, [("a name".to_owned(), 0, 2)]);
    assert_eq!(seen(UserId::generate()).await, []);
    let mut refused = async |user_id: Vec<u8>, group_ids: Vec<Vec<u8>>| {
        let request = BatchGetSnippetsRequest { user_id, group_ids };
        let error = read(directory.batch_get_snippets(request).await).unwrap_err();
        (error.reason, error.field)
    };
    use ErrorReason as R;
    let field = |reason, name: &str| (reason, name.to_owned());
    let one = || vec![vec![1; 16]];
    assert_eq!(
        refused(vec![], one()).await,
        field(R::FieldRequired, "user_id")
    );
    assert_eq!(
        refused(vec![1; 15], one()).await,
        field(R::FieldMalformed, "user_id")
    );
    assert_eq!(
        refused(vec![1; 16], vec![]).await,
        field(R::FieldRequired, "group_ids")
    );
    let many = vec![vec![1; 16]; 501];
    assert_eq!(
        refused(vec![1; 16], many).await,
        field(R::FieldOutOfRange, "group_ids")
    );
}
