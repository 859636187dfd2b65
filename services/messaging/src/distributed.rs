//! The parts of a messaging process, put together: what it needs is waited for, then it serves.

use std::sync::Arc;

use event_log::{
    EventLog,
    kafka::{KafkaConfig, KafkaLog},
};
use messaging::{Deps, Registries, store::postgres::PostgresStore};
use runtime::{
    auth::{AuthLayer, ReceiptVerifier, ServiceIdentity, Verifier, keep_user_keys},
    channel,
    clock::SystemClock,
    config::ConfigError,
    gateway::Gateway,
    postgres::PostgresConfig,
    process::{HEALTH_INTERVAL, Listening, ProcessConfig, STOP_DEADLINE, user_keys, wait_for},
    server::ServerConfig,
    shards::Replica,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tonic::service::RoutesBuilder;

/// Services of others that clients reach through this process.
const PASSED_ON_TO_PROFILE: [&str; 2] = [
    "messenger.profile.v1.AccountService",
    "messenger.profile.v1.ProfileService",
];
const PASSED_ON_TO_GROUPS: [&str; 1] = ["messenger.groups.v1.GroupService"];
const PASSED_ON_TO_PRESENCE: [&str; 1] = ["messenger.presence.v1.PresenceService"];
const PASSED_ON_TO_BLOB: [&str; 1] = ["messenger.blob.v1.BlobService"];
const PASSED_ON_TO_NOTIFIER: [&str; 1] = ["messenger.notifier.v1.NotifierService"];
/// What brings so many bytes that it has connections of its own: while they wait for the object store, they
/// fill the window of their connection, and other calls on it would wait with them.
const BULK_TO_BLOB: &str = "messenger.blob.v1.BlobService/Upload";

/// The settings of a messaging process.
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
    /// The same of groups.
    groups_addresses: Vec<String>,
    /// The same of blob.
    blob_addresses: Vec<String>,
    /// The same of the notifier; empty if there is none. Users are pushed to if `offline_after_ms` of
    /// messaging is set as well.
    notifier_addresses: Vec<String>,
    /// The replicas of presence, all of them, by name.
    presence: Vec<Replica>,
    /// Messaging itself.
    #[serde(default)]
    messaging: messaging::Config,
}

pub(crate) async fn run(mut settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let service_key = settings.server.service_key()?;
    let verifier = Verifier::new(clock.clone(), service_key.public());
    let receipts = ReceiptVerifier::new(clock.clone(), &service_key.public());
    let auth = AuthLayer::new(verifier.clone(), messaging::policy);
    let listening = Listening::begin(
        settings.server.listen,
        &messaging::SERVICES,
        auth,
        ServerConfig::default(),
    )
    .await?;
    if settings.messaging.advertised_edge.is_empty() {
        settings.messaging.advertised_edge = listening.address().to_string();
    }

    let identity = ServiceIdentity::new("messaging", service_key, clock.clone());
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

    let registries = Registries::connect(&settings.presence, &identity)
        .map_err(|error| ConfigError::setting("presence", &error))?;
    let to_edges = identity.clone();
    let messaging = messaging::start(
        settings.messaging.clone(),
        Deps {
            log: log.clone() as Arc<dyn EventLog>,
            store: Arc::new(store),
            clock,
            verifier,
            receipts,
            profile: identity.on(profile()),
            groups: identity.on(channel::replicas(settings.groups_addresses.clone())),
            registries,
            connect: Arc::new(
                move |edge| Ok(to_edges.on(channel::replicas(vec![edge.to_owned()]))),
            ),
        },
    )
    .await?;
    let mut routes = RoutesBuilder::default();
    messaging.add_to(&mut routes);
    listening.open(routes, Some(gateway(&settings))).await;

    while stop
        .run_until_cancelled(tokio::time::sleep(HEALTH_INTERVAL))
        .await
        .is_some()
    {
        listening.set_serving(messaging.is_healthy()).await;
    }
    listening.set_serving(false).await;
    messaging.stop(STOP_DEADLINE).await;
    listening.stop(STOP_DEADLINE).await;
    tasks.stop(STOP_DEADLINE).await;
    log.close().await;
    Ok(())
}

/// Clients reach everything through the edge that holds their session.
fn gateway(settings: &Settings) -> Gateway {
    let profile = channel::replicas(settings.profile_addresses.clone());
    // Any replica of presence answers for all. Their urls were checked before.
    let addresses = settings.presence.iter().map(|replica| {
        replica
            .url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned()
    });
    let presence = channel::replicas(addresses.collect());
    let to_profile = PASSED_ON_TO_PROFILE.map(|service| (service, profile.clone()));
    let to_presence = PASSED_ON_TO_PRESENCE.map(|service| (service, presence.clone()));
    let groups = channel::replicas(settings.groups_addresses.clone());
    let to_groups = PASSED_ON_TO_GROUPS.map(|service| (service, groups.clone()));
    let blob = || channel::replicas(settings.blob_addresses.clone());
    let (blobs, bulk) = (blob(), blob());
    let to_blob = PASSED_ON_TO_BLOB.map(|service| (service, blobs.clone()));
    let notifier = channel::replicas(settings.notifier_addresses.clone());
    let to_notifier = PASSED_ON_TO_NOTIFIER.map(|service| (service, notifier.clone()));
    // A service that is not there is one that nobody knows, and not one that is away.
    let to_notifier = to_notifier
        .into_iter()
        .filter(|_| !settings.notifier_addresses.is_empty());
    let all = to_profile.into_iter().chain(to_presence).chain(to_groups);
    Gateway::new(all.chain(to_blob).chain(to_notifier)).with_method(BULK_TO_BLOB, bulk)
}
