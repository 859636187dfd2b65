//! Who was a member of a group at a version, in memory.

use std::{collections::HashMap, sync::Arc};

use runtime::ids::{GroupId, UserId};

use super::codec::{Change, Fan, Kind};
use crate::model::{Roster, Stint};

/// The members of a group at a version.
#[derive(Debug, Clone)]
pub(super) struct Members {
    pub(super) version: u64,
    /// Ascending; shared with what is under way to them.
    pub(super) users: Arc<Vec<UserId>>,
    /// The largest version by which somebody joined who the store knew of.
    joined_max: u64,
    /// The group is deferred after this.
    pub(super) deferred: bool,
}

/// What a change did to the members.
#[derive(Debug, Clone, Default)]
pub(super) struct Changed {
    /// Those who were no members before it.
    pub(super) joined: Vec<UserId>,
    /// Those who are no members after it.
    pub(super) removed: Vec<UserId>,
}

impl Members {
    /// As the store knows them.
    pub(super) fn of(version: u64, roster: &Roster) -> Self {
        let joined = roster.stints.iter().map(|stint| stint.joined_version);
        Self {
            joined_max: joined.max().unwrap_or_default(),
            deferred: roster.deferred,
            ..Self::at(version, &roster.stints)
        }
    }

    /// Whether all who are members now are among these: nobody joined later, as far as the store knew. A
    /// record that comes late finds the members of its version, and those who joined since are not.
    pub(super) const fn has_all(&self) -> bool {
        self.joined_max <= self.version
    }

    fn at(version: u64, stints: &[Stint]) -> Self {
        let of_version = stints.iter().filter(|stint| stint.covers(version));
        let mut users: Vec<UserId> = of_version.map(|stint| stint.user).collect();
        users.sort_unstable();
        users.dedup();
        Self {
            version,
            users: Arc::new(users),
            joined_max: 0,
            deferred: false,
        }
    }

    pub(super) fn contains(&self, user: UserId) -> bool {
        self.users.binary_search(&user).is_ok()
    }

    /// The members after the next change. Takes one pass however many it changes.
    pub(super) fn after(&self, change: &Change) -> (Self, Changed) {
        let mut changed = Changed::default();
        let mut added = Vec::new();
        for (user, is_member) in &change.members {
            if !is_member {
                changed.removed.push(*user);
            } else if !self.contains(*user) {
                added.push(*user);
            }
        }
        let users = if added.is_empty() && changed.removed.is_empty() {
            self.users.clone()
        } else {
            let mut users = Vec::with_capacity(self.users.len() + added.len());
            let stays = |user: &&UserId| changed.removed.binary_search(user).is_err();
            users.extend(self.users.iter().filter(stays));
            users.extend_from_slice(&added);
            // Two ascending runs: this merges them.
            users.sort();
            Arc::new(users)
        };
        if change.joins {
            changed.joined = added;
        }
        let after = Self {
            version: self.version + 1,
            users,
            ..*self
        };
        (after, changed)
    }
}

/// Whether the store knows of what a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// Nothing speaks against it.
    Fresh,
    /// Somebody is missing; he may be forgotten.
    Doubtful,
    /// Somebody is still a member who was removed.
    Behind,
}

/// Judges stints that were asked for because of this record.
pub(super) fn knowledge(fan: &Fan, stints: &[Stint]) -> Knowledge {
    let last_version = |stint: &Stint| stint.left_version.unwrap_or(stint.joined_version);
    if stints.iter().map(last_version).max() >= Some(fan.version) {
        return Knowledge::Fresh;
    }
    let known = Members::at(fan.version, stints);
    let of_sender;
    let expected = match fan.event.as_ref().map(|event| &event.kind) {
        Some(Kind::Change(change)) => &change.members[..],
        Some(Kind::Message { sender, .. }) => {
            of_sender = [(*sender, true)];
            &of_sender
        }
        Some(Kind::Other) | None => &[],
    };
    let mut knowledge = Knowledge::Fresh;
    for (user, is_member) in expected {
        match (known.contains(*user), is_member) {
            (true, false) => return Knowledge::Behind,
            (false, true) => knowledge = Knowledge::Doubtful,
            _ => {}
        }
    }
    knowledge
}

/// What a group costs in the cache besides its members, in members.
const GROUP_WEIGHT: usize = 8;

/// Members of groups by how recently they were used, in two generations: when the young one is full,
/// the old one is dropped and the young one becomes the old.
pub(super) struct Cache {
    young: HashMap<GroupId, Members>,
    old: HashMap<GroupId, Members>,
    young_weight: usize,
    generation_max: usize,
}

impl Cache {
    /// Keeps about `members_max` members, and always the group that was used last.
    pub(super) fn new(members_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_weight: 0,
            generation_max: members_max / 2,
        }
    }

    /// The group's members at the version that was put last.
    pub(super) fn get(&mut self, group: GroupId) -> Option<Members> {
        if let Some(members) = self.young.get(&group) {
            return Some(members.clone());
        }
        let members = self.old.remove(&group)?;
        self.put(group, members.clone());
        Some(members)
    }

    pub(super) fn put(&mut self, group: GroupId, members: Members) {
        let weight = |members: &Members| members.users.len() + GROUP_WEIGHT;
        let added = weight(&members);
        if let Some(before) = self.young.remove(&group) {
            self.young_weight -= weight(&before);
        }
        if self.young_weight + added > self.generation_max {
            self.old = std::mem::take(&mut self.young);
            self.young_weight = 0;
        }
        self.old.remove(&group);
        self.young_weight += added;
        self.young.insert(group, members);
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        let both = self.young.values().chain(self.old.values());
        both.map(|members| members.users.len() + GROUP_WEIGHT).sum()
    }
}
