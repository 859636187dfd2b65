//! How long to wait before the next try.

use std::time::Duration;

/// Exponential back-off with full jitter: each wait is anything from nothing to a bound that doubles
/// up to a cap, so that clients that lost the same server do not come back at the same moment.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            tries: 0,
        }
    }

    /// The wait before the next try; at least `at_least`, which the server may have asked for.
    pub(crate) fn next(&mut self, at_least: Option<Duration>) -> Duration {
        let bound = self.bound();
        self.tries = self.tries.saturating_add(1);
        let jitter = bound.mul_f64(rand::random_range(0.0..=1.0));
        // Jitter on top of what the server asked for: it asked many clients for the same.
        at_least.map_or(jitter, |asked| asked.saturating_add(jitter))
    }

    /// What worked for long enough counts as new.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    fn bound(&self) -> Duration {
        // 2^20 times anything useful is above any cap.
        self.first
            .saturating_mul(1 << self.tries.min(20))
            .min(self.cap)
    }
}

#[cfg(test)]
mod tests;
