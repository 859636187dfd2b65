//! Readers that share a log and a store, as those of several processes do.

use std::time::Duration;

use event_log::{
    EventLog, NewRecord, PartitionReader, Topic, Urgency,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use prost::Message as _;
use proto::{
    log::v1::{InboxPreview, OfflineRecord},
    messaging::v1::inbox_service_server::InboxServiceServer,
    profile::v1::profile_service_server::ProfileServiceServer,
};
use runtime::{
    auth::{Access, AuthLayer, KeyPair, ServiceIdentity, Verifier},
    channel,
    clock::{Clock, SystemClock},
    ids::{ConversationId, DeviceId, UserId},
    server::{self, ServerConfig},
};
use standins::{Delays, FcmStandIn};
use tempfile::TempDir;
use tonic::service::RoutesBuilder;

use super::*;
use crate::{
    Deps, Notifier,
    fakes::Others,
    model::{DeviceTarget, Target},
    store::sqlite::SqliteStore,
};

const USERS: u8 = 16;
const PARTITIONS: u32 = 4;
/// How long anything may take that is expected to happen.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a push is under way: longer than anything else here takes.
const ANSWERED_AFTER: Duration = Duration::from_millis(700);
/// Somebody else who reads `offline`.
const OTHER_GROUP: &str = "other";

fn user(number: u8) -> UserId {
    UserId::from_bytes([number + 1; 16])
}

fn token(number: u8) -> String {
    format!("device-{number}")
}

/// What processes share, and the provider.
struct World {
    google: FcmStandIn,
    store: Arc<dyn Store>,
    _file: Option<tempfile::NamedTempFile>,
    folder: TempDir,
    others: channel::PipeConnector,
    identity: ServiceIdentity,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
}

impl World {
    /// Its store is a file.
    async fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = SqliteStore::open(file.path()).await.unwrap();
        Self {
            _file: Some(file),
            ..Self::on(Arc::new(store)).await
        }
    }

    /// Each user has a phone.
    async fn on(store: Arc<dyn Store>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let google = FcmStandIn::start().await.unwrap();
        let account = google.service_account_json();
        std::fs::write(folder.path().join("account.json"), account).unwrap();
        for number in 0..USERS {
            google.devices().add(&token(number), "");
            let target = DeviceTarget {
                user: user(number),
                device: DeviceId::generate(),
                target: Target::Fcm {
                    registration_token: token(number),
                },
            };
            assert!(store.put_target(target, 0).await.unwrap());
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let key = KeyPair::generate().unwrap();
        let verifier = Verifier::new(clock.clone(), key.public());
        let (others, incoming) = channel::pipe();
        let tasks = Tasks::new();
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(InboxServiceServer::new(Others::default()))
            .add_service(ProfileServiceServer::new(Others::default()));
        tasks.spawn(server::serve_pipe(
            incoming,
            routes.routes(),
            AuthLayer::new(verifier, |_: &str| Some(Access::Service)),
            ServerConfig::default(),
            tasks.stop_token(),
        ));
        Self {
            google,
            store,
            _file: None,
            folder,
            others,
            identity: ServiceIdentity::new("notifier", key, clock.clone()),
            clock,
            tasks,
        }
    }

    fn open_log(&self, readers: &[&str]) -> Arc<EmbeddedLog> {
        let mut groups: Vec<_> = readers.iter().map(|name| (*name, Topic::Offline)).collect();
        groups.push((crate::USERS_GROUP, Topic::Users));
        let topics = [(Topic::Offline, PARTITIONS), (Topic::Users, 1)];
        let path = self.folder.path().join("log.db");
        EmbeddedLog::open(EmbeddedConfig::new(path, &topics, &groups)).unwrap()
    }

    /// A process of its own, as far as readers can tell.
    async fn process(&self, log: &Arc<EmbeddedLog>) -> Notifier {
        let config = format!(
            "[providers.fcm]\nservice_account_file = {:?}\nurl = {:?}",
            self.folder.path().join("account.json"),
            self.google.url()
        );
        let to_others = || self.identity.on(self.others.channel());
        let deps = Deps {
            store: self.store.clone(),
            log: log.clone(),
            clock: self.clock.clone(),
            messaging: to_others(),
            profile: to_others(),
            groups: to_others(),
            mail_secret: [7; 32],
            tasks: self.tasks.clone(),
        };
        let config = toml::from_str(&config).unwrap();
        crate::start(config, deps).await.unwrap()
    }
}

/// Every user has got this message from somebody, and received it nowhere.
async fn tell_all(log: &Arc<EmbeddedLog>, seq: u64) {
    let sender = UserId::from_bytes([200; 16]);
    let records = (0..USERS).map(|number| {
        let conversation = ConversationId::direct(user(number), sender).unwrap();
        let record = OfflineRecord {
            schema_version: 1,
            user_id: user(number).as_bytes().to_vec(),
            conversation_id: conversation.as_bytes().to_vec(),
            preview: Some(InboxPreview {
                sender_id: sender.as_bytes().to_vec(),
                seq,
                text: format!("message {seq}"),
                ..InboxPreview::default()
            }),
            ..OfflineRecord::default()
        };
        NewRecord {
            key: user(number).as_bytes().to_vec().into(),
            payload: record.encode_to_vec().into(),
            headers: Vec::new(),
        }
    });
    let appended = log.append_all(Topic::Offline, records.collect(), Urgency::Now);
    assert!(appended.await.iter().all(Result::is_ok));
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_moves_in_the_middle_of_a_push_does_not_make_it_come_twice() {
    let world = World::new().await;
    let google = &world.google;
    let log = world.open_log(&[group_of(ProviderKind::Fcm)]);
    google.delay(Delays {
        usual: ANSWERED_AFTER,
        ..Delays::default()
    });
    tell_all(&log, 1).await;
    let one = world.process(&log).await;
    // And one that asked for an access token.
    let under_way = u64::from(USERS) + 1;
    until("pushes are under way", || google.requests() >= under_way).await;
    assert_eq!(google.devices().totals().taken, 0);
    let two = world.process(&log).await;
    let taken = || google.devices().totals().taken;
    until("all are told", || taken() >= USERS.into()).await;
    tell_all(&log, 2).await;
    until("all are told again", || taken() >= 2 * u64::from(USERS)).await;
    let stats = || [&one, &two].map(|process| process.pushers()[0].stats());
    // The answers have come, too.
    until("both have told somebody", || {
        let [one, two] = stats();
        one.alerts + two.alerts == 2 * u64::from(USERS) && two.alerts > 0
    })
    .await;
    let [one, two] = stats();
    assert!(one.alerts < 2 * u64::from(USERS), "nothing has moved");
    // Not even read a second time: the position of what has moved is that of its end.
    assert_eq!(one.records + two.records, 2 * u64::from(USERS));
    let told = google.devices().totals();
    assert_eq!((told.repeats, told.disorders), (0, 0), "{told:?}");
    world.tasks.stop(DEADLINE).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_new_begins_with_what_the_log_has_still() {
    let world = World::new().await;
    let log = world.open_log(&[OTHER_GROUP]);
    tell_all(&log, 1).await;
    let mut other = log.join(OTHER_GROUP, Topic::Offline).await.unwrap();
    let mut readers: Vec<Box<dyn PartitionReader>> = Vec::new();
    for _ in 0..PARTITIONS {
        readers.push(other.assigned().await.unwrap());
    }
    for reader in &mut readers {
        let (_, end) = reader.range().await.unwrap();
        reader.commit(end);
        while reader.range().await.unwrap().0 < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    drop((readers, other));
    log.close().await;

    let log = world.open_log(&[OTHER_GROUP, group_of(ProviderKind::Fcm)]);
    let notifier = world.process(&log).await;
    tell_all(&log, 2).await;
    let devices = world.google.devices();
    until("all are told", || {
        devices.totals().taken == u64::from(USERS)
    })
    .await;
    assert_eq!(notifier.broken(), None);
    world.tasks.stop(DEADLINE).await;
    log.close().await;
}

#[cfg(feature = "distributed")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_while_pushes_are_answered_makes_none_come_twice() {
    use runtime::postgres::PostgresConfig;
    use servers::postgres::{Postgres, PostgresOptions};
    use sqlx::Connection;

    use crate::store::postgres::PostgresStore;

    let postgres = Postgres::start(PostgresOptions::fast()).unwrap();
    postgres.create_database("notifier").unwrap();
    let mut config = PostgresConfig::new(postgres.url("notifier"));
    // The usual for what is not to fail, also on a busy machine.
    let usual = PostgresStore::open(&config).await.unwrap();
    let mut world = World::on(Arc::new(usual)).await;
    config.call_timeout_ms = 1_000;
    let impatient = async || PostgresStore::open(&config).await.ok();
    world.store = loop {
        if let Some(store) = impatient().await {
            break Arc::new(store);
        }
    };
    let google = &world.google;
    let log = world.open_log(&[group_of(ProviderKind::Fcm)]);
    let notifier = world.process(&log).await;
    let alerts = || notifier.pushers()[0].stats().alerts;
    tell_all(&log, 1).await;
    until("all are told", || alerts() == u64::from(USERS)).await;
    tokio::time::sleep(2 * POSITION_INTERVAL).await;
    // Nobody writes.
    let mut other = sqlx::PgConnection::connect(&config.url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    let tables = "LOCK TABLE told, reader_positions IN EXCLUSIVE MODE";
    sqlx::raw_sql(tables).execute(&mut *lock).await.unwrap();
    // What needs nothing to be kept, so that there is a position to save. And what does.
    tell_all(&log, 1).await;
    tell_all(&log, 2).await;
    let taken = || google.devices().totals().taken;
    until("all are told again", || taken() == 2 * u64::from(USERS)).await;
    // Long enough for each kind of write to be given up again and again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    tell_all(&log, 3).await;
    until("all are told of more", || taken() >= 3 * u64::from(USERS)).await;
    until("it is kept", || alerts() == 3 * u64::from(USERS)).await;
    let told = google.devices().totals();
    let expected = (3 * u64::from(USERS), 0);
    assert_eq!((told.taken, told.repeats), expected, "{told:?}");
    assert_eq!(notifier.broken(), None);
    world.tasks.stop(DEADLINE).await;
    log.close().await;
}
