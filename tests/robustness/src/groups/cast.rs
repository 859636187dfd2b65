//! Who there is in groups, and what each device does: functions of the seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    history::{
        Keeps, No,
        groups::{Asked, Role},
    },
    plan::{DeviceRole, Size},
};

/// Accounts of whom groups are made.
const USERS: No = 12;
/// Users of a group, the owner included: at least, and at most.
const GROUP_USERS: (usize, usize) = (8, 12);
/// Numbers of their devices begin here, so that no other device has one of them.
const DEVICES_FROM: No = 10_000;
/// What devices keep, in turn.
const KEEPS: [Keeps; 4] = [
    Keeps::Cache,
    Keeps::NothingAll,
    Keeps::Places,
    Keeps::Nothing,
];
/// Operations in groups, as a share of the messages a second of the plan.
const SHARE: f64 = 0.25;
/// Messages of a burst.
const BURSTS: [usize; 6] = [1, 1, 1, 2, 3, 6];

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRole {
    /// Never leaves.
    pub(crate) owner: No,
    /// Those who are ever in it, the owner included.
    pub(crate) users: Vec<No>,
    /// Those who are in it from the beginning, besides the owner.
    pub(crate) first: Vec<No>,
}

/// Who there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupCast {
    pub(crate) users: No,
    /// Their numbers follow each other.
    pub(crate) devices: Vec<DeviceRole>,
    pub(crate) groups: Vec<GroupRole>,
}

/// One thing that a device does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupOp {
    /// So many messages at once through the session, whether or not the user is a member.
    Send { group: No, texts: Vec<u32> },
    /// One message as a call.
    SendCall { group: No, text: u32 },
    /// A message that the user has sent lately, sent again as a call.
    Again { pick: u32 },
    /// A change. `again` asks once more after it was answered.
    Change {
        group: No,
        asked: Asked,
        again: bool,
    },
    /// The newest that the user holds is read.
    MarkRead { group: No, as_call: bool },
    /// A page of events that must contain what the user holds.
    Read {
        group: No,
        newest_first: bool,
        page_size: i32,
        /// Where it begins, in 1/1000 of what the user holds; `None` = no bound.
        from: Option<u32>,
        /// Whether it ends at what the user holds.
        bounded: bool,
    },
    /// The conversation list.
    List,
    /// The app ends, and begins again after a while.
    Restart { killed: bool, away: Duration },
}

impl GroupCast {
    /// The cast of a seed.
    pub(crate) fn new(seed: u64, size: &Size) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x6720_7570);
        let users = if size.groups == 0 { 0 } else { USERS };
        let groups = (0..size.groups).map(|number| {
            let owner = number % USERS;
            let mut others: Vec<No> = (0..USERS).filter(|user| *user != owner).collect();
            others.shuffle(&mut random);
            others.truncate(random.random_range(GROUP_USERS.0..=GROUP_USERS.1) - 1);
            let first = others[..others.len() / 2].to_vec();
            others.insert(0, owner);
            GroupRole {
                owner,
                users: others,
                first,
            }
        });
        let groups = groups.collect();
        let of_user = |user| (0..=user % 2).map(move |_| user);
        let devices = (DEVICES_FROM..)
            .zip((0..users).flat_map(of_user))
            .map(|(number, user)| DeviceRole {
                user,
                keeps: KEEPS[usize::from(number - DEVICES_FROM) % KEEPS.len()],
                number,
            })
            .collect();
        Self {
            users,
            devices,
            groups,
        }
    }

    /// The groups that a user may be in.
    pub(crate) fn of_user(&self, user: No) -> Vec<No> {
        (0..)
            .zip(&self.groups)
            .filter(|(_, group)| group.users.contains(&user))
            .map(|(group, _)| group)
            .collect()
    }
}

/// What one device does: pauses and operations, without an end.
#[derive(Debug)]
pub(crate) struct GroupScript {
    random: StdRng,
    user: No,
    number: No,
    groups: Vec<(No, GroupRole)>,
    pause_mean: f64,
    texts: u32,
    names: u32,
}

impl GroupScript {
    /// The script of a device; `texts` is how many there are to choose from.
    pub(crate) fn new(
        seed: u64,
        size: &Size,
        cast: &GroupCast,
        role: DeviceRole,
        texts: usize,
    ) -> Self {
        let groups = cast
            .of_user(role.user)
            .into_iter()
            .map(|group| (group, cast.groups[usize::from(group)].clone()))
            .collect();
        let active = cast
            .devices
            .iter()
            .filter(|device| !cast.of_user(device.user).is_empty())
            .count();
        Self {
            random: StdRng::seed_from_u64(seed ^ ((u64::from(role.number) + 1) << 32)),
            user: role.user,
            number: role.number,
            groups,
            pause_mean: active.max(1) as f64 / (size.rate.max(0.1) * SHARE),
            texts: u32::try_from(texts).unwrap_or(u32::MAX).max(1),
            names: 0,
        }
    }

