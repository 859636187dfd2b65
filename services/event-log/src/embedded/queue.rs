//! Appends on their way to the writer. Callers pack their records here themselves, under one short
//! lock, into what the next commit writes; the writer takes it all at once. So an append costs no
//! allocation and no hand-over of its own, and wakes the writer only if that sleeps.

use std::{
    collections::VecDeque,
    mem,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    batch::{Builder, Sized},
    file,
};
use crate::{AppendError, OnAppended, Urgency};

/// Appends in one commit: enough to make the share of the fsync negligible, few enough to answer
/// soon.
pub(super) const COMMIT_APPENDS_MAX: usize = 4_096;
/// Bytes in one commit (one more record may exceed it); a disk writes so much in some 10 ms.
const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that may wait.
pub(super) const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long derived appends wait alone for an urgent one to share its commit.
const DERIVED_WAIT: Duration = Duration::from_millis(5);
const NO_PARTITION: &str = "there is no such partition";
/// Emptied segments that are kept for the next appends.
const SPARE_SEGMENTS_MAX: usize = 2;

/// An append whose record is packed.
pub(super) struct Waiting {
    /// Index of the partition in the file.
    pub(super) partition: u32,
    /// Which record of the partition's batch.
    pub(super) place: u32,
    /// Told when it is durable.
    pub(super) done: OnAppended,
}

/// What one commit writes.
pub(super) struct Segment {
    /// Per partition of the file.
    pub(super) batches: Vec<Builder>,
    /// The partitions that have records, in no order.
    pub(super) touched: Vec<u32>,
    /// In the order of the appends.
    pub(super) waiting: Vec<Waiting>,
    bytes: usize,
    /// What it may take in the file.
    cost: u64,
    urgent: bool,
    since: Option<Instant>,
}

/// What the file may hold when an append is in it, and what it holds now, in bytes.
pub(super) struct Room<'a> {
    pub(super) bytes_max: u64,
    pub(super) used_bytes: &'a AtomicU64,
}

impl Segment {
    fn new(partitions: usize) -> Self {
        Self {
            batches: (0..partitions).map(|_| Builder::default()).collect(),
            touched: Vec::new(),
            waiting: Vec::new(),
            bytes: 0,
            cost: 0,
            urgent: false,
            since: None,
        }
    }

    /// What a record adds to what the segment may take in the file.
    fn cost_of(&self, partition: u32, sized: &Sized) -> u64 {
        let builder = self.batches.get(index(partition));
        let has_row = builder.is_some_and(|builder| builder.records() > 0);
        let row = if has_row { 0 } else { file::ROW_BYTES_MAX };
        row + sized.packed() as u64
    }

    /// Adds a record. Answers whether that makes the segment due earlier; gives `done` back if
    /// there is no such partition.
    fn push(
        &mut self,
        partition: u32,
        sized: &Sized,
        urgency: Urgency,
        done: OnAppended,
    ) -> Result<bool, OnAppended> {
        let cost = self.cost_of(partition, sized);
        let Some(builder) = self.batches.get_mut(index(partition)) else {
            return Err(done);
        };
        if builder.records() == 0 {
            self.touched.push(partition);
        }
        let place = builder.push(sized);
        self.bytes += sized.packed();
        self.cost += cost;
        self.waiting.push(Waiting {
            partition,
            place,
            done,
        });
        let urgent = urgency == Urgency::Now;
        let earlier = self.waiting.len() == 1 || (urgent && !self.urgent);
        self.urgent |= urgent;
        if !urgent && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        Ok(earlier)
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < COMMIT_APPENDS_MAX && self.bytes < COMMIT_BYTES_MAX
    }

    /// Since when derived appends alone may wait no longer.
    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + DERIVED_WAIT)
    }
}

/// What the writer is to do.
pub(super) enum Work {
    /// Write this.
    Commit(Segment),
    /// Look after the file: something asked for it, or the time given has come.
    Housekeep,
    /// All is written, and no more will come.
    End,
}

#[derive(Default)]
struct State {
    /// Oldest first; the last is being filled.
    segments: VecDeque<Segment>,
    spare: Vec<Segment>,
    appends: usize,
    bytes: usize,
    /// What all that waits may take in the file.
    cost: u64,
    /// The same of what the writer has taken, until it is counted as used.
    committing: u64,
    poked: bool,
    closed: bool,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    partitions: usize,
    appends_max: usize,
}

