//! All services in one process, on embedded storage: the same services as in the distributed form,
//! which call each other by gRPC here too, over a pipe in memory. So the two forms cannot drift apart.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use event_log::{
    EventLog, Topic,
    embedded::{EmbeddedConfig, EmbeddedLog},
};
use notifier::model::ProviderKind;
use runtime::{
    auth::{Access, AuthLayer, KeyPair, ReceiptVerifier, ServiceIdentity, Verifier},
    channel,
    clock::{Clock, SystemClock},
    secret,
    server::{self, ServerConfig},
    shutdown::Tasks,
};
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;

pub mod demo;
mod options;

pub use options::Options;

/// Partitions of each topic. Each is read by a task of its own; more of them only split the batches of
/// one machine.
const PARTITIONS: u32 = 4;
/// How long the start waits until everything that the log has is applied.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);
/// How long the stop may take of what was started, when the rest cannot be.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is checked whether everything still runs, for health checks.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of all services.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub data: PathBuf,
    /// Of messaging.
    pub messaging: messaging::Config,
    /// Of profile.
    pub profile: profile::config::Config,
    /// Of presence.
    pub presence: presence::Config,
    /// Of groups.
    pub groups: groups::Config,
    /// Of blob.
    pub blob: blob::Config,
    /// Of the notifier. Without a provider of pushes nobody is told of what he has not received.
    pub notifier: notifier::Config,
    /// Where blobs are uploaded and downloaded by HTTP; port 0 takes a free one.
    pub listen_http: SocketAddr,
    /// Of the listener.
    pub server: ServerConfig,
    /// Time of day.
    pub clock: Arc<dyn Clock>,
    /// What the log may hold before appends are refused, in bytes, at least [`log_bytes_max_min`];
    /// `None` = the usual.
    pub log_bytes_max: Option<u64>,
}

impl Config {
    /// The defaults, with everything kept below `data`.
    pub fn new(data: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            data,
            messaging: messaging::Config {
                // There is no other edge to tell it from.
                advertised_edge: "local".to_owned(),
                ..messaging::Config::default()
            },
            profile: profile::config::Config::default(),
            presence: presence::Config {
                // All edges there are start with it.
                warm_up: Duration::ZERO,
                ..presence::Config::default()
            },
            groups: groups::Config::default(),
            blob: blob::Config::default(),
            notifier: notifier::Config::default(),
            listen_http: SocketAddr::from(([127, 0, 0, 1], 7401)),
            server: ServerConfig::default(),
            clock: Arc::new(SystemClock),
            log_bytes_max: None,
        }
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    data: PathBuf,
    log: Arc<EmbeddedLog>,
    messaging: Arc<messaging::Messaging>,
    groups: groups::Groups,
    notifier: notifier::Notifier,
    http_address: SocketAddr,
    mail_address: Option<SocketAddr>,
    serving: Tasks,
    services: Tasks,
}

/// Who may call what, over all services.
fn policy(path: &str) -> Option<Access> {
    messaging::policy(path)
        .or_else(|| profile::policy(path))
        .or_else(|| presence::policy(path))
        .or_else(|| groups::policy(path))
        .or_else(|| blob::policy(path))
        .or_else(|| notifier::policy(path))
}

