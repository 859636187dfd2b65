//! Damages of order, of contents, and of what is seen after everything has come to rest.

use super::*;

pub(super) fn read_mut(record: &mut GroupRecord) -> Option<&mut GroupRead> {
    match record {
        GroupRecord::Read(read) => Some(read),
        _ => None,
    }
}

fn final_list(record: &mut GroupRecord) -> Option<&mut GroupList> {
    match record {
        GroupRecord::List(list) if list.is_final && !list.rows.is_empty() => Some(list),
        _ => None,
    }
}

fn row_mut(record: &mut GroupRecord) -> Option<&mut GroupRow> {
    match record {
        GroupRecord::Row { row, .. } => Some(row),
        _ => None,
    }
}

// --- gaps ------------------------------------------------------------------------------------------

pub(super) fn a_place_without_an_event(records: &mut Vec<Record>, nth: usize) -> bool {
    let truth = truth(records);
    let of_group = &truth[nth % truth.len()];
    if of_group.len() < 3 {
        return false;
    }
    without(records, of_group[of_group.len() / 2])
}

pub(super) fn a_version_that_is_left_out(records: &mut Vec<Record>, nth: usize) -> bool {
    let change = pick(records, nth, |record| {
        change_mut(record).map(|(_, change)| change)
    });
    change.map(|change| change.version += 1_000).is_some()
}

/// Three events of one group in a row.
fn runs(events: &[u32], all: &[GroupEvent]) -> Option<usize> {
    let is_run = |three: &[u32]| {
        let groups = [0, 1, 2].map(|n| all[three[n] as usize].group);
        groups[0] == groups[1] && groups[1] == groups[2]
    };
    events.windows(3).position(is_run)
}

pub(super) fn a_session_that_leaves_one_out(records: &mut Vec<Record>, nth: usize) -> bool {
    let all = events(records);
    let got = pick(records, nth, |record| match record {
        GroupRecord::Got { events, .. } => {
            let place = runs(events, &all)?;
            Some((events, place))
        }
        _ => None,
    });
    got.map(|(events, place)| events.remove(place + 1))
        .is_some()
}

pub(super) fn a_page_that_leaves_one_out(records: &mut Vec<Record>, nth: usize) -> bool {
    let read = pick(records, nth, |record| {
        read_mut(record).filter(|read| read.events.len() > 2)
    });
    read.map(|read| read.events.remove(1)).is_some()
}

pub(super) fn a_page_that_is_wrong_about_more(records: &mut Vec<Record>, nth: usize) -> bool {
    let read = pick(records, nth, read_mut);
    read.map(|read| read.more = !read.more).is_some()
}

// --- order -----------------------------------------------------------------------------------------

pub(super) fn an_ack_with_another_place(records: &mut Vec<Record>, nth: usize) -> bool {
    let at = pick(records, nth, |record| match record {
        GroupRecord::Ack { at, .. } => Some(at),
        _ => None,
    });
    at.map(|at| *at = Mark(at.0 + 1, at.1 + 1)).is_some()
}

pub(super) fn handed_out_in_disorder(records: &mut Vec<Record>, nth: usize) -> bool {
    // The first two of a run: what comes late then comes before the beginning.
    let all = events(records);
    let mut begun: HashSet<(No, u32, No)> = HashSet::new();
    let found = pick(records, nth, |record| match record {
        GroupRecord::Got {
            device,
            app,
            events,
            ..
        } => {
            let mut found = None;
            for place in 0..events.len() {
                let group = all[events[place] as usize].group;
                let is_first = begun.insert((*device, *app, group));
                let next = events.get(place + 1);
                if is_first && next.is_some_and(|next| all[*next as usize].group == group) {
                    found = Some(place);
                }
            }
            found.map(|place| (events, place))
        }
        _ => None,
    });
    found
        .map(|(events, place)| events.swap(place, place + 1))
        .is_some()
}

/// The names of messages that have an acknowledged one behind them.
fn overtaken(records: &[Record]) -> HashSet<Uuid> {
    let acked: HashSet<Mark> = acked(records).into_iter().collect();
    let messages = messages(records);
    let is_before = |one: &GroupEvent| {
        messages.iter().any(|(other, _)| {
            other.group == one.group && other.at > one.at && acked.contains(&other.at)
        })
    };
    let before = messages.iter().filter(|(event, _)| is_before(event));
    before.map(|(_, id)| *id).collect()
}

fn acked(records: &[Record]) -> Vec<Mark> {
    all(records, |record| match record {
        GroupRecord::Ack { at, .. } => Some(*at),
        _ => None,
    })
}

