//! The two services on the wire: validates and converts, nothing else.

use std::sync::Arc;

use prost::Message;
use proto::{
    error::v1::ErrorReason,
    groups::v1::{
        self as pb, directory_service_server::DirectoryService, group_service_server::GroupService,
    },
};
use runtime::{
    auth::{ReceiptPurpose, user_caller},
    ids::{GroupId, UserId},
    page_token,
    status::ApiError,
};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status, async_trait};
use uuid::Uuid;

use crate::{
    Service,
    answer::{group_pb, invitation_pb},
    changes::{Done, Wish},
    decide::{Command, Refusal},
    error::Error,
    store::RequestKey,
    tokens, validate,
};

/// Groups in a page when the caller does not say, and at most.
const GROUPS_DEFAULT: usize = 50;
const GROUPS_MAX: usize = 100;
/// Members, or users who wait, in a page when the caller does not say, and at most.
const USERS_DEFAULT: usize = 100;
const USERS_MAX: usize = 200;

/// The services, as tonic wants them.
#[derive(Clone)]
pub(crate) struct Grpc {
    service: Arc<Service>,
}

impl Grpc {
    /// Speaks for this service.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// The blob of a picture that the caller has uploaded, in text; empty = no picture.
    fn picture(&self, receipt: &str, caller: UserId) -> Result<String, ApiError> {
        if receipt.is_empty() {
            return Ok(String::new());
        }
        let receipts = &self.service.receipts;
        let verified = receipts.verify(receipt, caller, ReceiptPurpose::Picture);
        let blob = verified.and_then(|receipt| receipt.blob_id());
        let blob = blob.map_err(|error| error.of_field("picture_receipt"))?;
        Ok(blob.to_string())
    }
}

/// What a change is known by: the caller, and what he said besides the id.
struct Asked<T> {
    caller: UserId,
    request_id: Uuid,
    request: T,
}

impl<T: Message + Default> Asked<T> {
    /// `take_id` takes the request's id out of it.
    fn of(
        request: Request<T>,
        take_id: impl FnOnce(&mut T) -> &mut String,
    ) -> Result<Self, ApiError> {
        let caller = user_caller(&request)?.user_id;
        let mut request = request.into_inner();
        let id = std::mem::take(take_id(&mut request));
        Ok(Self {
            caller,
            request_id: validate::uuid(&id, "request_id")?,
            request,
        })
    }

    fn wish(&self, method: &str, group: Option<GroupId>, if_version: u64) -> Wish {
        let digest = Sha256::new()
            .chain_update(method)
            .chain_update([0])
            .chain_update(self.request.encode_to_vec())
            .finalize();
        Wish {
            actor: self.caller,
            request: Some(RequestKey {
                request_id: self.request_id,
                digest: digest.into(),
            }),
            group,
            if_version,
        }
    }
}

