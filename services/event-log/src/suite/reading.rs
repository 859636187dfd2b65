//! Promises about readers.

use std::sync::Arc;

use super::{
    Fixture, GROUPS, KNOWN, append, assert_grows, assigned, keys, next, range, read_alone, record,
    take, text, to_end, within,
};
use crate::{Appended, EventLog, LogError, PartitionReader, Topic};

/// While others append, and again afterwards.
pub async fn a_reader_sees_everything_once_and_in_order(fixture: &dyn Fixture) {
    const ROUNDS: usize = 40;
    const EACH: usize = 25;
    let log = fixture.open().await;
    let (_member, readers) = read_alone(&log, GROUPS[0]).await;
    let appending = tokio::spawn(append_rounds(log.clone(), ROUNDS, EACH));
    let mut reading = Vec::new();
    for (partition, mut reader) in readers {
        let stop = log.partition_of(Topic::Messages, b"stop");
        reading.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            // The partition that gets the last record knows when to end; the others are asked
            // later.
            while partition == stop && seen.last().is_none_or(|r| text(r) != "stop") {
                seen.extend(next(&mut reader, 10).await);
            }
            (partition, seen, reader)
        }));
    }
    let appended = within("the appends", appending).await.expect("no panic");
    for reading in reading {
        let (partition, mut seen, mut reader) = within("reading", reading).await.expect("no panic");
        let expected: Vec<_> = appended
            .iter()
            .filter(|(place, _)| place.partition == partition)
            .map(|(place, payload)| (place.offset.expect(KNOWN), payload.clone()))
            .collect();
        let left = expected.len() - seen.len();
        seen.extend(take(&mut reader, left).await);
        let got: Vec<_> = seen.iter().map(|r| (r.offset, text(r))).collect();
        assert_eq!(got, expected, "partition {partition}");
        let (first, _) = range(&mut reader).await;
        reader.seek(first).await.expect("the first offset is there");
        let again: Vec<_> = to_end(&mut reader).await.iter().map(|r| r.offset).collect();
        let offsets: Vec<_> = expected.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(again, offsets, "partition {partition}");
    }
    fixture.close(log).await;
}

/// Appends in rounds, the last record with the key and the payload `stop`; in the order of the log.
async fn append_rounds(
    log: Arc<dyn EventLog>,
    rounds: usize,
    each: usize,
) -> Vec<(Appended, String)> {
    let mut appended = Vec::new();
    for round in 0..rounds {
        let payloads: Vec<_> = (0..each).map(|n| format!("{round}/{n}")).collect();
        let records = payloads.iter().map(|p| record(p, p.clone())).collect();
        let places = append(&log, records).await;
        appended.extend(places.into_iter().zip(payloads));
    }
    let stop = append(&log, vec![record("stop", "stop")]).await[0];
    appended.push((stop, "stop".to_owned()));
    appended.sort_by_key(|(place, _)| (place.partition, place.offset));
    appended
}

/// In the middle of what was written together as well, forwards and backwards, before and after the
/// log was opened again.
pub async fn a_reader_starts_at_any_position(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let mut offsets = Vec::new();
    for round in 0..6 {
        let records = (0..=round).map(|n| record("key", format!("{round}/{n}")));
        let places = append(&log, records.collect()).await;
        offsets.extend(places.iter().map(|place| place.offset.expect(KNOWN)));
    }
    let partition = log.partition_of(Topic::Messages, b"key");
    let check = async |log: &Arc<dyn EventLog>| {
        let (_member, mut readers) = read_alone(log, GROUPS[0]).await;
        let reader = readers.get_mut(&partition).expect("a reader");
        for (at, offset) in offsets
            .iter()
            .enumerate()
            .rev()
            .chain(offsets.iter().enumerate())
        {
            reader.seek(*offset).await.expect("the offset is there");
            let count = (offsets.len() - at).min(4);
            let got: Vec<_> = take(reader, count).await.iter().map(|r| r.offset).collect();
            assert_eq!(got, offsets[at..at + count]);
        }
    };
    check(&log).await;
    fixture.close(log).await;
    let log = fixture.open().await;
    check(&log).await;
    fixture.close(log).await;
}

