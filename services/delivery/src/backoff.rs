//! Waiting before another attempt, longer each time and never in step with others.

use std::time::Duration;

/// Before the first new attempt; a restarted peer in the same process is back by then.
const FIRST_MS: u64 = 20;
/// The longest wait: two thirds of it pass on average, well below a heartbeat's interval.
const LONGEST_MS: u64 = 2_000;

/// How long to wait after each failure in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next_ms: FIRST_MS }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next_ms = FIRST_MS;
    }

    /// After a failure: between half and all of a wait that doubles each time.
    pub(crate) fn next(&mut self) -> Duration {
        let wait_ms = rand::random_range(self.next_ms / 2..=self.next_ms);
        self.next_ms = self.next_ms.saturating_mul(2).min(LONGEST_MS);
        Duration::from_millis(wait_ms)
    }
}
