//! Messages of groups: each that was promised is there, once, in its place, and by somebody who was a
//! member there; nothing else is.

use std::collections::{HashMap, HashSet};

use super::{
    Verdict, Wrong,
    world::{GroupFate, GroupWorld, Members},
};
use crate::history::{
    Mark, Micros, No,
    groups::{Answer, Change, GroupEvent, Kind, Role, What},
};

/// Judges what the owner read at the end: places, versions, times, and who did what he may.
pub(super) fn judge_truth(world: &GroupWorld<'_>, group: No, verdict: &mut Verdict) {
    let mut members = Members::default();
    let (mut before, mut version, mut time) = (Mark::default(), 0, i64::MIN);
    let mut names = HashSet::new();
    for event in world.story(group) {
        let shown = || format!("group {group}, {:?}", event.at);
        let index = before.1 + u64::from(matches!(event.what, What::Message(..)));
        if event.at != Mark(before.0 + 1, index) {
            verdict.add(Wrong::Gaps, || format!("{} follows {before:?}", shown()));
        }
        before = event.at;
        if event.time_unix_ms < time {
            verdict.add(Wrong::Reordered, || {
                format!("{}: its time is before that of the one before", shown())
            });
        }
        time = event.time_unix_ms;
        match &event.what {
            What::Message(id, _) => {
                if !names.insert((event.sender, *id)) {
                    verdict.add(Wrong::Duplicated, || {
                        format!("{}: {id} is there again", shown())
                    });
                }
                let role = event.sender.map_or(Role::Nobody, |user| members.role(user));
                let is_allowed = event.sender.is_some_and(|user| members.may_send(user));
                if !is_allowed {
                    verdict.add(Wrong::Foreign, || {
                        format!(
                            "{}: {id} was sent by {:?}, who is {role:?}; announcement mode: {}",
                            shown(),
                            event.sender,
                            members.announcement
                        )
                    });
                }
            }
            What::Change(change) => {
                let next = version + 1;
                if change.version != next {
                    let wrong = match change.version > next {
                        true => Wrong::Gaps,
                        false => Wrong::Duplicated,
                    };
                    verdict.add(wrong, || {
                        format!("{}: version {} follows {version}", shown(), change.version)
                    });
                }
                version = change.version;
                if !is_allowed(&members, event, change) {
                    verdict.add(Wrong::Foreign, || {
                        format!("{}: {event:?} is not for who did it: {members:?}", shown())
                    });
                }
                members.apply(change);
                let count = members.roles.len();
                if u32::try_from(count) != Ok(change.member_count) {
                    verdict.add(Wrong::Altered, || {
                        format!("{}: {change:?} has {count} members after it", shown())
                    });
                }
            }
        }
    }
    let told: Vec<(No, Role)> = members.roles.into_iter().collect();
    match world.listed.get(&group) {
        Some((at, listed)) if (*at, *listed) != (version, &told[..]) => {
            verdict.add(Wrong::Diverged, || {
                format!(
                    "group {group}: its members are {listed:?} at {at}, by its changes {told:?} at \
                     {version}"
                )
            });
        }
        None if world.came_to_rest => verdict.add(Wrong::Unsettled, || {
            format!("group {group}: nobody has listed its members at the end")
        }),
        _ => {}
    }
}

/// The table of roles, as far as the cast makes use of it.
fn is_allowed(members: &Members, event: &GroupEvent, change: &Change) -> bool {
    let Some(actor) = event.sender else {
        return false;
    };
    let role = members.role(actor);
    let is_own = change.members.iter().all(|(user, _)| *user == Some(actor));
    let is_below = |(user, _): &(Option<No>, Role)| {
        user.is_some_and(|user| (Role::Member..role).contains(&members.role(user)))
    };
    match change.kind {
        Kind::Created => members.roles.is_empty(),
        Kind::Added => role >= Role::Member,
        Kind::Updated if change.announcement == members.announcement => role >= Role::Member,
        Kind::Updated => role >= Role::Admin,
        Kind::Removed => role >= Role::Admin && change.members.iter().all(is_below),
        Kind::Left => role >= Role::Member && is_own,
        Kind::Roles => role == Role::Owner && change.members.iter().all(is_below),
        Kind::Joined => role == Role::Nobody && is_own,
        Kind::Other => false,
    }
}

/// Judges sends by their answers.
pub(super) fn judge_fates(world: &GroupWorld<'_>, verdict: &mut Verdict) {
    for fate in world.fates.values() {
        let was_read = world.truth.contains_key(&fate.send.conversation);
        for (_, at, _) in &fate.acks {
            match fate.place {
                None if was_read => verdict.add(Wrong::Lost, || {
                    format!("{} is acknowledged at {at:?} and not there", fate.shown())
                }),
                Some(place) if place != *at => verdict.add(Wrong::Reordered, || {
                    format!(
                        "{} is acknowledged at {at:?} and is at {place:?}",
                        fate.shown()
                    )
                }),
                _ => {}
            }
        }
        if fate.acks.iter().filter(|ack| !ack.2).count() > 1 {
            verdict.add(Wrong::Duplicated, || {
                format!("{} was accepted twice as new", fate.shown())
            });
        }
        // Who is let in later may send it again.
        if fate.refused && !fate.again && (fate.place.is_some() || !fate.acks.is_empty()) {
            verdict.add(Wrong::Phantom, || {
                format!("{} was refused and is at {:?}", fate.shown(), fate.place)
            });
        }
        if world.came_to_rest && fate.is_open() {
            verdict.add(Wrong::Unsettled, || {
                format!("{} has no answer", fate.shown())
            });
        }
    }
    judge_sessions(world, verdict);
}

