//! How often something may happen, in bounded memory.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use parking_lot::Mutex;

/// Cells for names: 1 MiB. Names that fall into one cell share it, so that whoever locks one name
/// out hits another one by chance once in 65,536. Nothing is ever pushed out, so that nobody gets
/// rid of a count by making others.
const CELLS: usize = 65_536;

/// `burst` at once, then one more each `every`.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// At least 1.
    pub burst: u32,
    /// The time in which one comes back.
    pub every: Duration,
}

/// Bursts that may be taken of a quota that several processes share before one of them sees that it is
/// exhausted: as many as there are processes. What is taken beyond that is forgotten, so that no name
/// is locked for longer than this many times its burst takes to come back.
const SHARED_BURSTS_MAX: i64 = 8;

impl Quota {
    /// The time in which one comes back.
    pub fn every_ms(&self) -> i64 {
        i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX)
    }

    /// The most that can be taken where several processes share the quota, as the time in which all of
    /// it comes back.
    pub fn taken_max_ms(&self) -> i64 {
        self.burst_ms().saturating_mul(SHARED_BURSTS_MAX)
    }

    /// Whether there is one left when all that was taken comes back in `taken_ms`; if not, says when
    /// there will be.
    pub fn check(&self, taken_ms: i64) -> Result<(), Duration> {
        let over_ms = taken_ms
            .saturating_add(self.every_ms())
            .saturating_sub(self.burst_ms());
        if over_ms > 0 {
            return Err(Duration::from_millis(over_ms.unsigned_abs()));
        }
        Ok(())
    }

    fn burst_ms(&self) -> i64 {
        self.every_ms().saturating_mul(i64::from(self.burst))
    }
}

/// One count against a quota: the time at which all of it will have come back.
#[derive(Debug, Default)]
pub struct Cell {
    full_unix_ms: i64,
}

impl Cell {
    /// Takes one; if there is none, says when there will be.
    pub fn take(&mut self, quota: &Quota, now_unix_ms: i64) -> Result<(), Duration> {
        let latest = now_unix_ms.saturating_add(quota.burst_ms());
        // Also no later than `latest`: a clock that was set back locks nobody out for years.
        let full = self.full_unix_ms.max(now_unix_ms).min(latest);
        quota.check(full.saturating_sub(now_unix_ms))?;
        self.full_unix_ms = full.saturating_add(quota.every_ms());
        Ok(())
    }

    /// Gives one back that was taken for nothing.
    pub fn give_back(&mut self, quota: &Quota) {
        self.full_unix_ms = self.full_unix_ms.saturating_sub(quota.every_ms());
    }
}

/// Counts for any number of names in a fixed number of cells.
pub struct Cells {
    hasher: RandomState,
    cells: Box<[Mutex<Cell>]>,
}

impl Default for Cells {
    fn default() -> Self {
        let cells = std::iter::repeat_with(Mutex::default).take(CELLS);
        Self {
            // Random, so that nobody finds names that share a cell.
            hasher: RandomState::new(),
            cells: cells.collect(),
        }
    }
}

impl Cells {
    /// The cell of a name.
    pub fn of(&self, name: &impl Hash) -> &Mutex<Cell> {
        let hash = self.hasher.hash_one(name);
        // The remainder is below the length of the boxed slice.
        let index = usize::try_from(hash % CELLS as u64).unwrap_or(0);
        &self.cells[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_at_a_time() {
        let quota = Quota {
            burst: 3,
            every: Duration::from_secs(10),
        };
        let mut cell = Cell::default();
        for _ in 0..3 {
            cell.take(&quota, 1_000_000).unwrap();
        }
        let wait = cell.take(&quota, 1_000_000).unwrap_err();
        assert_eq!(wait, Duration::from_secs(10));
        assert!(cell.take(&quota, 1_009_999).is_err());
        cell.take(&quota, 1_010_000).unwrap();
        assert!(cell.take(&quota, 1_010_000).is_err());
        cell.give_back(&quota);
        cell.take(&quota, 1_010_000).unwrap();
        // The clock goes back a year: what was locked stays locked for the burst's time at most.
        assert_eq!(
            cell.take(&quota, 5_000).unwrap_err(),
            Duration::from_secs(10)
        );
    }
}