#[async_trait]
impl GroupService for Grpc {
    async fn create_group(
        &self,
        request: Request<pb::CreateGroupRequest>,
    ) -> Result<Response<pb::CreateGroupResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let request = &asked.request;
        let command = Command::Create {
            name: validate::name(&request.name)?,
            description: validate::description(&request.description)?,
            picture: self.picture(&request.picture_receipt, asked.caller)?,
            settings: validate::settings(request.settings.as_ref())?,
            users: validate::user_ids(&request.user_ids)?,
        };
        let wish = asked.wish("CreateGroup", None, 0);
        let done = answer(self.service.create(wish, command).await)?;
        let (group, seq) = group_and_seq(done);
        Ok(Response::new(pb::CreateGroupResponse { group, seq }))
    }

    async fn update_group(
        &self,
        request: Request<pb::UpdateGroupRequest>,
    ) -> Result<Response<pb::UpdateGroupResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let request = &asked.request;
        let group = validate::group_id(&request.group_id)?;
        let description = request.description.as_deref();
        let settings = request.settings.as_ref();
        let command = Command::Update {
            name: request.name.as_deref().map(validate::name).transpose()?,
            description: description.map(validate::description).transpose()?,
            picture: request
                .picture_receipt
                .as_deref()
                .map(|receipt| self.picture(receipt, asked.caller))
                .transpose()?,
            settings: settings
                .map(|settings| validate::settings(Some(settings)))
                .transpose()?,
        };
        let wish = asked.wish("UpdateGroup", Some(group), request.if_version);
        let (group, seq) = group_and_seq(answer(self.service.change(wish, command).await)?);
        Ok(Response::new(pb::UpdateGroupResponse { group, seq }))
    }

    async fn add_members(
        &self,
        request: Request<pb::AddMembersRequest>,
    ) -> Result<Response<pb::AddMembersResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let group = validate::group_id(&asked.request.group_id)?;
        let users = validate::some_user_ids(&asked.request.user_ids)?;
        let wish = asked.wish("AddMembers", Some(group), asked.request.if_version);
        let done = self.service.add(wish, Command::Add { users }).await;
        let (group, seq) = group_and_seq(answer(done)?);
        Ok(Response::new(pb::AddMembersResponse { group, seq }))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let group = validate::group_id(&asked.request.group_id)?;
        let user = validate::user_id(&asked.request.user_id, "user_id")?;
        let wish = asked.wish("RemoveMember", Some(group), asked.request.if_version);
        let done = self.service.change(wish, Command::Remove { user }).await;
        let (group, seq) = group_and_seq(answer(done)?);
        Ok(Response::new(pb::RemoveMemberResponse { group, seq }))
    }

    async fn leave_group(
        &self,
        request: Request<pb::LeaveGroupRequest>,
    ) -> Result<Response<pb::LeaveGroupResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let group = validate::group_id(&asked.request.group_id)?;
        let wish = asked.wish("LeaveGroup", Some(group), 0);
        let done = answer(self.service.change(wish, Command::Leave).await)?;
        Ok(Response::new(pb::LeaveGroupResponse { seq: done.seq }))
    }

    async fn set_role(
        &self,
        request: Request<pb::SetRoleRequest>,
    ) -> Result<Response<pb::SetRoleResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let group = validate::group_id(&asked.request.group_id)?;
        let command = Command::SetRole {
            user: validate::user_id(&asked.request.user_id, "user_id")?,
            role: validate::role(asked.request.role)?,
        };
        let wish = asked.wish("SetRole", Some(group), asked.request.if_version);
        let (group, seq) = group_and_seq(answer(self.service.change(wish, command).await)?);
        Ok(Response::new(pb::SetRoleResponse { group, seq }))
    }

    async fn transfer_ownership(
        &self,
        request: Request<pb::TransferOwnershipRequest>,
    ) -> Result<Response<pb::TransferOwnershipResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let group = validate::group_id(&asked.request.group_id)?;
        let user = validate::user_id(&asked.request.user_id, "user_id")?;
        let wish = asked.wish("TransferOwnership", Some(group), asked.request.if_version);
        let done = self.service.change(wish, Command::Transfer { user }).await;
        let (group, seq) = group_and_seq(answer(done)?);
        Ok(Response::new(pb::TransferOwnershipResponse { group, seq }))
    }

    async fn get_group(
        &self,
        request: Request<pb::GetGroupRequest>,
    ) -> Result<Response<pb::GetGroupResponse>, Status> {
        let caller = user_caller(&request)?.user_id;
        let group = validate::group_id(&request.get_ref().group_id)?;
        let (group, role) = answer(self.service.group(group, caller).await)?;
        Ok(Response::new(pb::GetGroupResponse {
            group: Some(group_pb(&group, role)),
        }))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Result<Response<pb::ListGroupsResponse>, Status> {
        let caller = user_caller(&request)?.user_id;
        let request = request.get_ref();
        let limit =
            page_token::page_size(request.page_size, GROUPS_DEFAULT, GROUPS_MAX, "page_size")?;
        let scope = ("ListGroups", caller);
        let after = cursor(&scope, &request.page_token)?.map(GroupId::from_bytes);
        let (groups, more) = answer(self.service.groups(caller, after, limit).await)?;
        let last = groups.last().filter(|_| more);
        let next = last.map(|(g, _)| page_token::encode(&scope, g.group_id.as_bytes()));
        Ok(Response::new(pb::ListGroupsResponse {
            groups: groups.iter().map(|(g, role)| group_pb(g, *role)).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let caller = user_caller(&request)?.user_id;
        let request = request.get_ref();
        let group = validate::group_id(&request.group_id)?;
        let limit =
            page_token::page_size(request.page_size, USERS_DEFAULT, USERS_MAX, "page_size")?;
        let scope = ("ListMembers", group);
        let after = cursor(&scope, &request.page_token)?.map(UserId::from_bytes);
        let members = self.service.members(group, caller, after, limit).await;
        let (version, page) = answer(members)?;
        let last = page.rows.last().filter(|_| page.more);
        let next = last.map(|(m, _)| page_token::encode(&scope, m.user_id.as_bytes()));
        let members = page.rows.into_iter().map(|(member, name)| pb::Member {
            user_id: member.user_id.to_string(),
            role: i32::from(member.role as u8),
            joined_unix_ms: member.joined_unix_ms,
            username: name.username,
            display_name: name.display_name,
        });
        Ok(Response::new(pb::ListMembersResponse {
            members: members.collect(),
            next_page_token: next.unwrap_or_default(),
            version,
        }))
    }

    async fn create_invitation(
        &self,
        request: Request<pb::CreateInvitationRequest>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let request = &asked.request;
        let group = validate::group_id(&request.group_id)?;
        let expires_in = validate::expires_in(request.expires_in_seconds)?;
        let wish = asked.wish("CreateInvitation", Some(group), 0);
        let made = self
            .service
            .invite(wish, asked.request_id, expires_in, request.uses_max);
        let (done, token) = answer(made.await)?;
        Ok(Response::new(pb::CreateInvitationResponse {
            invitation: done.answer.invitation,
            token,
        }))
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Result<Response<pb::ListInvitationsResponse>, Status> {
        let caller = user_caller(&request)?.user_id;
        let group = validate::group_id(&request.get_ref().group_id)?;
        let invitations = answer(self.service.invitations(group, caller).await)?;
        Ok(Response::new(pb::ListInvitationsResponse {
            invitations: invitations.iter().map(invitation_pb).collect(),
        }))
    }

    async fn revoke_invitation(
        &self,
        request: Request<pb::RevokeInvitationRequest>,
    ) -> Result<Response<pb::RevokeInvitationResponse>, Status> {
        let caller = user_caller(&request)?.user_id;
        let request = request.get_ref();
        let group = validate::group_id(&request.group_id)?;
        let invitation_id = validate::uuid(&request.invitation_id, "invitation_id")?;
        let wish = Wish {
            actor: caller,
            request: None,
            group: Some(group),
            if_version: 0,
        };
        let revoke = Command::Revoke { invitation_id };
        answer(self.service.change(wish, revoke).await)?;
        Ok(Response::new(pb::RevokeInvitationResponse {}))
    }

    async fn join_group(
        &self,
        request: Request<pb::JoinGroupRequest>,
    ) -> Result<Response<pb::JoinGroupResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        if asked.request.token.is_empty() {
            let message = "must not be empty";
            let error = ApiError::field(ErrorReason::FieldRequired, "token", message);
            return Err(error.into());
        }
        let unknown = || Error::Refused(Refusal::InvitationInvalid);
        let token_hash = answer(tokens::token_hash(&asked.request.token).ok_or_else(unknown))?;
        let wish = asked.wish("JoinGroup", None, 0);
        let joined = self.service.change(wish, Command::Join { token_hash });
        let done = answer(joined.await)?;
        Ok(Response::new(pb::JoinGroupResponse {
            group: done.answer.group,
            seq: done.seq,
            waits_for_approval: done.answer.waits_for_approval,
        }))
    }

    async fn list_join_requests(
        &self,
        request: Request<pb::ListJoinRequestsRequest>,
    ) -> Result<Response<pb::ListJoinRequestsResponse>, Status> {
        let caller = user_caller(&request)?.user_id;
        let request = request.get_ref();
        let group = validate::group_id(&request.group_id)?;
        let limit =
            page_token::page_size(request.page_size, USERS_DEFAULT, USERS_MAX, "page_size")?;
        let scope = ("ListJoinRequests", group);
        let after = cursor(&scope, &request.page_token)?.map(UserId::from_bytes);
        let waiting = self.service.join_requests(group, caller, after, limit);
        let page = answer(waiting.await)?;
        let last = page.rows.last().filter(|_| page.more);
        let next = last.map(|(r, _)| page_token::encode(&scope, r.user_id.as_bytes()));
        let requests = page.rows.into_iter().map(|(row, name)| pb::JoinRequest {
            user_id: row.user_id.to_string(),
            requested_unix_ms: row.requested_unix_ms,
            username: name.username,
            display_name: name.display_name,
        });
        Ok(Response::new(pb::ListJoinRequestsResponse {
            join_requests: requests.collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn answer_join_request(
        &self,
        request: Request<pb::AnswerJoinRequestRequest>,
    ) -> Result<Response<pb::AnswerJoinRequestResponse>, Status> {
        let asked = Asked::of(request, |r| &mut r.request_id)?;
        let group = validate::group_id(&asked.request.group_id)?;
        let command = Command::Answer {
            user: validate::user_id(&asked.request.user_id, "user_id")?,
            approve: asked.request.approve,
        };
        let wish = asked.wish("AnswerJoinRequest", Some(group), 0);
        let (group, seq) = group_and_seq(answer(self.service.change(wish, command).await)?);
        Ok(Response::new(pb::AnswerJoinRequestResponse { group, seq }))
    }
}

#[async_trait]
impl DirectoryService for Grpc {
    async fn batch_get_snippets(
        &self,
        request: Request<pb::BatchGetSnippetsRequest>,
    ) -> Result<Response<pb::BatchGetSnippetsResponse>, Status> {
        let request = request.get_ref();
        let user = validate::user_id_bytes(&request.user_id)?;
        let groups = validate::group_ids(&request.group_ids)?;
        let snippets = answer(self.service.snippets(user, groups).await)?;
        let snippets = snippets.into_iter().map(|snippet| pb::Snippet {
            group_id: snippet.group_id.as_bytes().to_vec(),
            name: snippet.name,
            picture: snippet.picture,
            member_count: snippet.member_count,
            version: snippet.version,
        });
        Ok(Response::new(pb::BatchGetSnippetsResponse {
            snippets: snippets.collect(),
        }))
    }
}

/// The id after which a page begins; `None` = at the first one.
fn cursor(scope: &impl std::hash::Hash, token: &str) -> Result<Option<[u8; 16]>, ApiError> {
    const FIELD: &str = "page_token";
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = page_token::decode(scope, token, FIELD)?;
    let malformed = |_| {
        let message = "the page token is malformed";
        ApiError::field(ErrorReason::PageTokenInvalid, FIELD, message)
    };
    <[u8; 16]>::try_from(bytes).map(Some).map_err(malformed)
}

fn group_and_seq(done: Done) -> (Option<pb::Group>, u64) {
    (done.answer.group, done.seq)
}

fn answer<T>(result: Result<T, Error>) -> Result<T, Status> {
    result.map_err(|error| ApiError::from(error).into())
}
