//! The parts of a groups process, put together: what it needs is waited for, then it serves.

use std::sync::Arc;

use delivery::Registries;
use event_log::{
    EventLog,
    kafka::{KafkaConfig, KafkaLog},
};
use groups::{Deps, store::postgres::PostgresStore};
use runtime::{
    auth::{AuthLayer, ReceiptVerifier, ServiceIdentity, Verifier, keep_user_keys},
    channel,
    clock::{Clock, SystemClock},
    config::ConfigError,
    postgres::PostgresConfig,
    process::{HEALTH_INTERVAL, Listening, ProcessConfig, STOP_DEADLINE, user_keys, wait_for},
    server::ServerConfig,
    shards::Replica,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tonic::service::RoutesBuilder;

/// The settings of a groups process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The listener.
    server: ProcessConfig,
    /// The event log.
    kafka: KafkaConfig,
    /// The store.
    postgres: PostgresConfig,
    /// `host:port` of the replicas of profile; one name that stands for all of them will do.
    profile_addresses: Vec<String>,
    /// The replicas of presence, all of them, by name: where the sessions of members are.
    presence: Vec<Replica>,
    /// Groups itself.
    #[serde(default)]
    groups: groups::Config,
}

pub(crate) async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let service_key = settings.server.service_key()?;
    let verifier = Verifier::new(clock.clone(), service_key.public());
    let auth = AuthLayer::new(verifier.clone(), groups::policy);
    let public_key = service_key.public();
    let identity = ServiceIdentity::new("groups", service_key, clock.clone());
    // Wrong settings end the process before it waits for others.
    let wrong = |error: groups::config::InvalidConfig| {
        ConfigError::setting(&format!("groups.{}", error.key), &error)
    };
    settings.groups.check().map_err(wrong)?;
    let registries = Registries::connect(&settings.presence, &identity)
        .map_err(|error| ConfigError::setting("presence", &error))?;
    let listening = Listening::begin(
        settings.server.listen,
        &groups::SERVICES,
        auth,
        ServerConfig::default(),
    )
    .await?;

    let profile = || channel::replicas(settings.profile_addresses.clone());
    let tasks = Tasks::new();
    keep_user_keys(verifier.clone(), identity.on(profile()), &tasks);
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
    let kafka = &settings.kafka;
    let Some(log) = wait_for("kafka", &stop, || KafkaLog::open(kafka.clone())).await? else {
        return Ok(());
    };

    let to_edges = identity.clone();
    // Unlike every other process, and unlike this one before it was started again.
    let started = clock.now_unix_ms();
    let subscriber = format!("groups/{}/{started}", listening.address());
    let groups = groups::start(
        &settings.groups,
        Deps {
            store: Arc::new(store),
            log: log.clone() as Arc<dyn EventLog>,
            receipts: ReceiptVerifier::new(clock.clone(), &public_key),
            clock,
            profile: identity.on(profile()),
            registries,
            connect: Arc::new(
                move |edge| Ok(to_edges.on(channel::replicas(vec![edge.to_owned()]))),
            ),
            subscriber,
            tasks: tasks.clone(),
        },
    )
    .await?;
    let mut routes = RoutesBuilder::default();
    groups.add_to(&mut routes);
    listening.open(routes, None).await;

    while stop
        .run_until_cancelled(tokio::time::sleep(HEALTH_INTERVAL))
        .await
        .is_some()
    {
        listening.set_serving(groups.is_healthy()).await;
    }
    listening.set_serving(false).await;
    listening.stop(STOP_DEADLINE).await;
    tasks.stop(STOP_DEADLINE).await;
    log.close().await;
    Ok(())
}
