//! Single damages of a good history, each with what the judge must call it.

#![expect(
    clippy::ptr_arg,
    reason = "damages have one type, whether they add and remove records or not"
)]

use std::collections::HashSet;

use uuid::Uuid;

mod quiet;

use quiet::*;

use super::super::Wrong;
use crate::history::{Content, Keeps, List, Mark, News, Reader, Record, Way};

/// One way to damage a history.
pub(super) struct Damage {
    pub(super) name: &'static str,
    pub(super) wrong: Wrong,
    /// Damages one of the things that it can damage; `false` if there is none.
    pub(super) done: fn(&mut Vec<Record>, usize) -> bool,
}

macro_rules! damages {
    ($($wrong:ident $name:ident,)*) => {
        /// All of them.
        pub(super) const DAMAGES: &[Damage] = &[
            $(Damage { name: stringify!($name), wrong: Wrong::$wrong, done: $name },)*
        ];
    };
}

damages! {
    Lost acknowledged_and_not_there,
    Lost a_status_of_nothing,
    Lost a_row_beyond_the_end,
    Duplicated twice_in_the_history,
    Duplicated handed_out_twice,
    Duplicated accepted_twice_as_new,
    Gaps a_place_without_a_message,
    Gaps a_stream_that_leaves_one_out,
    Gaps a_page_that_leaves_one_out,
    Gaps a_page_that_says_there_is_more,
    Reordered an_ack_with_another_place,
    Reordered handed_out_in_disorder,
    Reordered an_overtaken_message_of_a_session,
    Reordered before_what_was_acknowledged_earlier,
    Reordered a_time_that_went_back,
    Altered another_text,
    Diverged another_time_for_another_reader,
    Phantom sent_by_nobody,
    Phantom refused_and_there,
    StaleReads a_page_older_than_held,
    StaleReads a_list_older_than_held,
    StaleReads a_row_older_than_held,
    StaleReads a_status_that_forgets,
    Diverged a_reader_with_less,
    Diverged a_reader_with_another_order,
    Diverged another_message_seen_in_a_place,
    Diverged a_session_that_stays_behind,
    UnreadWrong a_wrong_unread_count,
    UnreadWrong a_wrong_unread_total,
    UnreadWrong a_wrong_total_as_a_call,
    UnreadWrong a_row_that_is_missing,
    UnreadWrong a_lost_read_mark,
    UnreadWrong a_wrong_row_in_a_cache,
    UnreadWrong another_preview,
    MarksWrong a_row_that_went_back,
    MarksWrong a_mark_beyond_the_end,
    Unsettled a_send_without_an_answer,
    Unsettled a_session_that_gave_up,
    Unsettled a_conversation_that_was_not_read,
    Crashed a_process_that_died,
}

/// Those that `map` gives something for: one of them, by number.
fn pick<'a, T>(
    records: &'a mut [Record],
    pick: usize,
    map: impl FnMut(&'a mut Record) -> Option<T>,
) -> Option<T> {
    let mut found: Vec<T> = records.iter_mut().filter_map(map).collect();
    if found.is_empty() {
        return None;
    }
    let place = pick % found.len();
    Some(found.swap_remove(place))
}

fn contents(records: &[Record]) -> Vec<Content> {
    let content = |record: &Record| match record {
        Record::Content(content) => Some(content.clone()),
        _ => None,
    };
    records.iter().filter_map(content).collect()
}

/// A conversation's end is taken away, from all readers.
fn acknowledged_and_not_there(records: &mut Vec<Record>, nth: usize) -> bool {
    let acked: Vec<_> = acked(records);
    let Some(last) = pick(records, nth, |record| match record {
        Record::View { contents, .. } => contents.last().copied(),
        _ => None,
    }) else {
        return false;
    };
    let id = contents(records)[last as usize].id;
    without(records, last);
    acked.contains(&id)
}

fn acked(records: &[Record]) -> Vec<Uuid> {
    let acked: HashSet<u32> = records
        .iter()
        .filter_map(|record| match record {
            Record::Ack { send, .. } => Some(*send),
            _ => None,
        })
        .collect();
    let id = |record: &Record| match record {
        Record::Send(send) if acked.contains(&send.send) => Some(send.id),
        _ => None,
    };
    records.iter().filter_map(id).collect()
}