pub(super) fn before_what_was_answered_earlier(records: &mut Vec<Record>, nth: usize) -> bool {
    let acked: HashSet<u32> = all(records, |record| match record {
        GroupRecord::Ack { send, .. } => Some(*send),
        _ => None,
    })
    .into_iter()
    .collect();
    let of_acked: HashSet<Uuid> = all(records, |record| match record {
        GroupRecord::Send(send) if acked.contains(&send.send) => Some(send.id),
        _ => None,
    })
    .into_iter()
    .collect();
    let messages = messages(records);
    let is_overtaken = |one: &(GroupEvent, Uuid)| {
        messages.iter().any(|(other, id)| {
            other.group == one.0.group && other.at > one.0.at && of_acked.contains(id)
        })
    };
    let first: HashSet<Uuid> = messages
        .iter()
        .filter(|message| is_overtaken(message))
        .map(|(_, id)| *id)
        .collect();
    let send = pick(records, nth, |record| {
        send_mut(record).filter(|send| first.contains(&send.id))
    });
    send.map(|send| send.t = u64::MAX).is_some()
}

/// Two messages of a session change their numbers, and nothing else: the earlier one was acknowledged before
/// the later one was handed over, so that it was not refused on the way.
pub(super) fn handed_over_in_another_order(records: &mut Vec<Record>, nth: usize) -> bool {
    let acks = all(records, |record| match record {
        GroupRecord::Ack { send, t, .. } => Some((*send, *t)),
        _ => None,
    });
    let again: HashSet<u32> = all(records, |record| match record {
        GroupRecord::Again { send, .. } => Some(*send),
        _ => None,
    })
    .into_iter()
    .collect();
    let sends = all(records, |record| match record {
        GroupRecord::Send(send) if send.group.is_some() => Some(send.clone()),
        _ => None,
    });
    let is_acked = |send: &Send, before| {
        let of_it = |ack: &(u32, _)| ack.0 == send.send && ack.1 < before;
        !again.contains(&send.send) && acks.iter().any(of_it)
    };
    let mut pairs = Vec::new();
    for later in sends.iter().filter(|send| is_acked(send, u64::MAX)) {
        let same = |send: &&Send| {
            send.group == later.group
                && send.conversation == later.conversation
                && send.send < later.send
        };
        let earlier = sends.iter().filter(same);
        let earlier = earlier.filter(|send| is_acked(send, later.t));
        pairs.extend(earlier.map(|earlier| (earlier.send, later.send)));
    }
    let Some((one, other)) = nth.checked_rem(pairs.len()).map(|at| pairs[at]) else {
        return false;
    };
    let swap = |number: &mut u32| {
        if *number == one {
            *number = other;
        } else if *number == other {
            *number = one;
        }
    };
    for record in records {
        match record {
            Record::Group(GroupRecord::Send(send)) => swap(&mut send.send),
            Record::Group(GroupRecord::Ack { send, .. }) => swap(send),
            _ => {}
        }
    }
    true
}

pub(super) fn a_change_before_what_was_answered_earlier(
    records: &mut Vec<Record>,
    nth: usize,
) -> bool {
    if overtaken(records).is_empty() {
        return false;
    }
    // The groups are made before anything else: by the first two calls, if they were told where.
    let told: HashSet<u32> = all(records, |record| {
        placed(&mut record.clone()).map(|one| one.0)
    })
    .into_iter()
    .collect();
    let ends = truth(records);
    let all_events = events(records);
    let has_later = |group: No| {
        let names: HashSet<Mark> = acked(records).into_iter().collect();
        let later = ends[usize::from(group)].iter().skip(1);
        later
            .map(|number| &all_events[*number as usize])
            .any(|event| {
                matches!(event.what, What::Message(..))
                    && is_acked(records, event)
                    && names.contains(&event.at)
            })
    };
    let groups: Vec<No> = (0..2).filter(|group| has_later(*group)).collect();
    let call = pick(records, nth, |record| match record {
        GroupRecord::Call(call)
            if matches!(call.asked, Asked::Create(_))
                && told.contains(&call.call)
                && groups.contains(&call.group) =>
        {
            Some(call)
        }
        _ => None,
    });
    call.map(|call| call.t = u64::MAX).is_some()
}

fn is_acked(records: &[Record], event: &GroupEvent) -> bool {
    let What::Message(name, _) = &event.what else {
        return false;
    };
    let send = all(records, |record| match record {
        GroupRecord::Send(send) if send.id == *name => Some(send.send),
        _ => None,
    });
    let acks = all(records, |record| match record {
        GroupRecord::Ack { send, .. } => Some(*send),
        _ => None,
    });
    send.first().is_some_and(|send| acks.contains(send))
}

