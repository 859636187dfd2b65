//! Changes of groups: each that was answered is there once, whatever was tried again, and nobody changed
//! what he did not ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Verdict, Wrong,
    world::{Asking, GroupWorld, Members},
};
use crate::history::{
    No,
    groups::{Answer, Asked, Change, GroupEvent, Kind, Role, What},
};

/// The changes of one group, and who is known to have asked for which.
struct Ledger<'w, 'a> {
    world: &'w GroupWorld<'a>,
    group: No,
    /// In the truth, by version.
    changes: BTreeMap<u64, (&'a GroupEvent, &'a Change)>,
    /// After each version.
    members: BTreeMap<u64, Members>,
    /// By version: the number of the call.
    taken: BTreeMap<u64, u32>,
    /// Calls that must have a change, and whose place is not told.
    owed: BTreeSet<u32>,
}

/// Judges the changes of a group by what was asked for.
pub(super) fn judge(world: &GroupWorld<'_>, group: No, verdict: &mut Verdict) {
    let (mut changes, mut members) = (BTreeMap::new(), BTreeMap::new());
    let mut now = Members::default();
    for event in world.story(group) {
        if let What::Change(change) = &event.what {
            now.apply(change);
            changes.insert(change.version, (event, change));
            members.insert(change.version, now.clone());
        }
    }
    let mut ledger = Ledger {
        world,
        group,
        changes,
        members,
        taken: BTreeMap::new(),
        owed: BTreeSet::new(),
    };
    let is_of_group = |asking: &&Asking<'_>| asking.call.group == group;
    let askings: Vec<_> = world.calls.values().filter(is_of_group).collect();
    // Those whose places are told go first: they leave less to the others.
    for asking in &askings {
        ledger.place(asking, verdict);
    }
    for asking in &askings {
        ledger.find(asking, verdict);
    }
    ledger.explain(&askings, verdict);
}

/// The one number that is not 0 in all answers that a change is decided; `Err` if there are two.
fn same(asking: &Asking<'_>, of: impl Fn(u64, u64) -> u64) -> Result<Option<u64>, ()> {
    let mut found = None;
    for (_, answer) in &asking.answers {
        let Answer::Done { seq, version } = answer else {
            continue;
        };
        let number = of(*seq, *version);
        if number > 0 && found.is_some_and(|other| other != number) {
            return Err(());
        }
        if number > 0 {
            found = Some(number);
        }
    }
    Ok(found)
}

fn is_done(asking: &Asking<'_>) -> bool {
    let is_done = |answer: &Answer| matches!(answer, Answer::Done { .. });
    asking.answers.iter().any(|(_, answer)| is_done(answer))
}

/// Whether a change is what was asked for.
fn is_of(asking: &Asking<'_>, event: &GroupEvent, change: &Change) -> bool {
    let user = asking.call.user;
    if event.sender != Some(user) {
        return false;
    }
    let one = |kind, user, role| change.kind == kind && change.members == [(Some(user), role)];
    match &asking.call.asked {
        Asked::Create(_) => change.kind == Kind::Created,
        Asked::Add(other) => one(Kind::Added, *other, Role::Member),
        Asked::Remove(other) => one(Kind::Removed, *other, Role::Nobody),
        Asked::Leave => one(Kind::Left, user, Role::Nobody),
        Asked::Join => one(Kind::Joined, user, Role::Member),
        Asked::SetRole(other, role) => one(Kind::Roles, *other, *role),
        Asked::Announcement(on) => {
            change.kind == Kind::Updated && change.name.is_none() && change.announcement == *on
        }
        Asked::Rename(name) => change.kind == Kind::Updated && change.name.as_ref() == Some(name),
    }
}

impl Ledger<'_, '_> {
    fn take(&mut self, version: u64, asking: &Asking<'_>, verdict: &mut Verdict) {
        if let Some(other) = self.taken.insert(version, asking.call.call) {
            verdict.add(Wrong::Duplicated, || {
                format!("{} is the same as change {other}", asking.shown())
            });
        }
    }

