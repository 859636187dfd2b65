//! How fast a backlog of `offline` is pushed, and what it costs: a log in a file, a store in a file, and what
//! stands in for the provider, all in this process; messaging, profile and groups answer at once.
//!
//! ```text
//! cargo run --release -p notifier --example backlog -- [RECORDS] [--kafka] [--slow] [--down SECONDS]
//! ```
//!
//! `--kafka`: the log is Kafka (one broker), and the store PostgreSQL, which syncs to the disk. `--slow`: one answer in a hundred takes 2 s, the others 50 ms. `--down`: the provider is away so long after a
//! tenth of the records. It fails if a conversation was not told to its end, or in another order.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_log::{
    EventLog, NewRecord, Topic, Urgency,
    embedded::{EmbeddedConfig, EmbeddedLog},
    kafka::{KafkaConfig, KafkaLog, TopicConfig},
};
use notifier::{
    Deps,
    model::{DeviceSubject, DeviceTarget, ProviderKind, Subject, Target},
    store::{Store, postgres::PostgresStore, sqlite::SqliteStore},
};
use prost::Message;
use proto::{
    groups::v1::{
        BatchGetSnippetsRequest, BatchGetSnippetsResponse,
        directory_service_server::{DirectoryService, DirectoryServiceServer},
    },
    log::v1::{InboxPreview, OfflineRecord},
    messaging::v1::{
        BatchGetUnreadRequest, BatchGetUnreadResponse, ListUnreadRequest, ListUnreadResponse,
        Unread, UnreadConversation,
        inbox_service_server::{InboxService, InboxServiceServer},
    },
    profile::v1::{
        BatchGetProfilesRequest, BatchGetProfilesResponse, GetProfileRequest, GetProfileResponse,
        Profile, SearchProfilesRequest, SearchProfilesResponse, UpdateProfileRequest,
        UpdateProfileResponse,
        profile_service_server::{ProfileService, ProfileServiceServer},
    },
};
use runtime::{
    auth::{Access, AuthLayer, KeyPair, ServiceIdentity, Verifier},
    channel,
    clock::{Clock, SystemClock},
    ids::{ConversationId, DeviceId, UserId},
    postgres::PostgresConfig,
    server::{self, ServerConfig},
    shutdown::Tasks,
    telemetry,
};
use servers::{
    kafka::{Kafka, Options},
    postgres::{Postgres, PostgresOptions},
};
use standins::{Delays, FcmStandIn};
use tonic::{Request, Response, Status, async_trait, service::RoutesBuilder};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Users, each with a device; and conversations of each.
const USERS: u32 = 20_000;
const CONVERSATIONS: u32 = 5;
/// Records appended together.
const BATCH: usize = 2_000;
const PARTITIONS: u32 = 8;

/// Answers as the services do of whom nothing is read.
struct Others;

#[async_trait]
impl InboxService for Others {
    async fn batch_get_unread(
        &self,
        request: Request<BatchGetUnreadRequest>,
    ) -> Result<Response<BatchGetUnreadResponse>, Status> {
        let of = |conversation_id| UnreadConversation {
            conversation_id,
            unread_count: 1,
            ..UnreadConversation::default()
        };
        let answers = request
            .into_inner()
            .queries
            .into_iter()
            .map(|query| Unread {
                inbox_version: query.min_inbox_version,
                unread_total: 1,
                conversations: query.conversation_ids.into_iter().map(of).collect(),
            });
        Ok(Response::new(BatchGetUnreadResponse {
            answers: answers.collect(),
        }))
    }

    async fn list_unread(
        &self,
        _: Request<ListUnreadRequest>,
    ) -> Result<Response<ListUnreadResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[async_trait]
impl ProfileService for Others {
    async fn get_profile(
        &self,
        _: Request<GetProfileRequest>,
    ) -> Result<Response<GetProfileResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn batch_get_profiles(
        &self,
        request: Request<BatchGetProfilesRequest>,
    ) -> Result<Response<BatchGetProfilesResponse>, Status> {
        let ids = request.into_inner().user_ids.into_iter();
        let profiles = ids.map(|user_id| Profile {
            user_id,
            display_name: "Ada".to_owned(),
            ..Profile::default()
        });
        Ok(Response::new(BatchGetProfilesResponse {
            profiles: profiles.collect(),
        }))
    }

