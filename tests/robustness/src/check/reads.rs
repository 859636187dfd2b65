//! Reads: a page is a whole stretch of the truth, and not older than what its reader held.

use super::{Verdict, World, Wrong};
use crate::history::{Mark, Read, Record};

/// Judges pages of history and answers about sends.
pub(super) fn judge(world: &World<'_>, records: &[Record], verdict: &mut Verdict) {
    for record in records {
        match record {
            Record::Read(read) => {
                judge_age(world, read, verdict);
                if let Err(why) = stretch(world, read) {
                    verdict.add(Wrong::Gaps, || format!("{why}: {}", shown(read)));
                }
            }
            Record::Status { t, send, found } => judge_status(world, *t, *send, found, verdict),
            _ => {}
        }
    }
}

fn shown(read: &Read) -> String {
    let call = if read.messages {
        "ListMessages"
    } else {
        "ListEvents"
    };
    let mut read = read.clone();
    // Their number tells enough.
    let count = read.page.contents.len();
    read.page.contents.truncate(3);
    format!("{call} with {count} answers: {read:?}")
}

fn judge_age(world: &World<'_>, read: &Read, verdict: &mut Verdict) {
    if read.page.head < read.min_seq {
        verdict.add(Wrong::StaleReads, || {
            format!(
                "a page reflects {} of at least {}: {}",
                read.page.head,
                read.min_seq,
                shown(read)
            )
        });
    }
    let head = world.head(read.conversation).0;
    if world.truth.contains_key(&read.conversation) && read.page.head > head {
        verdict.add(Wrong::Lost, || {
            format!(
                "a page reflects {}, and the end is {head}: {}",
                read.page.head,
                shown(read)
            )
        });
    }
}

/// Whether the page is the stretch that was asked for, from the right end.
fn stretch(world: &World<'_>, read: &Read) -> Result<(), &'static str> {
    let key = |mark: Mark| if read.messages { mark.1 } else { mark.0 };
    let mut last = match world.at(read.conversation, read.page.head) {
        Some(content) => key(content.at),
        None => read.page.head,
    };
    if read.before > 0 {
        last = last.min(read.before - 1);
    }
    let first = read.after + 1;
    let places: Vec<u64> = read
        .page
        .contents
        .iter()
        .filter_map(|number| world.content(*number))
        .map(|content| key(content.at))
        .collect();
    let wrong_place = read
        .page
        .contents
        .iter()
        .filter_map(|number| world.content(*number))
        .any(|content| content.conversation != read.conversation);
    if wrong_place {
        return Err("a page has messages of another conversation");
    }
    if first > last {
        let is_empty = places.is_empty() && !read.page.more;
        return is_empty
            .then_some(())
            .ok_or("a page of nothing is not empty");
    }
    if places.is_empty() {
        return Err("a page is empty");
    }
    let count = places.len() as u64;
    let expected: Vec<u64> = match read.newest_first {
        true => (0..count).map(|n| last.wrapping_sub(n)).collect(),
        false => (0..count).map(|n| first + n).collect(),
    };
    if places != expected {
        return Err("a page leaves something out, or is in disorder");
    }
    let reaches = match read.newest_first {
        true => places.last() == Some(&first),
        false => places.last() == Some(&last),
    };
    if reaches == read.page.more {
        return Err("a page is wrong about whether there is more");
    }
    let covers = (
        places.iter().min().copied().unwrap_or_default(),
        places.iter().max().copied().unwrap_or_default(),
    );
    if covers != read.page.covers {
        return Err("a page covers other places than it has");
    }
    Ok(())
}

fn judge_status(
    world: &World<'_>,
    t: (u64, u64),
    send: u32,
    found: &Result<Mark, u64>,
    verdict: &mut Verdict,
) {
    let Some(fate) = world.fates.get(&send) else {
        return;
    };
    if !world.truth.contains_key(&fate.send.conversation) {
        return;
    }
    match (found, fate.place) {
        (Ok(at), Some(place)) if *at == place => {}
        (Ok(at), None) => verdict.add(Wrong::Lost, || {
            format!(
                "{} was said to be at {at:?}, and is not there",
                fate.shown()
            )
        }),
        (Ok(at), Some(place)) => verdict.add(Wrong::Reordered, || {
            format!(
                "{} was said to be at {at:?}, and is at {place:?}",
                fate.shown()
            )
        }),
        (Err(seq), place) => {
            // Exact about the past: a node that does not sequence the conversation may know less of it
            // than was acknowledged, and says how much.
            let was_acked = fate.acks.iter().any(|ack| ack.t < t.0);
            if place.is_some_and(|place| place.0 <= *seq) {
                verdict.add(Wrong::StaleReads, || {
                    format!(
                        "{} was said not to be among the first {seq} at {t:?} us; it is at {place:?}, \
                         acknowledged: {was_acked}",
                        fate.shown()
                    )
                });
            }
        }
    }
}
