//! What becomes of a group when somebody wants something of it: the table of roles in `group.proto`, as
//! a function without a store, a clock or a transport.
//!
//! A store shows what is there ([`View`]), under a lock, and writes what comes out ([`Decision`]) in the
//! same transaction. What changes nothing is no version: it is answered with what is there.

use std::collections::{BTreeMap, BTreeSet};

use proto::log::v1::{GroupChange, GroupInfoChange};
use runtime::ids::{GroupId, UserId};
use uuid::Uuid;

use crate::model::{Group, Invitation, Member, Role, Settings, TokenHash};

mod case;

use case::{Case, at_least};

/// How much there may be of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members of a group.
    pub members_max: u32,
    /// Groups that a user is a member of.
    pub groups_per_user_max: u32,
    /// Invitations of a group that are good.
    pub invitations_max: u32,
    /// Users who wait to be let into a group.
    pub join_requests_max: u32,
}

/// What somebody wants. Texts are in their valid form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A new group, with the actor as its owner.
    Create {
        /// See [`Group`].
        name: String,
        /// See [`Group`].
        description: String,
        /// See [`Group`].
        picture: String,
        /// See [`Group`].
        settings: Settings,
        /// Besides the actor.
        users: Vec<UserId>,
    },
    /// Those that are there are changed.
    Update {
        /// See [`Group`].
        name: Option<String>,
        /// See [`Group`].
        description: Option<String>,
        /// See [`Group`].
        picture: Option<String>,
        /// All of them at once.
        settings: Option<Settings>,
    },
    /// Adds members.
    Add {
        /// Who.
        users: Vec<UserId>,
    },
    /// Removes a member.
    Remove {
        /// Who.
        user: UserId,
    },
    /// The actor leaves.
    Leave,
    /// Makes a member an admin, or an admin a member.
    SetRole {
        /// Who.
        user: UserId,
        /// Not the owner's.
        role: Role,
    },
    /// Makes another member the owner.
    Transfer {
        /// Who.
        user: UserId,
    },
    /// Makes an invitation.
    Invite {
        /// Of the new invitation.
        invitation_id: Uuid,
        /// Of its token.
        token_hash: TokenHash,
        /// 0 = never.
        expires_unix_ms: i64,
        /// 0 = as often as one likes.
        uses_max: u32,
    },
    /// Makes an invitation void.
    Revoke {
        /// Which.
        invitation_id: Uuid,
    },
    /// The actor joins by an invitation.
    Join {
        /// Of its token.
        token_hash: TokenHash,
    },
    /// Lets in who waits for it, or not.
    Answer {
        /// Who.
        user: UserId,
        /// Whether.
        approve: bool,
    },
}

impl Command {
    /// Whose membership it is about, besides the actor's.
    pub fn targets(&self) -> &[UserId] {
        match self {
            Self::Create { users, .. } | Self::Add { users } => users,
            Self::Remove { user }
            | Self::SetRole { user, .. }
            | Self::Transfer { user }
            | Self::Answer { user, .. } => std::slice::from_ref(user),
            Self::Update { .. }
            | Self::Leave
            | Self::Invite { .. }
            | Self::Revoke { .. }
            | Self::Join { .. } => &[],
        }
    }

    /// Who may be a member by it that is not one: those whose groups are to be counted.
    pub fn joining(&self, actor: UserId) -> Vec<UserId> {
        match self {
            Self::Create { users, .. } => users.iter().copied().chain([actor]).collect(),
            Self::Add { users } => users.clone(),
            Self::Join { .. } => vec![actor],
            Self::Answer { user, approve } if *approve => vec![*user],
            _ => Vec::new(),
        }
    }
}

/// A command, and what it is given with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who wants it.
    pub actor: UserId,
    /// What.
    pub command: Command,
    /// Of a new group: its id.
    pub group_id: GroupId,
    /// Only if the group is at this version; 0 = whatever it is at.
    pub if_version: u64,
    /// Milliseconds since 1970-01-01 UTC; shown to people, and what invitations expire by.
    pub now_unix_ms: i64,
}

/// What is there, as far as the command needs it.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `None` if it does not exist; it may have ended.
    pub group: Option<Group>,
    /// The actor and the targets, those that are members.
    pub members: BTreeMap<UserId, Member>,
    /// If the actor leaves: who is next in line to own the group, the actor left out.
    pub successor: Option<Member>,
    /// Of those who may join, those who are in as many groups as a user may be.
    pub full: BTreeSet<UserId>,
    /// Of the actor and the targets, those who wait to be let in.
    pub waiting: BTreeSet<UserId>,
    /// How many wait.
    pub waiting_count: u32,
    /// The one that the command names, if it is there.
    pub invitation: Option<Invitation>,
    /// How many are good.
    pub invitations_good: u32,
}

