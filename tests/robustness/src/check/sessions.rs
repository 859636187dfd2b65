//! Sessions: each hands out every message once, in order, without a gap, and comes to the end.

use std::collections::HashMap;

use super::{Verdict, World, Wrong};
use crate::history::{Keeps, Mark, News, No, Record, Row};

/// One run of an app.
#[derive(Debug, Default)]
struct Run {
    /// Where each conversation's stream has got to, and where it began.
    streams: HashMap<No, (u64, u64)>,
    /// Where it began by what the app kept, or by the first row.
    begins: HashMap<No, u64>,
    rows: HashMap<No, Row>,
    marks: HashMap<(No, No), (Mark, Mark)>,
}

/// Judges what sessions handed out.
pub(super) fn judge(world: &World<'_>, records: &[Record], verdict: &mut Verdict) {
    let mut runs: HashMap<(No, u32), Run> = HashMap::new();
    // Of devices with a cache: what was ever handed out.
    let mut handed: HashMap<(No, No), u64> = HashMap::new();
    for record in records {
        match record {
            Record::App {
                device,
                app,
                places,
                ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                run.begins.extend(places.iter().copied());
            }
            Record::Got {
                device,
                app,
                contents,
                ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                for number in contents {
                    got(world, (*device, *app), run, &mut handed, *number, verdict);
                }
            }
            Record::Row {
                device, app, row, ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                let keeps = world.devices.get(device).map(|device| device.keeps);
                // Others begin where they say, whatever the rows are.
                if matches!(keeps, Some(Keeps::Nothing | Keeps::Cache))
                    && !run.streams.contains_key(&row.conversation)
                {
                    run.begins.entry(row.conversation).or_insert(row.last.0);
                }
                told_row((*device, *app), run, row, verdict);
            }
            Record::Marks {
                device,
                app,
                conversation,
                member,
                delivered,
                read,
                ..
            } => {
                let run = runs.entry((*device, *app)).or_default();
                let key = (*conversation, *member);
                let before = run
                    .marks
                    .insert(key, (*delivered, *read))
                    .unwrap_or_default();
                let went_back = *delivered < before.0 || *read < before.1;
                let is_wrong = went_back
                    || !world.is_place(*conversation, *delivered)
                    || !world.is_place(*conversation, *read);
                if is_wrong && world.truth.contains_key(conversation) {
                    verdict.add(Wrong::MarksWrong, || {
                        format!(
                            "device {device}, app {app}: marks of user {member} in conversation \
                             {conversation} went from {before:?} to {:?}",
                            (delivered, read)
                        )
                    });
                }
            }
            Record::Session {
                device,
                app,
                news: News::Closed(reason),
                ..
            } if reason != "CLOSED" => verdict.add(Wrong::Unsettled, || {
                format!("device {device}, app {app}: the session ended for good with {reason}")
            }),
            _ => {}
        }
    }
    if world.came_to_rest {
        judge_ends(world, &runs, verdict);
    }
}

