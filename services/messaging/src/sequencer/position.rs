//! How far a partition has got: everything below is durable, in store and topics (I6).

use std::collections::BTreeSet;

use event_log::Topic;

/// The position, of two parts: what batches cover, and the derived records that are not confirmed yet.
/// They are durable in any order, and the position is the lowest end of both.
#[derive(Debug)]
pub(super) struct Position {
    covered: u64,
    /// One record has at most one for each topic.
    derived: BTreeSet<(u64, Topic)>,
}

impl Position {
    /// Everything below `position` is durable.
    pub(super) const fn new(position: u64) -> Self {
        Self {
            covered: position,
            derived: BTreeSet::new(),
        }
    }

    /// The record at `offset` makes one of `topic` that is to become durable. Said before a batch that
    /// covers the record is.
    pub(super) fn derived_begun(&mut self, offset: u64, topic: Topic) {
        self.derived.insert((offset, topic));
    }

    /// What the record at `offset` makes of `topic` is durable.
    pub(super) fn derived_confirmed(&mut self, offset: u64, topic: Topic) {
        self.derived.remove(&(offset, topic));
    }

    /// Everything else of the records below `end` is durable.
    pub(super) fn cover(&mut self, end: u64) {
        self.covered = self.covered.max(end);
    }

    /// Everything below is durable.
    pub(super) fn get(&self) -> u64 {
        let first = self.derived.first();
        first.map_or(self.covered, |(first, _)| self.covered.min(*first))
    }

    /// Derived records that are not confirmed.
    pub(super) fn derived(&self) -> usize {
        self.derived.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Topic = Topic::Fanout;

    #[test]
    fn the_position_waits_for_the_first_derived_record_that_is_not_durable() {
        let mut position = Position::new(5);
        for offset in [5, 7, 9] {
            position.derived_begun(offset, TOPIC);
        }
        position.cover(12);
        assert_eq!(position.get(), 5);
        // Not the number of those that are durable counts, but the first that is not.
        position.derived_confirmed(7, TOPIC);
        assert_eq!((position.get(), position.derived()), (5, 2));
        position.derived_confirmed(5, TOPIC);
        assert_eq!(position.get(), 9);
        position.derived_confirmed(9, TOPIC);
        assert_eq!((position.get(), position.derived()), (12, 0));
    }

    #[test]
    fn a_record_that_makes_others_for_two_topics_is_passed_once_both_are_durable() {
        let mut position = Position::new(5);
        position.derived_begun(5, Topic::References);
        position.derived_begun(5, Topic::Fanout);
        position.cover(6);
        position.derived_confirmed(5, Topic::Fanout);
        assert_eq!((position.get(), position.derived()), (5, 1));
        position.derived_confirmed(5, Topic::References);
        assert_eq!((position.get(), position.derived()), (6, 0));
    }

    #[test]
    fn a_derived_record_that_is_durable_moves_nothing_that_no_batch_covers() {
        let mut position = Position::new(5);
        position.derived_begun(6, TOPIC);
        position.derived_confirmed(6, TOPIC);
        assert_eq!(position.get(), 5);
        position.cover(7);
        position.cover(6);
        assert_eq!(position.get(), 7, "it never goes back");
    }
}
