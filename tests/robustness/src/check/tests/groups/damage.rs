//! Single damages of a good history of groups, each with what the judge must call it.

#![expect(
    clippy::ptr_arg,
    reason = "damages have one type, whether they add and remove records or not"
)]

use std::collections::HashSet;

use uuid::Uuid;

use crate::{
    check::Wrong,
    history::{
        Mark, No, Record, Send, Way,
        groups::{
            Answer, Asked, Change, GroupEvent, GroupList, GroupRead, GroupRecord, GroupRow, Kind,
            Role, What,
        },
    },
};

mod quiet;

use quiet::*;

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
    Foreign received_by_somebody_else,
    Foreign read_by_somebody_else,
    Foreign shown_to_somebody_else_at_the_end,
    Foreign sent_by_a_stranger,
    Foreign sent_after_being_removed,
    Foreign sent_by_a_member_in_announcement_mode,
    Foreign changed_by_somebody_who_may_not,
    Lost an_end_that_is_taken_away,
    Lost an_answered_change_at_another_place,
    Duplicated handed_out_twice,
    Duplicated accepted_twice_as_new,
    Duplicated a_request_with_two_answers,
    Duplicated one_event_for_two_requests,
    Duplicated a_request_that_is_carried_out_twice,
    Gaps a_place_without_an_event,
    Gaps a_version_that_is_left_out,
    Gaps a_session_that_leaves_one_out,
    Gaps a_page_that_leaves_one_out,
    Gaps a_page_that_is_wrong_about_more,
    Reordered an_ack_with_another_place,
    Reordered handed_out_in_disorder,
    Reordered before_what_was_answered_earlier,
    Reordered handed_over_in_another_order,
    Reordered a_change_before_what_was_answered_earlier,
    Reordered a_time_that_went_back,
    Altered another_text,
    Altered another_count_of_members,
    Altered an_answer_with_another_version,
    Phantom sent_by_nobody,
    Phantom refused_and_there,
    Phantom a_change_that_nobody_asked_for,
    Phantom a_change_that_was_refused,
    StaleReads a_page_older_than_held,
    StaleReads a_list_older_than_held,
    StaleReads refused_what_is_held,
    Diverged a_reader_with_less,
    Diverged a_reader_of_messages_with_less,
    Diverged another_list_of_members,
    Diverged another_event_seen_in_a_place,
    Diverged a_session_that_stays_behind,
    UnreadWrong a_wrong_unread_count,
    UnreadWrong a_wrong_total,
    UnreadWrong a_row_that_is_missing,
    UnreadWrong a_row_of_one_who_has_not_left,
    UnreadWrong another_preview,
    MarksWrong a_row_that_went_back,
    MarksWrong a_mark_beyond_the_end,
    Unsettled a_send_without_an_answer,
    Unsettled a_group_that_was_not_read,
    Unsettled messages_that_were_not_read,
    Unsettled members_that_were_not_listed,
}

/// Whether a damage of groups is called so.
pub(in super::super) fn makes(wrong: Wrong) -> bool {
    DAMAGES.iter().any(|damage| damage.wrong == wrong)
}

/// Those that `map` gives something for: one of them, by number.
fn pick<'a, T>(
    records: &'a mut [Record],
    pick: usize,
    mut map: impl FnMut(&'a mut GroupRecord) -> Option<T>,
) -> Option<T> {
    let of_groups = records.iter_mut().filter_map(|record| match record {
        Record::Group(record) => map(record),
        _ => None,
    });
    let mut found: Vec<T> = of_groups.collect();
    if found.is_empty() {
        return None;
    }
    let place = pick % found.len();
    Some(found.swap_remove(place))
}

fn all<T>(records: &[Record], map: impl Fn(&GroupRecord) -> Option<T>) -> Vec<T> {
    let of_groups = records.iter().filter_map(|record| match record {
        Record::Group(record) => map(record),
        _ => None,
    });
    of_groups.collect()
}

fn events(records: &[Record]) -> Vec<GroupEvent> {
    all(records, |record| match record {
        GroupRecord::Event(event) => Some(event.clone()),
        _ => None,
    })
}

