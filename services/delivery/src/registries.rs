//! The replicas of the registry, as those who speak to it know them.

use runtime::{
    auth::{ServiceChannel, ServiceIdentity},
    shards::{self, Replica, Shards, ShardsError},
};

/// The replicas of the registry, each with the users that it owns (see [`runtime::shards`]). All
/// processes must name the same ones; while they do not, those users whose owner is in dispute may miss
/// pushes from other nodes, which their heartbeats heal.
#[derive(Clone)]
pub struct Registries {
    shards: Shards,
    /// By the numbers of the shards.
    channels: Vec<ServiceChannel>,
}

impl Registries {
    /// One registry for all users.
    pub fn one(channel: ServiceChannel) -> Self {
        Self {
            shards: Shards::one(),
            channels: vec![channel],
        }
    }

    /// These replicas over these channels, by the replicas' names.
    pub fn new(
        replicas: impl IntoIterator<Item = (String, ServiceChannel)>,
    ) -> Result<Self, ShardsError> {
        let (names, channels): (Vec<String>, Vec<_>) = replicas.into_iter().unzip();
        let shards = Shards::new(names)?;
        Ok(Self { shards, channels })
    }

    /// These replicas over TCP, connected when they are used.
    pub fn connect(replicas: &[Replica], identity: &ServiceIdentity) -> Result<Self, ShardsError> {
        let (shards, channels) = shards::connect(replicas, identity)?;
        Ok(Self { shards, channels })
    }

    /// Who owns whom.
    pub const fn shards(&self) -> &Shards {
        &self.shards
    }

    pub(crate) fn channels(&self) -> &[ServiceChannel] {
        &self.channels
    }
}