pub(super) fn a_time_that_went_back(records: &mut Vec<Record>, nth: usize) -> bool {
    let event = pick(records, nth, |record| {
        event_mut(record).filter(|event| event.at.0 > 1)
    });
    event.map(|event| event.time_unix_ms = -1).is_some()
}

// --- contents --------------------------------------------------------------------------------------

pub(super) fn another_text(records: &mut Vec<Record>, nth: usize) -> bool {
    let names = names(records);
    let send = pick(records, nth, |record| {
        send_mut(record).filter(|send| names.contains(&send.id))
    });
    send.map(|send| send.hash = send.hash.wrapping_add(1))
        .is_some()
}

pub(super) fn another_count_of_members(records: &mut Vec<Record>, nth: usize) -> bool {
    let change = pick(records, nth, |record| {
        change_mut(record).map(|(_, change)| change)
    });
    change.map(|change| change.member_count += 1).is_some()
}

pub(super) fn an_answer_with_another_version(records: &mut Vec<Record>, nth: usize) -> bool {
    let version = pick(records, nth, |record| {
        placed(record).filter(|(_, _, version)| **version > 0)
    });
    let Some((call, _, version)) = version else {
        return false;
    };
    *version += 1_000;
    let changed = *version;
    for record in records {
        if let Record::Group(record) = record
            && let Some((other, _, version)) = placed(record)
            && other == call
        {
            *version = changed;
        }
    }
    true
}

pub(super) fn sent_by_nobody(records: &mut Vec<Record>, nth: usize) -> bool {
    let names = names(records);
    let send = pick(records, nth, |record| {
        send_mut(record).filter(|send| names.contains(&send.id))
    });
    send.map(|send| send.id = Uuid::from_u128(u128::MAX))
        .is_some()
}

pub(super) fn refused_and_there(records: &mut Vec<Record>, nth: usize) -> bool {
    let again: HashSet<u32> = all(records, |record| match record {
        GroupRecord::Again { send, .. } => Some(*send),
        _ => None,
    })
    .into_iter()
    .collect();
    let ack = pick(records, nth, |record| match record {
        GroupRecord::Ack { t, send, .. } if !again.contains(send) => {
            let refused = GroupRecord::Refused {
                t: *t,
                send: *send,
                reason: "NOT_A_MEMBER".to_owned(),
            };
            Some((record, refused))
        }
        _ => None,
    });
    ack.map(|(ack, refused)| *ack = refused).is_some()
}

fn renamed(records: &[Record], nth: usize) -> Option<Asked> {
    let renamed = all(records, |record| match record {
        GroupRecord::Event(GroupEvent {
            what: What::Change(change),
            ..
        }) => change.name.clone(),
        _ => None,
    });
    let place = nth.checked_rem(renamed.len())?;
    Some(Asked::Rename(renamed[place].clone()))
}

pub(super) fn a_change_that_nobody_asked_for(records: &mut Vec<Record>, nth: usize) -> bool {
    let Some(renamed) = renamed(records, nth) else {
        return false;
    };
    forget_call(records, |asked| *asked == renamed)
}

pub(super) fn a_change_that_was_refused(records: &mut Vec<Record>, nth: usize) -> bool {
    let Some(renamed) = renamed(records, nth) else {
        return false;
    };
    let call = pick(records, 0, |record| match record {
        GroupRecord::Call(call) if call.asked == renamed => Some(call.call),
        _ => None,
    });
    let Some(refused) = call else { return false };
    for record in records {
        if let Record::Group(GroupRecord::Answer { call, answer, .. }) = record
            && *call == refused
        {
            *answer = Answer::Refused("ROLE_NOT_SUFFICIENT".to_owned());
        }
    }
    true
}

// --- reads -----------------------------------------------------------------------------------------

pub(super) fn a_page_older_than_held(records: &mut Vec<Record>, nth: usize) -> bool {
    let read = pick(records, nth, read_mut);
    read.map(|read| read.min_seq = read.head + 1).is_some()
}

pub(super) fn a_list_older_than_held(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| list.min_version = list.version + 1)
        .is_some()
}

pub(super) fn refused_what_is_held(records: &mut Vec<Record>, nth: usize) -> bool {
    let read = pick(records, nth, read_mut);
    let Some(read) = read else { return false };
    let refused = GroupRecord::ReadRefused {
        t: read.t,
        user: read.user,
        group: read.group,
        min_seq: read.min_seq,
        reason: "NOT_A_MEMBER".to_owned(),
    };
    records.push(Record::Group(refused));
    true
}

