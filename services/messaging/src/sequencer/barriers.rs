//! Barriers that wait until everything before them is durable. They hold up nothing: one that is lost
//! with its node, or because the log does not take it, is sent again by the blob service some day. But
//! none is passed on too early, or a blob would be removed that something refers to.

use bytes::Bytes;

/// A barrier on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// Where its record is: it may be passed on once everything below is durable.
    pub(crate) offset: u64,
    /// Of its record: so it gets into the partition of the same number.
    pub(crate) key: Bytes,
    /// Receipts that expire at or before this time are in no record after it, in Unix milliseconds.
    pub(crate) as_of_unix_ms: i64,
}

impl Barrier {
    /// Where the later one is, everything before both is durable, so it says what either says.
    fn and(self, earlier: &Self) -> Self {
        Self {
            as_of_unix_ms: self.as_of_unix_ms.max(earlier.as_of_unix_ms),
            ..self
        }
    }
}

/// The first that waits, so that something is passed on however many come, and the last, which says
/// most. Those between them would say nothing that the last does not.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    first: Option<Barrier>,
    last: Option<Barrier>,
}

impl Barriers {
    /// A barrier, which is behind all others.
    pub(crate) fn add(&mut self, barrier: Barrier) {
        if self.first.is_none() {
            self.first = Some(barrier);
            return;
        }
        self.last = Some(match self.last.take() {
            Some(earlier) => barrier.and(&earlier),
            None => barrier,
        });
    }

    /// What may be passed on if everything below `position` is durable: one barrier for all that it is
    /// behind of.
    pub(crate) fn reached(&mut self, position: u64) -> Option<Barrier> {
        let first = self.first.take_if(|first| first.offset <= position)?;
        let Some(last) = self.last.take() else {
            return Some(first);
        };
        if last.offset <= position {
            return Some(last.and(&first));
        }
        self.first = Some(last);
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barrier(offset: u64, as_of_unix_ms: i64) -> Barrier {
        Barrier {
            offset,
            key: Bytes::copy_from_slice(&offset.to_be_bytes()),
            as_of_unix_ms,
        }
    }

    #[test]
    fn a_barrier_is_passed_on_once_all_before_it_is_durable_and_no_sooner() {
        let mut barriers = Barriers::default();
        assert_eq!(barriers.reached(9), None);
        barriers.add(barrier(5, 100));
        assert_eq!(barriers.reached(4), None);
        assert_eq!(barriers.reached(5), Some(barrier(5, 100)));
        assert_eq!(barriers.reached(6), None, "it is passed on once");
    }

    #[test]
    fn of_many_that_wait_the_first_is_passed_on_and_the_last_speaks_for_the_others() {
        let mut barriers = Barriers::default();
        // Of several clocks.
        for (offset, as_of) in [(5, 100), (7, 300), (9, 200)] {
            barriers.add(barrier(offset, as_of));
        }
        assert_eq!(barriers.reached(8), Some(barrier(5, 100)));
        barriers.add(barrier(12, 250));
        assert_eq!(barriers.reached(11), Some(barrier(9, 300)));
        assert_eq!(barriers.reached(12), Some(barrier(12, 250)));
        for (offset, as_of) in [(15, 900), (16, 800)] {
            barriers.add(barrier(offset, as_of));
        }
        assert_eq!(barriers.reached(16), Some(barrier(16, 900)));
        assert_eq!(barriers.reached(20), None);
    }
}
