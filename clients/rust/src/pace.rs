//! Keeps a session within the frames a second that the server allows.

use std::time::Duration;

use tokio::time::Instant;

/// Of what the server allows, the part that is used: frames bunch up on the way, and one that is
/// refused costs more than one that waits.
const SHARE: f64 = 0.9;
/// Of the burst that the server allows, the part that is used.
const BURST_SHARE: f64 = 0.5;

/// A bucket of frames that fills steadily.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Frames a second; 0 = no limit.
    rate: f64,
    burst: f64,
    frames: f64,
    filled_at: Instant,
}

impl Pacer {
    /// For the limits of a session; 0 = no limit.
    pub(crate) fn new(frames_per_second: u32, frames_burst: u32, now: Instant) -> Self {
        let burst = (f64::from(frames_burst) * BURST_SHARE).max(1.0);
        Self {
            rate: f64::from(frames_per_second) * SHARE,
            burst,
            frames: burst,
            filled_at: now,
        }
    }

    /// Whether a frame may be sent now.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        if self.rate == 0.0 {
            return true;
        }
        let since = now.saturating_duration_since(self.filled_at);
        self.frames = (self.frames + since.as_secs_f64() * self.rate).min(self.burst);
        self.filled_at = self.filled_at.max(now);
        self.frames >= 1.0
    }

    /// A frame is sent; some kinds are sent even if there is no room.
    pub(crate) fn spend(&mut self) {
        // Debt beyond one burst would silence the session for longer than the server wants.
        self.frames = (self.frames - 1.0).max(-self.burst);
    }

    /// When there is room again.
    pub(crate) fn room_at(&self) -> Instant {
        if self.rate == 0.0 || self.frames >= 1.0 {
            return self.filled_at;
        }
        // A little more, so that rounding does not make it wake too early.
        let wait = (1.0 - self.frames) / self.rate + 0.000_1;
        self.filled_at + Duration::from_secs_f64(wait.min(60.0))
    }
}

#[cfg(test)]
mod tests;
