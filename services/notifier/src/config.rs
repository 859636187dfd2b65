//! What can be set, with defaults that are safe on the internet.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer};

use crate::{post, providers};

/// The settings of the service. What is left out has its default, and a key that is not here is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who delivers pushes. Nobody is pushed to by a provider that is left out.
    pub providers: providers::Config,
    /// How mail is sent. Nobody gets any if it is left out.
    pub mail: Option<post::Config>,
    /// What a notification is headed with whose user wants no names in it, and what mail calls the app.
    pub app_name: String,
    /// One sender causes one notification for one recipient in this time, sustained; what he writes
    /// meanwhile is counted in the next one.
    #[serde(rename = "sender_interval_ms", deserialize_with = "millis")]
    pub sender_interval: Duration,
    /// So many at once after a pause.
    pub sender_burst: NonZeroU32,
    /// Calls that a user may make a second, sustained.
    pub calls_per_second: NonZeroU32,
    /// The same at once after a pause: an app registers and reads preferences when it starts.
    pub calls_burst: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            providers: providers::Config::default(),
            mail: None,
            app_name: "Messenger".to_owned(),
            sender_interval: Duration::from_secs(3),
            sender_burst: number(10),
            calls_per_second: number(2),
            calls_burst: number(20),
        }
    }
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u32::deserialize(deserializer).map(|ms| Duration::from_millis(ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sets_what_it_names_and_nothing_else() {
        let config: Config = toml::from_str("sender_interval_ms = 50\napp_name = 'Chat'").unwrap();
        assert_eq!(config.sender_interval, Duration::from_millis(50));
        assert_eq!(config.app_name, "Chat");
        assert_eq!(config.calls_burst, Config::default().calls_burst);
        for (bad, key) in [
            ("sender_interval = 1", "sender_interval"),
            ("sender_burst = 0", "sender_burst"),
        ] {
            let error = toml::from_str::<Config>(bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