/// Why not. Nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such group, or the actor is not in it.
    #[error("no such group")]
    GroupNotFound,
    /// The target is not a member.
    #[error("the user is not a member of the group")]
    MemberNotFound,
    /// The actor's role is not enough.
    #[error("the caller's role does not allow it")]
    RoleNotSufficient,
    /// There are as many as there may be.
    #[error("at most {max} {what}")]
    LimitReached {
        /// Of what, for people.
        what: &'static str,
        /// How many.
        max: u32,
    },
    /// The group is not at `if_version`.
    #[error("the group is at version {0}")]
    VersionChanged(u64),
    /// The invitation is unknown, void, used up or expired.
    #[error("the invitation is not valid")]
    InvitationInvalid,
    /// The target does not wait.
    #[error("the user does not wait for approval")]
    JoinRequestNotFound,
    /// The same id was used for something else.
    #[error("the request_id was used for something else")]
    RequestIdReused,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// As it is afterwards.
    pub group: Group,
    /// Of the actor afterwards; `None` = not a member.
    pub role: Option<Role>,
    /// What is new in the group and among its members; `None` if it stays at its version.
    pub change: Option<Change>,
    /// What becomes of an invitation.
    pub invitation: Option<InvitationEffect>,
    /// What becomes of a request to join. Those of users who join go besides.
    pub waiting: Option<WaitingEffect>,
}

/// A new version of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Those whose rows are new or have changed. Who joins has the new version as `joined_version`.
    pub put: Vec<Member>,
    /// Who is out.
    pub left: Vec<UserId>,
    /// For the log.
    pub log: GroupChange,
}

/// What becomes of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvitationEffect {
    /// It is new.
    Made(Invitation, TokenHash),
    /// It was used once more.
    Used(Uuid),
    /// It is void.
    Revoked(Uuid),
}

/// What becomes of a request to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingEffect {
    /// The actor waits.
    Asks,
    /// This user does not wait any more.
    Ends(UserId),
}

/// Decides.
pub fn decide(limits: &Limits, view: &View, act: &Act) -> Result<Decision, Refusal> {
    if let Command::Create {
        name,
        description,
        picture,
        settings,
        users,
    } = &act.command
    {
        let group = Group {
            group_id: act.group_id,
            version: 0,
            name: name.clone(),
            description: description.clone(),
            picture: picture.clone(),
            settings: *settings,
            member_count: 0,
            created_unix_ms: act.now_unix_ms,
        };
        let case = Case {
            limits,
            view,
            act,
            group: &group,
        };
        return case.create(users);
    }
    let lives = view.group.as_ref().filter(|group| group.member_count > 0);
    if let Command::Join { .. } = act.command {
        let group = lives.ok_or(Refusal::InvitationInvalid)?;
        return Case {
            limits,
            view,
            act,
            group,
        }
        .join();
    }
    let group = lives.ok_or(Refusal::GroupNotFound)?;
    let case = Case {
        limits,
        view,
        act,
        group,
    };
    let actor = *view.members.get(&act.actor).ok_or(Refusal::GroupNotFound)?;
    if act.if_version != 0 && act.if_version != group.version {
        return Err(Refusal::VersionChanged(group.version));
    }
    match &act.command {
        Command::Create { .. } | Command::Join { .. } => Err(Refusal::GroupNotFound),
        Command::Update {
            name,
            description,
            picture,
            settings,
        } => {
            let info = GroupInfoChange {
                name: name.clone(),
                description: description.clone(),
                picture: picture.clone(),
            };
            case.update(actor, info, *settings)
        }
        Command::Add { users } => case.add(actor, users),
        Command::Remove { user } => case.remove(actor, *user),
        Command::Leave => Ok(case.leave(actor)),
        Command::SetRole { user, role } => case.set_role(actor, *user, *role),
        Command::Transfer { user } => case.transfer(actor, *user),
        Command::Invite {
            invitation_id,
            token_hash,
            expires_unix_ms,
            uses_max,
        } => {
            let invitation = Invitation {
                invitation_id: *invitation_id,
                created_by: act.actor,
                created_unix_ms: act.now_unix_ms,
                expires_unix_ms: *expires_unix_ms,
                uses_max: *uses_max,
                uses: 0,
            };
            case.invite(actor, invitation, *token_hash)
        }
        Command::Revoke { invitation_id } => {
            at_least(actor, Role::Admin)?;
            let effect = InvitationEffect::Revoked(*invitation_id);
            Ok(Decision {
                invitation: Some(effect),
                ..case.nothing(Some(actor.role))
            })
        }
        Command::Answer { user, approve } => case.answer(actor, *user, *approve),
    }
}

#[cfg(test)]
mod tests;
