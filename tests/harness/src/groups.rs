//! Groups, through bare calls.

use proto::groups::v1::{self as wire, group_service_client::GroupServiceClient};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};
use uuid::Uuid;

use crate::{Bearer, Device};

/// The calls of groups with a device's token.
pub type Groups = GroupServiceClient<InterceptedService<Channel, Bearer>>;

/// A new name of a request.
pub fn request_id() -> String {
    Uuid::now_v7().to_string()
}

fn ids(users: &[&Device]) -> Vec<String> {
    users.iter().map(|user| user.user_id.clone()).collect()
}

impl Device {
    /// The calls of groups.
    pub fn groups(&self) -> Groups {
        GroupServiceClient::with_interceptor(self.channel(), self.bearer())
    }

    /// Makes a group of the caller and others; answers it with the seq of its event.
    pub async fn create_group(
        &self,
        name: &str,
        others: &[&Device],
        settings: wire::GroupSettings,
    ) -> (wire::Group, u64) {
        let request = wire::CreateGroupRequest {
            request_id: request_id(),
            name: name.to_owned(),
            settings: Some(settings),
            user_ids: ids(others),
            ..wire::CreateGroupRequest::default()
        };
        let answer = self.groups().create_group(request).await;
        let answer = answer.expect("create group").into_inner();
        (answer.group.expect("a group"), answer.seq)
    }

    /// Adds members; answers the seq of the event.
    pub async fn add_members(&self, group: &wire::Group, users: &[&Device]) -> Result<u64, Status> {
        let request = wire::AddMembersRequest {
            request_id: request_id(),
            group_id: group.group_id.clone(),
            if_version: 0,
            user_ids: ids(users),
        };
        Ok(self.groups().add_members(request).await?.into_inner().seq)
    }

    /// Removes a member; answers the seq of the event.
    pub async fn remove_member(&self, group: &wire::Group, user: &Device) -> Result<u64, Status> {
        let request = wire::RemoveMemberRequest {
            request_id: request_id(),
            group_id: group.group_id.clone(),
            if_version: 0,
            user_id: user.user_id.clone(),
        };
        Ok(self.groups().remove_member(request).await?.into_inner().seq)
    }

    /// Leaves; answers the seq of the event.
    pub async fn leave_group(&self, group: &wire::Group) -> Result<u64, Status> {
        let request = wire::LeaveGroupRequest {
            request_id: request_id(),
            group_id: group.group_id.clone(),
        };
        Ok(self.groups().leave_group(request).await?.into_inner().seq)
    }
}
