//! What the property does not show: bounds, turns, and times.

use bytes::Bytes;
use event_log::NewRecord;

use super::*;
use crate::fanout::{
    codec::Place,
    core::{Loaded, NewerRecord},
    limits::{
        APPEND_RECORDS_MAX, BEHIND_PAUSE, BEHIND_SEEMS_MAX, CHUNK_USERS, LOADS_MAX,
        PARKED_BYTES_MAX, ROUND_DELAY, ROUND_INTERVAL,
    },
};
use runtime::{ids::ConversationId, trace};

/// More than any of these tests has members.
const ROOM: usize = 10_000_000;
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(super) fn many(count: u32) -> Vec<UserId> {
    let id = |n: u32| {
        let mut bytes = [7; 16];
        bytes[12..].copy_from_slice(&n.to_be_bytes());
        UserId::from_bytes(bytes)
    };
    (1..=count).map(id).collect()
}

pub(super) fn stints(users: &[UserId]) -> Vec<Stint> {
    let stint = |user: &UserId| Stint {
        user: *user,
        joined_version: 1,
        left_version: None,
    };
    users.iter().map(stint).collect()
}

/// A message at version 1, whose frame is its seq.
pub(super) fn message(group: GroupId, sender: UserId, seq: u64) -> log::FanoutRecord {
    log::FanoutRecord {
        schema_version: 1,
        conversation_id: ConversationId::group(group).as_bytes().to_vec(),
        group_version: 1,
        frame: seq.to_be_bytes().to_vec().into(),
        except_session_id: 5,
        event: Some(log::FanoutEvent {
            seq,
            message_index: seq - 1,
            sender_id: sender.as_bytes().to_vec(),
            preview: Some(log::InboxPreview {
                seq,
                ..log::InboxPreview::default()
            }),
            ..log::FanoutEvent::default()
        }),
    }
}

/// A change by which some join (role 1) or leave (role 0).
pub(super) fn change(
    group: GroupId,
    version: u64,
    seq: u64,
    users: &[(UserId, u32)],
) -> log::FanoutRecord {
    let mut record = message(group, users[0].0, seq);
    record.group_version = version;
    let event = record.event.as_mut().unwrap();
    event.preview = None;
    let member = |(user, role): &(UserId, u32)| log::GroupMember {
        user_id: user.as_bytes().to_vec(),
        role: *role,
    };
    event.change = Some(log::GroupChange {
        version,
        actor_id: event.sender_id.clone(),
        members: users.iter().map(member).collect(),
        ..log::GroupChange::default()
    });
    record
}

pub(super) struct Case {
    pub(super) core: Core,
    pub(super) now: Instant,
    time_unix_ms: i64,
    offset: u64,
}

impl Case {
    pub(super) fn new() -> Self {
        Self {
            core: Core::new(0, ROOM, ROOM),
            now: Instant::now(),
            time_unix_ms: 0,
            offset: 0,
        }
    }

    pub(super) fn ingest(&mut self, fan: &log::FanoutRecord) {
        self.ingest_traced(fan, Vec::new());
    }

    fn ingest_traced(&mut self, fan: &log::FanoutRecord, headers: Vec<(String, Bytes)>) {
        let mut record = record(self.offset, fan.encode_to_vec());
        record.headers = headers;
        record.time_unix_ms = self.time_unix_ms;
        self.core.ingest(&record, self.now).unwrap();
        self.offset += 1;
    }

    /// Makes the group known.
    pub(super) fn warm(&mut self, group: GroupId, users: &[UserId]) {
        let mut marks = message(group, users[0], 1);
        marks.event = None;
        self.ingest(&marks);
        assert_eq!(self.core.take_loads(self.now), [group]);
        self.load(group, &stints(users));
        while self.core.has_chunks() {
            self.core.take_pushes(100);
        }
        self.core.take_pushes(0);
    }

    pub(super) fn load(&mut self, group: GroupId, stints: &[Stint]) -> Loaded {
        let roster = Roster {
            stints: stints.to_vec(),
            deferred: false,
        };
        self.core.loaded(group, &roster, self.now)
    }

