//! How many frames a session may send, kept on this side, so that a run that asks for more than the
//! server allows measures the limit and says so, instead of a storm of refusals.

use std::time::{Duration, Instant};

use proto::messaging::v1::SessionLimits;

/// Of what the server allows; the rest is for clocks that do not run alike.
const SHARE: f64 = 0.9;

/// A frame for each interval, and some at once after a pause.
#[derive(Debug)]
pub(crate) struct Allowance {
    interval: Duration,
    ahead_max: Duration,
    /// When the next frame would be due, if all came evenly.
    due: Instant,
}

impl Allowance {
    pub(crate) fn new(limits: &SessionLimits) -> Self {
        let rate = f64::from(limits.frames_per_second.max(1)) * SHARE;
        let interval = Duration::from_secs_f64(1.0 / rate);
        let burst = f64::from(limits.frames_burst.max(1)) * SHARE;
        Self {
            interval,
            ahead_max: interval.mul_f64(burst),
            due: Instant::now(),
        }
    }

    /// Takes a frame, or says when there is one.
    pub(crate) fn take(&mut self) -> Result<(), Instant> {
        let now = Instant::now();
        let due = self.due.max(now);
        if due - now > self.ahead_max {
            return Err(due - self.ahead_max);
        }
        self.due = due + self.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_one_frame_an_interval() {
        let limits = SessionLimits {
            frames_per_second: 1,
            frames_burst: 10,
            ..Default::default()
        };
        let mut allowance = Allowance::new(&limits);
        let before = Instant::now();
        let taken = (0..100).take_while(|_| allowance.take().is_ok()).count();
        assert!((9..=10).contains(&taken), "{taken}");
        let next = allowance.take().unwrap_err();
        assert!(next > before && next <= Instant::now() + Duration::from_secs(2));
    }
}