    /// A change that was answered with its place.
    fn place(&mut self, asking: &Asking<'_>, verdict: &mut Verdict) {
        let (Ok(seq), Ok(version)) = (same(asking, |seq, _| seq), same(asking, |_, v| v)) else {
            return verdict.add(Wrong::Duplicated, || {
                format!("{} has two different answers", asking.shown())
            });
        };
        let Some(seq) = seq else { return };
        let event = self.world.at(self.group, seq);
        let found = event.and_then(|event| match &event.what {
            What::Change(change) if is_of(asking, event, change) => Some(change),
            _ => None,
        });
        let Some(change) = found else {
            return verdict.add(Wrong::Lost, || {
                format!("{} is not there; at its place is {event:?}", asking.shown())
            });
        };
        if version.is_some_and(|version| version != change.version) {
            verdict.add(Wrong::Altered, || {
                format!("{} is version {}", asking.shown(), change.version)
            });
        }
        self.take(change.version, asking, verdict);
    }

    /// A change that was answered without a place: its event came too late, or there was nothing to
    /// change.
    fn find(&mut self, asking: &Asking<'_>, verdict: &mut Verdict) {
        if !is_done(asking) || same(asking, |seq, _| seq) != Ok(None) {
            return;
        }
        let Ok(Some(version)) = same(asking, |_, version| version) else {
            self.owed.insert(asking.call.call);
            return;
        };
        let there = self.changes.get(&version);
        let is_own = there.is_some_and(|(event, change)| is_of(asking, event, change));
        if is_own && !self.taken.contains_key(&version) {
            return self.take(version, asking, verdict);
        }
        let members = self.members.get(&version).cloned().unwrap_or_default();
        let was_so = match &asking.call.asked {
            Asked::Add(user) => members.role(*user) > Role::Nobody,
            Asked::Join => members.role(asking.call.user) > Role::Nobody,
            Asked::SetRole(user, role) => members.role(*user) == *role,
            Asked::Announcement(on) => members.announcement == *on,
            Asked::Create(_) | Asked::Remove(_) | Asked::Leave | Asked::Rename(_) => false,
        };
        if !was_so {
            verdict.add(Wrong::Lost, || format!("{} is not there", asking.shown()));
        }
    }

    /// Everything that happened was asked for, as often as it happened.
    fn explain(&mut self, askings: &[&Asking<'_>], verdict: &mut Verdict) {
        let mut free: BTreeMap<u32, &Asking<'_>> = askings
            .iter()
            .filter(|asking| !asking.was_refused())
            .filter(|asking| !is_done(asking) || self.owed.contains(&asking.call.call))
            .map(|asking| (asking.call.call, *asking))
            .collect();
        let unexplained = self.changes.iter();
        for (_, (event, change)) in
            unexplained.filter(|(version, _)| !self.taken.contains_key(version))
        {
            let fits = |asking: &&Asking<'_>| is_of(asking, event, change);
            // Those that must have one go first.
            let owed = free.values().copied().filter(fits);
            let is_owed = |asking: &&Asking<'_>| self.owed.contains(&asking.call.call);
            let found = owed.clone().find(is_owed).or_else(|| owed.clone().next());
            if let Some(asking) = found {
                free.remove(&asking.call.call);
                self.owed.remove(&asking.call.call);
                continue;
            }
            let asked = askings.iter().find(|asking| fits(asking));
            let wrong = match asked {
                Some(asking) if is_done(asking) => Wrong::Duplicated,
                _ => Wrong::Phantom,
            };
            verdict.add(wrong, || match asked {
                Some(asking) => format!("{event:?} is there, and {}", asking.shown()),
                None => format!("nobody asked for {event:?}"),
            });
        }
        for call in &self.owed {
            let asking = askings.iter().find(|asking| asking.call.call == *call);
            verdict.add(Wrong::Lost, || {
                let shown = asking.map(|asking| asking.shown());
                format!("{} is not there", shown.unwrap_or_default())
            });
        }
    }
}
