//! A partition in memory: its range, its last batches, and who waits for more.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batch::Batch;
use crate::LogError;

/// Batches that a reader takes at once.
const BATCHES_TAKEN_MAX: usize = 64;

/// What others tell a reader. The permit of `Notify` is kept until the reader looks, so that no
/// word is lost between its looking and its waiting; each reader has a signal of its own.
#[derive(Debug, Default)]
pub(super) struct Signal {
    revoked: AtomicBool,
    ended: AtomicBool,
    notify: Notify,
}

impl Signal {
    /// Tells the reader that its partition is another's.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether the partition was taken away.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// The partition is handed on.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether another reader may have the partition.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Makes the reader look again.
    pub(super) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for something to look at.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }
}

/// What a reader finds at its position.
pub(super) enum Found {
    /// Batches, the first of which holds the position.
    Batches(VecDeque<Batch>),
    /// There is nothing yet.
    Nothing,
    /// It is in the file; the partition ends here now.
    InFile { end: u64 },
    /// There is no such position.
    OutOfRange(LogError),
}

struct State {
    first: u64,
    end: u64,
    batches: VecDeque<Batch>,
    bytes: usize,
    readers: Vec<Arc<Signal>>,
}

/// A partition.
pub(super) struct Partition {
    state: Mutex<State>,
    bytes_max: usize,
}

impl Partition {
    /// A partition whose records are all in the file.
    pub(super) fn new(first: u64, end: u64, bytes_max: usize) -> Self {
        let state = State {
            first,
            end,
            batches: VecDeque::new(),
            bytes: 0,
            readers: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            bytes_max,
        }
    }

    /// The first offset, and the next one.
    pub(super) fn range(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.first, state.end)
    }

    /// Hands a durable batch to the readers.
    pub(super) fn publish(&self, batch: Batch) {
        let mut state = self.state.lock();
        state.end = batch.end();
        state.bytes += batch.len();
        state.batches.push_back(batch);
        while state.bytes > self.bytes_max
            && let Some(oldest) = state.batches.pop_front()
        {
            state.bytes -= oldest.len();
        }
        for reader in &state.readers {
            reader.wake();
        }
    }

    /// Forgets what was deleted from the file.
    pub(super) fn trimmed(&self, first: u64) {
        let mut state = self.state.lock();
        state.first = first;
        while state.batches.front().is_some_and(|b| b.end() <= first)
            && let Some(oldest) = state.batches.pop_front()
        {
            state.bytes -= oldest.len();
        }
    }

    /// Wakes `reader` when there is more.
    pub(super) fn add_reader(&self, reader: Arc<Signal>) {
        self.state.lock().readers.push(reader);
    }

    /// Wakes it no more.
    pub(super) fn remove_reader(&self, reader: &Arc<Signal>) {
        let mut state = self.state.lock();
        state.readers.retain(|other| !Arc::ptr_eq(other, reader));
    }

    /// Makes all readers look.
    pub(super) fn wake_all(&self) {
        for reader in &self.state.lock().readers {
            reader.wake();
        }
    }

    /// What is at `offset`.
    pub(super) fn find(&self, offset: u64) -> Found {
        let state = self.state.lock();
        let (first, end) = (state.first, state.end);
        if offset < first || offset > end {
            return Found::OutOfRange(LogError::OutOfRange { offset, first, end });
        }
        if offset == end {
            return Found::Nothing;
        }
        let at = state.batches.partition_point(|b| b.end() <= offset);
        match state.batches.get(at) {
            Some(batch) if batch.base() <= offset => {
                let batches = state.batches.iter().skip(at);
                Found::Batches(batches.take(BATCHES_TAKEN_MAX).cloned().collect())
            }
            _ => Found::InFile { end },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between a reader's look and its wait there is no lock.
    #[tokio::test]
    async fn a_word_to_a_reader_that_does_not_wait_yet_is_kept() {
        let signal = Signal::default();
        for tell in [Signal::wake, Signal::revoke] {
            tell(&signal);
            let waiting = tokio::time::timeout(std::time::Duration::from_secs(60), signal.wait());
            assert!(waiting.await.is_ok());
        }
    }
}