    /// The groups and the numbers of users of the pushes, by their first byte.
    fn pushes(&mut self, chunks: usize) -> Vec<(u64, usize)> {
        let number = |frame: &Bytes| u64::from_be_bytes(frame[..].try_into().unwrap());
        let pushes = self.core.take_pushes(chunks);
        let push = |push: &delivery::Broadcast| (number(&push.frame), push.users.len());
        pushes.iter().map(push).collect()
    }

    pub(super) fn append(&mut self) -> Vec<NewRecord> {
        let records = self.core.cut_inbox(self.now).unwrap_or_default();
        self.core.appended();
        records
    }
}

pub(super) fn row(record: &NewRecord) -> log::InboxRecord {
    log::InboxRecord::decode(record.payload.clone()).unwrap()
}

pub(super) fn group(number: u8) -> GroupId {
    GroupId::from_bytes([number; 16])
}

#[test]
fn a_cold_group_delays_the_position_and_no_other_group() {
    let mut case = Case::new();
    let users = many(3);
    case.warm(group(1), &users);
    case.ingest(&message(group(2), users[0], 2));
    case.ingest(&message(group(1), users[0], 3));
    assert_eq!(case.core.take_loads(case.now), [group(2)]);
    assert_eq!(case.pushes(1), [(3, 3)]);
    case.now += ROUND_DELAY;
    assert_eq!(case.append().len(), 3);
    assert_eq!(case.core.low_water(), 1, "the cold group's record waits");
    case.ingest(&message(group(2), users[0], 4));
    assert!(case.core.take_loads(case.now).is_empty(), "asked for once");
    case.load(group(2), &stints(&users));
    assert_eq!(case.pushes(1), [(2, 3), (4, 3)], "in order");
    assert_eq!(case.core.low_water(), 1, "its rows are not durable");
    case.now += ROUND_DELAY;
    let rows: Vec<_> = case.append().iter().map(row).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(case.core.low_water(), 4);
}

#[test]
fn few_groups_are_loaded_at_a_time() {
    let mut case = Case::new();
    let users = many(2);
    for number in 1..=40 {
        case.ingest(&message(group(number), users[0], 2));
    }
    assert_eq!(case.core.take_loads(case.now).len(), LOADS_MAX);
    assert!(case.core.take_loads(case.now).is_empty());
    case.load(group(1), &stints(&users));
    assert_eq!(case.core.take_loads(case.now).len(), 1);
}

#[test]
fn large_groups_are_pushed_to_in_turns_and_small_ones_before_them() {
    let mut case = Case::new();
    let large = CHUNK_USERS * 2 + 1;
    let users = many(u32::try_from(large).unwrap());
    case.warm(group(1), &users);
    case.warm(group(2), &users);
    case.warm(group(3), &users[..3]);
    case.ingest(&message(group(1), users[0], 11));
    case.ingest(&message(group(1), users[0], 12));
    case.ingest(&message(group(2), users[0], 21));
    case.ingest(&message(group(3), users[0], 31));
    let chunk = |number| (number, CHUNK_USERS);
    assert_eq!(
        case.pushes(3),
        [(31, 3), chunk(11), chunk(21), chunk(11)],
        "the small one at once"
    );
    case.ingest(&message(group(3), users[0], 32));
    assert_eq!(
        case.pushes(100),
        [
            (32, 3),
            chunk(21),
            (11, 1),
            (21, 1),
            chunk(12),
            chunk(12),
            (12, 1)
        ]
    );
    assert!(!case.core.has_chunks());
}

#[test]
fn one_frame_is_shared_by_all_and_goes_to_each_member_once() {
    let mut case = Case::new();
    let users = many(u32::try_from(CHUNK_USERS * 3).unwrap());
    case.warm(group(1), &users);
    case.ingest(&message(group(1), users[0], 2));
    let pushes = case.core.take_pushes(100);
    assert_eq!(pushes.len(), 3);
    let frames: BTreeSet<_> = pushes.iter().map(|push| push.frame.as_ptr()).collect();
    assert_eq!(frames.len(), 1);
    let reached = pushes.iter().flat_map(|push| push.users.iter().copied());
    assert_eq!(reached.collect::<Vec<_>>(), users);
    for push in &pushes {
        assert_eq!((push.except_session_id, push.inbox_version), (5, 0));
    }
}