    fn text(&mut self) -> u32 {
        self.random.random_range(0..self.texts)
    }

    fn op(&mut self) -> GroupOp {
        let pick = self.random.random_range(0..self.groups.len());
        let (group, role) = self.groups[pick].clone();
        // Changes that everybody asks for are mostly refused; the owner's are not.
        let changes = if role.owner == self.user { 300 } else { 90 };
        if self.random.random_range(0..1_000) < changes {
            return GroupOp::Change {
                group,
                asked: self.change(&role),
                again: self.random.random_bool(0.3),
            };
        }
        match self.random.random_range(0..1_000) {
            0..500 => {
                let count = BURSTS[self.random.random_range(0..BURSTS.len())];
                let texts = (0..count).map(|_| self.text()).collect();
                GroupOp::Send { group, texts }
            }
            500..600 => GroupOp::SendCall {
                group,
                text: self.text(),
            },
            600..660 => GroupOp::Again {
                pick: self.random.random(),
            },
            660..770 => GroupOp::MarkRead {
                group,
                as_call: self.random.random_bool(0.3),
            },
            770..930 => GroupOp::Read {
                group,
                newest_first: self.random.random_bool(0.5),
                page_size: [1, 7, 50, 200][self.random.random_range(0..4)],
                from: self
                    .random
                    .random_bool(0.6)
                    .then(|| self.random.random_range(0..1_000)),
                bounded: self.random.random_bool(0.3),
            },
            930..985 => GroupOp::List,
            _ => GroupOp::Restart {
                killed: self.random.random_bool(0.7),
                away: Duration::from_millis(self.random.random_range(0..2_500)),
            },
        }
    }

    fn change(&mut self, role: &GroupRole) -> Asked {
        let target = role.users[self.random.random_range(0..role.users.len())];
        match self.random.random_range(0..100) {
            0..28 => Asked::Add(target),
            28..46 => Asked::Remove(target),
            46..56 if role.owner != self.user => Asked::Leave,
            56..70 => Asked::Join,
            70..80 => Asked::SetRole(
                target,
                [Role::Admin, Role::Member][self.random.random_range(0..2)],
            ),
            // Mostly off: while it is on, few may say anything.
            80..88 => Asked::Announcement(self.random.random_bool(0.3)),
            _ => {
                self.names += 1;
                Asked::Rename(format!("{}-{}", self.number, self.names))
            }
        }
    }
}

impl Iterator for GroupScript {
    type Item = (Duration, GroupOp);

    fn next(&mut self) -> Option<Self::Item> {
        if self.groups.is_empty() {
            return None;
        }
        // Pauses as of people who know nothing of each other.
        let unit: f64 = self.random.random_range(1e-6..1.0);
        let pause = (-unit.ln() * self.pause_mean).min(self.pause_mean * 10.0);
        Some((Duration::from_secs_f64(pause), self.op()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        users: 4,
        devices_per_user: 1,
        conversations: 2,
        groups: 3,
        rate: 100.0,
    };

    fn script(seed: u64, device: usize) -> Vec<(Duration, GroupOp)> {
        let cast = GroupCast::new(seed, &SIZE);
        let role = cast.devices[device];
        GroupScript::new(seed, &SIZE, &cast, role, 1_000)
            .take(2_000)
            .collect()
    }

    #[test]
    fn a_seed_repeats_the_groups_and_what_their_users_do() {
        assert_eq!(GroupCast::new(7, &SIZE), GroupCast::new(7, &SIZE));
        assert_ne!(GroupCast::new(7, &SIZE), GroupCast::new(8, &SIZE));
        assert_eq!(script(7, 3), script(7, 3));
        assert_ne!(script(7, 3), script(8, 3));
        assert_ne!(script(7, 3), script(7, 4));
    }

    #[test]
    fn an_owner_never_leaves_and_everything_else_is_done() {
        let mut ops = std::collections::HashSet::new();
        let mut changes = std::collections::HashSet::new();
        let cast = GroupCast::new(1, &SIZE);
        for (place, device) in cast.devices.iter().enumerate() {
            for (_, op) in script(1, place) {
                ops.insert(std::mem::discriminant(&op));
                let GroupOp::Change { group, asked, .. } = op else {
                    continue;
                };
                changes.insert(std::mem::discriminant(&asked));
                let owner = cast.groups[usize::from(group)].owner;
                assert!(asked != Asked::Leave || device.user != owner);
            }
        }
        assert_eq!((ops.len(), changes.len()), (8, 7));
    }
}
