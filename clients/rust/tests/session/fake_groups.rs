//! The group calls of the fake server: one group, "g:1", of "me", whose changes are carried out once
//! each however often they are asked for.

use std::collections::{HashMap, HashSet, VecDeque};

use messenger_client::ErrorReason;
use proto::{
    groups::v1::{self as groups, group_service_server as service},
    messaging::v1::{self as pb, GroupChangeKind as Kind},
};
use tonic::{Code, Request, Response, Status, transport::server::Router};

use super::{ME, Service, State, status};

pub(crate) const GROUP: &str = "1";
pub(crate) const GROUP_CONVERSATION: &str = "g:1";

/// What happens to a change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnChange {
    /// It is carried out, and the answer is lost.
    Lost,
    /// It is not carried out for now.
    Unavailable,
    Refuse(ErrorReason),
}

#[derive(Debug, Default)]
pub(crate) struct Groups {
    version: u64,
    /// The seq of each request that was carried out.
    done: HashMap<String, u64>,
    /// Every request that came, repetitions included.
    pub(crate) asked: Vec<String>,
    /// What is to be done with the next changes; the others are carried out.
    pub(crate) on_changes: VecDeque<OnChange>,
    /// Conversations that the user has left.
    pub(crate) left: HashSet<String>,
}

pub(super) fn add(router: Router, server: &Service) -> Router {
    router.add_service(service::GroupServiceServer::new(server.clone()))
}

impl State {
    /// A change of the group by somebody, and its event.
    pub(crate) fn change_group(
        &mut self,
        actor_id: &str,
        kind: Kind,
        members: &[(&str, groups::Role)],
    ) -> pb::Event {
        self.groups.version += 1;
        let members = members.iter().map(|(user_id, role)| pb::ChangedMember {
            user_id: (*user_id).to_owned(),
            role: u32::try_from(i32::from(*role)).unwrap(),
        });
        let change = pb::GroupChange {
            version: self.groups.version,
            kind: kind.into(),
            members: members.collect(),
            member_count: 3,
            ..pb::GroupChange::default()
        };
        for member in &change.members {
            if member.user_id != ME {
                continue;
            }
            match member.role {
                0 => self.groups.left.insert(GROUP_CONVERSATION.to_owned()),
                _ => self.groups.left.remove(GROUP_CONVERSATION),
            };
        }
        let mut event = self.next_event(GROUP_CONVERSATION, actor_id, "", "");
        event.message_index -= 1;
        event.kind = Some(pb::event::Kind::GroupChange(change));
        self.publish(event, 0)
    }

    fn group(&self) -> groups::Group {
        groups::Group {
            group_id: GROUP.to_owned(),
            conversation_id: GROUP_CONVERSATION.to_owned(),
            version: self.groups.version,
            ..groups::Group::default()
        }
    }
}

impl Service {
    /// Carries a change out, unless it was, and answers with the group and the seq.
    #[allow(clippy::result_large_err)] // As tonic has it.
    fn change(
        &self,
        request_id: &str,
        kind: Kind,
        members: &[(&str, groups::Role)],
    ) -> Result<(groups::Group, u64), Status> {
        let mut state = self.0.lock();
        state.groups.asked.push(request_id.to_owned());
        let what = state.groups.on_changes.pop_front();
        let away = || status(Code::Unavailable, ErrorReason::Unavailable);
        match what {
            Some(OnChange::Unavailable) => return Err(away()),
            Some(OnChange::Refuse(reason)) => return Err(status(Code::NotFound, reason)),
            Some(OnChange::Lost) | None => {}
        }
        let seq = match state.groups.done.get(request_id) {
            Some(seq) => *seq,
            None => {
                let seq = state.change_group(ME, kind, members).seq;
                state.groups.done.insert(request_id.to_owned(), seq);
                seq
            }
        };
        match what {
            Some(_) => Err(Status::unknown("the connection broke")),
            None => Ok((state.group(), seq)),
        }
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the fake server"))
}

#[tonic::async_trait]
impl service::GroupService for Service {
    async fn create_group(
        &self,
        request: Request<groups::CreateGroupRequest>,
    ) -> Result<Response<groups::CreateGroupResponse>, Status> {
        self.authorize(&request)?;
        let request = request.into_inner();
        let owner = [(ME, groups::Role::Owner)];
        let (group, seq) = self.change(&request.request_id, Kind::Created, &owner)?;
        Ok(Response::new(groups::CreateGroupResponse {
            group: Some(group),
            seq,
        }))
    }

