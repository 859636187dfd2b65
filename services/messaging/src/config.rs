//! What an operator may set.

use std::{num::NonZeroU32, time::Duration};

/// The settings of messaging.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where other nodes reach this node's edge.
    pub advertised_edge: String,
    /// How often a session hears the version of its user's inbox. Shorter heals faster and costs more.
    pub heartbeat_interval: Duration,
    /// Frames that a session may send a second, sustained.
    pub session_frames_per_second: NonZeroU32,
    /// Frames that a session may send at once after a pause.
    pub session_burst: NonZeroU32,
    /// Sends of a session that may wait for their answers.
    pub session_in_flight_max: usize,
    /// Calls that a user may make a second, sustained.
    pub calls_per_second: NonZeroU32,
    /// Calls that a user may make at once after a pause.
    pub calls_burst: NonZeroU32,
    /// How long sessions are told to spread their reconnects when the node stops.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            advertised_edge: "local".to_owned(),
            heartbeat_interval: Duration::from_secs(30),
            // A person sends one a second; a device that catches up with unsent messages some hundred.
            session_frames_per_second: number(100),
            session_burst: number(1_000),
            session_in_flight_max: 256,
            calls_per_second: number(100),
            calls_burst: number(1_000),
            drain: Duration::from_secs(1),
        }
    }
}