fn got(
    world: &World<'_>,
    (device, app): (No, u32),
    run: &mut Run,
    handed: &mut HashMap<(No, No), u64>,
    number: u32,
    verdict: &mut Verdict,
) {
    let Some(content) = world.content(number) else {
        return;
    };
    let (conversation, seq) = (content.conversation, content.at.0);
    let user = world.user_of(device);
    let is_member = |members: &[No; 2]| user.is_some_and(|user| members.contains(&user));
    if !world
        .conversations
        .get(&conversation)
        .is_some_and(is_member)
    {
        verdict.add(Wrong::Phantom, || {
            format!("device {device}: got a message of {conversation}, which is not its own")
        });
    }
    let keeps = world.devices.get(&device).map(|device| device.keeps);
    let shown = || format!("device {device}, app {app}, conversation {conversation}: seq {seq}");
    match run.streams.get(&conversation).copied() {
        Some((_, last)) if seq == last + 1 => {}
        Some((_, last)) if seq > last => {
            verdict.add(Wrong::Gaps, || format!("{} after {last}", shown()));
        }
        Some((first, last)) if seq >= first => {
            verdict.add(Wrong::Duplicated, || {
                format!("{} again, after {last}", shown())
            });
        }
        Some((_, last)) => verdict.add(Wrong::Reordered, || format!("{} after {last}", shown())),
        None => {
            let begin = run.begins.get(&conversation).copied().unwrap_or_default();
            let handed = handed.get(&(device, conversation)).copied();
            let (is_gap, is_again) = match keeps {
                // The first run of an app with a cache begins with the present.
                Some(Keeps::Cache) if handed.is_some() || app > 0 => {
                    (false, handed.is_some_and(|handed| seq <= handed))
                }
                Some(Keeps::Places) => (seq > begin + 1, seq <= begin),
                Some(Keeps::NothingAll) => (seq > 1, false),
                _ => (seq > begin + 1, false),
            };
            if is_gap {
                verdict.add(Wrong::Gaps, || format!("{} first, after {begin}", shown()));
            }
            if is_again {
                verdict.add(Wrong::Duplicated, || {
                    format!("{} first, after {handed:?} or {begin}", shown())
                });
            }
        }
    }
    let stream = run.streams.entry(conversation).or_insert((seq, seq));
    stream.1 = stream.1.max(seq);
    if keeps == Some(Keeps::Cache) {
        let handed = handed.entry((device, conversation)).or_default();
        *handed = (*handed).max(seq);
    }
}

fn told_row((device, app): (No, u32), run: &mut Run, row: &Row, verdict: &mut Verdict) {
    if let Some(before) = run.rows.insert(row.conversation, row.clone()) {
        let went_back = row.version < before.version
            || row.last < before.last
            || row.read < before.read
            || row.delivered < before.delivered
            || row.peer_read < before.peer_read
            || row.peer_delivered < before.peer_delivered;
        if went_back {
            verdict.add(Wrong::MarksWrong, || {
                format!("device {device}, app {app}: a row went back from {before:?} to {row:?}")
            });
        }
    }
}

/// After everything had come to rest, every open session is at the end of every conversation.
fn judge_ends(world: &World<'_>, runs: &HashMap<(No, u32), Run>, verdict: &mut Verdict) {
    for (device, seen) in &world.devices {
        let Some(run) = seen.last_app.and_then(|app| runs.get(&(*device, app))) else {
            verdict.add(Wrong::Unsettled, || {
                format!("device {device} has no session")
            });
            continue;
        };
        for conversation in world.of_user(seen.user) {
            if !world.truth.contains_key(&conversation) {
                continue;
            }
            let head = world.head(conversation);
            let stream = run.streams.get(&conversation).map(|(_, last)| *last);
            let place = match seen.keeps {
                // What it did not hand out it may have stored before; its cache is read itself.
                Keeps::Cache => stream,
                Keeps::NothingAll => Some(stream.unwrap_or_default()),
                Keeps::Nothing | Keeps::Places => {
                    let begin = run.begins.get(&conversation).copied();
                    Some(stream.or(begin).unwrap_or_default())
                }
            };
            if place.is_some_and(|place| place != head.0) {
                verdict.add(Wrong::Diverged, || {
                    format!("device {device}: got to {place:?} of {head:?} in conversation {conversation}")
                });
            }
            // The row that it shows; an app with a cache shows the one in it.
            let row = run
                .rows
                .get(&conversation)
                .filter(|_| seen.keeps != Keeps::Cache);
            let is_shown = row.is_some_and(|row| row.last == head);
            if seen.keeps != Keeps::Cache && head != Mark::default() && !is_shown {
                verdict.add(Wrong::UnreadWrong, || {
                    format!("device {device}: {conversation} ends at {head:?}, its row is {row:?}")
                });
            }
        }
    }
}