/// The owner's views: of groups 0 and 1.
fn truth(records: &[Record]) -> Vec<Vec<u32>> {
    all(records, |record| match record {
        GroupRecord::View {
            user,
            group,
            events,
        } if user == group => Some(events.clone()),
        _ => None,
    })
}

/// What a user reads at the end.
fn view_of(records: &[Record], of: No) -> HashSet<u32> {
    let views = all(records, |record| match record {
        GroupRecord::View { user, events, .. } if *user == of => Some(events.clone()),
        _ => None,
    });
    views.into_iter().flatten().collect()
}

/// An event that a user does not see.
fn hidden_from(records: &[Record], user: No, nth: usize) -> Option<u32> {
    let seen = view_of(records, user);
    let mut hidden: Vec<u32> = truth(records).concat();
    hidden.retain(|number| !seen.contains(number));
    let place = nth.checked_rem(hidden.len())?;
    Some(hidden[place])
}

fn user_of(device: No) -> No {
    [0, 1, 1, 2, 3, 3][usize::from(device - 10_000)]
}

fn event_mut(record: &mut GroupRecord) -> Option<&mut GroupEvent> {
    match record {
        GroupRecord::Event(event) => Some(event),
        _ => None,
    }
}

fn change_mut(record: &mut GroupRecord) -> Option<(&mut Option<No>, &mut Change)> {
    match record {
        GroupRecord::Event(GroupEvent {
            sender,
            what: What::Change(change),
            ..
        }) => Some((sender, change)),
        _ => None,
    }
}

fn send_mut(record: &mut GroupRecord) -> Option<&mut Send> {
    match record {
        GroupRecord::Send(send) => Some(send),
        _ => None,
    }
}

fn messages(records: &[Record]) -> Vec<(GroupEvent, Uuid)> {
    let events = events(records).into_iter();
    let message = |event: GroupEvent| match event.what {
        What::Message(id, _) => Some((event, id)),
        What::Change(_) => None,
    };
    events.filter_map(message).collect()
}

fn names(records: &[Record]) -> HashSet<Uuid> {
    messages(records).into_iter().map(|(_, id)| id).collect()
}

// --- foreign ---------------------------------------------------------------------------------------

fn received_by_somebody_else(records: &mut Vec<Record>, nth: usize) -> bool {
    let devices = all(records, |record| match record {
        GroupRecord::Got { device, .. } => Some(*device),
        _ => None,
    });
    let Some(place) = nth.checked_rem(devices.len()) else {
        return false;
    };
    let Some(hidden) = hidden_from(records, user_of(devices[place]), nth) else {
        return false;
    };
    let got = pick(records, nth, |record| match record {
        GroupRecord::Got { events, .. } => Some(events),
        _ => None,
    });
    got.map(|events| events.push(hidden)).is_some()
}

fn read_by_somebody_else(records: &mut Vec<Record>, nth: usize) -> bool {
    let readers = all(records, |record| match record {
        GroupRecord::Read(read) => Some(read.user),
        _ => None,
    });
    let Some(place) = nth.checked_rem(readers.len()) else {
        return false;
    };
    let Some(hidden) = hidden_from(records, readers[place], nth) else {
        return false;
    };
    let all_events = events(records);
    let read = pick(records, nth, read_mut);
    let Some(read) = read else { return false };
    // It is of the same group for the judge who looks who may see what.
    read.group = all_events[hidden as usize].group;
    read.events.push(hidden);
    true
}

fn shown_to_somebody_else_at_the_end(records: &mut Vec<Record>, nth: usize) -> bool {
    let truth = truth(records);
    let view = pick(records, nth, |record| match record {
        GroupRecord::View {
            user,
            group,
            events,
        } => {
            let of_all = truth.get(usize::from(*group))?;
            let hidden = of_all.iter().find(|number| !events.contains(number))?;
            (user != group).then_some((events, *hidden))
        }
        _ => None,
    });
    view.map(|(events, hidden)| events.insert(0, hidden))
        .is_some()
}

fn sent_by_a_stranger(records: &mut Vec<Record>, nth: usize) -> bool {
    let event = pick(records, nth, |record| {
        event_mut(record).filter(|event| matches!(event.what, What::Message(..)))
    });
    event.map(|event| event.sender = Some(99)).is_some()
}

