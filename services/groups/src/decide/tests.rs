//! Random commands of random actors against a small world, which is what a store keeps, and the table of
//! roles written down once more.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use runtime::ids::{GroupId, UserId};
use uuid::Uuid;

use super::*;
use crate::model::Stint;

const USERS: u8 = 6;
const LIMITS: Limits = Limits {
    members_max: 5,
    groups_per_user_max: 3,
    invitations_max: 2,
    join_requests_max: 2,
};

fn user(n: u8) -> UserId {
    UserId::from_bytes([n + 1; 16])
}

/// What a store keeps of one group, and of the invitations of it.
#[derive(Default)]
struct World {
    group: Option<Group>,
    members: BTreeMap<UserId, Member>,
    stints: Vec<Stint>,
    waiting: BTreeSet<UserId>,
    invitations: BTreeMap<TokenHash, Invitation>,
    versions: Vec<u64>,
    now: i64,
}

#[derive(Debug, Clone)]
enum Op {
    Update { text: u8, settings: Option<u8> },
    Add(Vec<u8>),
    Remove(u8),
    Leave,
    SetRole(u8, u8),
    Transfer(u8),
    Invite { uses_max: u32, life: i64 },
    Revoke(u8),
    Join(u8),
    Answer(u8, bool),
}

fn ops() -> impl Strategy<Value = Vec<(u8, Op, bool)>> {
    let who = || 0..USERS;
    let op = prop_oneof![
        (0..3_u8, proptest::option::of(0..32_u8))
            .prop_map(|(text, settings)| Op::Update { text, settings }),
        proptest::collection::vec(who(), 1..4).prop_map(Op::Add),
        who().prop_map(Op::Remove),
        Just(Op::Leave),
        (who(), 1..4_u8).prop_map(|(user, role)| Op::SetRole(user, role)),
        who().prop_map(Op::Transfer),
        (0..3_u32, 0..20_i64).prop_map(|(uses_max, life)| Op::Invite { uses_max, life }),
        (0..4_u8).prop_map(Op::Revoke),
        (0..4_u8).prop_map(Op::Join),
        (who(), any::<bool>()).prop_map(|(user, approve)| Op::Answer(user, approve)),
    ];
    proptest::collection::vec((who(), op, proptest::bool::weighted(0.1)), 1..60)
}

impl World {
    fn command(&self, op: &Op, made: u8) -> Command {
        match *op {
            Op::Update { text, settings } => Command::Update {
                name: (text > 0).then(|| format!("name {text}")),
                description: (text > 1).then(String::new),
                picture: None,
                settings: settings.map(Settings::from_bits),
            },
            Op::Add(ref users) => Command::Add {
                users: users.iter().map(|n| user(*n)).collect(),
            },
            Op::Remove(n) => Command::Remove { user: user(n) },
            Op::Leave => Command::Leave,
            Op::SetRole(n, role) => Command::SetRole {
                user: user(n),
                role: Role::from_number(role).unwrap(),
            },
            Op::Transfer(n) => Command::Transfer { user: user(n) },
            Op::Invite { uses_max, life } => Command::Invite {
                invitation_id: Uuid::from_bytes([made; 16]),
                token_hash: [made; 32],
                expires_unix_ms: if life == 0 { 0 } else { self.now + life },
                uses_max,
            },
            Op::Revoke(n) => Command::Revoke {
                invitation_id: Uuid::from_bytes([n; 16]),
            },
            Op::Join(n) => Command::Join {
                token_hash: [n; 32],
            },
            Op::Answer(n, approve) => Command::Answer {
                user: user(n),
                approve,
            },
        }
    }