// --- the end ---------------------------------------------------------------------------------------

pub(super) fn a_reader_with_less(records: &mut Vec<Record>, nth: usize) -> bool {
    let view = pick(records, nth, |record| match record {
        GroupRecord::View {
            user,
            group,
            events,
        } if user != group && !events.is_empty() => Some(events),
        _ => None,
    });
    view.map(Vec::pop).is_some()
}

pub(super) fn another_event_seen_in_a_place(records: &mut Vec<Record>, nth: usize) -> bool {
    let all = events(records);
    let mut event = all[nth % all.len()].clone();
    event.time_unix_ms += 1;
    records.push(Record::Group(GroupRecord::Event(event)));
    true
}

/// A session from the beginning that hands out nothing.
pub(super) fn a_session_that_stays_behind(records: &mut Vec<Record>, _: usize) -> bool {
    // Of user 1, from the beginning; both of his groups are made with him or not.
    let device = 10_002;
    if view_of(records, user_of(device)).is_empty() {
        return false;
    }
    records.retain(|record| {
        !matches!(record, Record::Group(GroupRecord::Got { device: other, .. }) if *other == device)
    });
    true
}

pub(super) fn a_wrong_unread_count(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| {
        list.rows[0].unread += 1;
        list.unread_total += 1;
    })
    .is_some()
}

pub(super) fn a_wrong_total(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| list.unread_total += 1).is_some()
}

pub(super) fn a_row_that_is_missing(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| {
        let row = list.rows.remove(0);
        list.unread_total -= row.unread;
    })
    .is_some()
}

pub(super) fn a_row_of_one_who_has_not_left(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| list.rows[0].left = !list.rows[0].left)
        .is_some()
}

pub(super) fn another_preview(records: &mut Vec<Record>, nth: usize) -> bool {
    let list = pick(records, nth, final_list);
    list.map(|list| list.rows[0].preview = Some((1_000, false)))
        .is_some()
}

pub(super) fn a_row_that_went_back(records: &mut Vec<Record>, nth: usize) -> bool {
    // A row of a device comes once more, as it was in the beginning.
    let row = pick(records, nth, |record| match record {
        GroupRecord::Row { row, .. } if row.version > 1 => Some(record.clone()),
        _ => None,
    });
    let Some(mut record) = row else { return false };
    if let Some(row) = row_mut(&mut record) {
        row.version = 0;
    }
    records.push(Record::Group(record));
    true
}

pub(super) fn a_mark_beyond_the_end(records: &mut Vec<Record>, nth: usize) -> bool {
    let row = pick(records, nth, row_mut);
    row.map(|row| row.read = Mark(row.read.0 + 1_000, row.read.1 + 1_000))
        .is_some()
}

pub(super) fn a_send_without_an_answer(records: &mut Vec<Record>, nth: usize) -> bool {
    let send = pick(records, nth, |record| match record {
        GroupRecord::Ack {
            send,
            way: Way::Session,
            ..
        } => Some(*send),
        _ => None,
    });
    let Some(unanswered) = send else { return false };
    records.retain(|record| {
        !matches!(record, Record::Group(GroupRecord::Ack { send, .. }) if *send == unanswered)
    });
    true
}

pub(super) fn a_group_that_was_not_read(records: &mut Vec<Record>, nth: usize) -> bool {
    let is_view = |record: &Record| matches!(record, Record::Group(GroupRecord::View { user, group, .. }) if user != group);
    let views: Vec<usize> = (0..records.len())
        .filter(|place| is_view(&records[*place]))
        .collect();
    records.remove(views[nth % views.len()]);
    true
}

pub(super) fn another_list_of_members(records: &mut Vec<Record>, nth: usize) -> bool {
    let members = pick(records, nth, |record| match record {
        GroupRecord::Members { members, .. } => Some(members),
        _ => None,
    });
    members.map(|members| members.pop()).is_some()
}

pub(super) fn members_that_were_not_listed(records: &mut Vec<Record>, _: usize) -> bool {
    records.retain(|record| !matches!(record, Record::Group(GroupRecord::Members { .. })));
    true
}

pub(super) fn a_reader_of_messages_with_less(records: &mut Vec<Record>, nth: usize) -> bool {
    let messages = pick(records, nth, |record| match record {
        GroupRecord::Messages { events, .. } if !events.is_empty() => Some(events),
        _ => None,
    });
    messages.map(|events| events.remove(0)).is_some()
}

pub(super) fn messages_that_were_not_read(records: &mut Vec<Record>, _: usize) -> bool {
    records.retain(|record| !matches!(record, Record::Group(GroupRecord::Messages { .. })));
    true
}