fn without(records: &mut [Record], content: u32) {
    for record in records {
        if let Record::View { contents, .. } = record {
            contents.retain(|number| *number != content);
        }
    }
}

fn a_status_of_nothing(records: &mut Vec<Record>, nth: usize) -> bool {
    // One that is unknown, and did not arrive.
    let there: HashSet<Uuid> = contents(records).iter().map(|content| content.id).collect();
    let unknown: HashSet<u32> = records
        .iter()
        .filter_map(|record| match record {
            Record::Unknown { send, .. } => Some(*send),
            _ => None,
        })
        .collect();
    let absent = pick(records, nth, |record| match record {
        Record::Send(send) if unknown.contains(&send.send) && !there.contains(&send.id) => {
            Some(send.send)
        }
        _ => None,
    });
    let Some(send) = absent else { return false };
    let found = Ok(Mark(1, 1));
    records.push(Record::Status {
        t: (0, 1),
        send,
        found,
    });
    true
}

fn a_row_beyond_the_end(records: &mut Vec<Record>, nth: usize) -> bool {
    let row = pick(records, nth, row);
    row.map(|row| row.last = Mark(row.last.0 + 1_000, row.last.1 + 1_000))
        .is_some()
}

fn twice_in_the_history(records: &mut Vec<Record>, nth: usize) -> bool {
    let all = contents(records);
    let Some(first) = pick(records, nth, |record| match record {
        Record::View { contents, .. } => Some((*contents.first()?, contents.len() as u64)),
        _ => None,
    }) else {
        return false;
    };
    let content = all[first.0 as usize].clone();
    let number = all.len() as u32;
    for record in records.iter_mut() {
        if let Record::View {
            conversation,
            contents,
            ..
        } = record
            && *conversation == content.conversation
        {
            contents.push(number);
        }
    }
    let at = Mark(first.1 + 1, first.1 + 1);
    records.push(Record::Content(Content { at, ..content }));
    true
}

fn handed_out_twice(records: &mut Vec<Record>, nth: usize) -> bool {
    let got = pick(records, nth, |record| match record {
        Record::Got { contents, .. } => Some(contents),
        _ => None,
    });
    got.map(|contents| contents.push(contents[contents.len() - 1]))
        .is_some()
}

fn accepted_twice_as_new(records: &mut Vec<Record>, nth: usize) -> bool {
    let ack = pick(records, nth, |record| match record {
        Record::Ack {
            duplicate: false, ..
        } => Some(record.clone()),
        _ => None,
    });
    ack.map(|ack| records.push(ack)).is_some()
}

fn a_place_without_a_message(records: &mut Vec<Record>, nth: usize) -> bool {
    let Some(content) = pick(records, nth, |record| match record {
        Record::View { contents, .. } if contents.len() > 1 => {
            Some(contents[contents.len() / 2 - 1])
        }
        _ => None,
    }) else {
        return false;
    };
    without(records, content);
    true
}

fn a_stream_that_leaves_one_out(records: &mut Vec<Record>, nth: usize) -> bool {
    let all = contents(records);
    let found = pick(records, nth, |record| match record {
        Record::Got { contents, .. } => {
            let is_run = |three: &[u32]| {
                let conversations = [0, 1, 2].map(|n| all[three[n] as usize].conversation);
                conversations[0] == conversations[1] && conversations[1] == conversations[2]
            };
            let place = contents.windows(3).position(is_run)?;
            Some((contents, place))
        }
        _ => None,
    });
    found
        .map(|(contents, place)| contents.remove(place + 1))
        .is_some()
}

fn a_page_that_leaves_one_out(records: &mut Vec<Record>, nth: usize) -> bool {
    let page = pick(records, nth, |record| match record {
        Record::Read(read) if read.page.contents.len() > 2 => Some(&mut read.page),
        _ => None,
    });
    page.map(|page| page.contents.remove(1)).is_some()
}

