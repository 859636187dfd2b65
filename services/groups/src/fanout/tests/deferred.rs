//! Huge groups: what an event costs, and what the crossing does.

use super::{
    cases::{Case, change, group, many, message, row, stints},
    *,
};
use crate::fanout::limits::{APPEND_RECORDS_MAX, ROUND_DELAY, ROUND_INTERVAL};

/// A core in which groups of more than so many members are deferred.
fn case(deferred_above: usize) -> Case {
    let mut case = Case::new();
    case.core = Core::new(0, 10_000_000, deferred_above);
    case
}

fn rows(case: &mut Case) -> Vec<log::InboxRecord> {
    case.now += ROUND_INTERVAL;
    let mut rows = Vec::new();
    loop {
        let records = case.append();
        if records.is_empty() {
            return rows;
        }
        assert!(records.len() <= APPEND_RECORDS_MAX);
        rows.extend(records.iter().map(row));
    }
}

fn note(case: &mut Case) -> Vec<(GroupId, u64)> {
    let noted = case.core.cut_deferred();
    case.core.noted_deferred();
    noted
}

#[test]
fn an_event_of_a_deferred_group_costs_a_record_of_those_it_is_about_and_not_of_each_member() {
    let mut case = case(1_000);
    let users = many(10_002);
    let (members, others) = users.split_at(10_000);
    case.warm(group(1), members);
    case.ingest(&message(group(1), users[0], 2));
    assert_eq!(rows(&mut case).len(), 10_000, "the crossing");
    assert_eq!(note(&mut case), [(group(1), 2)]);
    assert_eq!(case.core.low_water(), 2);
    // Two senders, of which one sends often, one who joins and one who leaves.
    for seq in 3..20 {
        case.ingest(&message(group(1), users[1], seq));
    }
    case.ingest(&message(group(1), users[2], 20));
    case.ingest(&change(group(1), 2, 21, &[(others[0], 1)]));
    case.ingest(&change(group(1), 3, 22, &[(users[3], 0)]));
    let mut said: Vec<_> = rows(&mut case)
        .iter()
        .map(|row| {
            let user = UserId::from_slice(&row.user_id).unwrap();
            let own = row.own.as_ref().map_or(0, |own| own.read_seq);
            (
                user,
                row.last_seq,
                own,
                row.joined_seq,
                row.left_seq,
                row.deferred_seq,
            )
        })
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            (users[1], 22, 19, 0, 0, 0),
            (users[2], 22, 20, 0, 0, 0),
            (users[3], 22, 0, 0, 22, 0),
            (others[0], 22, 21, 21, 0, 21),
        ]
    );
    assert!(note(&mut case).is_empty(), "once is enough");
}

#[test]
fn all_are_reached_live_whether_or_not_their_group_is_deferred() {
    let mut case = case(2);
    let users = many(5);
    case.warm(group(1), &users);
    for seq in 2..5 {
        case.ingest(&message(group(1), users[0], seq));
    }
    let pushes = case.core.take_pushes(0);
    assert_eq!(pushes.len(), 3);
    assert!(pushes.iter().all(|push| *push.users == users[..]));
}

#[test]
fn the_crossing_writes_one_record_for_each_member_once_and_is_noted_after_the_last_of_them() {
    let mut case = case(9_999);
    let users = many(10_000);
    case.warm(group(1), &users);
    case.ingest(&message(group(1), users[0], 2));
    case.ingest(&message(group(1), users[0], 3));
    case.now += ROUND_DELAY;
    let mut reached = BTreeSet::new();
    while reached.len() < users.len() {
        assert!(case.core.cut_deferred().is_empty(), "not all are durable");
        for record in case.append() {
            let row = row(&record);
            assert_eq!((row.deferred_seq, row.last_seq), (2, 3));
            assert!(reached.insert(row.user_id), "once");
        }
    }
    assert_eq!(case.core.low_water(), 1, "the store does not know it");
    // What comes meanwhile crosses nothing again, also when the members are loaded anew.
    case.ingest(&message(group(1), users[1], 4));
    assert_eq!(case.core.cut_deferred(), [(group(1), 2)]);
    assert!(case.core.cut_deferred().is_empty(), "one at a time");
    assert_eq!(case.core.low_water(), 1);
    case.core.noted_deferred();
    assert_eq!(case.core.low_water(), 3);
    assert_eq!(rows(&mut case).len(), 1);
    assert_eq!(case.core.low_water(), 4);
    assert!(case.core.cut_deferred().is_empty());
}

#[test]
fn a_group_of_the_limit_is_not_deferred_and_one_more_member_makes_it_so() {
    let mut case = case(3);
    let users = many(4);
    case.warm(group(1), &users[..3]);
    case.ingest(&message(group(1), users[0], 2));
    assert!(rows(&mut case).iter().all(|row| row.deferred_seq == 0));
    case.ingest(&change(group(1), 2, 3, &[(users[3], 1)]));
    let crossing = rows(&mut case);
    assert_eq!(crossing.len(), 4);
    assert!(crossing.iter().all(|row| row.deferred_seq == 3));
    assert_eq!(note(&mut case), [(group(1), 3)]);
    // It stays so.
    case.ingest(&change(group(1), 3, 4, &[(users[3], 0)]));
    assert_eq!(rows(&mut case).len(), 1);
    let mut last = message(group(1), users[0], 5);
    last.group_version = 3;
    case.ingest(&last);
    assert_eq!(rows(&mut case).len(), 1);
}

#[test]
fn a_late_record_is_no_crossing_for_those_who_joined_after_its_version() {
    let mut case = case(3);
    let users = many(5);
    case.ingest(&message(group(1), users[0], 2));
    assert_eq!(case.core.take_loads(case.now), [group(1)]);
    // Four were members at version 1; the fifth joined by a change that was fanned out before.
    let mut known = stints(&users);
    known[4].joined_version = 2;
    case.load(group(1), &known);
    let all = rows(&mut case);
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|row| row.deferred_seq == 0));
    assert!(note(&mut case).is_empty());
}

#[test]
fn who_is_named_in_a_deferred_group_has_a_record_and_nobody_else_who_is_mentioned() {
    let mut case = case(3);
    let users = many(5);
    case.warm(group(1), &users);
    case.ingest(&message(group(1), users[0], 2));
    assert_eq!(rows(&mut case).len(), 5, "the crossing");
    let mut named = message(group(1), users[0], 3);
    let event = named.event.as_mut().unwrap();
    event.mentioned_ids = vec![users[3].as_bytes().to_vec()];
    case.ingest(&named);
    let mut all = message(group(1), users[0], 4);
    all.event.as_mut().unwrap().mentions_all = true;
    case.ingest(&all);
    let mut said: Vec<_> = rows(&mut case)
        .iter()
        .map(|row| {
            let user = UserId::from_slice(&row.user_id).unwrap();
            let read = row.own.as_ref().map_or(0, |own| own.read_seq);
            (user, row.mentioned_seq, read, row.schema_version)
        })
        .collect();
    said.sort();
    // Those who have a record anyway hear that all are mentioned; the sender has read it.
    assert_eq!(said, [(users[0], 4, 4, 5), (users[3], 4, 0, 5)]);
}
