//! The parts of a presence process, put together: what it needs is waited for, then it serves.

use std::sync::Arc;

use presence::{Deps, store::postgres::PostgresStore};
use runtime::{
    auth::{AuthLayer, ServiceIdentity, Verifier, keep_user_keys},
    channel,
    clock::SystemClock,
    config::ConfigError,
    postgres::PostgresConfig,
    process::{Listening, ProcessConfig, STOP_DEADLINE, user_keys, wait_for},
    server::ServerConfig,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tonic::service::RoutesBuilder;

/// The settings of a presence process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The listener.
    server: ProcessConfig,
    /// The store.
    postgres: PostgresConfig,
    /// `host:port` of the replicas of profile, whose keys verify tokens of users.
    profile_addresses: Vec<String>,
    /// Presence itself.
    presence: presence::Config,
}

pub(crate) async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let service_key = settings.server.service_key()?;
    let verifier = Verifier::new(clock.clone(), service_key.public());
    let auth = AuthLayer::new(verifier.clone(), presence::policy);
    let listening = Listening::begin(
        settings.server.listen,
        &presence::SERVICES,
        auth,
        ServerConfig::default(),
    )
    .await?;
    let identity = ServiceIdentity::new("presence", service_key, clock.clone());
    let tasks = Tasks::new();
    let profile = channel::replicas(settings.profile_addresses);
    keep_user_keys(verifier.clone(), identity.on(profile), &tasks);
    if wait_for("profile", &stop, async || user_keys(&verifier))
        .await?
        .is_none()
    {
        return Ok(());
    }
    let postgres = &settings.postgres;
    let Some(store) = wait_for("postgres", &stop, || PostgresStore::open(postgres)).await? else {
        return Ok(());
    };
    let presence = presence::start(
        settings.presence,
        Deps {
            store: Arc::new(store),
            clock,
            identity,
            tasks: tasks.clone(),
        },
    )
    .await
    .map_err(|error| ConfigError::setting("presence", &error))?;
    let mut routes = RoutesBuilder::default();
    presence.add_to(&mut routes);
    listening.open(routes, None).await;

    stop.cancelled().await;
    listening.set_serving(false).await;
    tasks.stop(STOP_DEADLINE).await;
    listening.stop(STOP_DEADLINE).await;
    Ok(())
}
