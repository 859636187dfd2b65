//! The thread that writes. Whatever waits is one commit: one row for each partition that has
//! records, one fsync. Then readers get the records, and those who appended get their answers, from
//! here.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode};

use super::{
    Shared, checkpoint, file,
    queue::{Segment, Waiting, Work, index},
};
use crate::{AppendError, Appended, OnAppended};

/// How often positions of groups are stored and what they have passed is deleted. Nothing depends
/// on it but how much of the file is in use.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// Rows that are deleted at once; appends wait for it, some milliseconds at most.
const TRIM_ROWS_MAX: usize = 1_024;
/// Bytes that are deleted at once.
const TRIM_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes after which the sizes of the file and of its WAL are looked up; less in a small file: until
/// then, what the file may hold at most counts.
const MEASURE_EVERY_BYTES: u64 = 1024 * 1024;
/// The part of the bound (one in so many) by which the size is guessed at most.
const MEASURE_SHARE: u64 = 16;

/// The writer.
pub(super) struct Writer {
    shared: Arc<Shared>,
    connection: Connection,
    /// Per partition of the file.
    statements: Vec<file::Statements>,
    /// Per partition of the file, the offset that its next record gets.
    next: Vec<u64>,
    /// Per partition of the file, where it starts.
    first: Vec<u64>,
    /// Per partition, where the records of the commit at hand start.
    bases: Vec<u64>,
    /// Per group, the positions that the file has.
    stored: Vec<Vec<u64>>,
    tidied_at: Instant,
    tidy_failed: bool,
    trim_unfinished: bool,
    bytes_to_measure: u64,
    bytes_to_checkpoint: u64,
    failing: bool,
}

/// Why a commit did not happen.
enum Failure {
    /// Nothing was written.
    Nothing(String),
    /// It may be in the file when that is opened again.
    Unknown(String),
}