/// The position belongs to another log, or its records are gone.
pub async fn a_position_outside_of_the_log_is_refused(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let places = append(&log, vec![record("key", "a"), record("key", "b")]).await;
    let (_member, mut readers) = read_alone(&log, GROUPS[0]).await;
    for (partition, mut reader) in std::mem::take(&mut readers) {
        let (first, end) = range(&mut reader).await;
        if partition == places[0].partition {
            assert_eq!(first, places[0].offset.expect(KNOWN));
            assert!(end > places[1].offset.expect(KNOWN));
        } else {
            assert_eq!(first, end);
        }
        for offset in [end + 1, u64::MAX] {
            let refused = reader.seek(offset).await;
            assert_eq!(refused, Err(LogError::OutOfRange { offset, first, end }));
        }
        // The end itself is where the next record will be.
        reader.seek(end).await.expect("the end is in the log");
    }
    fixture.close(log).await;
}

/// Also if it waited before anything was in the log.
pub async fn a_reader_that_waits_is_woken(fixture: &dyn Fixture) {
    const APPENDS: usize = 200;
    let log = fixture.open().await;
    let (_member, mut readers) = read_alone(&log, GROUPS[0]).await;
    let partition = log.partition_of(Topic::Messages, b"key");
    let mut reader = readers.remove(&partition).expect("a reader");
    for n in 0..APPENDS {
        let waiting = tokio::spawn(async move {
            let records = next(&mut reader, 10).await;
            (reader, records)
        });
        if n % 2 == 0 {
            tokio::task::yield_now().await;
        }
        append(&log, vec![record("key", n.to_string())]).await;
        let records;
        (reader, records) = within("the wake-up", waiting).await.expect("no panic");
        assert_eq!(records.len(), 1);
        assert_eq!(text(&records[0]), n.to_string());
    }
    fixture.close(log).await;
}

/// However often, and whatever it was doing.
pub async fn a_cancelled_next_loses_nothing(fixture: &dyn Fixture) {
    const APPENDS: usize = 300;
    let log = fixture.open().await;
    let (_member, mut readers) = read_alone(&log, GROUPS[0]).await;
    let partition = log.partition_of(Topic::Messages, b"key");
    let mut reader: Box<dyn PartitionReader> = readers.remove(&partition).expect("a reader");
    let append_all = async |log: Arc<dyn EventLog>| {
        for n in 0..APPENDS {
            append(&log, vec![record("key", n.to_string())]).await;
        }
    };
    let (mut appending, mut seen, mut cancelled) = (None, Vec::new(), 0_usize);
    let reading = async {
        while seen.len() < APPENDS {
            let patience = async {
                for _ in 0..cancelled % 7 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                records = reader.next(3) => seen.extend(records.expect("the log can be read")),
                () = patience => cancelled += 1,
            }
            // It was cancelled while there was nothing; now there will be something at any moment.
            if cancelled > 20 && appending.is_none() {
                appending = Some(tokio::spawn(append_all(log.clone())));
            }
        }
    };
    within("reading", reading).await;
    let appending = appending.expect("the appends were begun");
    within("the appends", appending).await.expect("no panic");
    assert_grows(&seen);
    let got: Vec<_> = seen.iter().map(text).collect();
    let expected: Vec<_> = (0..APPENDS).map(|n| n.to_string()).collect();
    assert_eq!(got, expected);
    fixture.close(log).await;
}

/// Each has its own place.
pub async fn groups_do_not_disturb_each_other(fixture: &dyn Fixture) {
    let log = fixture.open().await;
    let records = keys("key", 30);
    append(&log, records.iter().map(|k| record(k, k.clone())).collect()).await;
    let (_one, mut first) = read_alone(&log, GROUPS[0]).await;
    let (_two, mut second) = read_alone(&log, GROUPS[1]).await;
    for (partition, reader) in &mut first {
        let other = second.get_mut(partition).expect("a reader");
        let seen = to_end(reader).await;
        // One that has read and committed everything changes nothing for the other.
        let (_, end) = range(reader).await;
        reader.commit(end);
        let offsets = |records: &[crate::Record]| -> Vec<_> {
            records.iter().map(|r| (r.offset, text(r))).collect()
        };
        assert_eq!(offsets(&to_end(other).await), offsets(&seen));
    }
    drop((first, second));
    let mut third = within("joining", log.join(GROUPS[1], Topic::Inbox))
        .await
        .expect("the group is known");
    assert_eq!(assigned(&mut third).await.partition(), 0);
    fixture.close(log).await;
}
