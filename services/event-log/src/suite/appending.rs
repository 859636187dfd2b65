//! Promises about appends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Fixture, KNOWN, append, assert_holds, everything, keys, next, range, read_alone, record, text,
    within,
};
use crate::{
    AppendError, EventLog, KEY_AND_HEADERS_BYTES_MAX, NewRecord, PAYLOAD_BYTES_MAX, Topic, Urgency,
};

/// How far the clocks of this machine and of the log may differ.
const CLOCKS_DIFFER_MS_MAX: i64 = 60_000;

/// A record whose append was answered is in the log, once, whatever happens to the process.
pub async fn what_was_answered_is_there_after_reopening(fixture: &dyn Fixture) {
    let mut expected = Vec::new();
    for round in 0..3 {
        let log = fixture.open().await;
        for key in keys("key", 20) {
            let payload = format!("{key} in round {round}");
            let place = append(&log, vec![record(&key, payload.clone())]).await[0];
            assert_eq!(
                place.partition,
                log.partition_of(Topic::Messages, key.as_bytes())
            );
            expected.push((place, payload));
        }
        fixture.close(log).await;
    }
    let log = fixture.open().await;
    let all = everything(&log).await;
    assert_holds(&all, &expected);
    let count: usize = all.values().map(Vec::len).sum();
    assert_eq!(count, expected.len());
    fixture.close(log).await;
}