impl Writer {
    /// A writer that goes on where the file ends. `stored` are the positions in the file, per
    /// group.
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Connection,
        ranges: &[(u64, u64)],
        stored: Vec<Vec<u64>>,
    ) -> Self {
        Self {
            shared,
            connection,
            statements: (0..)
                .take(ranges.len())
                .map(file::Statements::new)
                .collect(),
            next: ranges.iter().map(|(_, next)| *next).collect(),
            first: ranges.iter().map(|(first, _)| *first).collect(),
            bases: vec![0; ranges.len()],
            stored,
            tidied_at: Instant::now(),
            tidy_failed: false,
            // What was passed before the file was closed may still be there.
            trim_unfinished: true,
            bytes_to_measure: 0,
            bytes_to_checkpoint: checkpoint::EVERY_BYTES,
            failing: false,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self) -> Connection {
        self.measure();
        loop {
            match self.shared.queue.take(self.tidy_at()) {
                Work::Commit(segment) => self.commit(segment),
                Work::Housekeep => {}
                Work::End => break,
            }
            if self.shared.checkpoint.rest_is_small() {
                self.checkpoint();
            }
            if self.tidy_at().is_some_and(|at| at <= Instant::now()) {
                self.tidy();
            }
        }
        self.tidy();
        self.connection
    }

    fn commit(&mut self, mut segment: Segment) {
        #[cfg(test)]
        self.before_commit();
        let written = self.write(&mut segment);
        if let Ok(time_unix_ms) = written {
            for &partition in &segment.touched {
                let at = index(partition);
                let batch = segment.batches[at].sealed(self.next[at], time_unix_ms);
                self.bases[at] = batch.base();
                self.next[at] = batch.end();
                self.shared.partitions[at].publish(batch);
            }
        }
        let (appends, bytes) = (segment.waiting.len() as u64, cost(&segment));
        if written.is_ok() {
            // Before the segment is given back: from then on it does not count as waiting.
            self.shared.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        // What was appended before its caller could hear of a failure must not overtake what failed: it
        // fails too. Taken out before anybody hears of it: what is appended from then on was appended
        // in knowledge of it.
        let behind = match written {
            Ok(_) => Vec::new(),
            Err(_) => self.shared.queue.take_all(),
        };
        for waiting in segment.waiting.drain(..) {
            self.answer(waiting, &written);
        }
        for waiting in behind {
            let error = "an append before this one failed".to_owned();
            answer(waiting.done, Err(AppendError::Failed(error)));
        }
        self.shared.queue.recycle(segment);
        match written {
            Ok(_) => self.written(appends, bytes),
            Err(failure) => self.failed(&failure),
        }
    }

    #[cfg(test)]
    fn before_commit(&self) {
        let hook = self.shared.before_commit.lock().take();
        if let Some(hook) = hook {
            hook(&self.connection);
        }
    }

    /// Makes the records durable; answers their time.
    fn write(&mut self, segment: &mut Segment) -> Result<i64, Failure> {
        let time_unix_ms = self.shared.clock.now_unix_ms();
        let put = |this: &Self, segment: &mut Segment| {
            file::begin(&this.connection)?;
            for &partition in &segment.touched {
                let at = index(partition);
                let base = this.next[at];
                let batch = segment.batches[at].seal(partition, base, time_unix_ms);
                file::insert(&this.connection, &this.statements[at], base, batch)?;
            }
            Ok(())
        };
        for &partition in &segment.touched {
            let at = index(partition);
            let end = self.next[at].saturating_add(u64::from(segment.batches[at].records()));
            if end >= file::OFFSET_END {
                return Err(Failure::Nothing("the partition is at its end".to_owned()));
            }
        }
        let result = put(self, segment).map_err(|e: rusqlite::Error| Failure::Nothing(text(&e)));
        let result = result.and_then(|()| file::commit(&self.connection).map_err(commit_failure));
        if result.is_err() {
            self.roll_back();
        }
        result.map(|()| time_unix_ms)
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the log could not take a failed commit back");
        }
    }

    fn answer(&self, waiting: Waiting, written: &Result<i64, Failure>) {
        let result = match written {
            Ok(_) => Ok(Appended {
                partition: self.shared.partition_in_topic(waiting.partition),
                offset: Some(self.bases[index(waiting.partition)] + u64::from(waiting.place)),
            }),
            Err(Failure::Nothing(error)) => Err(AppendError::Failed(error.clone())),
            Err(Failure::Unknown(error)) => Err(AppendError::Unknown(error.clone())),
        };
        answer(waiting.done, result);
    }

    fn written(&mut self, appends: u64, bytes: u64) {
        if self.failing {
            tracing::info!("the log can write again");
            self.failing = false;
        }
        let counters = &self.shared.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.appends.fetch_add(appends, Ordering::Relaxed);
        self.bytes_to_measure = self.bytes_to_measure.saturating_sub(bytes);
        if self.bytes_to_measure == 0 {
            self.measure();
        }
        self.bytes_to_checkpoint = self.bytes_to_checkpoint.saturating_sub(bytes);
        if self.bytes_to_checkpoint == 0 {
            self.bytes_to_checkpoint = checkpoint::EVERY_BYTES;
            self.shared.checkpoint.ask();
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let (Failure::Nothing(error) | Failure::Unknown(error)) = failure;
        if !self.failing {
            tracing::error!(error, "the log cannot write");
            self.failing = true;
        }
        // On a full disk this may give the WAL its room back, and what was passed can be deleted.
        self.checkpoint();
        self.trim_unfinished = true;
    }

    /// Looks up what the file holds, and keeps the WAL within its bound.
    fn measure(&mut self) {
        let share = self.shared.bytes_max / MEASURE_SHARE;
        self.bytes_to_measure = MEASURE_EVERY_BYTES.min(share);
        let frames = match file::wal_frames(&self.connection) {
            Ok(frames) if frames.all * file::FRAME_BYTES > checkpoint::WAL_BYTES_MAX => {
                self.checkpoint()
            }
            Ok(frames) => Some(frames),
            Err(error) => {
                tracing::warn!(%error, "the log's WAL could not be looked at");
                None
            }
        };
        // A WAL that cannot be moved, because another program holds on to it, counts as used.
        let wal = frames.map_or(0, |f| f.all * file::FRAME_BYTES - checkpoint::WAL_BYTES_MAX);
        match file::used_bytes(&self.connection) {
            Ok(used) => {
                let used = used + wal.max(0).cast_unsigned();
                self.shared.used_bytes.store(used, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the log's size could not be looked up"),
        }
    }

    fn checkpoint(&self) -> Option<file::WalFrames> {
        match self.shared.checkpoint.run(&self.connection) {
            // All was moved: the next commit starts the WAL anew.
            Ok(frames) if frames.moved >= frames.all => Some(file::WalFrames { all: 0, moved: 0 }),
            Ok(frames) => Some(frames),
            Err(error) => {
                tracing::warn!(%error, "the log's WAL could not be moved");
                None
            }
        }
    }

    /// When to tidy up next.
    fn tidy_at(&self) -> Option<Instant> {
        let shared = &self.shared;
        let news = shared.positions_dirty.load(Ordering::Acquire);
        if self.tidy_failed {
            return Some(self.tidied_at + TIDY_EVERY);
        }
        if self.trim_unfinished || (news && shared.is_full.load(Ordering::Relaxed)) {
            return Some(self.tidied_at);
        }
        // While it is full, its size is looked up again and again: it may have been looked up at a
        // moment at which the WAL could not be moved.
        (news || shared.is_full.load(Ordering::Relaxed)).then(|| self.tidied_at + TIDY_EVERY)
    }

    /// Stores positions and deletes what all groups have passed, a step of it.
    fn tidy(&mut self) {
        self.tidied_at = Instant::now();
        self.shared.positions_dirty.swap(false, Ordering::AcqRel);
        let was_full = self.shared.is_full.swap(false, Ordering::Relaxed);
        match self.store_and_trim() {
            Ok(deleted) => {
                self.tidy_failed = false;
                if deleted || was_full {
                    self.measure();
                }
            }
            Err(error) => {
                if !self.tidy_failed {
                    tracing::error!(%error, "the log cannot delete what was read");
                }
                self.roll_back();
                self.tidy_failed = true;
                self.shared.positions_dirty.store(true, Ordering::Release);
            }
        }
    }

    /// Answers whether anything was deleted.
    fn store_and_trim(&mut self) -> Result<bool, rusqlite::Error> {
        self.trim_unfinished = false;
        let news = self.news();
        let passed = self.passed();
        if news.is_empty() && passed.is_empty() {
            return Ok(false);
        }
        let connection = &self.connection;
        file::begin(connection)?;
        for &(group, partition, position) in &news {
            let place = &self.shared.groups[group];
            let in_file = place.first + partition;
            file::put_position(connection, &place.name, in_file, position)?;
        }
        let mut budget = file::TrimBudget {
            rows: TRIM_ROWS_MAX,
            bytes: TRIM_BYTES_MAX,
        };
        let mut trimmed = Vec::new();
        for (partition, until) in passed {
            if budget.rows == 0 || budget.bytes == 0 {
                self.trim_unfinished = true;
                break;
            }
            let at = index(partition);
            let (statements, next) = (&self.statements[at], self.next[at]);
            let first = file::trim(connection, statements, until, next, &mut budget)?;
            trimmed.push((partition, first));
        }
        self.trim_unfinished |= budget.rows == 0 || budget.bytes == 0;
        file::commit(connection)?;
        for (group, partition, position) in news {
            self.stored[group][index(partition)] = position;
        }
        let deleted = !trimmed.is_empty();
        for (partition, first) in trimmed {
            self.first[index(partition)] = first;
            self.shared.partitions[index(partition)].trimmed(first);
        }
        Ok(deleted)
    }

    /// Positions that the file does not have: group, partition of its topic, position.
    fn news(&self) -> Vec<(usize, u32, u64)> {
        let mut news = Vec::new();
        for (at, (group, stored)) in self.shared.groups.iter().zip(&self.stored).enumerate() {
            for ((partition, position), stored) in (0..).zip(&group.positions).zip(stored) {
                let position = position.load(Ordering::Acquire);
                if position > *stored {
                    news.push((at, partition, position));
                }
            }
        }
        news
    }

    /// Partitions of the file that hold records that all groups have passed, and how far they have.
    fn passed(&self) -> Vec<(u32, u64)> {
        let mut least = vec![None::<u64>; self.first.len()];
        for group in &self.shared.groups {
            for (partition, position) in (group.first..).zip(&group.positions) {
                let position = position.load(Ordering::Acquire);
                let least = &mut least[index(partition)];
                *least = Some(least.map_or(position, |least| least.min(position)));
            }
        }
        let passed = (0..).zip(least).zip(&self.first);
        passed
            .filter_map(|((p, until), first)| Some((p, until.filter(|u| u > first)?)))
            .collect()
    }
}

/// What a written segment takes in the file at most.
fn cost(segment: &Segment) -> u64 {
    let rows = segment
        .touched
        .iter()
        .map(|at| &segment.batches[index(*at)]);
    rows.map(|row| file::row_bytes_max(row.len())).sum()
}

/// A callback that panics is its owner's fault; everybody else's records are still to be written.
pub(super) fn answer(done: OnAppended, result: Result<Appended, AppendError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a callback of an append panicked");
    }
}

fn text(error: &rusqlite::Error) -> String {
    error.to_string()
}

fn commit_failure(error: rusqlite::Error) -> Failure {
    match error.sqlite_error_code() {
        // The end of the commit, which makes it count, could not be written.
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Failure::Nothing(text(&error))
        }
        // It may have been written and only the fsync failed. Then it counts if the process ends
        // before the next commit takes its place in the WAL.
        _ => Failure::Unknown(text(&error)),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    /// Whoever is told that nothing was written may let another record take its place.
    #[test]
    fn only_a_commit_that_cannot_count_is_called_failed() {
        let failure = |code| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            matches!(commit_failure(error), Failure::Nothing(_))
        };
        assert!(failure(ffi::SQLITE_FULL));
        assert!(failure(ffi::SQLITE_BUSY));
        assert!(!failure(ffi::SQLITE_IOERR_FSYNC));
        assert!(!failure(ffi::SQLITE_IOERR_WRITE));
        assert!(!failure(ffi::SQLITE_CORRUPT));
    }
}
