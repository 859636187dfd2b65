//! The settings of a process: a file, then the environment, then the command line; what comes later
//! counts more. A key that nobody knows is an error, which names it.
//!
//! A file is TOML. In the environment `MESSENGER__KAFKA__BOOTSTRAP_SERVERS` is the key
//! `kafka.bootstrap_servers`: two underscores, since Kubernetes makes variables with one of the names
//! of its services. On the command line it is `--set kafka.bootstrap_servers=...`.

use std::path::PathBuf;

use clap::Parser;
use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
    value::Value,
};
use serde::de::DeserializeOwned;

/// What variables of ours begin with.
const ENV_PREFIX: &str = "MESSENGER__";
/// What divides the parts of a key in the environment.
const ENV_SEPARATOR: &str = "__";

/// Where settings come from.
#[derive(Debug, Clone, Default, Parser)]
#[command(version, about)]
pub struct Sources {
    /// A file of settings, in TOML
    #[arg(long, value_name = "FILE", env = "MESSENGER_CONFIG")]
    pub config: Option<PathBuf>,
    /// One setting, such as `kafka.bootstrap_servers=127.0.0.1:9092`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// Why there are no settings. Its text names the key and where it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("settings file {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Something after `--set` is not `KEY=VALUE`.
    #[error("--set {0}: must be KEY=VALUE")]
    NotASetting(String),
    /// Unknown, missing, or of another type than it must be.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    /// What is wrong with one setting.
    pub fn setting(key: &str, problem: &dyn std::fmt::Display) -> Self {
        Self::Invalid(format!("setting `{key}`: {problem}"))
    }
}

/// Reads the settings of a process.
pub fn load<T: DeserializeOwned>(sources: &Sources) -> Result<T, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = &sources.config {
        // Read here, because a file that is missing counts as empty otherwise.
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.clone(),
            source,
        })?;
        // An error in it is told with the key; the file is the only one there is.
        figment = figment.merge(Toml::string(&text));
    }
    figment = figment.merge(Env::prefixed(ENV_PREFIX).split(ENV_SEPARATOR));
    for setting in &sources.settings {
        let (key, value) = setting
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| ConfigError::NotASetting(setting.clone()))?;
        // The same notation as in the environment: numbers, booleans, lists in brackets, or text.
        let value: Value = match value.parse() {
            Ok(value) => value,
            Err(never) => match never {},
        };
        figment = figment.merge(Serialized::default(key, value));
    }
    figment.extract().map_err(|errors| {
        let texts: Vec<String> = errors.into_iter().map(|error| describe(&error)).collect();
        ConfigError::Invalid(texts.join("; "))
    })
}

fn describe(error: &figment::Error) -> String {
    let key = error.path.join(".");
    let source = error.metadata.as_ref().map(|metadata| &*metadata.name);
    match (key.is_empty(), source) {
        (true, None) => format!("{}", error.kind),
        (true, Some(source)) => format!("{} ({source})", error.kind),
        (false, None) => format!("setting `{key}`: {}", error.kind),
        (false, Some(source)) => format!("setting `{key}`: {} ({source})", error.kind),
    }
}

#[cfg(test)]
mod tests;