/// Appends of one caller are not waited for, and many callers append at once.
pub async fn records_of_a_key_keep_the_order_of_their_appends(fixture: &dyn Fixture) {
    const CALLERS: usize = 8;
    const APPENDS: usize = 500;
    let log = fixture.open().await;
    let mut callers = Vec::new();
    for key in keys("caller", CALLERS) {
        let log = log.clone();
        callers.push(tokio::spawn(async move {
            let (done, mut answered) = mpsc::unbounded_channel();
            for n in 0..APPENDS {
                let done = done.clone();
                let on_done = Box::new(move |r| drop(done.send((n, r))));
                // Urgency must not change the order either.
                let urgency = [Urgency::Now, Urgency::Derived][n % 2];
                log.append(
                    Topic::Messages,
                    record(&key, n.to_string()),
                    urgency,
                    on_done,
                );
                if n % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            drop(done);
            let mut places = BTreeMap::new();
            while let Some((n, result)) = answered.recv().await {
                places.insert(n, result.expect("the log takes records"));
            }
            (key, places)
        }));
    }
    let mut expected = Vec::new();
    for caller in callers {
        let (key, places) = within("the appends", caller).await.expect("no panic");
        assert_eq!(places.len(), APPENDS);
        expected.push((key, places));
    }
    let all = everything(&log).await;
    for (key, places) in expected {
        let records = all.get(&places[&0].partition).expect("a partition");
        let own: Vec<_> = records.iter().filter(|r| r.key == key).collect();
        let order: Vec<_> = own.iter().map(|r| text(r)).collect();
        let called: Vec<_> = (0..APPENDS).map(|n| n.to_string()).collect();
        assert_eq!(order, called, "{key}");
        let offsets: Vec<_> = own.iter().map(|r| r.offset).collect();
        let answered: Vec<_> = places
            .values()
            .map(|place| place.offset.expect(KNOWN))
            .collect();
        assert_eq!(offsets, answered, "{key}");
    }
    fixture.close(log).await;
}

/// Also across restarts.
pub async fn offsets_grow_and_are_never_used_twice(fixture: &dyn Fixture) {
    let mut seen = BTreeSet::new();
    let mut last = BTreeMap::new();
    for _ in 0..3 {
        let log = fixture.open().await;
        for _ in 0..3 {
            let records = keys("key", 20).iter().map(|key| record(key, "x")).collect();
            for place in append(&log, records).await {
                assert!(seen.insert((place.partition, place.offset)), "{place:?}");
                let before = last.insert(place.partition, place.offset);
                assert!(
                    before.is_none_or(|before| before < place.offset),
                    "{place:?}"
                );
            }
        }
        fixture.close(log).await;
    }
}

/// A store recognises its log by it.
pub async fn a_log_keeps_its_identity(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let (messages, inbox) = (log.identity(Topic::Messages), log.identity(Topic::Inbox));
    assert!(!messages.log_id.is_empty() && !messages.topic_id.is_empty());
    assert_eq!(messages.log_id, inbox.log_id);
    assert_ne!(messages.topic_id, inbox.topic_id);
    assert_eq!((messages.partitions, inbox.partitions), (4, 1));
    fixture.close(log).await;
    let log = fixture.open().await;
    assert_eq!(log.identity(Topic::Messages), messages);
    assert_eq!(log.identity(Topic::Inbox), inbox);
    fixture.close(log).await;
}

/// The records beside it are written.
pub async fn a_record_that_is_too_large_is_refused_and_nothing_else(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let payload = |bytes| NewRecord {
        payload: Bytes::from(vec![b'x'; bytes]),
        ..NewRecord::default()
    };
    let header = |bytes| NewRecord {
        headers: vec![("name".to_owned(), Bytes::from(vec![b'x'; bytes]))],
        ..NewRecord::default()
    };
    let records = vec![
        payload(PAYLOAD_BYTES_MAX),
        payload(PAYLOAD_BYTES_MAX + 1),
        header(KEY_AND_HEADERS_BYTES_MAX),
        payload(0),
    ];
    let appending = log.append_all(Topic::Messages, records, Urgency::Now);
    let results = within("the append", appending).await;
    assert!(results[0].is_ok(), "{results:?}");
    assert_eq!(results[1], Err(AppendError::TooLarge));
    assert_eq!(results[2], Err(AppendError::TooLarge));
    assert!(results[3].is_ok(), "{results:?}");
    let all = everything(&log).await;
    let lengths: Vec<_> = all.values().flatten().map(|r| r.payload.len()).collect();
    assert_eq!(lengths, [PAYLOAD_BYTES_MAX, 0]);
    fixture.close(log).await;
}

/// And they are the same for whoever reads later.
pub async fn headers_key_and_time_are_carried(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let before = now_unix_ms();
    let new = NewRecord {
        key: Bytes::from_static(b"\x00\xffkey"),
        payload: Bytes::from_static(b"\xff\x00payload"),
        headers: vec![
            ("traceparent".to_owned(), Bytes::from_static(b"00-abc")),
            ("empty".to_owned(), Bytes::new()),
            ("traceparent".to_owned(), Bytes::from_static(b"\x00")),
        ],
    };
    let place = append(&log, vec![new.clone()]).await[0];
    let live = everything(&log).await;
    let live = &live[&place.partition][0];
    assert_eq!(live.key, new.key);
    assert_eq!(live.payload, new.payload);
    assert_eq!(live.headers, new.headers);
    let time = live.time_unix_ms;
    let earliest = before - CLOCKS_DIFFER_MS_MAX;
    assert!((earliest..=now_unix_ms() + CLOCKS_DIFFER_MS_MAX).contains(&time));
    fixture.close(log).await;
    let log = fixture.open().await;
    let later = everything(&log).await;
    let later = &later[&place.partition][0];
    assert_eq!(
        (
            &later.key,
            &later.payload,
            &later.headers,
            later.time_unix_ms
        ),
        (&new.key, &new.payload, &new.headers, time)
    );
    fixture.close(log).await;
}

/// Nothing urgent needs to come along.
pub async fn derived_appends_become_durable_by_themselves(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let one = vec![record("key", "one"), record("key", "two")];
    let appending = log.append_all(Topic::Messages, one, Urgency::Derived);
    let results = within("the derived append", appending).await;
    let places: Result<Vec<_>, _> = results.into_iter().collect();
    let places = places.expect("the log takes records");
    let (_member, mut readers) = read_alone(&log, super::GROUPS[0]).await;
    let reader = readers.get_mut(&places[0].partition).expect("a reader");
    let (_, end) = range(reader).await;
    assert!(end > places[1].offset.expect(KNOWN));
    assert_eq!(text(&next(reader, 1).await[0]), "one");
    drop(readers);
    fixture.close(log).await;
    let log: Arc<dyn EventLog> = fixture.open().await;
    let expected = [(places[0], "one".to_owned()), (places[1], "two".to_owned())];
    assert_holds(&everything(&log).await, &expected);
    fixture.close(log).await;
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |s| i64::try_from(s.as_millis()).unwrap_or(i64::MAX))
}
