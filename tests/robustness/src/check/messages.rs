//! Messages: what was promised is in the truth, once, in its place, and nothing else is.

use std::collections::{HashMap, HashSet};

use super::{Verdict, World, Wrong, world::Fate};
use crate::history::{Content, Keeps, Mark, Micros, No, Reader, Record};

/// Judges sends, acks and the truth itself.
pub(super) fn judge(world: &World<'_>, verdict: &mut Verdict) {
    for (conversation, contents) in &world.truth {
        judge_truth(world, *conversation, contents, verdict);
    }
    let mut fates: Vec<&Fate<'_>> = world.fates.values().collect();
    fates.sort_by_key(|fate| fate.send.send);
    for fate in &fates {
        judge_fate(world, fate, verdict);
    }
    judge_groups(&fates, verdict);
    judge_time(&fates, verdict);
    judge_sightings(world, verdict);
}

fn judge_truth(world: &World<'_>, conversation: No, contents: &[u32], verdict: &mut Verdict) {
    let mut names = HashSet::new();
    let mut before = Mark::default();
    let mut time = i64::MIN;
    for content in contents.iter().filter_map(|number| world.content(*number)) {
        if content.at.0 != before.0 + 1 || content.at.1 != before.1 + 1 {
            verdict.add(Wrong::Gaps, || {
                format!(
                    "conversation {conversation}: {before:?} is followed by {:?}",
                    content.at
                )
            });
        }
        before = content.at;
        if content.time_unix_ms < time {
            verdict.add(Wrong::Reordered, || {
                format!(
                    "conversation {conversation}: the time of {:?} is before that of the one before",
                    content.at
                )
            });
        }
        time = content.time_unix_ms;
        if !names.insert((content.sender, content.id)) {
            verdict.add(Wrong::Duplicated, || {
                format!(
                    "conversation {conversation}: {} is there again at {:?}",
                    content.id, content.at
                )
            });
        }
    }
}

fn judge_fate(world: &World<'_>, fate: &Fate<'_>, verdict: &mut Verdict) {
    let was_read = world.truth.contains_key(&fate.send.conversation);
    for ack in &fate.acks {
        match fate.place {
            None if was_read => verdict.add(Wrong::Lost, || {
                format!(
                    "{} is acknowledged at {:?} and not there",
                    fate.shown(),
                    ack.at
                )
            }),
            Some(place) if place != ack.at => verdict.add(Wrong::Reordered, || {
                format!(
                    "{} is acknowledged at {:?} and is at {place:?}",
                    fate.shown(),
                    ack.at
                )
            }),
            _ => {}
        }
    }
    if fate.acks.iter().filter(|ack| !ack.duplicate).count() > 1 {
        verdict.add(Wrong::Duplicated, || {
            format!("{} was accepted twice as new", fate.shown())
        });
    }
    if fate.refused && !fate.acks.is_empty() {
        verdict.add(Wrong::Phantom, || {
            format!("{} was refused and acknowledged", fate.shown())
        });
    }
    if world.came_to_rest && fate.is_open() {
        verdict.add(Wrong::Unsettled, || {
            format!("{} has no answer", fate.shown())
        });
    }
}