    async fn add_members(
        &self,
        request: Request<groups::AddMembersRequest>,
    ) -> Result<Response<groups::AddMembersResponse>, Status> {
        self.authorize(&request)?;
        let request = request.into_inner();
        let users = request.user_ids.iter();
        let members: Vec<_> = users
            .map(|id| (id.as_str(), groups::Role::Member))
            .collect();
        let (group, seq) = self.change(&request.request_id, Kind::Added, &members)?;
        Ok(Response::new(groups::AddMembersResponse {
            group: Some(group),
            seq,
        }))
    }

    async fn leave_group(
        &self,
        request: Request<groups::LeaveGroupRequest>,
    ) -> Result<Response<groups::LeaveGroupResponse>, Status> {
        self.authorize(&request)?;
        let members = [(ME, groups::Role::Unspecified)];
        let (_, seq) = self.change(&request.into_inner().request_id, Kind::Left, &members)?;
        Ok(Response::new(groups::LeaveGroupResponse { seq }))
    }

    async fn join_group(
        &self,
        request: Request<groups::JoinGroupRequest>,
    ) -> Result<Response<groups::JoinGroupResponse>, Status> {
        self.authorize(&request)?;
        let request = request.into_inner();
        if request.token == "closed" {
            return Ok(Response::new(groups::JoinGroupResponse {
                waits_for_approval: true,
                ..groups::JoinGroupResponse::default()
            }));
        }
        let members = [(ME, groups::Role::Member)];
        let (group, seq) = self.change(&request.request_id, Kind::Joined, &members)?;
        Ok(Response::new(groups::JoinGroupResponse {
            group: Some(group),
            seq,
            waits_for_approval: false,
        }))
    }

    async fn update_group(
        &self,
        request: Request<groups::UpdateGroupRequest>,
    ) -> Result<Response<groups::UpdateGroupResponse>, Status> {
        self.authorize(&request)?;
        let request = request.into_inner();
        let (mut group, seq) = self.change(&request.request_id, Kind::Updated, &[])?;
        group.picture = request.picture_receipt.unwrap_or_default();
        Ok(Response::new(groups::UpdateGroupResponse {
            group: Some(group),
            seq,
        }))
    }

    async fn remove_member(
        &self,
        _: Request<groups::RemoveMemberRequest>,
    ) -> Result<Response<groups::RemoveMemberResponse>, Status> {
        not_here()
    }

    async fn set_role(
        &self,
        _: Request<groups::SetRoleRequest>,
    ) -> Result<Response<groups::SetRoleResponse>, Status> {
        not_here()
    }

    async fn transfer_ownership(
        &self,
        _: Request<groups::TransferOwnershipRequest>,
    ) -> Result<Response<groups::TransferOwnershipResponse>, Status> {
        not_here()
    }

    async fn get_group(
        &self,
        _: Request<groups::GetGroupRequest>,
    ) -> Result<Response<groups::GetGroupResponse>, Status> {
        not_here()
    }

    async fn list_groups(
        &self,
        _: Request<groups::ListGroupsRequest>,
    ) -> Result<Response<groups::ListGroupsResponse>, Status> {
        not_here()
    }

    async fn list_members(
        &self,
        _: Request<groups::ListMembersRequest>,
    ) -> Result<Response<groups::ListMembersResponse>, Status> {
        not_here()
    }

    async fn create_invitation(
        &self,
        _: Request<groups::CreateInvitationRequest>,
    ) -> Result<Response<groups::CreateInvitationResponse>, Status> {
        not_here()
    }

    async fn list_invitations(
        &self,
        _: Request<groups::ListInvitationsRequest>,
    ) -> Result<Response<groups::ListInvitationsResponse>, Status> {
        not_here()
    }

    async fn revoke_invitation(
        &self,
        _: Request<groups::RevokeInvitationRequest>,
    ) -> Result<Response<groups::RevokeInvitationResponse>, Status> {
        not_here()
    }

    async fn list_join_requests(
        &self,
        _: Request<groups::ListJoinRequestsRequest>,
    ) -> Result<Response<groups::ListJoinRequestsResponse>, Status> {
        not_here()
    }

    async fn answer_join_request(
        &self,
        _: Request<groups::AnswerJoinRequestRequest>,
    ) -> Result<Response<groups::AnswerJoinRequestResponse>, Status> {
        not_here()
    }
}