/// Messages of one session and group keep the order in which they were handed over. One that may have been
/// refused first, because its sender was not allowed to send then, is no exception that its device could
/// see: the refusal was lost with a connection, and the device asked again.
fn judge_sessions(world: &GroupWorld<'_>, verdict: &mut Verdict) {
    let mut last: HashMap<(u64, No), (&GroupFate<'_>, Mark)> = HashMap::new();
    for fate in world.fates.values().filter(|fate| !fate.again) {
        let (Some(order), Some(place)) = (fate.send.group, fate.place) else {
            continue;
        };
        let key = (order, fate.send.conversation);
        if let Some((before, at)) = last.get(&key)
            && *at > place
            && !may_have_been_refused(world, before, place.0)
        {
            verdict.add(Wrong::Reordered, || {
                format!(
                    "{} at {place:?} overtook send {} at {at:?}",
                    fate.shown(),
                    before.send.send
                )
            });
        }
        last.insert(key, (fate, place));
    }
}

/// Whether the sender of a message was not allowed to send at some place up to `end` at which it may have
/// been judged first: behind all that he held an answer of when he handed it over.
fn may_have_been_refused(world: &GroupWorld<'_>, fate: &GroupFate<'_>, end: u64) -> bool {
    let (group, user) = (fate.send.conversation, fate.user);
    let is_own = |other: &&GroupFate<'_>| other.user == user && other.send.conversation == group;
    let own = world.fates.values().filter(is_own);
    let acks = own.flat_map(|other| &other.acks);
    let held = acks.filter(|ack| ack.0 < fate.send.t).map(|ack| ack.1.0);
    // The group is there before there is traffic.
    let held = held.max().unwrap_or(1).max(1);
    let mut members = Members::default();
    for event in world.story(group) {
        let seq = event.at.0;
        if seq > end {
            return false;
        }
        if seq > held && !members.may_send(user) {
            return true;
        }
        if let What::Change(change) = &event.what {
            members.apply(change);
        }
    }
    false
}

/// What was begun after the answer to something else is behind it, messages and changes alike.
pub(super) fn judge_order(world: &GroupWorld<'_>, group: No, verdict: &mut Verdict) {
    // Place, begun, first answered, and what it is.
    let mut all: Vec<(u64, Micros, Option<Micros>, String)> = Vec::new();
    for fate in world.fates.values() {
        if let (true, Some(place)) = (fate.send.conversation == group, fate.place) {
            let answered = fate.acks.iter().map(|ack| ack.0).min();
            all.push((place.0, fate.send.t, answered, fate.shown()));
        }
    }
    for asking in world.calls.values() {
        let placed = |(t, answer): &(Micros, &Answer)| match answer {
            Answer::Done { seq, .. } if *seq > 0 => Some((*seq, *t)),
            _ => None,
        };
        if asking.call.group == group
            && let Some((seq, t)) = asking.answers.iter().find_map(placed)
        {
            all.push((seq, asking.call.t, Some(t), asking.shown()));
        }
    }
    all.sort_by_key(|(place, ..)| *place);
    // The earliest answer of all that are behind.
    let mut earliest: Option<(Micros, &String)> = None;
    for (place, begun, answered, shown) in all.iter().rev() {
        if let Some((t, behind)) = earliest
            && t < *begun
        {
            verdict.add(Wrong::Reordered, || {
                format!("{shown} is at {place}, before {behind}, which was answered at {t} us")
            });
        }
        if let Some(t) = answered
            && earliest.is_none_or(|(other, _)| *t < other)
        {
            earliest = Some((*t, shown));
        }
    }
}

/// Everything that anybody ever saw is what the truth has in that place, and was said by somebody.
pub(super) fn judge_sightings(world: &GroupWorld<'_>, verdict: &mut Verdict) {
    for event in &world.events {
        let shown = || format!("group {}: {event:?}", event.group);
        if let What::Message(_, hash) = &event.what {
            match world.fate_of(event) {
                None => verdict.add(Wrong::Phantom, || format!("{} was sent by nobody", shown())),
                Some(fate) if fate.send.hash != *hash => verdict.add(Wrong::Altered, || {
                    format!("{} has another text", fate.shown())
                }),
                Some(_) => {}
            }
        }
        if !world.groups.contains_key(&event.group) {
            verdict.add(Wrong::Foreign, || format!("{} is of no group", shown()));
            continue;
        }
        if !world.truth.contains_key(&event.group) {
            continue;
        }
        match world.at(event.group, event.at.0) {
            Some(there) if there == *event => {}
            Some(there) => verdict.add(Wrong::Diverged, || {
                format!("{} was seen where {there:?} is", shown())
            }),
            None => verdict.add(Wrong::Lost, || {
                format!("{} was seen behind the end", shown())
            }),
        }
    }
}
