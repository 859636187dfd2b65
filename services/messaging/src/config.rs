//! What an operator may set.

use std::{num::NonZeroU32, time::Duration};

use serde::Deserialize;

/// The settings of messaging. In a file, times are in milliseconds and their keys end in `_ms`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where other nodes reach this node's edge. A process of its own that is not told takes the
    /// address that it listens on.
    pub advertised_edge: String,
    /// How often a session hears the version of its user's inbox. Shorter heals faster and costs more.
    #[serde(rename = "heartbeat_interval_ms", with = "runtime::serde_ms")]
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
    /// How long a message may be on its way to a user's devices before he is told of it in another way: a
    /// record of `offline` says so. Users without any session are told at once. 0 = nobody is told, for
    /// deployments without a notifier; 10,000 is what the one-process form takes.
    #[serde(rename = "offline_after_ms", with = "runtime::serde_ms")]
    pub offline_after: Duration,
    /// How long sessions are told to spread their reconnects when the node stops.
    #[serde(rename = "drain_ms", with = "runtime::serde_ms")]
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            advertised_edge: String::new(),
            heartbeat_interval: Duration::from_secs(30),
            // A person sends one a second; a device that catches up with unsent messages some hundred.
            session_frames_per_second: number(100),
            session_burst: number(1_000),
            session_in_flight_max: 256,
            calls_per_second: number(100),
            calls_burst: number(1_000),
            offline_after: Duration::ZERO,
            drain: Duration::from_secs(1),
        }
    }
}
