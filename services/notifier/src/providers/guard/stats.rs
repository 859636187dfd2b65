//! What a guard counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Settled;

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuardStats {
    /// Pushes that were taken.
    pub taken: u64,
    /// Devices that were gone.
    pub gone: u64,
    /// Pushes that will never be taken.
    pub refused: u64,
    /// Pushes of too many bytes.
    pub too_large: u64,
    /// Pushes that are to come again later.
    pub busy: u64,
    /// Pushes for which it was too late.
    pub expired: u64,
    /// Tries, of whatever end.
    pub tries: u64,
    /// Tries that failed for a reason that is not the push's.
    pub failed: u64,
    /// How often the provider was left alone.
    pub opened: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    taken: AtomicU64,
    gone: AtomicU64,
    refused: AtomicU64,
    too_large: AtomicU64,
    busy: AtomicU64,
    expired: AtomicU64,
    pub(super) tries: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) opened: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn settled(&self, settled: &Settled) {
        match settled {
            Settled::Taken => count(&self.taken),
            Settled::Gone => count(&self.gone),
            Settled::Refused(_) => count(&self.refused),
            Settled::TooLarge => count(&self.too_large),
            Settled::BusyUntil(_) => count(&self.busy),
            Settled::Expired => count(&self.expired),
            Settled::Old | Settled::Stopped => {}
        }
    }

    pub(super) fn read(&self) -> GuardStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GuardStats {
            taken: read(&self.taken),
            gone: read(&self.gone),
            refused: read(&self.refused),
            too_large: read(&self.too_large),
            busy: read(&self.busy),
            expired: read(&self.expired),
            tries: read(&self.tries),
            failed: read(&self.failed),
            opened: read(&self.opened),
        }
    }
}
