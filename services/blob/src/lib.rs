//! Pictures and video: uploaded apart from messages, checked, made smaller, kept while something refers
//! to them, and downloaded at signed URLs. See README.md beside this crate.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use event_log::{EventLog, LogError};
use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};
use proto::blob::v1::{
    blob_service_server::BlobServiceServer, content_service_server::ContentServiceServer,
};
use runtime::{
    auth::{Access, KeyPair, ReceiptSigner, ReceiptVerifier, Verifier},
    clock::Clock,
    http1,
    ids::UserId,
    secret::Secret,
    server::REQUEST_BYTES_MAX,
    shutdown::{CancellationToken, Tasks},
    status::ApiError,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{service::RoutesBuilder, transport::Channel};

pub mod config;
mod error;
mod grpc;
mod http;
pub mod limits;
pub mod media;
pub mod model;
pub mod objects;
mod receipts;
pub mod references;
pub mod removal;
mod sign;
pub mod store;
mod upload;
mod urls;

pub use config::Config;

use crate::{
    http::Http,
    media::{Pictures, PicturesConfig},
    objects::Objects,
    store::Store,
    upload::Active,
    urls::UrlSigner,
};

/// The names of the services that [`Blobs::add_to`] adds.
pub const SERVICES: [&str; 2] = [
    "messenger.blob.v1.BlobService",
    "messenger.blob.v1.ContentService",
];

/// What the service needs from its process.
pub struct Deps {
    /// Uploads, blobs and references.
    pub store: Arc<dyn Store>,
    /// Bytes.
    pub objects: Arc<dyn Objects>,
    /// Brings what refers to blobs, and takes barriers.
    pub log: Arc<dyn EventLog>,
    /// What receipts and URLs expire by.
    pub clock: Arc<dyn Clock>,
    /// For uploads by HTTP.
    pub verifier: Verifier,
    /// Signs receipts: the key of the services.
    pub service_key: KeyPair,
    /// Signs URLs; the same in all replicas.
    pub url_secret: Secret,
    /// The messaging service, called with the tokens of users.
    pub messaging: Channel,
    /// Runs readers, removal and the HTTP listener.
    pub tasks: Tasks,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] config::InvalidConfig),
    /// The log does not let it read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The running service.
#[derive(Clone)]
pub struct Blobs {
    service: Arc<Service>,
    references: references::References,
}

type CallLimiter = RateLimiter<UserId, DashMapStateStore<UserId>, MonotonicClock>;

/// What calls share.
struct Service {
    config: Config,
    store: Arc<dyn Store>,
    objects: Arc<dyn Objects>,
    pictures: Pictures,
    clock: Arc<dyn Clock>,
    verifier: Verifier,
    signer: ReceiptSigner,
    receipts: ReceiptVerifier,
    urls: UrlSigner,
    public_url: OnceLock<String>,
    messaging: Channel,
    active: Arc<Active>,
    uploads: Arc<Semaphore>,
    /// Pictures that are whole in memory.
    whole: Arc<Semaphore>,
    uploads_rate: CallLimiter,
    urls_rate: CallLimiter,
}

/// Starts the service: it follows what refers to blobs from now on, and answers calls once it is served.
pub async fn start(config: Config, deps: Deps) -> Result<Blobs, StartError> {
    config.check()?;
    let Deps {
        store,
        objects,
        log,
        clock,
        verifier,
        service_key,
        url_secret,
        messaging,
        tasks,
    } = deps;
    let references = references::start(log.clone(), store.clone(), &tasks).await?;
    let removal = removal::RemovalDeps {
        store: store.clone(),
        objects: objects.clone(),
        log,
        clock: clock.clone(),
    };
    removal::start(removal, config.removal_interval, &tasks);
    let limiter = |rate, burst| {
        let quota = Quota::per_second(rate).allow_burst(burst);
        RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock)
    };
    let service = Arc::new(Service {
        receipts: ReceiptVerifier::new(clock.clone(), &service_key.public()),
        signer: ReceiptSigner::new(service_key),
        urls: UrlSigner::new(&url_secret, config.url_life),
        pictures: Pictures::new(PicturesConfig::default()),
        public_url: OnceLock::new(),
        active: Arc::default(),
        uploads: Arc::new(Semaphore::new(config.uploads_max)),
        whole: Arc::new(Semaphore::new(config.pictures_max)),
        uploads_rate: limiter(config.uploads_per_second, config.uploads_burst),
        urls_rate: limiter(config.urls_per_second, config.urls_burst),
        config,
        store,
        objects,
        clock,
        verifier,
        messaging,
    });
    if !service.config.public_url.is_empty() {
        // Set once, and here for the first time.
        let _ = service.public_url.set(service.config.public_url.clone());
    }
    tasks.spawn(tidy(service.clone(), tasks.stop_token()));
    Ok(Blobs {
        service,
        references,
    })
}

/// Forgets the rates of users who were quiet for long.
async fn tidy(service: Arc<Service>, stop: CancellationToken) {
    let pause = || tokio::time::sleep(service.config.removal_interval);
    while stop.run_until_cancelled(pause()).await.is_some() {
        service.uploads_rate.retain_recent();
        service.urls_rate.retain_recent();
    }
}

impl Blobs {
    /// Adds the services to a listener, which must ask for tokens by [`policy`].
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let grpc = grpc::Grpc::new(self.service.clone());
        let blobs = BlobServiceServer::new(grpc.clone());
        let content = ContentServiceServer::new(grpc);
        routes
            .add_service(blobs.max_decoding_message_size(REQUEST_BYTES_MAX))
            .add_service(content.max_decoding_message_size(REQUEST_BYTES_MAX));
    }

    /// Answers HTTP on this listener until the tasks are stopped. Unless the settings say where clients
    /// reach it, they are told its own address.
    pub fn serve_http(&self, listener: TcpListener, tasks: &Tasks) -> io::Result<()> {
        let address = listener.local_addr()?;
        let _ = self.service.public_url.set(format!("http://{address}"));
        let http = Http::new(self.service.clone());
        let connections_max = self.service.config.http_connections_max;
        tasks.spawn(http1::serve(
            listener,
            http,
            connections_max,
            tasks.stop_token(),
        ));
        Ok(())
    }

    /// Why something cannot go on without breaking a promise, if so.
    pub fn broken(&self) -> Option<&str> {
        self.references.broken()
    }

    /// Whether everything can go on.
    pub fn is_healthy(&self) -> bool {
        self.broken().is_none()
    }
}

impl Service {
    fn check_rate(&self, rate: &CallLimiter, user: UserId) -> Result<(), ApiError> {
        use governor::clock::Clock as _;
        rate.check_key(&user)
            .map_err(|not_yet| error::rate_limited(not_yet.wait_time_from(MonotonicClock.now())))
    }
}

/// Who may call which method; `None` for methods of others.
pub fn policy(path: &str) -> Option<Access> {
    let (service, _) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "messenger.blob.v1.BlobService" => Some(Access::User),
        "messenger.blob.v1.ContentService" => Some(Access::Service),
        _ => None,
    }
}