fn a_page_that_says_there_is_more(records: &mut Vec<Record>, nth: usize) -> bool {
    let page = pick(records, nth, |record| match record {
        Record::Read(read) => Some(&mut read.page),
        _ => None,
    });
    page.map(|page| page.more = !page.more).is_some()
}

fn an_ack_with_another_place(records: &mut Vec<Record>, nth: usize) -> bool {
    let at = pick(records, nth, |record| match record {
        Record::Ack { at, .. } => Some(at),
        _ => None,
    });
    at.map(|at| *at = Mark(at.0 + 1, at.1 + 1)).is_some()
}

fn handed_out_in_disorder(records: &mut Vec<Record>, nth: usize) -> bool {
    // The first two of a run: what comes late then comes before the beginning.
    let all = contents(records);
    let mut begun: HashSet<(u16, u32, u16)> = HashSet::new();
    let found = pick(records, nth, |record| match record {
        Record::Got {
            device,
            app,
            contents,
            ..
        } => {
            let conversation = |place: usize| all[contents[place] as usize].conversation;
            let mut place = None;
            for at in 0..contents.len() {
                let is_first = begun.insert((*device, *app, conversation(at)));
                let has_next = at + 1 < contents.len() && conversation(at + 1) == conversation(at);
                if is_first && has_next {
                    place = Some(at);
                }
            }
            place.map(|place| (contents, place))
        }
        _ => None,
    });
    found
        .map(|(contents, place)| contents.swap(place, place + 1))
        .is_some()
}

fn an_overtaken_message_of_a_session(records: &mut Vec<Record>, nth: usize) -> bool {
    let there: HashSet<Uuid> = contents(records).iter().map(|content| content.id).collect();
    let again = |record: &Record| match record {
        Record::Again { send, .. } => Some(*send),
        _ => None,
    };
    // What was sent again may overtake.
    let again: HashSet<u32> = records.iter().filter_map(again).collect();
    let mut seen: Vec<(u64, u16, u32)> = Vec::new();
    let pair = pick(records, nth, |record| match record {
        Record::Send(send) if there.contains(&send.id) && !again.contains(&send.send) => {
            let group = send.group?;
            let before = seen
                .iter()
                .find(|one| (one.0, one.1) == (group, send.conversation))
                .copied();
            seen.push((group, send.conversation, send.send));
            before.map(|before| (before.2, send.send))
        }
        _ => None,
    });
    let Some((one, other)) = pair else {
        return false;
    };
    // They change their numbers, which tell the order of the calls.
    for record in records {
        let number = match record {
            Record::Send(send) => &mut send.send,
            Record::Ack { send, .. }
            | Record::Again { send, .. }
            | Record::Unknown { send, .. }
            | Record::Status { send, .. } => send,
            _ => continue,
        };
        if *number == one {
            *number = other;
        } else if *number == other {
            *number = one;
        }
    }
    true
}

fn before_what_was_acknowledged_earlier(records: &mut Vec<Record>, nth: usize) -> bool {
    // The first message of a conversation is handed over after the ack of the last one.
    let all = contents(records);
    let acked = acked(records);
    let first = pick(records, nth, |record| match record {
        Record::View { contents, .. } => {
            let first = all[*contents.first()? as usize].id;
            let is_behind = |number: &u32| acked.contains(&all[*number as usize].id);
            contents[1..].iter().any(is_behind).then_some(first)
        }
        _ => None,
    });
    let Some(first) = first else { return false };
    pick(records, 0, |record| match record {
        Record::Send(send) if send.id == first => Some(&mut send.t),
        _ => None,
    })
    .map(|t| *t = u64::MAX)
    .is_some()
}

fn another_text(records: &mut Vec<Record>, nth: usize) -> bool {
    let there: HashSet<Uuid> = contents(records).iter().map(|content| content.id).collect();
    let hash = pick(records, nth, |record| match record {
        Record::Send(send) if there.contains(&send.id) => Some(&mut send.hash),
        _ => None,
    });
    hash.map(|hash| *hash = hash.wrapping_add(1)).is_some()
}

fn a_time_that_went_back(records: &mut Vec<Record>, nth: usize) -> bool {
    let content = pick(records, nth, |record| match record {
        Record::Content(content) if content.at.0 > 1 => Some(content),
        _ => None,
    });
    content.map(|content| content.time_unix_ms = -1).is_some()
}