/// The change before a message also removes its sender.
fn sent_after_being_removed(records: &mut Vec<Record>, nth: usize) -> bool {
    let messages = messages(records);
    let Some(place) = nth.checked_rem(messages.len()) else {
        return false;
    };
    let (message, _) = &messages[place];
    let before = pick(records, 0, |record| {
        let is_before = event_mut(record)
            .is_some_and(|event| event.group == message.group && event.at.0 < message.at.0);
        change_mut(record)
            .filter(|_| is_before)
            .map(|(_, change)| change)
    });
    let Some(first) = before else { return false };
    let version = first.version;
    let changes = events(records).into_iter().filter(|event| {
        event.group == message.group
            && event.at.0 < message.at.0
            && matches!(event.what, What::Change(_))
    });
    let last = version + changes.count() as u64 - 1;
    let group = message.group;
    let sender = message.sender;
    let change = pick(records, 0, |record| {
        let is_of_group = event_mut(record).is_some_and(|event| event.group == group);
        change_mut(record)
            .filter(|(_, change)| is_of_group && change.version == last)
            .map(|(_, change)| change)
    });
    change
        .map(|change| {
            change.members.retain(|(user, _)| *user != sender);
            change.members.push((sender, Role::Nobody));
        })
        .is_some()
}

fn sent_by_a_member_in_announcement_mode(records: &mut Vec<Record>, _: usize) -> bool {
    let roles: HashSet<Option<No>> = events(records)
        .into_iter()
        .filter_map(|event| match event.what {
            What::Change(change) if change.kind == Kind::Roles => Some(change.members),
            _ => None,
        })
        .flatten()
        .map(|(user, _)| user)
        .collect();
    let is_of_member =
        |event: &GroupEvent| event.sender != Some(event.group) && !roles.contains(&event.sender);
    let has_some = messages(records)
        .iter()
        .any(|(event, _)| is_of_member(event));
    for record in records {
        if let Record::Group(record) = record
            && let Some((_, change)) = change_mut(record)
        {
            change.announcement = true;
        }
    }
    has_some
}

fn changed_by_somebody_who_may_not(records: &mut Vec<Record>, nth: usize) -> bool {
    let change = pick(records, nth, |record| {
        change_mut(record)
            .filter(|(_, change)| !matches!(change.kind, Kind::Created | Kind::Joined))
    });
    change.map(|(sender, _)| *sender = Some(99)).is_some()
}

// --- lost, duplicated ------------------------------------------------------------------------------

fn an_end_that_is_taken_away(records: &mut Vec<Record>, nth: usize) -> bool {
    let truth = truth(records);
    let last = truth[nth % truth.len()].last().copied();
    last.is_some_and(|last| without(records, last))
}

/// Takes an event from all readers.
fn without(records: &mut [Record], number: u32) -> bool {
    for record in records {
        if let Record::Group(GroupRecord::View { events, .. }) = record {
            events.retain(|other| *other != number);
        }
    }
    true
}

fn placed(record: &mut GroupRecord) -> Option<(u32, &mut u64, &mut u64)> {
    match record {
        GroupRecord::Answer {
            call,
            answer: Answer::Done { seq, version },
            ..
        } if *seq > 0 => Some((*call, seq, version)),
        _ => None,
    }
}

fn an_answered_change_at_another_place(records: &mut Vec<Record>, nth: usize) -> bool {
    let Some((call, seq, _)) = pick(records, nth, placed) else {
        return false;
    };
    *seq += 1_000;
    let moved = *seq;
    // The same in all of its answers.
    for record in records {
        if let Record::Group(record) = record
            && let Some((other, seq, _)) = placed(record)
            && other == call
        {
            *seq = moved;
        }
    }
    true
}

fn handed_out_twice(records: &mut Vec<Record>, nth: usize) -> bool {
    let got = pick(records, nth, |record| match record {
        GroupRecord::Got { events, .. } => Some(events),
        _ => None,
    });
    got.map(|events| events.push(events[events.len() - 1]))
        .is_some()
}