/// Starts everything; answers when it listens.
pub async fn start(config: Config) -> anyhow::Result<Server> {
    let data = &config.data;
    make_folder(data).with_context(|| format!("cannot use the folder {}", data.display()))?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let http_listener = TcpListener::bind(config.listen_http)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen_http))?;
    let http_address = http_listener.local_addr()?;

    let log = open_log(&config).context("cannot open the event log")?;
    let user_key = KeyPair::load_or_create(&data.join("keys/users.pem"))?;
    let service_key = KeyPair::load_or_create(&data.join("keys/services.pem"))?;
    let verifier = Verifier::new(config.clock.clone(), service_key.public());
    let receipts = ReceiptVerifier::new(config.clock.clone(), &service_key.public());
    let (connector, incoming) = channel::pipe();
    let identity =
        |name: &str| ServiceIdentity::new(name, service_key.clone(), config.clock.clone());
    let as_messaging = identity("messaging");
    let services = Tasks::new();

    let profile = profile::start(
        config.profile.clone(),
        profile::Deps {
            store: Arc::new(profile::store::sqlite::SqliteStore::open(
                &data.join("profile.db"),
            )?),
            log: log.clone(),
            clock: config.clock.clone(),
            signing_key: user_key,
            receipts: receipts.clone(),
            tasks: services.clone(),
        },
    )
    .await?;
    verifier.set_user_keys(profile.public_keys())?;
    let presence = presence::start(
        config.presence.clone(),
        presence::Deps {
            store: Arc::new(presence::store::sqlite::SqliteStore::open(
                &data.join("presence.db"),
            )?),
            clock: config.clock.clone(),
            identity: identity("presence"),
            tasks: services.clone(),
        },
    )
    .await?;
    let as_groups = identity("groups");
    let to_edges_of_groups = as_groups.on(connector.channel());
    let groups = groups::start(
        &config.groups,
        groups::Deps {
            store: Arc::new(
                groups::store::sqlite::SqliteStore::open(&data.join("groups.db")).await?,
            ),
            log: log.clone(),
            clock: config.clock.clone(),
            receipts: receipts.clone(),
            profile: as_groups.on(connector.channel()),
            registries: delivery::Registries::one(as_groups.on(connector.channel())),
            connect: Arc::new(move |_| Ok(to_edges_of_groups.clone())),
            subscriber: "groups".to_owned(),
            tasks: services.clone(),
        },
    )
    .await?;
    let internal = || as_messaging.on(connector.channel());
    let to_edges = as_messaging.on(connector.channel());
    let mut of_messaging = config.messaging.clone();
    if pushing(&config.notifier).is_empty() {
        // What nobody reads would fill the log.
        of_messaging.offline_after = Duration::ZERO;
    } else if of_messaging.offline_after.is_zero() {
        of_messaging.offline_after = messaging::limits::OFFLINE_AFTER;
    }
    let messaging = messaging::start(
        of_messaging,
        messaging::Deps {
            log: log.clone(),
            store: Arc::new(messaging::store::sqlite::SqliteStore::open(
                &data.join("messaging.db"),
            )?),
            clock: config.clock.clone(),
            verifier: verifier.clone(),
            receipts: ReceiptVerifier::new(config.clock.clone(), &service_key.public()),
            profile: internal(),
            groups: internal(),
            registries: messaging::Registries::one(internal()),
            connect: Arc::new(move |_| Ok(to_edges.clone())),
        },
    )
    .await?;

    let blobs = blob::start(
        config.blob.clone(),
        blob::Deps {
            store: Arc::new(blob::store::sqlite::SqliteStore::open(&data.join("blob.db")).await?),
            objects: Arc::new(blob::objects::local::LocalObjects::open(
                data.join("blobs"),
            )?),
            log: log.clone(),
            clock: config.clock.clone(),
            verifier: verifier.clone(),
            url_secret: secret::load_or_create(&data.join("keys/urls.secret"))?,
            service_key: service_key.clone(),
            messaging: connector.channel(),
            tasks: services.clone(),
        },
    )
    .await?;

    let as_notifier = identity("notifier");
    let notifier = notifier::start(
        config.notifier.clone(),
        notifier::Deps {
            store: Arc::new(
                notifier::store::sqlite::SqliteStore::open(&data.join("notifier.db")).await?,
            ),
            log: log.clone(),
            clock: config.clock.clone(),
            messaging: as_notifier.on(connector.channel()),
            profile: as_notifier.on(connector.channel()),
            groups: as_notifier.on(connector.channel()),
            mail_secret: secret::load_or_create(&data.join("keys/mail.secret"))?,
            tasks: services.clone(),
        },
    )
    .await?;

    if !messaging.caught_up(CATCH_UP_DEADLINE).await {
        // Reads wait by themselves then.
        tracing::warn!("still applying what the log has; serving meanwhile");
    }
    if let Some(why) = messaging.broken() {
        // Sends would be appended that nobody may sequence.
        let error = anyhow::anyhow!("the files in {} do not fit together: {why}", data.display());
        messaging.stop(GIVE_UP_DEADLINE).await;
        services.stop(GIVE_UP_DEADLINE).await;
        log.close().await;
        return Err(error);
    }

    let mut routes = RoutesBuilder::default();
    profile.add_to(&mut routes);
    presence.add_to(&mut routes);
    groups.add_to(&mut routes);
    blobs.add_to(&mut routes);
    notifier.add_to(&mut routes);
    messaging.add_to(&mut routes);
    let names: Vec<&str> = [
        &profile::SERVICES[..],
        &presence::SERVICES,
        &groups::SERVICES,
        &blob::SERVICES,
        &notifier::SERVICES,
        &messaging::SERVICES,
    ]
    .concat();
    let health = server::add_standard(&mut routes, &names).await;
    let routes = routes.routes();
    let auth = AuthLayer::new(verifier, policy);
    let serving = Tasks::new();
    let pipe = server::serve_pipe(
        incoming,
        routes.clone(),
        auth.clone(),
        config.server.clone(),
        services.stop_token(),
    );
    services.spawn(log_error(pipe));
    let tcp = server::serve(
        listener,
        routes,
        auth,
        config.server.clone(),
        serving.stop_token(),
    );
    serving.spawn(log_error(tcp));
    blobs.serve_http(http_listener, &serving)?;
    let mail_address = notifier.serve_http(&serving).await;
    let mail_address = mail_address.context("cannot listen for those who end digests")?;

    let messaging = Arc::new(messaging);
    services.spawn(watch_health(
        messaging.clone(),
        groups.clone(),
        blobs,
        notifier.clone(),
        health,
        services.stop_token(),
    ));
    Ok(Server {
        address,
        data: config.data,
        log,
        messaging,
        groups,
        notifier,
        http_address,
        mail_address,
        serving,
        services,
    })
}

impl Server {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where people end digests by HTTP, if mail is sent.
    pub const fn mail_address(&self) -> Option<SocketAddr> {
        self.mail_address
    }

