//! The parts of a profile process, put together: what it needs is waited for, then it serves.

use std::{path::PathBuf, sync::Arc};

use event_log::kafka::{KafkaConfig, KafkaLog};
use profile::{
    Deps,
    store::postgres::{DatabaseClock, PostgresStore},
};
use runtime::{
    auth::{AuthLayer, ReceiptVerifier, Verifier},
    clock::SystemClock,
    postgres::PostgresConfig,
    process::{Listening, ProcessConfig, STOP_DEADLINE, load_key, wait_for},
    server::ServerConfig,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tonic::service::RoutesBuilder;

/// The settings of a profile process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The private key that tokens of users are signed with, the same in all replicas: Ed25519, PKCS#8,
    /// PEM. Whoever has it may be anybody.
    user_key_file: PathBuf,
    /// The listener.
    server: ProcessConfig,
    /// The event log.
    kafka: KafkaConfig,
    /// The store.
    postgres: PostgresConfig,
    /// Profile itself.
    #[serde(default)]
    profile: profile::Config,
}

pub(crate) async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let service_key = settings.server.service_key()?;
    let signing_key = load_key("user_key_file", &settings.user_key_file)?;
    let verifier = Verifier::new(clock.clone(), service_key.public());
    let auth = AuthLayer::new(verifier.clone(), profile::policy);
    let listening = Listening::begin(
        settings.server.listen,
        &profile::SERVICES,
        auth,
        ServerConfig::default(),
    )
    .await?;
    let postgres = &settings.postgres;
    let Some(store) = wait_for("postgres", &stop, || PostgresStore::open(postgres)).await? else {
        return Ok(());
    };
    let kafka = &settings.kafka;
    let Some(log) = wait_for("kafka", &stop, || KafkaLog::open(kafka.clone())).await? else {
        return Ok(());
    };
    let tasks = Tasks::new();
    // All replicas go by the time of the database: tokens of one are looked at by another.
    let clock = Arc::new(DatabaseClock::start(&store, &tasks).await?);
    let profile = profile::start(
        settings.profile,
        Deps {
            store: Arc::new(store),
            log: log.clone(),
            receipts: ReceiptVerifier::new(clock.clone(), &service_key.public()),
            clock,
            signing_key,
            tasks: tasks.clone(),
        },
    )
    .await?;
    verifier.set_user_keys(profile.public_keys())?;
    let mut routes = RoutesBuilder::default();
    profile.add_to(&mut routes);
    listening.open(routes, None).await;

    stop.cancelled().await;
    listening.set_serving(false).await;
    listening.stop(STOP_DEADLINE).await;
    tasks.stop(STOP_DEADLINE).await;
    log.close().await;
    Ok(())
}
