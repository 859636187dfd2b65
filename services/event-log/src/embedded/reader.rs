//! Members and readers. A reader that keeps up is served from memory; one that is behind reads rows
//! of the file, off the async threads, until it meets what memory holds.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use tokio::{sync::Notify, time::sleep_until};

use super::{
    Shared,
    batch::{Batch, Cursor},
    groups::{Assignment, Group},
    tail::{Found, Signal},
};
use crate::{LogError, Membership, PartitionReader, Record};

/// Bytes that a reader that is behind takes from the file at once (one more row may exceed it).
const READ_BYTES: usize = 1024 * 1024;

/// A place in a group.
pub(super) struct Member {
    shared: Arc<Shared>,
    group: usize,
    id: u64,
    wake: Arc<Notify>,
}

impl Member {
    /// Joins the group with this index.
    pub(super) fn join(shared: Arc<Shared>, group: usize) -> Result<Self, LogError> {
        let (id, wake) = find(&shared, group)?.join();
        Ok(Self {
            shared,
            group,
            id,
            wake,
        })
    }
}

fn find(shared: &Shared, group: usize) -> Result<&Group, LogError> {
    let missing = || LogError::Failed("there is no such group".to_owned());
    shared.groups.get(group).ok_or_else(missing)
}

#[async_trait]
impl Membership for Member {
    async fn assigned(&mut self) -> Result<Box<dyn PartitionReader>, LogError> {
        loop {
            if self.shared.is_closed() {
                return Err(LogError::Closed);
            }
            match find(&self.shared, self.group)?.assign(self.id) {
                Assignment::Partition(partition, signal) => {
                    let (shared, group) = (self.shared.clone(), self.group);
                    return Ok(Box::new(Reader::new(shared, group, partition, signal)?));
                }
                Assignment::Wait(None) => self.wake.notified().await,
                Assignment::Wait(Some(at)) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Ok(group) = find(&self.shared, self.group) {
            group.leave(self.id);
        }
    }
}

/// Reads a partition.
struct Reader {
    shared: Arc<Shared>,
    group: usize,
    partition: u32,
    /// Of the partition, in the file.
    index: u32,
    signal: Arc<Signal>,
    /// The offset of the next record to answer.
    position: u64,
    /// Where that is, if its batch is here.
    cursor: Option<Cursor>,
    /// The batches after it.
    ahead: VecDeque<Batch>,
    /// Whoever is told lets go only when it drops this.
    kept: bool,
}

impl Reader {
    fn new(
        shared: Arc<Shared>,
        group: usize,
        partition: u32,
        signal: Arc<Signal>,
    ) -> Result<Self, LogError> {
        let found = find(&shared, group)?;
        let index = found.first + partition;
        let committed = found.positions.get(super::queue::index(partition));
        let committed = committed.map_or(0, |p| p.load(std::sync::atomic::Ordering::Acquire));
        let place = shared.partition(index)?;
        place.add_reader(signal.clone());
        let (first, end) = place.range();
        Ok(Self {
            group,
            partition,
            index,
            signal,
            position: committed.clamp(first, end),
            cursor: None,
            ahead: VecDeque::new(),
            kept: false,
            shared,
        })
    }

    /// Fails if this reader may read no more.
    fn check(&self) -> Result<(), LogError> {
        if self.signal.is_revoked() {
            if !self.kept
                && let Ok(group) = find(&self.shared, self.group)
            {
                group.give_back(self.partition, &self.signal);
            }
            return Err(LogError::Revoked);
        }
        if self.shared.is_closed() {
            return Err(LogError::Closed);
        }
        Ok(())
    }

    fn forget_batches(&mut self) {
        self.cursor = None;
        self.ahead.clear();
    }

    /// Answers up to `max` records of the batches that are here.
    fn take(&mut self, max: usize) -> Result<Vec<Record>, LogError> {
        let mut records = Vec::new();
        while records.len() < max {
            let cursor = match &mut self.cursor {
                Some(cursor) => cursor,
                None => {
                    let Some(batch) = self.ahead.pop_front() else {
                        break;
                    };
                    let cursor = batch.cursor(self.position);
                    self.cursor.insert(cursor.ok_or_else(|| self.damaged())?)
                }
            };
            match cursor.read() {
                Some(record) => {
                    self.position = record.offset + 1;
                    records.push(record);
                }
                None if cursor.is_done() => self.cursor = None,
                None if records.is_empty() => {
                    self.forget_batches();
                    return Err(self.damaged());
                }
                // The next call says so.
                None => break,
            }
        }
        Ok(records)
    }

    fn damaged(&self) -> LogError {
        self.failed("the batch is damaged")
    }

    fn failed(&self, error: &str) -> LogError {
        let (partition, offset) = (self.partition, self.position);
        LogError::Failed(format!("partition {partition}, offset {offset}: {error}"))
    }

    /// Batches from the file, the first of which holds the position.
    async fn read_file(&self, end: u64) -> Result<VecDeque<Batch>, LogError> {
        let (index, position) = (self.index, self.position);
        let rows = self
            .shared
            .reads
            .run(move |connection| super::file::read(connection, index, position, end, READ_BYTES))
            .await
            .map_err(|error| self.failed(&error))?;
        let mut batches = VecDeque::with_capacity(rows.len());
        let mut expected = position;
        for (base, row) in rows {
            let parsed = Batch::parse(index, base, row);
            let in_place = |batch: &Batch| {
                // The first may begin below the position; each other where the last one ends.
                let begins = batch.base() == expected || batches.is_empty();
                begins && batch.base() <= expected && batch.end() > expected
            };
            let problem = match parsed {
                Ok(batch) if in_place(&batch) => {
                    expected = batch.end();
                    batches.push_back(batch);
                    continue;
                }
                Ok(_) => "records are missing",
                Err(error) => error,
            };
            if batches.is_empty() {
                return Err(self.failed(problem));
            }
            // What is before it can be answered.
            break;
        }
        Ok(batches)
    }
}

#[async_trait]
impl PartitionReader for Reader {
    fn partition(&self) -> u32 {
        self.partition
    }

    fn keep_until_dropped(&mut self) {
        self.kept = true;
    }

    fn is_revoked(&self) -> bool {
        self.signal.is_revoked()
    }

    async fn range(&mut self) -> Result<(u64, u64), LogError> {
        self.check()?;
        Ok(self.shared.partition(self.index)?.range())
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        self.check()?;
        let (first, end) = self.shared.partition(self.index)?.range();
        if offset < first || offset > end {
            return Err(LogError::OutOfRange { offset, first, end });
        }
        self.forget_batches();
        self.position = offset;
        Ok(())
    }

    async fn next(&mut self, max: usize) -> Result<Vec<Record>, LogError> {
        loop {
            self.check()?;
            let records = self.take(max.max(1))?;
            if !records.is_empty() {
                return Ok(records);
            }
            match self.shared.partition(self.index)?.find(self.position) {
                Found::Batches(batches) => self.ahead = batches,
                Found::Nothing => self.signal.wait().await,
                Found::OutOfRange(error) => return Err(error),
                Found::InFile { end } => {
                    let batches = self.read_file(end).await?;
                    let (first, _) = self.shared.partition(self.index)?.range();
                    // Rows may have been deleted meanwhile; `find` says so in the next round.
                    if batches.is_empty() && self.position >= first {
                        return Err(self.failed("records are missing"));
                    }
                    self.ahead = batches;
                }
            }
        }
    }

    fn commit(&self, offset: u64) {
        // A reader that is told to let go may still say what it has dealt with.
        if self.signal.has_ended() {
            return;
        }
        if let (Ok(group), Ok(place)) = (
            find(&self.shared, self.group),
            self.shared.partition(self.index),
        ) {
            // Who follows another log may claim anything.
            let offset = offset.min(place.range().1);
            if group.commit(self.partition, offset) {
                self.shared.positions_changed();
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Ok(place) = self.shared.partition(self.index) {
            place.remove_reader(&self.signal);
        }
        if let Ok(group) = find(&self.shared, self.group) {
            group.dropped(self.partition, &self.signal);
        }
    }
}
