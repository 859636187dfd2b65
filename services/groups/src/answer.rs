//! What a caller is answered, in the words of the contract: kept with a request, so that a repetition is
//! answered the same.

use prost::Message;
use proto::groups::v1 as pb;
use runtime::ids::ConversationId;

use crate::{
    decide::{Decision, InvitationEffect, WaitingEffect},
    model::{Group, Invitation, Role, Settings},
};

/// What a request is answered with, but for the seq of its event.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// As the caller saw it afterwards; absent if he is not a member.
    #[prost(message, optional, tag = "1")]
    pub group: Option<pb::Group>,
    /// The one that was made.
    #[prost(message, optional, tag = "2")]
    pub invitation: Option<pb::Invitation>,
    /// The caller waits to be let in.
    #[prost(bool, tag = "3")]
    pub waits_for_approval: bool,
}

impl Answer {
    /// What a decision is answered with. `waits`: the caller waited before.
    pub fn of(decision: &Decision, waits: bool) -> Self {
        let made = match &decision.invitation {
            Some(InvitationEffect::Made(invitation, _)) => Some(invitation_pb(invitation)),
            _ => None,
        };
        let asks = decision.waiting == Some(WaitingEffect::Asks);
        Self {
            group: decision.role.map(|role| group_pb(&decision.group, role)),
            invitation: made,
            waits_for_approval: decision.role.is_none() && (asks || waits),
        }
    }
}

/// A group as a member with this role sees it.
pub fn group_pb(group: &Group, role: Role) -> pb::Group {
    pb::Group {
        group_id: group.group_id.to_string(),
        conversation_id: ConversationId::group(group.group_id).to_string(),
        version: group.version,
        name: group.name.clone(),
        description: group.description.clone(),
        picture: group.picture.clone(),
        settings: Some(settings_pb(group.settings)),
        member_count: group.member_count,
        created_unix_ms: group.created_unix_ms,
        role: i32::from(role as u8),
    }
}

fn settings_pb(settings: Settings) -> pb::GroupSettings {
    let access = match settings.history_all {
        true => pb::HistoryAccess::All,
        false => pb::HistoryAccess::SinceJoining,
    };
    pb::GroupSettings {
        history_access: access.into(),
        announcement: settings.announcement,
        info_by_admins: settings.info_by_admins,
        add_by_admins: settings.add_by_admins,
        approve_joining: settings.approve_joining,
    }
}

/// An invitation, without its token.
pub fn invitation_pb(invitation: &Invitation) -> pb::Invitation {
    pb::Invitation {
        invitation_id: invitation.invitation_id.to_string(),
        created_by: invitation.created_by.to_string(),
        created_unix_ms: invitation.created_unix_ms,
        expires_unix_ms: invitation.expires_unix_ms,
        uses_max: invitation.uses_max,
        uses: invitation.uses,
    }
}