/// Messages of one session and conversation keep the order in which they were handed over.
fn judge_groups(fates: &[&Fate<'_>], verdict: &mut Verdict) {
    let mut last: HashMap<(u64, No), (&Fate<'_>, Mark)> = HashMap::new();
    for fate in fates.iter().filter(|fate| !fate.raced) {
        let (Some(group), Some(place)) = (fate.send.group, fate.place) else {
            continue;
        };
        let key = (group, fate.send.conversation);
        if let Some((before, at)) = last.get(&key)
            && *at > place
        {
            verdict.add(Wrong::Reordered, || {
                format!(
                    "{} at {place:?} overtook {} at {at:?}",
                    fate.shown(),
                    before.shown()
                )
            });
        }
        last.insert(key, (fate, place));
    }
}

/// What was sent after another's ack is behind it.
fn judge_time(fates: &[&Fate<'_>], verdict: &mut Verdict) {
    let mut placed: HashMap<No, Vec<(&Fate<'_>, Mark)>> = HashMap::new();
    for fate in fates {
        if let Some(place) = fate.place {
            placed
                .entry(fate.send.conversation)
                .or_default()
                .push((fate, place));
        }
    }
    for messages in placed.values_mut() {
        messages.sort_by_key(|(_, place)| *place);
        // The earliest ack of all that are behind.
        let mut earliest: Option<(&Fate<'_>, Micros)> = None;
        for (fate, place) in messages.iter().rev() {
            if let Some((behind, t)) = earliest
                && t < fate.send.t
            {
                verdict.add(Wrong::Reordered, || {
                    format!(
                        "{} is at {place:?}, before {}, which had its ack at {t} us",
                        fate.shown(),
                        behind.shown()
                    )
                });
            }
            let own = fate.acks.iter().map(|ack| ack.t).min();
            if let Some(t) = own
                && earliest.is_none_or(|(_, other)| t < other)
            {
                earliest = Some((fate, t));
            }
        }
    }
}

/// Everything that anybody ever saw is what the truth has in that place, and was sent by somebody.
fn judge_sightings(world: &World<'_>, verdict: &mut Verdict) {
    for content in &world.contents {
        let Content {
            conversation,
            at,
            id,
            ..
        } = content;
        match world.fate_of(content) {
            None => verdict.add(Wrong::Phantom, || {
                format!("conversation {conversation}: {id} at {at:?} was sent by nobody")
            }),
            Some(fate) if fate.refused => verdict.add(Wrong::Phantom, || {
                format!("{} was refused and is seen at {at:?}", fate.shown())
            }),
            Some(fate) if fate.send.hash != content.hash => verdict.add(Wrong::Altered, || {
                format!("{} has another text at {at:?}", fate.shown())
            }),
            Some(_) => {}
        }
        if !world.truth.contains_key(conversation) {
            continue;
        }
        match world.at(*conversation, at.0) {
            Some(there) if there == *content => {}
            Some(there) => verdict.add(Wrong::Diverged, || {
                format!(
                    "conversation {conversation}: {id} was seen at {at:?}, where {} is",
                    there.id
                )
            }),
            None => verdict.add(Wrong::Lost, || {
                format!("conversation {conversation}: {id} was seen at {at:?}, behind the end")
            }),
        }
    }
}

/// Every reader who read at the end has the truth, and everybody who should have read did.
pub(super) fn judge_views(world: &World<'_>, records: &[Record], verdict: &mut Verdict) {
    let mut read: HashSet<(Reader, No, Option<No>, No)> = HashSet::new();
    for record in records {
        let Record::View {
            reader,
            user,
            device,
            conversation,
            contents,
        } = record
        else {
            continue;
        };
        read.insert((*reader, *user, *device, *conversation));
        let truth = world.truth.get(conversation).copied().unwrap_or_default();
        if contents != truth {
            let place = contents
                .iter()
                .zip(truth)
                .position(|(one, other)| one != other);
            verdict.add(Wrong::Diverged, || {
                format!(
                    "conversation {conversation}: {reader:?} of user {user}, device {device:?}, has {} of \
                     {} messages; the first difference is at {place:?}",
                    contents.len(),
                    truth.len()
                )
            });
        }
    }
    if !world.came_to_rest {
        return;
    }
    let mut missing = |reader, user, device, conversation| {
        if !read.contains(&(reader, user, device, conversation)) {
            verdict.add(Wrong::Unsettled, || {
                format!("{reader:?} of user {user}, device {device:?}, has not read {conversation}")
            });
        }
    };
    for (conversation, members) in &world.conversations {
        for user in members {
            for reader in [Reader::Events, Reader::Messages, Reader::Session] {
                missing(reader, *user, None, *conversation);
            }
        }
    }
    for (device, seen) in &world.devices {
        if seen.keeps == Keeps::Cache {
            for conversation in world.of_user(seen.user) {
                missing(Reader::Cache, seen.user, Some(*device), conversation);
            }
        }
    }
}