#[test]
fn events_of_a_busy_group_make_one_record_a_member_each_interval() {
    let mut case = Case::new();
    let users = many(3);
    case.warm(group(1), &users);
    case.ingest(&message(group(1), users[0], 2));
    assert_eq!(case.core.next_due(), Some(case.now + ROUND_DELAY));
    assert!(case.core.cut_inbox(case.now).is_none());
    case.ingest(&message(group(1), users[1], 3));
    let context = trace::headers(trace::parse(TRACE));
    case.ingest_traced(&message(group(1), users[0], 4), context.clone());
    case.now += ROUND_DELAY;
    let records = case.append();
    assert_eq!(records.len(), 3);
    for (record, own) in records.iter().zip([4, 3, 0]) {
        let row = row(record);
        assert_eq!((row.last_seq, row.last_message_index), (4, 3));
        assert_eq!(row.preview.unwrap().seq, 4);
        let read = row.own.map_or(0, |own| own.read_seq);
        assert_eq!(read, own, "the senders have read their own messages");
        assert_eq!(record.headers, context);
    }
    assert_eq!(case.core.coalesced(), 2);
    assert_eq!(case.core.low_water(), 4);
    case.ingest(&message(group(1), users[0], 5));
    case.now += ROUND_INTERVAL - Duration::from_millis(1);
    assert!(case.core.cut_inbox(case.now).is_none(), "not yet");
    case.now += Duration::from_millis(1);
    assert_eq!(case.append().len(), 3);
    case.now += ROUND_INTERVAL;
    assert!(case.core.cut_inbox(case.now).is_none());
    assert_eq!(case.core.next_due(), None, "the group is quiet again");
}

#[test]
fn rows_of_a_huge_group_are_appended_in_parts_and_in_turns() {
    let mut case = Case::new();
    let users = many(10_000);
    case.warm(group(1), &users);
    case.warm(group(2), &users[..3]);
    case.ingest(&message(group(1), users[0], 2));
    case.ingest(&message(group(2), users[0], 3));
    case.now += ROUND_DELAY;
    let mut count = 0;
    let mut appends = 0;
    while case.core.low_water() < 4 {
        assert_eq!(case.core.low_water(), 2, "not all rows are durable");
        let records = case.append();
        assert!(records.len() <= APPEND_RECORDS_MAX);
        let of_small = records.iter().filter(|r| row(r).last_seq == 3).count();
        assert_eq!(of_small, if appends == 0 { 3 } else { 0 });
        count += records.len();
        appends += 1;
    }
    assert_eq!((count, appends), (10_003, 3));
}

#[test]
fn who_joins_sees_nothing_before_and_who_leaves_nothing_after() {
    let mut case = Case::new();
    let users = many(3);
    let [stays, joins, leaves] = users[..] else {
        panic!()
    };
    case.warm(group(1), &[stays, leaves]);
    case.ingest(&message(group(1), stays, 2));
    case.ingest(&change(group(1), 2, 3, &[(joins, 1)]));
    case.ingest(&change(group(1), 3, 4, &[(leaves, 0), (stays, 3)]));
    let mut last = message(group(1), stays, 5);
    last.group_version = 3;
    case.ingest(&last);
    let pushes = case.core.take_pushes(0);
    let reached: Vec<_> = pushes.iter().map(|push| push.users.to_vec()).collect();
    assert_eq!(
        reached,
        [
            vec![stays, leaves],
            vec![stays, joins, leaves],
            vec![stays, joins, leaves],
            vec![stays, joins],
        ]
    );
    case.now += ROUND_DELAY;
    let rows: Vec<_> = case.append().iter().map(row).collect();
    let said: Vec<_> = rows
        .iter()
        .map(|row| {
            let preview = row.preview.as_ref().map(|preview| preview.seq);
            (row.last_seq, preview, row.joined_seq, row.left_seq)
        })
        .collect();
    assert_eq!(
        said,
        [(5, Some(5), 0, 0), (5, Some(5), 3, 0), (4, Some(2), 0, 4)]
    );
}

