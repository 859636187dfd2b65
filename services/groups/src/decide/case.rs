//! Each command, on a group that is there or is being made.

use std::collections::BTreeSet;

use proto::log::v1::{
    GroupChange, GroupChangeKind as Kind, GroupInfoChange, GroupMember, GroupRules,
};
use runtime::ids::UserId;

use super::{Act, Change, Decision, InvitationEffect, Limits, Refusal, View, WaitingEffect};
use crate::model::{Group, Invitation, Member, Role, Settings, TokenHash};

/// A command about a group that is there, or that is being made.
pub(super) struct Case<'a> {
    pub(super) limits: &'a Limits,
    pub(super) view: &'a View,
    pub(super) act: &'a Act,
    pub(super) group: &'a Group,
}

impl Case<'_> {
    pub(super) fn create(&self, users: &[UserId]) -> Result<Decision, Refusal> {
        let mut joining = self.strangers(users);
        joining.remove(&self.act.actor);
        let mut put = vec![Member {
            role: Role::Owner,
            ..self.new_member(self.act.actor)
        }];
        put.extend(joining.into_iter().map(|user| self.new_member(user)));
        self.check_room(&put)?;
        let info = GroupInfoChange {
            name: Some(self.group.name.clone()),
            description: not_empty(&self.group.description),
            picture: not_empty(&self.group.picture),
        };
        let mut decision = self.change(Kind::Created, put, Vec::new());
        if let Some(change) = &mut decision.change {
            change.log.info = Some(info);
        }
        Ok(decision)
    }

    pub(super) fn update(
        &self,
        actor: Member,
        wanted: GroupInfoChange,
        settings: Option<Settings>,
    ) -> Result<Decision, Refusal> {
        let by_admins = self.group.settings.info_by_admins;
        if settings.is_some() || (by_admins && wanted != GroupInfoChange::default()) {
            at_least(actor, Role::Admin)?;
        }
        let info = GroupInfoChange {
            name: wanted.name.filter(|name| *name != self.group.name),
            description: wanted
                .description
                .filter(|text| *text != self.group.description),
            picture: wanted
                .picture
                .filter(|picture| *picture != self.group.picture),
        };
        let settings = settings.filter(|settings| *settings != self.group.settings);
        let told = info != GroupInfoChange::default();
        if !told && settings.is_none() {
            return Ok(self.nothing(Some(actor.role)));
        }
        let mut after = self.group.clone();
        after.settings = settings.unwrap_or(after.settings);
        after.name = info.name.clone().unwrap_or(after.name);
        after.description = info.description.clone().unwrap_or(after.description);
        after.picture = info.picture.clone().unwrap_or(after.picture);
        let case = Case {
            group: &after,
            ..*self
        };
        let mut decision = case.change(Kind::Updated, Vec::new(), Vec::new());
        if let Some(change) = &mut decision.change {
            change.log.info = told.then_some(info);
        }
        Ok(decision)
    }

    pub(super) fn add(&self, actor: Member, users: &[UserId]) -> Result<Decision, Refusal> {
        if self.group.settings.add_by_admins {
            at_least(actor, Role::Admin)?;
        }
        let joining = self.strangers(users);
        let put: Vec<Member> = joining.into_iter().map(|u| self.new_member(u)).collect();
        if put.is_empty() {
            return Ok(self.nothing(Some(actor.role)));
        }
        self.check_room(&put)?;
        Ok(self.change(Kind::Added, put, Vec::new()))
    }

    pub(super) fn remove(&self, actor: Member, user: UserId) -> Result<Decision, Refusal> {
        at_least(actor, Role::Admin)?;
        let target = self.member(user)?;
        // Admins remove members, the owner also admins, and nobody the owner.
        if target.role >= actor.role {
            return Err(Refusal::RoleNotSufficient);
        }
        Ok(self.change(Kind::Removed, Vec::new(), vec![user]))
    }

    pub(super) fn leave(&self, actor: Member) -> Decision {
        let heir = self.view.successor.filter(|_| actor.role == Role::Owner);
        let heir = heir.map(|member| Member {
            role: Role::Owner,
            ..member
        });
        self.change(Kind::Left, heir.into_iter().collect(), vec![actor.user_id])
    }

    pub(super) fn set_role(
        &self,
        actor: Member,
        user: UserId,
        role: Role,
    ) -> Result<Decision, Refusal> {
        at_least(actor, Role::Owner)?;
        let target = self.member(user)?;
        // The ownership is passed on, and neither given nor taken.
        if target.role == Role::Owner || role == Role::Owner {
            return Err(Refusal::RoleNotSufficient);
        }
        if target.role == role {
            return Ok(self.nothing(Some(actor.role)));
        }
        Ok(self.change(Kind::Roles, vec![Member { role, ..target }], Vec::new()))
    }

    pub(super) fn transfer(&self, actor: Member, user: UserId) -> Result<Decision, Refusal> {
        at_least(actor, Role::Owner)?;
        let target = self.member(user)?;
        if user == actor.user_id {
            return Ok(self.nothing(Some(actor.role)));
        }
        let put = vec![
            Member {
                role: Role::Owner,
                ..target
            },
            Member {
                role: Role::Admin,
                ..actor
            },
        ];
        Ok(self.change(Kind::Roles, put, Vec::new()))
    }

    pub(super) fn invite(
        &self,
        actor: Member,
        invitation: Invitation,
        token_hash: TokenHash,
    ) -> Result<Decision, Refusal> {
        at_least(actor, Role::Admin)?;
        let max = self.limits.invitations_max;
        if self.view.invitations_good >= max {
            let what = "invitations of a group are good at a time";
            return Err(Refusal::LimitReached { what, max });
        }
        Ok(Decision {
            invitation: Some(InvitationEffect::Made(invitation, token_hash)),
            ..self.nothing(Some(actor.role))
        })
    }

    pub(super) fn join(&self) -> Result<Decision, Refusal> {
        let actor = self.act.actor;
        let invitation = self.view.invitation.ok_or(Refusal::InvitationInvalid)?;
        if let Some(member) = self.view.members.get(&actor) {
            return Ok(self.nothing(Some(member.role)));
        }
        let waits = self.view.waiting.contains(&actor);
        if self.group.settings.approve_joining && waits {
            return Ok(self.nothing(None));
        }
        if !invitation.is_good(self.act.now_unix_ms) {
            return Err(Refusal::InvitationInvalid);
        }
        let used = Some(InvitationEffect::Used(invitation.invitation_id));
        if self.group.settings.approve_joining {
            let max = self.limits.join_requests_max;
            if self.view.waiting_count >= max {
                let what = "users wait for approval";
                return Err(Refusal::LimitReached { what, max });
            }
            return Ok(Decision {
                invitation: used,
                waiting: Some(WaitingEffect::Asks),
                ..self.nothing(None)
            });
        }
        let put = vec![self.new_member(actor)];
        self.check_room(&put)?;
        Ok(Decision {
            invitation: used,
            ..self.change(Kind::Joined, put, Vec::new())
        })
    }

    pub(super) fn answer(
        &self,
        actor: Member,
        user: UserId,
        approve: bool,
    ) -> Result<Decision, Refusal> {
        at_least(actor, Role::Admin)?;
        if !self.view.waiting.contains(&user) {
            return Err(Refusal::JoinRequestNotFound);
        }
        let ends = Some(WaitingEffect::Ends(user));
        if !approve || self.view.members.contains_key(&user) {
            return Ok(Decision {
                waiting: ends,
                ..self.nothing(Some(actor.role))
            });
        }
        let put = vec![self.new_member(user)];
        self.check_room(&put)?;
        Ok(Decision {
            waiting: ends,
            ..self.change(Kind::Joined, put, Vec::new())
        })
    }

    /// Those who are not members, each once.
    fn strangers(&self, users: &[UserId]) -> BTreeSet<UserId> {
        let strangers = users.iter().filter(|u| !self.view.members.contains_key(u));
        strangers.copied().collect()
    }

    fn member(&self, user: UserId) -> Result<Member, Refusal> {
        let member = self.view.members.get(&user);
        member.copied().ok_or(Refusal::MemberNotFound)
    }

    const fn new_member(&self, user_id: UserId) -> Member {
        Member {
            user_id,
            role: Role::Member,
            joined_unix_ms: self.act.now_unix_ms,
            joined_version: self.group.version + 1,
        }
    }

    /// Whether the group, and each of those who join, may have one more.
    fn check_room(&self, joining: &[Member]) -> Result<(), Refusal> {
        let max = self.limits.members_max;
        let room = max.saturating_sub(self.group.member_count);
        if joining.len() > usize::try_from(room).unwrap_or(usize::MAX) {
            let what = "members of a group";
            return Err(Refusal::LimitReached { what, max });
        }
        if joining.iter().any(|m| self.view.full.contains(&m.user_id)) {
            let max = self.limits.groups_per_user_max;
            let what = "groups of one user";
            return Err(Refusal::LimitReached { what, max });
        }
        Ok(())
    }

    pub(super) fn nothing(&self, role: Option<Role>) -> Decision {
        Decision {
            group: self.group.clone(),
            role,
            change: None,
            invitation: None,
            waiting: None,
        }
    }

    /// The group as it is here, and these changes of its members, as the next version.
    fn change(&self, kind: Kind, put: Vec<Member>, left: Vec<UserId>) -> Decision {
        let version = self.group.version + 1;
        let joined = put.iter().filter(|m| m.joined_version == version).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let group = Group {
            version,
            member_count: (self.group.member_count + count(joined))
                .saturating_sub(count(left.len())),
            ..self.group.clone()
        };
        let actor = self.act.actor;
        let role = match put.iter().find(|member| member.user_id == actor) {
            Some(member) => Some(member.role),
            None if left.contains(&actor) => None,
            None => self.view.members.get(&actor).map(|member| member.role),
        };
        let in_log = |user: &UserId, role: u32| GroupMember {
            user_id: user.as_bytes().to_vec(),
            role,
        };
        let of_put = put.iter().map(|m| in_log(&m.user_id, m.role as u32));
        let log = GroupChange {
            version,
            actor_id: actor.as_bytes().to_vec(),
            members: of_put.chain(left.iter().map(|u| in_log(u, 0))).collect(),
            rules: Some(GroupRules {
                announcement: group.settings.announcement,
                history_all: group.settings.history_all,
            }),
            info: None,
            kind: kind.into(),
            member_count: group.member_count,
        };
        Decision {
            group,
            role,
            change: Some(Change { put, left, log }),
            invitation: None,
            waiting: None,
        }
    }
}

pub(super) fn at_least(actor: Member, role: Role) -> Result<(), Refusal> {
    match actor.role >= role {
        true => Ok(()),
        false => Err(Refusal::RoleNotSufficient),
    }
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