fn accepted_twice_as_new(records: &mut Vec<Record>, nth: usize) -> bool {
    let ack = pick(records, nth, |record| match record {
        GroupRecord::Ack {
            duplicate: false, ..
        } => Some(record.clone()),
        _ => None,
    });
    ack.map(|ack| records.push(Record::Group(ack))).is_some()
}

fn a_request_with_two_answers(records: &mut Vec<Record>, nth: usize) -> bool {
    let answer = pick(records, nth, |record| {
        placed(record).is_some().then(|| record.clone())
    });
    let Some(mut answer) = answer else {
        return false;
    };
    if let Some((_, seq, _)) = placed(&mut answer) {
        *seq += 1;
    }
    records.push(Record::Group(answer));
    true
}

fn one_event_for_two_requests(records: &mut Vec<Record>, nth: usize) -> bool {
    let answered = pick(records, nth, |record| {
        placed(record).map(|(call, seq, version)| (call, *seq, *version))
    });
    let Some((number, seq, version)) = answered else {
        return false;
    };
    let call = pick(records, 0, |record| match record {
        GroupRecord::Call(call) if call.call == number => Some(call.clone()),
        _ => None,
    });
    let Some(mut call) = call else { return false };
    call.call = u32::MAX;
    call.request_id = Uuid::from_u128(1);
    records.push(Record::Group(GroupRecord::Call(call)));
    records.push(Record::Group(GroupRecord::Answer {
        t: u64::MAX,
        call: u32::MAX,
        answer: Answer::Done { seq, version },
    }));
    true
}

/// A group, who gave it a name, and the name.
type Renamed = (No, Option<No>, String);

/// Of two new names, the second one becomes the first again, and was not asked for.
fn a_request_that_is_carried_out_twice(records: &mut Vec<Record>, nth: usize) -> bool {
    let renamed = all(records, |record| match record {
        GroupRecord::Event(GroupEvent {
            group,
            sender,
            what: What::Change(Change {
                name: Some(name), ..
            }),
            ..
        }) => Some((*group, *sender, name.clone())),
        _ => None,
    });
    let asked = calls_answered(records);
    let is_pair = |(one, other): (&Renamed, &Renamed)| {
        (one.0, one.1) == (other.0, other.1) && one.2 != other.2 && asked.contains(&one.2)
    };
    let pairs: Vec<(String, String)> = renamed
        .iter()
        .enumerate()
        .flat_map(|(place, one)| renamed[place + 1..].iter().map(move |other| (one, other)))
        .filter(|pair| is_pair(*pair))
        .map(|(one, other)| (one.2.clone(), other.2.clone()))
        .collect();
    let Some(place) = nth.checked_rem(pairs.len()) else {
        return false;
    };
    let (first, second) = &pairs[place];
    forget_call(records, |asked| *asked == Asked::Rename(second.clone()));
    let change = pick(records, 0, |record| {
        change_mut(record)
            .filter(|(_, change)| change.name.as_ref() == Some(second))
            .map(|(_, change)| change)
    });
    change
        .map(|change| change.name = Some(first.clone()))
        .is_some()
}

/// New names that were asked for and answered.
fn calls_answered(records: &[Record]) -> HashSet<String> {
    let done: HashSet<u32> = all(records, |record| match record {
        GroupRecord::Answer {
            call,
            answer: Answer::Done { .. },
            ..
        } => Some(*call),
        _ => None,
    })
    .into_iter()
    .collect();
    let named = all(records, |record| match record {
        GroupRecord::Call(call) if done.contains(&call.call) => match &call.asked {
            Asked::Rename(name) => Some(name.clone()),
            _ => None,
        },
        _ => None,
    });
    named.into_iter().collect()
}

/// Nobody asked for it.
fn forget_call(records: &mut Vec<Record>, is_it: impl Fn(&Asked) -> bool) -> bool {
    let call = all(records, |record| match record {
        GroupRecord::Call(call) if is_it(&call.asked) => Some(call.call),
        _ => None,
    });
    let Some(number) = call.first().copied() else {
        return false;
    };
    records.retain(|record| match record {
        Record::Group(GroupRecord::Call(call)) => call.call != number,
        Record::Group(GroupRecord::Answer { call, .. }) => *call != number,
        _ => true,
    });
    true
}