#[test]
fn a_change_of_roles_that_comes_again_makes_no_member_of_who_is_forgotten() {
    let mut case = Case::new();
    let users = many(3);
    let mut roles = change(group(1), 2, 2, &[(users[2], 2)]);
    let event = roles.event.as_mut().unwrap();
    let record = event.change.as_mut().unwrap();
    record.set_kind(log::GroupChangeKind::Roles);
    case.ingest(&roles);
    case.core.take_loads(case.now);
    // Who has left since then, and somebody who shows that the store knows of it.
    let mut known = stints(&users[..2]);
    known[1].joined_version = 4;
    assert_eq!(case.load(group(1), &known), Loaded::Used);
    assert_eq!(case.pushes(0), [(2, 2)]);
    case.now += ROUND_DELAY;
    let rows: Vec<_> = case.append().iter().map(row).collect();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!((row.last_seq, row.joined_seq), (2, 0));
        assert_eq!(row.preview, None);
    }
}

#[test]
fn a_late_record_is_for_the_members_of_its_version() {
    let mut case = Case::new();
    let users = many(3);
    case.warm(group(1), &users);
    case.ingest(&change(group(1), 2, 3, &[(users[2], 0)]));
    case.ingest(&message(group(1), users[0], 2));
    case.core.take_pushes(0);
    assert_eq!(case.core.take_loads(case.now), [group(1)]);
    let mut stints = stints(&users);
    stints[2].left_version = Some(2);
    case.load(group(1), &stints);
    assert_eq!(case.pushes(0), [(2, 3)]);
}

#[test]
fn a_store_that_is_behind_is_asked_again_until_it_is_not() {
    let mut case = Case::new();
    let users = many(3);
    case.ingest(&change(group(1), 2, 2, &[(users[2], 0)]));
    assert_eq!(case.core.take_loads(case.now), [group(1)]);
    for _ in 0..100 {
        assert_eq!(case.load(group(1), &stints(&users)), Loaded::Behind);
        assert!(case.core.take_loads(case.now).is_empty());
        assert_eq!(case.core.next_due(), Some(case.now + BEHIND_PAUSE));
        case.now += BEHIND_PAUSE;
        assert_eq!(case.core.take_loads(case.now), [group(1)]);
    }
    assert_eq!(case.core.low_water(), 0);
    let mut known = stints(&users);
    known[2].left_version = Some(2);
    assert_eq!(case.load(group(1), &known), Loaded::Used);
    assert_eq!(case.pushes(0), [(2, 3)]);
}

#[test]
fn a_member_whom_the_store_does_not_know_is_waited_for_and_then_taken_from_the_log() {
    let mut case = Case::new();
    let users = many(3);
    case.ingest(&change(group(1), 2, 2, &[(users[2], 1)]));
    case.core.take_loads(case.now);
    let begun = case.now;
    loop {
        match case.load(group(1), &stints(&users[..2])) {
            Loaded::Behind => {}
            Loaded::UsedInDoubt => break,
            Loaded::Used => panic!("the store does not know him"),
        }
        assert!(case.pushes(0).is_empty());
        case.now += BEHIND_PAUSE;
        assert_eq!(case.core.take_loads(case.now), [group(1)]);
    }
    assert_eq!(case.now - begun, BEHIND_SEEMS_MAX);
    assert_eq!(case.pushes(0), [(2, 3)]);
    case.now += ROUND_DELAY;
    let rows: Vec<_> = case.append().iter().map(row).collect();
    assert_eq!(rows[2].joined_seq, 2);
}

#[test]
fn stints_are_forgotten_when_the_position_has_passed_all_that_may_be_late() {
    let mut case = Case::new();
    let users = many(3);
    case.warm(group(1), &users);
    case.ingest(&change(group(1), 2, 2, &[(users[2], 0)]));
    case.ingest(&change(group(1), 3, 3, &[(users[1], 0)]));
    assert!(case.core.take_forgettable(3).is_empty(), "too soon");
    case.time_unix_ms += FORGET_AFTER_MS;
    case.ingest(&change(group(1), 4, 4, &[(users[1], 1)]));
    assert!(case.core.take_forgettable(3).is_empty(), "not passed");
    assert_eq!(case.core.take_forgettable(4), [(group(1), 3)]);
    assert!(case.core.take_forgettable(4).is_empty(), "once");
}