impl Queue {
    /// A queue for a file with so many partitions.
    pub(super) fn new(partitions: usize, appends_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            partitions,
            appends_max,
        }
    }

    /// Queues a record, if there is room for it beside what waits and what is being written. Gives
    /// `done` back with the error if it is refused.
    pub(super) fn push(
        &self,
        partition: u32,
        sized: &Sized,
        urgency: Urgency,
        room: &Room<'_>,
        done: OnAppended,
    ) -> Result<(), (AppendError, OnAppended)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err((AppendError::Closed, done));
        }
        let bytes = state.bytes + sized.packed();
        if state.appends >= self.appends_max || bytes > QUEUE_BYTES_MAX {
            return Err((AppendError::Full, done));
        }
        let filling = state.segments.back().filter(|segment| segment.has_room());
        let needs_segment = filling.is_none();
        let cost = filling.map_or(file::ROW_BYTES_MAX + sized.packed() as u64, |segment| {
            segment.cost_of(partition, sized)
        });
        // Looked at under the lock: the writer counts what it has written as used before it says here
        // that it has, so that nothing is counted too little in between.
        let promised = room.used_bytes.load(Ordering::Relaxed) + state.committing + state.cost;
        if promised.saturating_add(cost) > room.bytes_max {
            return Err((AppendError::Full, done));
        }
        if needs_segment {
            let spare = state.spare.pop();
            let segment = spare.unwrap_or_else(|| Segment::new(self.partitions));
            state.segments.push_back(segment);
        }
        let added = match state.segments.back_mut() {
            Some(segment) => segment.push(partition, sized, urgency, done),
            None => Err(done),
        };
        let wake = added.map_err(|done| (AppendError::Failed(NO_PARTITION.to_owned()), done))?;
        state.bytes = bytes;
        state.cost += cost;
        state.appends += 1;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Asks the writer to look after the file soon.
    pub(super) fn poke(&self) {
        self.state.lock().poked = true;
        self.wake.notify_one();
    }

    /// Takes no more appends; what waits is still written.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for work. Answers [`Work::Housekeep`] at `housekeep_at` at the latest.
    pub(super) fn take(&self, housekeep_at: Option<Instant>) -> Work {
        let mut state = self.state.lock();
        loop {
            if let Some(segment) = take_due(&mut state) {
                return Work::Commit(segment);
            }
            if state.closed && state.segments.is_empty() {
                return Work::End;
            }
            let now = Instant::now();
            if mem::take(&mut state.poked) || housekeep_at.is_some_and(|at| at <= now) {
                return Work::Housekeep;
            }
            let segment_at = state.segments.front().and_then(Segment::due);
            self.sleep(&mut state, [segment_at, housekeep_at]);
        }
    }

    fn sleep(&self, state: &mut MutexGuard<'_, State>, until: [Option<Instant>; 2]) {
        match until.into_iter().flatten().min() {
            Some(at) => drop(self.wake.wait_until(state, at)),
            None => self.wake.wait(state),
        }
    }

    /// Gives a segment back for further use, once what it took in the file counts as used.
    pub(super) fn recycle(&self, mut segment: Segment) {
        for partition in mem::take(&mut segment.touched) {
            if let Some(builder) = segment.batches.get_mut(index(partition)) {
                builder.clear();
            }
        }
        segment.waiting.clear();
        let cost = mem::take(&mut segment.cost);
        (segment.bytes, segment.urgent, segment.since) = (0, false, None);
        let mut state = self.state.lock();
        state.committing -= cost;
        if state.spare.len() < SPARE_SEGMENTS_MAX {
            state.spare.push(segment);
        }
    }

    /// Appends that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().appends
    }

    /// Whether it takes no more.
    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Takes out everything that waits, and stays open.
    pub(super) fn take_all(&self) -> Vec<Waiting> {
        let mut state = self.state.lock();
        (state.appends, state.bytes, state.cost) = (0, 0, 0);
        let segments = mem::take(&mut state.segments);
        segments.into_iter().flat_map(|s| s.waiting).collect()
    }

    /// Closes the queue and takes out everything that waits: nobody will write it.
    pub(super) fn abandon(&self) -> Vec<Waiting> {
        let mut state = self.state.lock();
        state.closed = true;
        let segments = mem::take(&mut state.segments);
        segments.into_iter().flat_map(|s| s.waiting).collect()
    }
}

fn take_due(state: &mut State) -> Option<Segment> {
    let first = state.segments.front()?;
    let now_due = first.urgent
        || state.closed
        || state.segments.len() > 1
        || !first.has_room()
        || first.due().is_none_or(|due| due <= Instant::now());
    if !now_due {
        return None;
    }
    let segment = state.segments.pop_front()?;
    state.appends -= segment.waiting.len();
    state.bytes -= segment.bytes;
    state.cost -= segment.cost;
    state.committing += segment.cost;
    Some(segment)
}

/// A partition's index as an index of slices.
pub(super) fn index(partition: u32) -> usize {
    usize::try_from(partition).unwrap_or(usize::MAX)
}
