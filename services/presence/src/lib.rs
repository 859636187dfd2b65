//! Presence: the registry of live sessions, who is online, and when the others were last seen.
//!
//! Each replica owns the users that hash to its name: their sessions are announced to it, and it notes
//! when they were last seen. All replicas share the store.

mod config;
mod error;
mod get;
mod grpc;
mod last_seen;
mod peers;
mod registry;
pub mod store;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use proto::presence::v1::{
    presence_service_server::PresenceServiceServer, registry_service_server::RegistryServiceServer,
};
use runtime::{
    auth::{Access, ServiceIdentity},
    clock::Clock,
    server::{INTERNAL_REQUEST_BYTES_MAX, REQUEST_BYTES_MAX},
    shutdown::{CancellationToken, Tasks},
};
use tonic::service::RoutesBuilder;

pub use config::Config;
pub use error::ConfigError;
use last_seen::LastSeen;
use peers::Peers;
use registry::{Now, Registry};
use store::Store;

/// How often what is over is looked for; the grace and the leases are whole seconds.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);

/// The names of the gRPC services, for health checks.
pub const SERVICES: [&str; 2] = [
    "messenger.presence.v1.PresenceService",
    "messenger.presence.v1.RegistryService",
];

/// What the service needs from outside.
pub struct Deps {
    /// Keeps last-seen times.
    pub store: Arc<dyn Store>,
    /// Tells what time users were seen at.
    pub clock: Arc<dyn Clock>,
    /// Who this is to the other replicas.
    pub identity: ServiceIdentity,
    /// End with the process: then the streams end, and who is online is noted as seen.
    pub tasks: Tasks,
}

/// The running service. Clones share it.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    registry: Mutex<Registry>,
    peers: Peers,
    last_seen: LastSeen,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

/// Starts the service. It does not wait for the other replicas.
pub async fn start(config: Config, deps: Deps) -> Result<Presence, ConfigError> {
    let shared = Arc::new(Shared {
        peers: Peers::new(&config, &deps.identity)?,
        last_seen: LastSeen::new(deps.store, config.seen_waiting_max),
        registry: Mutex::new(Registry::new(config, Instant::now())),
        clock: deps.clock,
        stop: deps.tasks.stop_token(),
    });
    deps.tasks.spawn(expire(shared.clone()));
    let writer = shared.clone();
    deps.tasks.spawn(async move {
        let online = || {
            let unix_ms = writer.clock.now_unix_ms();
            let online = writer.registry.lock().online();
            online.into_iter().map(|user| (user, unix_ms)).collect()
        };
        writer.last_seen.run(writer.stop.clone(), online).await;
    });
    Ok(Presence { shared })
}

impl Presence {
    /// Adds the gRPC services.
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let presence = grpc::PresenceGrpc::new(self.shared.clone());
        let registry = grpc::RegistryGrpc::new(self.shared.clone());
        routes
            .add_service(
                PresenceServiceServer::new(presence).max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                RegistryServiceServer::new(registry)
                    .max_decoding_message_size(INTERNAL_REQUEST_BYTES_MAX),
            );
    }
}

/// Who may call the methods of this service; `None` for those of others.
pub fn policy(path: &str) -> Option<Access> {
    let (service, method) = path
        .strip_prefix("/messenger.presence.v1.")?
        .split_once('/')?;
    match (service, method) {
        ("PresenceService", "GetPresence") => Some(Access::Any),
        ("RegistryService", "Announce" | "GetRoutes" | "WatchRoutes") => Some(Access::Service),
        _ => None,
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            unix_ms: self.clock.now_unix_ms(),
        }
    }
}

async fn expire(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EXPIRE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shared
        .stop
        .run_until_cancelled(ticks.tick())
        .await
        .is_some()
    {
        let now = shared.now();
        let seen = shared.registry.lock().expire(now);
        if !seen.is_empty() {
            shared.last_seen.note(seen);
        }
    }
}

#[cfg(test)]
mod tests;