    fn view(&self, act: &Act) -> View {
        let involved: BTreeSet<UserId> = act
            .command
            .targets()
            .iter()
            .copied()
            .chain([act.actor])
            .collect();
        let is_involved = |user: &UserId| involved.contains(user);
        let mut line: Vec<&Member> = self.members.values().collect();
        line.sort_by_key(|m| (std::cmp::Reverse(m.role), m.joined_version, m.user_id));
        let invitation = match &act.command {
            Command::Join { token_hash } => self.invitations.get(token_hash).copied(),
            _ => None,
        };
        View {
            group: self.group.clone(),
            members: self
                .members
                .iter()
                .filter(|(user, _)| is_involved(user))
                .map(|(user, member)| (*user, *member))
                .collect(),
            successor: line.into_iter().find(|m| m.user_id != act.actor).copied(),
            // The last user is in too many groups already.
            full: act
                .command
                .joining(act.actor)
                .into_iter()
                .filter(|u| *u == user(USERS - 1))
                .collect(),
            waiting: self
                .waiting
                .iter()
                .filter(|u| is_involved(u))
                .copied()
                .collect(),
            waiting_count: self.waiting.len().try_into().unwrap(),
            invitation,
            invitations_good: self
                .invitations
                .values()
                .filter(|i| i.is_good(self.now))
                .count()
                .try_into()
                .unwrap(),
        }
    }

    fn write(&mut self, act: &Act, decision: Decision) {
        match decision.invitation {
            Some(InvitationEffect::Made(invitation, hash)) => {
                self.invitations.insert(hash, invitation);
            }
            Some(InvitationEffect::Used(id)) => {
                let mut of_id = self.invitations.values_mut();
                of_id.find(|i| i.invitation_id == id).unwrap().uses += 1;
            }
            Some(InvitationEffect::Revoked(id)) => {
                self.invitations.retain(|_, i| i.invitation_id != id);
            }
            None => {}
        }
        match decision.waiting {
            Some(WaitingEffect::Asks) => assert!(self.waiting.insert(act.actor)),
            Some(WaitingEffect::Ends(user)) => assert!(self.waiting.remove(&user)),
            None => {}
        }
        let Some(change) = decision.change else {
            assert_eq!(self.group.as_ref(), Some(&decision.group));
            return;
        };
        let version = decision.group.version;
        assert_eq!(change.log.version, version);
        assert_eq!(change.log.member_count, decision.group.member_count);
        self.versions.push(version);
        for user in &change.left {
            assert!(self.members.remove(user).is_some());
            let stints = self.stints.iter_mut();
            let mut open = stints.filter(|s| s.user == *user && s.left_version.is_none());
            open.next().unwrap().left_version = Some(version);
        }
        for member in &change.put {
            let before = self.members.insert(member.user_id, *member);
            let joins = member.joined_version == version;
            assert_eq!(before.is_none(), joins);
            if joins {
                self.waiting.remove(&member.user_id);
                self.stints.push(Stint {
                    user: member.user_id,
                    joined_version: version,
                    left_version: None,
                });
            }
        }
        self.group = Some(decision.group);
    }

    fn check(&self) {
        let group = self.group.as_ref().unwrap();
        let owners = self.members.values().filter(|m| m.role == Role::Owner);
        assert_eq!(owners.count(), usize::from(!self.members.is_empty()));
        assert_eq!(group.member_count as usize, self.members.len());
        assert!(group.member_count <= LIMITS.members_max);
        assert!(!self.members.contains_key(&user(USERS - 1)));
        let dense: Vec<u64> = (1..=group.version).collect();
        assert_eq!(self.versions, dense);
        let of_stints: BTreeSet<UserId> = self
            .stints
            .iter()
            .filter(|s| s.covers(group.version))
            .map(|s| s.user)
            .collect();
        assert_eq!(of_stints, self.members.keys().copied().collect());
        let good = self.invitations.values().filter(|i| i.is_good(self.now));
        assert!(good.count() <= LIMITS.invitations_max as usize);
        assert!(self.waiting.len() <= LIMITS.join_requests_max as usize);
        assert!(self.waiting.iter().all(|u| !self.members.contains_key(u)));
        for invitation in self.invitations.values().filter(|i| i.uses_max > 0) {
            assert!(invitation.uses <= invitation.uses_max);
        }
    }
}

