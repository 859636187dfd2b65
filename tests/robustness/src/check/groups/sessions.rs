//! Sessions of users in groups: each hands out what its user may see, once, in order, without a gap, and
//! comes to the end.

use std::collections::HashMap;

use super::{Verdict, Wrong, world::GroupWorld};
use crate::history::{
    Keeps, No, Record,
    groups::{GroupRecord, GroupRow},
};

/// One run of an app.
#[derive(Debug, Default)]
struct Run {
    /// Where each group's stream began, and has got to.
    streams: HashMap<No, (u64, u64)>,
    /// Where it began by what the app kept, or by the first row.
    begins: HashMap<No, u64>,
    rows: HashMap<No, GroupRow>,
}

/// Judges what sessions handed out.
pub(super) fn judge(world: &GroupWorld<'_>, records: &[Record], verdict: &mut Verdict) {
    let mut runs: HashMap<(No, u32), Run> = HashMap::new();
    // Of devices with a cache: what was ever handed out.
    let mut handed: HashMap<(No, No), u64> = HashMap::new();
    for record in records {
        let Record::Group(record) = record else {
            continue;
        };
        match record {
            GroupRecord::App {
                device,
                app,
                places,
                ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                run.begins.extend(places.iter().copied());
            }
            GroupRecord::Got {
                device,
                app,
                events,
                ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                for number in events {
                    got(world, (*device, *app), run, &mut handed, *number, verdict);
                }
            }
            GroupRecord::Row {
                device, app, row, ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                let keeps = world.devices.get(device).map(|device| device.keeps);
                // Others begin where they say, whatever the rows are.
                if matches!(keeps, Some(Keeps::Nothing | Keeps::Cache))
                    && !run.streams.contains_key(&row.group)
                {
                    run.begins.entry(row.group).or_insert(row.last.0);
                }
                told_row((*device, *app), run, row, verdict);
            }
            _ => {}
        }
    }
    if world.came_to_rest {
        judge_ends(world, &runs, verdict);
    }
}

fn got(
    world: &GroupWorld<'_>,
    (device, app): (No, u32),
    run: &mut Run,
    handed: &mut HashMap<(No, No), u64>,
    number: u32,
    verdict: &mut Verdict,
) {
    let (Some(event), Some(seen)) = (world.event(number), world.devices.get(&device)) else {
        return;
    };
    let (group, seq, user) = (event.group, event.at.0, seen.user);
    if !world.truth.contains_key(&group) {
        return;
    }
    let shown = || format!("device {device} of user {user}, app {app}, group {group}: seq {seq}");
    if !world.may_see(group, user, seq) {
        verdict.add(Wrong::Foreign, || {
            format!("{} is not for this user", shown())
        });
    }
    let begin = run.begins.get(&group).copied().unwrap_or_default();
    let before = match run.streams.get(&group).copied() {
        Some((first, last)) if seq <= last => {
            let wrong = match seq >= first {
                true => Wrong::Duplicated,
                false => Wrong::Reordered,
            };
            verdict.add(wrong, || format!("{} after {last}", shown()));
            None
        }
        Some((_, last)) => Some(last),
        None => {
            let handed = handed.get(&(device, group)).copied();
            let held = match seen.keeps {
                Keeps::Cache => handed,
                Keeps::Places => Some(begin),
                Keeps::Nothing | Keeps::NothingAll => None,
            };
            if held.is_some_and(|held| seq <= held) {
                verdict.add(Wrong::Duplicated, || {
                    format!("{} first, after {held:?}", shown())
                });
            }
            // What an app with a cache did not hand out it may have stored before it was killed.
            let is_known = seen.keeps != Keeps::Cache || (handed.is_none() && app == 0);
            is_known.then_some(begin)
        }
    };
    if let Some(before) = before
        && let Some(missing) = world.first_between(group, user, before, seq)
    {
        verdict.add(Wrong::Gaps, || {
            format!("{} after {before}, without {missing}", shown())
        });
    }
    let stream = run.streams.entry(group).or_insert((seq, seq));
    stream.1 = stream.1.max(seq);
    if seen.keeps == Keeps::Cache {
        let handed = handed.entry((device, group)).or_default();
        *handed = (*handed).max(seq);
    }
}

fn told_row((device, app): (No, u32), run: &mut Run, row: &GroupRow, verdict: &mut Verdict) {
    if let Some(before) = run.rows.insert(row.group, row.clone()) {
        let went_back =
            row.version < before.version || row.last < before.last || row.read < before.read;
        if went_back {
            verdict.add(Wrong::MarksWrong, || {
                format!("device {device}, app {app}: a row went back from {before:?} to {row:?}")
            });
        }
    }
}

/// After everything had come to rest, every open session is at the end of what its user may see.
fn judge_ends(world: &GroupWorld<'_>, runs: &HashMap<(No, u32), Run>, verdict: &mut Verdict) {
    for (device, seen) in &world.devices {
        let Some(run) = seen.last_app.and_then(|app| runs.get(&(*device, app))) else {
            verdict.add(Wrong::Unsettled, || {
                format!("device {device} has no session")
            });
            continue;
        };
        for group in world.truth.keys() {
            let Some(end) = world.end(*group, seen.user) else {
                continue;
            };
            let stream = run.streams.get(group).map(|(_, last)| *last);
            let begin = run.begins.get(group).copied();
            let place = match seen.keeps {
                // What it did not hand out it may have stored before.
                Keeps::Cache => stream,
                Keeps::NothingAll => Some(stream.unwrap_or_default()),
                Keeps::Nothing | Keeps::Places => Some(stream.or(begin).unwrap_or_default()),
            };
            if place.is_some_and(|place| place != end.0) {
                verdict.add(Wrong::Diverged, || {
                    format!("device {device}: got to {place:?} of {end:?} in group {group}")
                });
            }
            // The row that it shows; an app with a cache shows the one in it.
            let row = run.rows.get(group);
            let is_shown = row.is_some_and(|row| row.last == end);
            if seen.keeps != Keeps::Cache && !is_shown {
                verdict.add(Wrong::UnreadWrong, || {
                    format!("device {device}: group {group} ends at {end:?}, its row is {row:?}")
                });
            }
        }
    }
}