    /// Where blobs are uploaded and downloaded by HTTP.
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a person wants to know first.
    pub fn greeting(&self) -> String {
        let (url, data) = (self.url(), self.data.display());
        format!(
            "messenger listens on {url} and keeps everything in {data}\n\
             \n\
             try it in two other terminals (any password of 8 characters):\n\
             \n  cargo run --release -p messenger -- --server {url} --as ada register ada\n  \
             cargo run --release -p messenger -- --server {url} --as grace register grace\n  \
             cargo run --release -p messenger -- --server {url} --as ada chat grace\n\
             \n\
             or, without building anything more:  grpcurl -plaintext {address} list\n\
             Ctrl-C stops it; nothing that was acknowledged is ever lost",
            address = self.address,
        )
    }

    /// Stops in order: sessions are asked to go, calls end, readers stop, the log is closed.
    pub async fn stop(self, deadline: Duration) {
        self.messaging.stop(deadline).await;
        self.serving.stop(deadline).await;
        self.services.stop(deadline).await;
        tracing::info!(stats = ?self.groups.stats(), "fanned out what there was");
        for pusher in self.notifier.pushers() {
            tracing::info!(provider = pusher.kind().name(), stats = ?pusher.stats(), "pushed what there was");
        }
        self.log.close().await;
    }

    /// The event log, for tests that look behind the services.
    pub fn log(&self) -> Arc<dyn EventLog> {
        self.log.clone()
    }
}

/// Makes the folder, and the one of the keys, for the owner only.
fn make_folder(data: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data.join("keys"))
}

/// What [`Config::log_bytes_max`] must at least be, in bytes, without a provider of pushes.
pub fn log_bytes_max_min() -> u64 {
    log_config(Path::new(""), &[]).bytes_max_min()
}

/// The providers of pushes that there are.
fn pushing(notifier: &notifier::Config) -> Vec<ProviderKind> {
    let providers = &notifier.providers;
    let kinds = [
        providers.apns.as_ref().map(|_| ProviderKind::Apns),
        providers.fcm.as_ref().map(|_| ProviderKind::Fcm),
        providers.web_push.as_ref().map(|_| ProviderKind::WebPush),
    ];
    kinds.into_iter().flatten().collect()
}

fn log_config(data: &Path, pushing: &[ProviderKind]) -> EmbeddedConfig {
    let mut log = EmbeddedConfig::new(
        data.join("log.db"),
        &[
            (Topic::Messages, PARTITIONS),
            (Topic::Fanout, PARTITIONS),
            (Topic::Inbox, PARTITIONS),
            (Topic::Users, 1),
            (Topic::References, PARTITIONS),
        ],
        &[
            (messaging::SEQUENCER_GROUP, Topic::Messages),
            (groups::fanout::FANOUT_GROUP, Topic::Fanout),
            (messaging::INBOX_GROUP, Topic::Inbox),
            (messaging::USERS_GROUP, Topic::Users),
            (blob::references::REFERENCES_GROUP, Topic::References),
            (blob::references::USERS_GROUP, Topic::Users),
            (notifier::USERS_GROUP, Topic::Users),
        ],
    );
    if !pushing.is_empty() {
        let topic = Topic::Offline;
        log.topics.push((topic, PARTITIONS));
        let groups = pushing.iter().map(|kind| notifier::group_of(*kind));
        log.groups
            .extend(groups.map(|group| (group.to_owned(), topic)));
    }
    log
}

fn open_log(config: &Config) -> Result<Arc<EmbeddedLog>, event_log::embedded::OpenError> {
    let mut log = log_config(&config.data, &pushing(&config.notifier));
    log.clock = config.clock.clone();
    if let Some(bytes_max) = config.log_bytes_max {
        log.bytes_max = bytes_max;
    }
    EmbeddedLog::open(log)
}

async fn log_error(serving: impl Future<Output = io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "the listener ended");
    }
}

/// Says over the health service when something cannot go on.
async fn watch_health(
    messaging: Arc<messaging::Messaging>,
    groups: groups::Groups,
    blobs: blob::Blobs,
    notifier: notifier::Notifier,
    health: tonic_health::server::HealthReporter,
    stop: runtime::shutdown::CancellationToken,
) {
    while stop
        .run_until_cancelled(tokio::time::sleep(HEALTH_INTERVAL))
        .await
        .is_some()
    {
        let (messaging, groups) = (messaging.is_healthy(), groups.is_healthy());
        let of_blobs = blob::SERVICES.iter().filter(|_| !blobs.is_healthy());
        let of_messaging = messaging::SERVICES.iter().filter(|_| !messaging);
        let of_groups = groups::SERVICES.iter().filter(|_| !groups);
        let of_notifier = notifier::SERVICES.iter().filter(|_| !notifier.is_healthy());
        let of_others = of_groups.chain(of_blobs).chain(of_notifier);
        for name in of_messaging.chain(of_others) {
            health
                .set_service_status(name, tonic_health::ServingStatus::NotServing)
                .await;
        }
    }
}
