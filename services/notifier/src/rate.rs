//! How many notifications one sender may cause for one recipient: whoever writes a hundred messages is read
//! as well after a few of them, and they are all counted in the next one.

use std::{num::NonZeroU32, time::Duration};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use runtime::ids::UserId;
use tokio::time::Instant;

use crate::limits::RATES_MAX;

/// Counts of the pairs that were pushed for last. A process counts for itself: with n replicas, a pair has
/// the partition of its recipient, and so one process, unless that moves.
pub(crate) struct Rates {
    /// Time of one push, sustained.
    interval: Duration,
    /// How far a pair may be ahead of that.
    ahead_max: Duration,
    /// When the pair would be even, as the generic cell rate algorithm has it.
    even_at: Cache<(UserId, UserId), std::sync::Arc<Mutex<Instant>>>,
}

impl Rates {
    /// `burst` at once, and one each `interval` after that.
    pub(crate) fn new(interval: Duration, burst: NonZeroU32) -> Self {
        Self {
            interval,
            ahead_max: interval * (burst.get() - 1),
            even_at: Cache::new(RATES_MAX),
        }
    }

    /// Counts a push; or answers how long it has to wait, and counts nothing.
    pub(crate) fn check(&self, sender: UserId, recipient: UserId) -> Option<Duration> {
        let now = Instant::now();
        let key = (sender, recipient);
        let fresh = || Ok::<_, std::convert::Infallible>(std::sync::Arc::new(Mutex::new(now)));
        let Ok(even_at) = self.even_at.get_or_insert_with(&key, fresh);
        let mut even_at = even_at.lock();
        let ahead = even_at.saturating_duration_since(now);
        if ahead > self.ahead_max {
            return Some(ahead - self.ahead_max);
        }
        *even_at = (*even_at).max(now) + self.interval;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sender_is_slowed_down_for_this_recipient_only_and_recovers() {
        let rates = Rates::new(Duration::from_secs(10), NonZeroU32::new(3).unwrap());
        let [sender, one, other] = [1, 2, 3].map(|n| UserId::from_bytes([n; 16]));
        for _ in 0..3 {
            assert_eq!(rates.check(sender, one), None);
        }
        assert_eq!(rates.check(sender, one), Some(Duration::from_secs(10)));
        assert_eq!(rates.check(sender, other), None);
        assert_eq!(rates.check(other, one), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(rates.check(sender, one), None);
        assert!(rates.check(sender, one).is_some());
        tokio::time::advance(Duration::from_secs(100)).await;
        for _ in 0..3 {
            assert_eq!(rates.check(sender, one), None);
        }
        assert!(rates.check(sender, one).is_some());
    }
}
