//! What an operator may set, with defaults that are safe on the internet.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer};

/// The most that a number of things at the same time may be: far above what one process can deal with,
/// and below what the counters can count.
const AT_ONCE_MAX: usize = 1_000_000;

/// The settings of the service. What is left out has its default, and a key that is not here is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients reach the HTTP listener, or the CDN before it, without a slash at the end, such as
    /// `https://media.example.org`. Empty = the listener's own address.
    pub public_url: String,
    /// The origins whose pages may upload (CORS), such as `https://chat.example.org`. `*` = all; a page
    /// needs a token all the same. Downloads may be made from every page.
    pub allowed_origins: Vec<String>,
    /// Give URLs of the object store itself, where it can sign them. They differ from call to call, so no
    /// CDN keeps what is behind them.
    pub direct_download: bool,
    /// Uploads in this process at the same time; each holds below 1 MiB.
    pub uploads_max: usize,
    /// Pictures whose bytes are in memory to be read, at the same time: 16 MiB each, and the pixels.
    pub pictures_max: usize,
    /// How long an upload may be silent before its connection is given up. What came is kept.
    #[serde(rename = "silence_max_ms", deserialize_with = "millis")]
    pub silence_max: Duration,
    /// Uploads that a user may begin or continue a second, sustained.
    pub uploads_per_second: NonZeroU32,
    /// The same at once after a pause: a few messages full of attachments.
    pub uploads_burst: NonZeroU32,
    /// URLs that a user may ask for a second, sustained.
    pub urls_per_second: NonZeroU32,
    /// The same at once after a pause: a device that starts shows many pictures.
    pub urls_burst: NonZeroU32,
    /// How long a URL is good at least; at most twice that. Everybody gets the same one meanwhile.
    #[serde(rename = "url_life_ms", deserialize_with = "millis")]
    pub url_life: Duration,
    /// How often it is looked for blobs that nothing refers to any more.
    #[serde(rename = "removal_interval_ms", deserialize_with = "millis")]
    pub removal_interval: Duration,
    /// Connections of the HTTP listener; more are closed at once.
    pub http_connections_max: usize,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct InvalidConfig {
    /// As it is called in a file.
    pub key: &'static str,
    /// What it must be.
    pub problem: &'static str,
}

impl Config {
    /// Refuses what the service cannot work with.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let url = self.public_url.as_str();
        let is_web = url.starts_with("https://") || url.starts_with("http://");
        if !url.is_empty() && (!is_web || url.ends_with('/')) {
            return Err(InvalidConfig {
                key: "public_url",
                problem: "must begin with https:// or http:// and have no slash at its end",
            });
        }
        for (key, number) in [
            ("uploads_max", self.uploads_max),
            ("pictures_max", self.pictures_max),
            ("http_connections_max", self.http_connections_max),
        ] {
            if !(1..=AT_ONCE_MAX).contains(&number) {
                let problem = "must be from 1 to 1000000";
                return Err(InvalidConfig { key, problem });
            }
        }
        for (key, time, least, problem) in [
            ("silence_max_ms", self.silence_max, 1, "must not be 0"),
            // Full seconds are signed.
            ("url_life_ms", self.url_life, 1_000, "must be 1000 at least"),
            (
                "removal_interval_ms",
                self.removal_interval,
                10,
                "must be 10 at least",
            ),
        ] {
            if time < Duration::from_millis(least) {
                return Err(InvalidConfig { key, problem });
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            public_url: String::new(),
            allowed_origins: vec!["*".to_owned()],
            direct_download: false,
            uploads_max: 256,
            pictures_max: 4,
            silence_max: Duration::from_secs(30),
            uploads_per_second: number(5),
            uploads_burst: number(100),
            urls_per_second: number(200),
            urls_burst: number(2_000),
            url_life: Duration::from_secs(60 * 60),
            removal_interval: Duration::from_secs(60),
            http_connections_max: 10_000,
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
        let config: Config = toml::from_str("url_life_ms = 5000\nuploads_max = 3").unwrap();
        assert_eq!(config.url_life, Duration::from_secs(5));
        assert_eq!(config.uploads_max, 3);
        assert_eq!(config.uploads_burst, Config::default().uploads_burst);
        for (bad, key) in [
            ("url_life = 1", "url_life"),
            ("uploads_burst = 0", "uploads_burst"),
        ] {
            let error = toml::from_str::<Config>(bad).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_setting_that_makes_no_sense_is_named() {
        Config::default().check().unwrap();
        for (text, key) in [
            ("public_url = 'media.example.org'", "public_url"),
            ("public_url = 'https://media.example.org/'", "public_url"),
            ("uploads_max = 0", "uploads_max"),
            ("pictures_max = 1000001", "pictures_max"),
            ("http_connections_max = 0", "http_connections_max"),
            ("silence_max_ms = 0", "silence_max_ms"),
            ("url_life_ms = 999", "url_life_ms"),
            ("removal_interval_ms = 0", "removal_interval_ms"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err();
            assert_eq!(error.key, key);
            assert!(error.to_string().starts_with(key), "{error}");
        }
        let config: Config = toml::from_str("public_url = 'https://a.example.org'").unwrap();
        config.check().unwrap();
    }
}