fn another_time_for_another_reader(records: &mut Vec<Record>, nth: usize) -> bool {
    let all = contents(records);
    let Some(content) = all.get(nth % all.len().max(1)).cloned() else {
        return false;
    };
    let time_unix_ms = content.time_unix_ms + 1;
    records.push(Record::Content(Content {
        time_unix_ms,
        ..content
    }));
    true
}

fn sent_by_nobody(records: &mut Vec<Record>, nth: usize) -> bool {
    let there: HashSet<Uuid> = contents(records).iter().map(|content| content.id).collect();
    let id = pick(records, nth, |record| match record {
        Record::Send(send) if there.contains(&send.id) => Some(&mut send.id),
        _ => None,
    });
    id.map(|id| *id = Uuid::from_u128(u128::MAX)).is_some()
}

fn refused_and_there(records: &mut Vec<Record>, nth: usize) -> bool {
    let ack = pick(records, nth, |record| match record {
        Record::Ack { .. } => Some(record),
        _ => None,
    });
    let Some(ack) = ack else { return false };
    if let Record::Ack { t, send, .. } = *ack {
        let reason = "NOT_A_MEMBER".to_owned();
        *ack = Record::Refused { t, send, reason };
    }
    true
}

fn a_page_older_than_held(records: &mut Vec<Record>, nth: usize) -> bool {
    let read = pick(records, nth, |record| match record {
        Record::Read(read) => Some(read),
        _ => None,
    });
    read.map(|read| read.min_seq = read.page.head + 1).is_some()
}

fn list(record: &mut Record) -> Option<&mut List> {
    match record {
        Record::List(list) => Some(list),
        _ => None,
    }
}

fn final_list(record: &mut Record) -> Option<&mut List> {
    list(record).filter(|list| list.is_final && !list.rows.is_empty())
}

fn row(record: &mut Record) -> Option<&mut crate::history::Row> {
    match record {
        Record::Row { row, .. } => Some(row),
        _ => None,
    }
}

fn a_list_older_than_held(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, list);
    list.map(|list| list.min_version = list.version + 1)
        .is_some()
}

fn a_row_older_than_held(records: &mut Vec<Record>, nth: usize) -> bool {
    // The user's devices have been told more at that version.
    let list = pick(records, nth, |record| {
        final_list(record).filter(|list| list.rows[0].last.0 > 1)
    });
    list.map(|list| list.rows[0].last = Mark(1, 1)).is_some()
}

fn a_status_that_forgets(records: &mut Vec<Record>, nth: usize) -> bool {
    let found = pick(records, nth, |record| match record {
        Record::Status { found, .. } => Some(found),
        _ => None,
    });
    let Some(found) = found else { return false };
    if let Ok(at) = *found {
        *found = Err(at.0);
    }
    true
}

fn view(record: &mut Record) -> Option<&mut Vec<u32>> {
    match record {
        Record::View {
            reader: Reader::Messages | Reader::Session | Reader::Cache,
            contents,
            ..
        } => Some(contents),
        _ => None,
    }
}

fn a_reader_with_less(records: &mut Vec<Record>, nth: usize) -> bool {
    let view = pick(records, nth, |record| {
        view(record).filter(|view| !view.is_empty())
    });
    view.map(Vec::pop).is_some()
}

fn a_reader_with_another_order(records: &mut Vec<Record>, nth: usize) -> bool {
    let view = pick(records, nth, |record| {
        view(record).filter(|view| view.len() > 1)
    });
    view.map(|view| view.swap(0, 1)).is_some()
}

fn another_message_seen_in_a_place(records: &mut Vec<Record>, nth: usize) -> bool {
    let all = contents(records);
    let Some(one) = all.get(nth % all.len().max(1)) else {
        return false;
    };
    let other = |other: &&Content| other.conversation == one.conversation && other.id != one.id;
    let Some(other) = all.iter().find(other) else {
        return false;
    };
    records.push(Record::Content(Content {
        at: one.at,
        ..other.clone()
    }));
    true
}
