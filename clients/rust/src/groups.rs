//! Groups and their members: [`Client::groups`].

use std::time::Duration;

use proto::groups::v1::{
    AddMembersRequest, AnswerJoinRequestRequest, CreateGroupRequest, CreateInvitationRequest,
    GetGroupRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    ListInvitationsRequest, ListJoinRequestsRequest, ListMembersRequest, RemoveMemberRequest,
    RevokeInvitationRequest, SetRoleRequest, TransferOwnershipRequest, UpdateGroupRequest,
    group_service_client::GroupServiceClient,
};
use uuid::Uuid;

use crate::{
    accounts::present,
    client::Client,
    error::Result,
    model::{Group, GroupSettings, GroupsPage, Invitation, JoinRequestsPage, MembersPage, Role},
};

/// How long a change is tried unless [`Groups::patience`] says otherwise: longer than a server takes
/// to be started again, or another to take over.
const PATIENCE: Duration = Duration::from_secs(60);

/// The groups of the user, and what may be done to them.
///
/// A change is given an id, and tried under it until there is a definite answer or
/// [`Groups::patience`] is over: it is carried out once, however often the connection breaks. Its event
/// comes to the sessions of all members as [`crate::Event::GroupChange`], the own one's included.
///
/// Of a group that the user is not a member of, everything is refused with
/// [`GroupNotFound`](crate::ErrorReason::GroupNotFound).
#[derive(Debug, Clone)]
pub struct Groups {
    client: Client,
    patience: Duration,
}

/// What a group is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewGroup {
    /// 1 to 100 Unicode scalar values, without control characters.
    pub name: String,
    /// 0 to 512 Unicode scalar values.
    pub description: String,
    /// The receipt of its picture; empty = none.
    pub picture_receipt: String,
    /// `None` = those of a group without any.
    pub settings: Option<GroupSettings>,
    /// Members besides the user himself, who owns it; at most 200.
    pub user_ids: Vec<String>,
}

/// Changes of a group: what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupUpdate {
    /// Refused unless the group is at this version; 0 = whatever it is at.
    pub if_version: u64,
    /// 1 to 100 Unicode scalar values.
    pub name: Option<String>,
    /// 0 to 512 Unicode scalar values.
    pub description: Option<String>,
    /// The receipt of the new picture; empty removes it.
    pub picture_receipt: Option<String>,
    /// All of them at once.
    pub settings: Option<GroupSettings>,
}

/// What a change made of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The group after it.
    pub group: Group,
    /// The place of its event in the conversation; 0 if that was not known within 5 s, or if nothing
    /// was changed.
    pub seq: u64,
}

/// What became of joining.
#[derive(Debug, Clone, PartialEq)]
pub enum Joined {
    /// The user is a member.
    Member(Changed),
    /// An admin has to approve.
    WaitsForApproval,
}

impl Client {
    /// The user's groups, and what may be done to them.
    pub fn groups(&self) -> Groups {
        Groups {
            client: self.clone(),
            patience: PATIENCE,
        }
    }
}

/// A call by its name. `change`: tried until the answer is definite; otherwise a read.
macro_rules! call {
    ($groups:expr, change $method:ident, $request:expr) => {
        $groups
            .client
            .call_until_definite($request, $groups.patience, async |channel, request| {
                GroupServiceClient::new(channel).$method(request).await
            })
            .await?
    };
    ($groups:expr, read $method:ident, $request:expr) => {
        $groups
            .client
            .call($request, async |channel, request| {
                GroupServiceClient::new(channel).$method(request).await
            })
            .await?
    };
}

fn request_id() -> String {
    Uuid::now_v7().to_string()
}

fn changed(group: Option<Group>, seq: u64) -> Result<Changed> {
    let group = present(group)?;
    Ok(Changed { group, seq })
}

impl Groups {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// How long a change is tried while its result is unknown; default 60 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes a group, owned by the user.
    pub async fn create(&self, group: NewGroup) -> Result<Changed> {
        let request = CreateGroupRequest {
            request_id: request_id(),
            name: group.name,
            description: group.description,
            picture_receipt: group.picture_receipt,
            settings: group.settings,
            user_ids: group.user_ids,
        };
        let answer = call!(self, change create_group, request);
        changed(answer.group, answer.seq)
    }