/// The table of `group.proto`: what a role may, to whom.
fn allows(group: &Group, actor: Role, command: &Command, target: Option<Role>) -> bool {
    let admin = actor >= Role::Admin;
    match command {
        Command::Update {
            name,
            description,
            settings,
            ..
        } => {
            // What names nothing changes nothing, whoever asks.
            let info = name.is_some() || description.is_some();
            admin || (settings.is_none() && !(info && group.settings.info_by_admins))
        }
        Command::Add { .. } => admin || !group.settings.add_by_admins,
        Command::Remove { .. } => match target {
            Some(Role::Owner) => false,
            Some(Role::Admin) => actor == Role::Owner,
            Some(Role::Member) | None => admin,
        },
        Command::SetRole { role, .. } => {
            actor == Role::Owner && target != Some(Role::Owner) && *role != Role::Owner
        }
        Command::Transfer { .. } => actor == Role::Owner,
        Command::Invite { .. } | Command::Revoke { .. } | Command::Answer { .. } => admin,
        Command::Leave | Command::Join { .. } | Command::Create { .. } => true,
    }
}

fn create(users: Vec<UserId>) -> Act {
    Act {
        actor: user(0),
        command: Command::Create {
            name: "name".to_owned(),
            description: String::new(),
            picture: String::new(),
            settings: Settings::default(),
            users,
        },
        group_id: GroupId::from_bytes([9; 16]),
        if_version: 0,
        now_unix_ms: 1,
    }
}

fn started(users: Vec<UserId>) -> World {
    let mut world = World::default();
    let act = create(users);
    let decision = decide(&LIMITS, &world.view(&act), &act).unwrap();
    world.write(&act, decision);
    world.check();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_group_has_one_owner_dense_versions_and_nobody_does_what_the_table_forbids(ops in ops()) {
        let mut world = started(vec![user(1), user(0), user(1)]);
        for (n, (actor, op, stale)) in ops.into_iter().enumerate() {
            world.now += 1;
            let group = world.group.clone().unwrap();
            let act = Act {
                actor: user(actor),
                command: world.command(&op, u8::try_from(n % 4).unwrap()),
                group_id: group.group_id,
                if_version: if stale { group.version + 1 } else { 0 },
                now_unix_ms: world.now,
            };
            if let Command::Invite { token_hash, .. } = &act.command
                && world.invitations.contains_key(token_hash) { continue; }
            let view = world.view(&act);
            let before = world.members.get(&act.actor).copied();
            let target = act.command.targets().first();
            let target_role = target.and_then(|u| world.members.get(u)).map(|m| m.role);
            let joins = matches!(act.command, Command::Join { .. });
            match decide(&LIMITS, &view, &act) {
                Ok(decision) => {
                    let allowed = match before {
                        Some(member) => allows(&group, member.role, &act.command, target_role),
                        None => joins,
                    };
                    prop_assert!(allowed, "{act:?}");
                    prop_assert!(joins || !stale);
                    prop_assert!(group.member_count > 0);
                    world.write(&act, decision.clone());
                    let after = world.members.get(&act.actor).map(|m| m.role);
                    prop_assert_eq!(decision.role, after);
                }
                Err(Refusal::GroupNotFound) => {
                    prop_assert!(!joins && before.is_none());
                }
                Err(Refusal::RoleNotSufficient) => {
                    let role = before.unwrap().role;
                    prop_assert!(!allows(&group, role, &act.command, target_role), "{act:?}");
                }
                Err(Refusal::VersionChanged(at)) => {
                    prop_assert!(stale);
                    prop_assert_eq!(at, group.version);
                }
                Err(Refusal::MemberNotFound) => prop_assert!(target_role.is_none()),
                Err(Refusal::InvitationInvalid) => {
                    prop_assert!(joins && (before.is_none() || view.invitation.is_none()));
                }
                Err(Refusal::JoinRequestNotFound) => {
                    prop_assert!(!world.waiting.contains(target.unwrap()));
                }
                Err(Refusal::LimitReached { .. } ) => {}
                Err(Refusal::RequestIdReused) => prop_assert!(false),
            }
            world.check();
        }
    }
}

