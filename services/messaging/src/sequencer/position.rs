//! How far a partition has got: everything below is durable, in store and topics (I6).

use std::collections::BTreeSet;

/// The position, of two parts: what batches cover, and the fan-outs that are not confirmed yet. They are
/// durable in any order, and the position is the lowest end of both.
#[derive(Debug)]
pub(super) struct Position {
    covered: u64,
    fan_outs: BTreeSet<u64>,
}

impl Position {
    /// Everything below `position` is durable.
    pub(super) const fn new(position: u64) -> Self {
        Self {
            covered: position,
            fan_outs: BTreeSet::new(),
        }
    }

    /// The record at `offset` has a fan-out that is to become durable. Said before a batch that covers
    /// the record is.
    pub(super) fn fan_out_begun(&mut self, offset: u64) {
        self.fan_outs.insert(offset);
    }

    /// The fan-out of the record at `offset` is durable.
    pub(super) fn fan_out_confirmed(&mut self, offset: u64) {
        self.fan_outs.remove(&offset);
    }

    /// Everything else of the records below `end` is durable.
    pub(super) fn cover(&mut self, end: u64) {
        self.covered = self.covered.max(end);
    }

    /// Everything below is durable.
    pub(super) fn get(&self) -> u64 {
        let first = self.fan_outs.first().copied();
        first.map_or(self.covered, |first| first.min(self.covered))
    }

    /// Fan-outs that are not confirmed.
    pub(super) fn fan_outs(&self) -> usize {
        self.fan_outs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_waits_for_the_first_fan_out_that_is_not_durable() {
        let mut position = Position::new(5);
        for offset in [5, 7, 9] {
            position.fan_out_begun(offset);
        }
        position.cover(12);
        assert_eq!(position.get(), 5);
        // Not the number of those that are durable counts, but the first that is not.
        position.fan_out_confirmed(7);
        assert_eq!((position.get(), position.fan_outs()), (5, 2));
        position.fan_out_confirmed(5);
        assert_eq!(position.get(), 9);
        position.fan_out_confirmed(9);
        assert_eq!((position.get(), position.fan_outs()), (12, 0));
    }

    #[test]
    fn a_fan_out_that_is_durable_moves_nothing_that_no_batch_covers() {
        let mut position = Position::new(5);
        position.fan_out_begun(6);
        position.fan_out_confirmed(6);
        assert_eq!(position.get(), 5);
        position.cover(7);
        position.cover(6);
        assert_eq!(position.get(), 7, "it never goes back");
    }
}