    /// Changes name, description, picture or settings.
    pub async fn update(&self, group_id: &str, update: GroupUpdate) -> Result<Changed> {
        let request = UpdateGroupRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            if_version: update.if_version,
            name: update.name,
            description: update.description,
            picture_receipt: update.picture_receipt,
            settings: update.settings,
        };
        let answer = call!(self, change update_group, request);
        changed(answer.group, answer.seq)
    }

    /// Adds 1 to 200 members; who is one already stays as he is.
    pub async fn add(&self, group_id: &str, user_ids: &[String]) -> Result<Changed> {
        let request = AddMembersRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            if_version: 0,
            user_ids: user_ids.to_vec(),
        };
        let answer = call!(self, change add_members, request);
        changed(answer.group, answer.seq)
    }

    /// Removes a member.
    pub async fn remove(&self, group_id: &str, user_id: &str) -> Result<Changed> {
        let request = RemoveMemberRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            if_version: 0,
            user_id: user_id.to_owned(),
        };
        let answer = call!(self, change remove_member, request);
        changed(answer.group, answer.seq)
    }

    /// Leaves; gives the place of the event, the last one that the user gets. An owner's place is taken
    /// by the admin, or else the member, who has been there longest.
    pub async fn leave(&self, group_id: &str) -> Result<u64> {
        let request = LeaveGroupRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
        };
        Ok(call!(self, change leave_group, request).seq)
    }

    /// Makes a member an admin, or an admin a member.
    pub async fn set_role(&self, group_id: &str, user_id: &str, role: Role) -> Result<Changed> {
        let request = SetRoleRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            if_version: 0,
            user_id: user_id.to_owned(),
            role: role.into(),
        };
        let answer = call!(self, change set_role, request);
        changed(answer.group, answer.seq)
    }

    /// Makes another member the owner; the user becomes an admin.
    pub async fn transfer(&self, group_id: &str, user_id: &str) -> Result<Changed> {
        let request = TransferOwnershipRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            if_version: 0,
            user_id: user_id.to_owned(),
        };
        let answer = call!(self, change transfer_ownership, request);
        changed(answer.group, answer.seq)
    }

    /// One group.
    pub async fn get(&self, group_id: &str) -> Result<Group> {
        let request = GetGroupRequest {
            group_id: group_id.to_owned(),
        };
        present(call!(self, read get_group, request).group)
    }

    /// The user's groups by group_id: 1 to 100 a page, 0 = 50; the page token is empty for the first
    /// page.
    pub async fn list(&self, page_size: i32, page_token: &str) -> Result<GroupsPage> {
        let request = ListGroupsRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        Ok(call!(self, read list_groups, request))
    }

    /// The members of a group by user_id: 1 to 200 a page, 0 = 100.
    pub async fn members(
        &self,
        group_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<MembersPage> {
        let request = ListMembersRequest {
            group_id: group_id.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
        };
        Ok(call!(self, read list_members, request))
    }

    /// Makes an invitation that is good so long (rounded to seconds; `None` = for ever, at most 365
    /// days) and so often (0 = without a bound), and its token: whoever has that can join, and it is not
    /// shown again.
    pub async fn create_invitation(
        &self,
        group_id: &str,
        expires_in: Option<Duration>,
        uses_max: u32,
    ) -> Result<(Invitation, String)> {
        let seconds = expires_in.map_or(0, |wait| wait.as_secs().max(1));
        let request = CreateInvitationRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            expires_in_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
            uses_max,
        };
        let answer = call!(self, change create_invitation, request);
        Ok((present(answer.invitation)?, answer.token))
    }

    /// The invitations that are good, newest first; at most 100.
    pub async fn invitations(&self, group_id: &str) -> Result<Vec<Invitation>> {
        let request = ListInvitationsRequest {
            group_id: group_id.to_owned(),
        };
        Ok(call!(self, read list_invitations, request).invitations)
    }

    /// Makes an invitation void.
    pub async fn revoke_invitation(&self, group_id: &str, invitation_id: &str) -> Result<()> {
        let request = RevokeInvitationRequest {
            group_id: group_id.to_owned(),
            invitation_id: invitation_id.to_owned(),
        };
        call!(self, change revoke_invitation, request);
        Ok(())
    }

    /// Joins by the token of an invitation, or asks to.
    pub async fn join(&self, token: &str) -> Result<Joined> {
        let request = JoinGroupRequest {
            request_id: request_id(),
            token: token.to_owned(),
        };
        let answer = call!(self, change join_group, request);
        if answer.waits_for_approval {
            return Ok(Joined::WaitsForApproval);
        }
        Ok(Joined::Member(changed(answer.group, answer.seq)?))
    }

    /// Who waits for approval, by user_id: 1 to 200 a page, 0 = 100.
    pub async fn join_requests(
        &self,
        group_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<JoinRequestsPage> {
        let request = ListJoinRequestsRequest {
            group_id: group_id.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
        };
        Ok(call!(self, read list_join_requests, request))
    }

    /// Lets a user in, or not; then the seq is 0.
    pub async fn answer_join_request(
        &self,
        group_id: &str,
        user_id: &str,
        approve: bool,
    ) -> Result<Changed> {
        let request = AnswerJoinRequestRequest {
            request_id: request_id(),
            group_id: group_id.to_owned(),
            user_id: user_id.to_owned(),
            approve,
        };
        let answer = call!(self, change answer_join_request, request);
        changed(answer.group, answer.seq)
    }
}