    async fn update_profile(
        &self,
        _: Request<UpdateProfileRequest>,
    ) -> Result<Response<UpdateProfileResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn search_profiles(
        &self,
        _: Request<SearchProfilesRequest>,
    ) -> Result<Response<SearchProfilesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[async_trait]
impl DirectoryService for Others {
    async fn batch_get_snippets(
        &self,
        _: Request<BatchGetSnippetsRequest>,
    ) -> Result<Response<BatchGetSnippetsResponse>, Status> {
        Ok(Response::new(BatchGetSnippetsResponse::default()))
    }
}

fn user(number: u32) -> UserId {
    let mut id = [1; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    UserId::from_bytes(id)
}

fn subject(user_number: u32, conversation: u32) -> Result<Subject, Failure> {
    let (user, peer) = (user(user_number), user(1_000_000 + conversation));
    let conversation = ConversationId::direct(user, peer)?;
    Ok(Subject { user, conversation })
}

fn record(subject: &Subject, seq: u64) -> NewRecord {
    let sender = subject.conversation.peer_of(subject.user);
    let record = OfflineRecord {
        schema_version: 1,
        user_id: subject.user.as_bytes().to_vec(),
        conversation_id: subject.conversation.as_bytes().to_vec(),
        preview: Some(InboxPreview {
            sender_id: sender.map_or_else(Vec::new, |sender| sender.as_bytes().to_vec()),
            seq,
            text: "Tea at five? There is cake, and some sandwiches.".to_owned(),
            ..InboxPreview::default()
        }),
        ..OfflineRecord::default()
    };
    NewRecord {
        key: Bytes::copy_from_slice(subject.user.as_bytes()),
        payload: record.encode_to_vec().into(),
        headers: Vec::new(),
    }
}

/// Where records come from, and where it is kept who was told.
struct Parts {
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    /// Run as long as this.
    _servers: Option<(Kafka, Postgres)>,
}

async fn embedded(folder: &Path) -> Result<Parts, Failure> {
    let group = notifier::group_of(ProviderKind::Fcm);
    let mut log = EmbeddedConfig::new(
        folder.join("log.db"),
        &[(Topic::Offline, PARTITIONS), (Topic::Users, 1)],
        &[
            (group, Topic::Offline),
            (notifier::USERS_GROUP, Topic::Users),
        ],
    );
    log.bytes_max = 16 * 1024 * 1024 * 1024;
    Ok(Parts {
        log: EmbeddedLog::open(log)?,
        store: Arc::new(SqliteStore::open(&folder.join("notifier.db")).await?),
        _servers: None,
    })
}

async fn distributed() -> Result<Parts, Failure> {
    let postgres = Postgres::start(PostgresOptions::durable())?;
    postgres.create_database("notifier")?;
    let kafka = Kafka::start(&Options::default())?;
    let mut log = KafkaConfig::new(kafka.bootstrap_servers());
    (log.dev, log.replication_factor, log.min_insync_replicas) = (true, 1, 1);
    let offline = TopicConfig {
        partitions: PARTITIONS,
        retention_ms: 24 * 60 * 60 * 1_000,
    };
    log.topics.insert(Topic::Offline, offline);
    let store = PostgresConfig::new(postgres.url("notifier"));
    Ok(Parts {
        log: KafkaLog::open(log).await?,
        store: Arc::new(PostgresStore::open(&store).await?),
        _servers: Some((kafka, postgres)),
    })
}

/// A number of this process in MB, from /proc.
fn memory_mb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_000
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    telemetry::init("warn");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let records: u64 = arguments
        .first()
        .filter(|first| !first.starts_with("--"))
        .map_or(Ok(1_000_000), |text| text.parse())?;
    let slow = arguments.iter().any(|argument| argument == "--slow");
    let down = arguments.iter().position(|argument| argument == "--down");
    let on_kafka = arguments.iter().any(|argument| argument == "--kafka");
    let down = down.and_then(|at| arguments.get(at + 1)?.parse::<u64>().ok());

    let folder = tempfile::tempdir()?;
    let google = FcmStandIn::start().await?;
    google.devices().only_count();
    let file = folder.path().join("account.json");
    std::fs::write(&file, google.service_account_json())?;
    let config = format!(
        "sender_burst = 1000000000\n[providers.fcm]\nservice_account_file = {file:?}\nurl = {:?}\n\
         guard.pushes_per_second = 1000000\nguard.at_once_max = 1024",
        google.url()
    );
    let config: notifier::Config = toml::from_str(&config)?;
    let parts = match on_kafka {
        true => distributed().await?,
        false => embedded(folder.path()).await?,
    };
    let (log, store) = (parts.log.clone(), parts.store.clone());
    let mut subjects = Vec::new();
    let mut devices = HashMap::new();
    for number in 0..USERS {
        let device = DeviceId::generate();
        devices.insert(user(number), device);
        let target = DeviceTarget {
            user: user(number),
            device,
            target: Target::Fcm {
                registration_token: format!("device-{number}"),
            },
        };
        store.put_target(target, 0).await?;
        for conversation in 0..CONVERSATIONS {
            subjects.push(subject(number, conversation)?);
        }
    }
    let mut seqs = vec![0_u64; subjects.len()];
    let mut batch = Vec::with_capacity(BATCH);
    for number in 0..records {
        // Each conversation in turn, far apart, as in a busy night.
        let at = usize::try_from(number.wrapping_mul(7_919))? % subjects.len();
        seqs[at] += 1;
        batch.push(record(&subjects[at], seqs[at]));
        if batch.len() == BATCH || number + 1 == records {
            let full = std::mem::take(&mut batch);
            let appended = log.append_all(Topic::Offline, full, Urgency::Derived).await;
            appended.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
    }
    if slow {
        google.delay(Delays {
            usual: Duration::from_millis(50),
            slow: Duration::from_secs(2),
            slow_per_mille: 10,
        });
    }

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key = KeyPair::generate()?;
    let verifier = Verifier::new(clock.clone(), key.public());
    let identity = ServiceIdentity::new("notifier", key, clock.clone());
    let (connector, incoming) = channel::pipe();
    let tasks = Tasks::new();
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(InboxServiceServer::new(Others))
        .add_service(ProfileServiceServer::new(Others))
        .add_service(DirectoryServiceServer::new(Others));
    let auth = AuthLayer::new(verifier, |_: &str| Some(Access::Service));
    tasks.spawn(server::serve_pipe(
        incoming,
        routes.routes(),
        auth,
        ServerConfig::default(),
        tasks.stop_token(),
    ));
    let before_mb = memory_mb("VmRSS:");
    let begin = Instant::now();
    let notifier = notifier::start(
        config,
        Deps {
            store: store.clone(),
            log: log.clone(),
            clock,
            messaging: identity.on(connector.channel()),
            profile: identity.on(connector.channel()),
            groups: identity.on(connector.channel()),
            mail_secret: [7; 32],
            tasks: tasks.clone(),
        },
    )
    .await?;
    let told = async || -> Result<u64, Failure> {
        let of = subjects.iter().map(|subject| DeviceSubject {
            subject: *subject,
            device: devices[&subject.user],
        });
        let told = store.told(of.collect()).await?;
        let ends = told
            .iter()
            .zip(&seqs)
            .filter(|(told, seq)| told.seq == **seq);
        Ok(ends.count() as u64)
    };
    let mut went_down = down.is_none();
    let (mut peak_mb, mut all) = (0, false);
    while !all {
        tokio::time::sleep(Duration::from_millis(200)).await;
        peak_mb = peak_mb.max(memory_mb("VmRSS:"));
        let read = notifier.pushers()[0].stats().records;
        if !went_down && read >= records / 10 {
            went_down = true;
            let seconds = down.unwrap_or(0);
            println!(
                "away for {seconds} s, {read} records read, {} MB",
                memory_mb("VmRSS:")
            );
            google.down();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let now = notifier.pushers()[0].stats().records;
            println!("back: {now} records read, {} MB", memory_mb("VmRSS:"));
            google.up();
        }
        all = read >= records && told().await? == subjects.len() as u64;
        if notifier.broken().is_some() || begin.elapsed() > Duration::from_secs(3_600) {
            break;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let (totals, stats) = (google.devices().totals(), notifier.pushers()[0].stats());
    println!(
        "{records} records in {seconds:.1} s, {:.0} a second; {} pushes, {:.0} a second",
        records as f64 / seconds,
        totals.taken,
        totals.taken as f64 / seconds
    );
    println!("memory: {before_mb} MB before, {peak_mb} MB at most (the provider's is in it)");
    println!("{totals:?}, {stats:?}");
    tasks.stop(Duration::from_secs(20)).await;
    if !all || totals.disorders > 0 {
        return Err("a conversation was not told to its end, or in another order".into());
    }
    Ok(())
}
