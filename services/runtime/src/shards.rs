//! Which of the named replicas of a service owns a key.
//!
//! Processes that never speak about it must come to the same answer, so the function is a contract:
//! rendezvous hashing (highest random weight). The weight of a replica for a key is the first 8 bytes,
//! as a big-endian number, of SHA-256 over the replica's name, a zero byte, and the key. The replica
//! with the highest weight owns the key; of equal weights the one whose name sorts last.
//!
//! So the order of the list means nothing, and a list with one replica more or less moves only the
//! keys which that one owns: one in as many as there are replicas. Names decide and addresses do not: a
//! replica that moves keeps its name, and with it its keys.

use std::{collections::HashSet, str::FromStr};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tonic::transport::Uri;

use crate::{
    auth::{ServiceChannel, ServiceIdentity},
    channel,
};

/// Replicas in one list: a look-up weighs each of them, some 0.1 us with SHA instructions.
pub const REPLICAS_MAX: usize = 64;
/// Bytes of a replica's name: a host name.
pub const NAME_BYTES_MAX: usize = 253;

/// One replica, as a configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// Its name, which every process must know it by: it decides what the replica owns.
    pub name: String,
    /// Where it is reached by other services, such as `http://10.1.2.3:7001`.
    pub url: String,
}

/// Why a list of replicas is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardsError {
    /// There must be one that owns the keys.
    #[error("replicas: must name at least one")]
    None,
    /// More than [`REPLICAS_MAX`].
    #[error("replicas: at most {REPLICAS_MAX}")]
    TooMany,
    /// Two of the same name would own the same keys.
    #[error("replicas: {0:?} is named twice")]
    Repeated(String),
    /// Empty, longer than [`NAME_BYTES_MAX`], or with a character that is not visible ASCII.
    #[error("replicas: {0:?} is not a name")]
    BadName(String),
    /// There is no connecting to this.
    #[error("replicas: the url of {name:?} must be like http://HOST:PORT, not {url:?}")]
    BadUrl {
        /// Whose.
        name: String,
        /// What was given.
        url: String,
    },
}

/// The owners of all keys. Replicas are numbered in the order in which they were given.
#[derive(Debug, Clone)]
pub struct Shards {
    replicas: Vec<Owner>,
}

#[derive(Debug, Clone)]
struct Owner {
    name: String,
    /// Has taken in the name and the zero byte.
    prefix: Sha256,
}

impl Shards {
    /// One shard, which owns everything and needs no name.
    pub fn one() -> Self {
        Self {
            replicas: vec![Owner::new(String::new())],
        }
    }

    /// The shards of replicas with these names.
    pub fn new<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Result<Self, ShardsError> {
        let mut replicas = Vec::new();
        let mut known = HashSet::new();
        for name in names {
            let name: String = name.into();
            // The zero byte ends a name, so a name has none.
            let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !visible {
                return Err(ShardsError::BadName(name));
            }
            if !known.insert(name.clone()) {
                return Err(ShardsError::Repeated(name));
            }
            if replicas.len() >= REPLICAS_MAX {
                return Err(ShardsError::TooMany);
            }
            replicas.push(Owner::new(name));
        }
        if replicas.is_empty() {
            return Err(ShardsError::None);
        }
        Ok(Self { replicas })
    }

    /// How many there are; never none.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> usize {
        self.replicas.len()
    }

    /// The name of a replica; empty if it is the only one and has none.
    pub fn name(&self, replica: usize) -> &str {
        self.replicas.get(replica).map_or("", |owner| &owner.name)
    }

    /// The number of the replica that owns a key. Free if there is only one.
    pub fn owner(&self, key: &[u8]) -> usize {
        if self.replicas.len() == 1 {
            return 0;
        }
        let ranked = self.replicas.iter().enumerate();
        let highest = ranked.max_by_key(|(_, owner)| (owner.weight(key), &owner.name));
        highest.map_or(0, |(replica, _)| replica)
    }
}

impl Owner {
    fn new(name: String) -> Self {
        let prefix = Sha256::new().chain_update(&name).chain_update([0]);
        Self { name, prefix }
    }

    fn weight(&self, key: &[u8]) -> u64 {
        let hash = self.prefix.clone().chain_update(key).finalize();
        let first = hash.iter().take(8);
        first.fold(0, |weight, byte| weight << 8 | u64::from(*byte))
    }
}

/// The shards of these replicas, and a channel to each, in the same order: connected when it is used,
/// with this identity on every call.
pub fn connect(
    replicas: &[Replica],
    identity: &ServiceIdentity,
) -> Result<(Shards, Vec<ServiceChannel>), ShardsError> {
    let shards = Shards::new(replicas.iter().map(|replica| &replica.name))?;
    let channel = |replica: &Replica| {
        let uri = Uri::from_str(&replica.url).ok();
        let uri = uri.filter(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some());
        let uri = uri.ok_or_else(|| ShardsError::BadUrl {
            name: replica.name.clone(),
            url: replica.url.clone(),
        })?;
        Ok(identity.on(channel::tcp(uri)))
    };
    let channels: Result<Vec<_>, ShardsError> = replicas.iter().map(channel).collect();
    Ok((shards, channels?))
}

#[cfg(test)]
mod tests;
