//! Those who deliver pushes, and what stands before each: a rate, a number at once, and a breaker. See
//! the README of this crate.

use std::{path::PathBuf, sync::Arc};

use runtime::clock::Clock;
use serde::Deserialize;

use self::guard::Guard;

pub mod apns;
pub mod fcm;
pub mod guard;
mod http;
pub(crate) mod trust;
pub mod web_push;

/// Which providers there are. One that is left out is not pushed to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Apple.
    pub apns: Option<apns::Config>,
    /// Google.
    pub fcm: Option<fcm::Config>,
    /// Browsers.
    pub web_push: Option<web_push::Config>,
}

/// Why a provider cannot be used. Its text shows nothing secret.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file of a credential cannot be read, or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The file is not what it must be.
    #[error("{path}: {problem}")]
    Credential {
        /// Which.
        path: PathBuf,
        /// What it is not.
        problem: String,
    },
    /// A setting has a value that cannot be used.
    #[error("setting `{key}`: {problem}")]
    Setting {
        /// Which.
        key: &'static str,
        /// Why not.
        problem: String,
    },
    /// TLS or the resolver cannot be set up.
    #[error("the http client: {0}")]
    Client(String),
}

/// The providers of this deployment, each behind its guard. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    /// Apple, with what it may be asked for.
    pub apns: Option<(Arc<apns::Apns>, Arc<Guard>)>,
    /// Google.
    pub fcm: Option<(Arc<fcm::Fcm>, Arc<Guard>)>,
    /// Browsers.
    pub web_push: Option<(Arc<web_push::WebPush>, Arc<Guard>)>,
}

impl Providers {
    /// Reads the credentials. Connects to nobody yet.
    pub fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, SetupError> {
        let mut providers = Self::default();
        if let Some(config) = &config.apns {
            let apns = Arc::new(apns::Apns::open(config, clock.clone())?);
            let guard = Guard::new(apns.clone(), &config.guard, clock.clone());
            providers.apns = Some((apns, Arc::new(guard)));
        }
        if let Some(config) = &config.fcm {
            let fcm = Arc::new(fcm::Fcm::open(config, clock.clone())?);
            let guard = Guard::new(fcm.clone(), &config.guard, clock.clone());
            providers.fcm = Some((fcm, Arc::new(guard)));
        }
        if let Some(config) = &config.web_push {
            let web_push = Arc::new(web_push::WebPush::open(config, clock.clone())?);
            let guard = Guard::new(web_push.clone(), &config.guard, clock.clone());
            providers.web_push = Some((web_push, Arc::new(guard)));
        }
        Ok(providers)
    }

    /// All guards that there are.
    pub fn guards(&self) -> Vec<Arc<Guard>> {
        let apns = self.apns.as_ref().map(|(_, guard)| guard.clone());
        let fcm = self.fcm.as_ref().map(|(_, guard)| guard.clone());
        let web_push = self.web_push.as_ref().map(|(_, guard)| guard.clone());
        [apns, fcm, web_push].into_iter().flatten().collect()
    }
}

fn read(path: &std::path::Path) -> Result<String, SetupError> {
    std::fs::read_to_string(path).map_err(|source| SetupError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