#[test]
fn a_group_of_more_than_it_may_have_is_not_made() {
    let others = |n: u8| (1..=n).map(user).collect::<Vec<_>>();
    assert_eq!(started(others(4)).members.len(), 5);
    let act = create(others(5));
    let refused = decide(&LIMITS, &World::default().view(&act), &act).unwrap_err();
    assert!(matches!(refused, Refusal::LimitReached { max: 5, .. }));
}

#[test]
fn what_changes_nothing_is_no_version() {
    let world = started(vec![user(1)]);
    for command in [
        Command::Add {
            users: vec![user(1), user(0)],
        },
        Command::Update {
            name: Some("name".to_owned()),
            description: Some(String::new()),
            picture: None,
            settings: Some(Settings::default()),
        },
        Command::SetRole {
            user: user(1),
            role: Role::Member,
        },
        Command::Transfer { user: user(0) },
    ] {
        let act = Act {
            command,
            ..create(Vec::new())
        };
        let decision = decide(&LIMITS, &world.view(&act), &act).unwrap();
        assert_eq!(decision.change, None, "{act:?}");
        assert_eq!(
            (decision.group.version, decision.role),
            (1, Some(Role::Owner))
        );
    }
}

#[test]
fn the_owner_is_followed_by_the_oldest_admin_or_else_the_oldest_member() {
    let mut world = started(vec![user(1), user(2)]);
    let mut act = |actor: UserId, command: Command| {
        let act = Act {
            actor,
            command,
            ..create(Vec::new())
        };
        let decision = decide(&LIMITS, &world.view(&act), &act).unwrap();
        world.write(&act, decision);
        world.check();
        let owners = world.members.values().filter(|m| m.role == Role::Owner);
        owners.map(|m| m.user_id).next()
    };
    act(
        user(0),
        Command::SetRole {
            user: user(2),
            role: Role::Admin,
        },
    );
    assert_eq!(act(user(0), Command::Leave), Some(user(2)));
    assert_eq!(act(user(2), Command::Leave), Some(user(1)));
    assert_eq!(act(user(1), Command::Leave), None);
    assert_eq!(world.group.unwrap().member_count, 0);
}

#[test]
fn the_log_is_told_who_it_is_about_and_what_people_see() {
    let mut world = started(vec![user(1)]);
    let mut act = |command: Command| {
        let act = Act {
            command,
            ..create(Vec::new())
        };
        let decision = decide(&LIMITS, &world.view(&act), &act).unwrap();
        world.write(&act, decision.clone());
        decision.change.unwrap().log
    };
    let update = Command::Update {
        name: Some("name".to_owned()),
        description: Some("new".to_owned()),
        picture: None,
        settings: Some(Settings {
            announcement: true,
            ..Settings::default()
        }),
    };
    let log = act(update);
    let told = GroupInfoChange {
        description: Some("new".to_owned()),
        ..GroupInfoChange::default()
    };
    assert_eq!(log.info, Some(told));
    assert!(log.rules.unwrap().announcement && !log.rules.unwrap().history_all);
    let log = act(Command::Transfer { user: user(1) });
    let members: Vec<(Vec<u8>, u32)> = log
        .members
        .into_iter()
        .map(|m| (m.user_id, m.role))
        .collect();
    let bytes = |n: u8| user(n).as_bytes().to_vec();
    assert_eq!(members, [(bytes(1), 3), (bytes(0), 2)]);
    assert!(log.rules.unwrap().announcement);
    let log = act(Command::Leave);
    assert_eq!(
        (log.members.len(), log.members[0].role, log.member_count),
        (1, 0, 1)
    );
}
