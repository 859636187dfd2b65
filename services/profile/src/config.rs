//! What can be set, with defaults that are safe on the internet.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// The settings of the service. In a file, a time is a whole number, and its unit the end of its name.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The cost of guessing a password from a stolen hash.
    pub argon2: Argon2Config,
    /// Passwords hashed at the same time: each takes a core and the memory of `argon2`.
    pub hashes_running_max: usize,
    /// Passwords that wait to be hashed; more are refused as OVERLOADED. With the default cost two
    /// cores hash some 80 a second, so that the last one waits about three seconds.
    pub hashes_waiting_max: usize,
    /// How long an access token is good: it cannot be taken back, so it is short.
    #[serde(rename = "access_token_life_s", deserialize_with = "seconds")]
    pub access_token_life: Duration,
    /// How long a device stays logged in without refreshing.
    #[serde(rename = "refresh_token_life_s", deserialize_with = "seconds")]
    pub refresh_token_life: Duration,
    /// How long after its first use a refresh token may come again because its answer was lost.
    #[serde(rename = "refresh_grace_s", deserialize_with = "seconds")]
    pub refresh_grace: Duration,
    /// Devices of one user that are logged in.
    pub devices_per_user_max: usize,
    /// Failed log-ins for one username that are answered at once, by all processes together (several
    /// that are tried at the same moment: by each).
    pub failed_log_ins_burst: u32,
    /// After those, one more each time this has passed.
    #[serde(rename = "failed_log_in_every_s", deserialize_with = "seconds")]
    pub failed_log_in_every: Duration,
    /// New accounts in this process that are made at once.
    pub registrations_burst: u32,
    /// After those, one more each time this has passed.
    #[serde(rename = "registration_every_ms", deserialize_with = "milliseconds")]
    pub registration_every: Duration,
    /// Facts that may wait for the log; while there are more, nobody is logged out. A fact takes about
    /// 150 bytes.
    pub outbox_facts_max: usize,
    /// Public keys (SubjectPublicKeyInfo in PEM) whose tokens are good besides those of the key that
    /// signs. Published with it; see README for how a key is replaced.
    pub verification_keys: Vec<String>,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {wanted}")]
pub struct InvalidConfig {
    /// As it is called in a file.
    pub key: &'static str,
    /// What it must be.
    pub wanted: &'static str,
}

impl Config {
    /// Refuses what the service cannot work with.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let at_least_one = "must be at least 1";
        let longer = "must be longer than refresh_grace_s";
        let checks = [
            (
                self.hashes_running_max >= 1,
                "hashes_running_max",
                at_least_one,
            ),
            (
                !self.access_token_life.is_zero(),
                "access_token_life_s",
                at_least_one,
            ),
            (
                self.refresh_token_life > self.refresh_grace,
                "refresh_token_life_s",
                longer,
            ),
            (
                self.devices_per_user_max >= 1,
                "devices_per_user_max",
                at_least_one,
            ),
            (
                self.failed_log_ins_burst >= 1,
                "failed_log_ins_burst",
                at_least_one,
            ),
            (
                self.registrations_burst >= 1,
                "registrations_burst",
                at_least_one,
            ),
            (self.outbox_facts_max >= 1, "outbox_facts_max", at_least_one),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, wanted)) => Err(InvalidConfig { key, wanted }),
            None => Ok(()),
        }
    }
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u32::deserialize(deserializer).map(|seconds| Duration::from_secs(seconds.into()))
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u32::deserialize(deserializer).map(|ms| Duration::from_millis(ms.into()))
}

/// The parameters of Argon2id.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
            outbox_facts_max: 1_000_000,
            verification_keys: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_differs_and_a_wrong_key_is_named() {
        let config: Config = toml::from_str(
            "access_token_life_s = 60\nregistration_every_ms = 5\n[argon2]\nmemory_kib = 8",
        )
        .unwrap();
        assert_eq!(config.access_token_life, Duration::from_secs(60));
        assert_eq!(config.registration_every, Duration::from_millis(5));
        assert_eq!((config.argon2.memory_kib, config.argon2.passes), (8, 2));
        assert_eq!(config.refresh_grace, Config::default().refresh_grace);
        for (text, named) in [
            ("access_token_life = 60", "access_token_life"),
            ("refresh_grace_s = -1", "refresh_grace_s"),
            ("[argon2]\nmemory = 8", "memory"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_setting_that_makes_no_sense_is_named() {
        Config::default().check().unwrap();
        for (text, key) in [
            ("hashes_running_max = 0", "hashes_running_max"),
            ("refresh_token_life_s = 30", "refresh_token_life_s"),
            ("failed_log_ins_burst = 0", "failed_log_ins_burst"),
            ("outbox_facts_max = 0", "outbox_facts_max"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            assert_eq!(config.check().unwrap_err().key, key);
        }
    }
}
