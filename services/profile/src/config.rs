//! What can be set, with defaults that are safe on the internet.

use std::time::Duration;

/// The settings of the service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cost of guessing a password from a stolen hash.
    pub argon2: Argon2Config,
    /// Passwords hashed at the same time: each takes a core and the memory of `argon2`.
    pub hashes_running_max: usize,
    /// Passwords that wait to be hashed; more are refused as OVERLOADED. With the default cost two
    /// cores hash some 80 a second, so that the last one waits about three seconds.
    pub hashes_waiting_max: usize,
    /// How long an access token is good: it cannot be taken back, so it is short.
    pub access_token_life: Duration,
    /// How long a device stays logged in without refreshing.
    pub refresh_token_life: Duration,
    /// How long after its first use a refresh token may come again because its answer was lost.
    pub refresh_grace: Duration,
    /// Devices of one user that are logged in.
    pub devices_per_user_max: usize,
    /// Failed log-ins for one username that are answered at once.
    pub failed_log_ins_burst: u32,
    /// After those, one more each time this has passed.
    pub failed_log_in_every: Duration,
    /// New accounts in this process that are made at once.
    pub registrations_burst: u32,
    /// After those, one more each time this has passed.
    pub registration_every: Duration,
}

/// The parameters of Argon2id.
#[derive(Debug, Clone, Copy)]
pub struct Argon2Config {
    /// KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Parts of the memory that can be filled at the same time.
    pub lanes: u32,
}

impl Argon2Config {
    /// For tests only: a guess costs next to nothing.
    pub const CHEAPEST: Self = Self {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };
}

impl Default for Argon2Config {
    fn default() -> Self {
        // What OWASP recommends at least.
        Self {
            memory_kib: 19_456,
            passes: 2,
            lanes: 1,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            argon2: Argon2Config::default(),
            hashes_running_max: std::thread::available_parallelism().map_or(1, usize::from),
            hashes_waiting_max: 256,
            access_token_life: Duration::from_secs(15 * 60),
            refresh_token_life: Duration::from_secs(60 * 24 * 60 * 60),
            refresh_grace: Duration::from_secs(30),
            devices_per_user_max: 50,
            failed_log_ins_burst: 10,
            failed_log_in_every: Duration::from_secs(30),
            registrations_burst: 1_000,
            registration_every: Duration::from_millis(10),
        }
    }
}