#[test]
fn a_position_waits_until_a_change_is_noted() {
    let mut case = Case::new();
    let users = many(3);
    case.warm(group(1), &users);
    case.ingest(&change(group(1), 2, 2, &[(users[2], 0)]));
    let sequenced = Sequenced {
        group: group(1),
        version: 2,
        seq: 2,
    };
    assert_eq!(case.core.take_told(), [sequenced], "told at once");
    case.now += ROUND_DELAY;
    case.append();
    assert_eq!(case.core.low_water(), 1);
    assert_eq!(case.core.cut_sequenced(), [sequenced]);
    assert!(case.core.cut_sequenced().is_empty(), "one call at a time");
    assert_eq!(case.core.low_water(), 1);
    case.core.noted();
    assert_eq!(case.core.low_water(), 2);
}

#[test]
fn what_waits_is_bounded() {
    let mut parked = Case::new();
    let mut large = message(group(1), many(1)[0], 2);
    large.frame = vec![0; 100_000].into();
    let mut pushed = Case::new();
    let users = many(100_000);
    pushed.warm(group(1), &users);
    let mut rows = Case::new();
    for number in 1..=20 {
        rows.warm(group(number), &users);
    }
    let mut count = 0;
    while parked.core.has_room() {
        parked.ingest(&large);
        count += 1;
    }
    assert!(count <= PARKED_BYTES_MAX / 100_000 + 1);
    let mut marks = message(group(1), users[0], 2);
    marks.event = None;
    while pushed.core.has_room() {
        pushed.ingest(&marks);
    }
    assert!(pushed.core.has_chunks());
    pushed.core.take_pushes(100_000);
    assert!(pushed.core.has_room(), "it goes on by itself");
    for number in 1..=20 {
        rows.ingest(&message(group(number), users[0], 2));
        rows.core.take_pushes(100_000);
    }
    assert!(!rows.core.has_room());
    rows.now += ROUND_DELAY;
    while rows.core.low_water() < rows.offset {
        rows.append();
    }
    assert!(rows.core.has_room());
}

#[test]
fn the_members_in_memory_are_bounded() {
    let mut case = Case::new();
    case.core = Core::new(0, 1_000, ROOM);
    let users = many(100);
    for number in 1..=100 {
        case.warm(group(number), &users);
        assert!(case.core.cached_members() <= 1_000);
    }
    case.ingest(&message(group(100), users[0], 2));
    assert_eq!(case.pushes(0).len(), 1, "the last group is known");
}

#[test]
fn a_malformed_record_is_a_counted_no_op_and_a_newer_one_stops_the_partition() {
    let mut case = Case::new();
    let users = many(2);
    case.warm(group(1), &users);
    let good = message(group(1), users[0], 2);
    let direct = ConversationId::direct(users[0], users[1]).unwrap();
    let mut bad = vec![good.clone(); 5];
    bad[0].schema_version = 0;
    bad[1].conversation_id = direct.as_bytes().to_vec();
    bad[2].group_version = 0;
    bad[3].event.as_mut().unwrap().seq = 0;
    bad[4].event.as_mut().unwrap().sender_id.clear();
    bad.push(change(group(1), 3, 3, &[(users[0], 0)]));
    bad[5].group_version = 2;
    bad.push(change(group(1), 2, 3, &[(users[0], 0), (users[0], 1)]));
    for bad in &bad {
        case.ingest(bad);
    }
    assert_eq!(case.core.malformed(), 7);
    assert_eq!(case.core.low_water(), 8);
    assert!(case.pushes(0).is_empty());
    let mut newer = good;
    newer.schema_version = 3;
    let newer = record(8, newer.encode_to_vec());
    let stopped = case.core.ingest(&newer, case.now);
    assert_eq!(
        stopped,
        Err(NewerRecord {
            offset: 8,
            version: 3
        })
    );
    assert_eq!(case.core.low_water(), 8, "it is not skipped");
}

#[test]
fn places_merge_by_the_larger_of_each_part() {
    let place = |seq, message_index| Place { seq, message_index };
    assert_eq!(place(1, 9).max(place(2, 3)), place(2, 9));
}
