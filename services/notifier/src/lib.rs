//! Tells users of what no device of theirs has received: pushes by APNs, FCM and Web Push, and an e-mail now and
//! then of what is unread. See README.md beside this crate.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use event_log::{EventLog, LogError};
use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};
use proto::{
    error::v1::ErrorReason,
    messaging::v1::inbox_service_client::InboxServiceClient,
    notifier::v1::{
        email_report_service_server::EmailReportServiceServer,
        notifier_service_server::NotifierServiceServer,
    },
};
use runtime::{
    auth::{Access, ServiceChannel},
    clock::Clock,
    http1,
    ids::UserId,
    secret::Secret,
    server::REQUEST_BYTES_MAX,
    shutdown::{CancellationToken, Tasks},
    status::ApiError,
};
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;

pub mod config;
mod decide;
mod digest;
mod email;
#[cfg(test)]
mod fakes;
mod grpc;
mod http;
pub mod limits;
pub mod mail;
pub mod model;
mod names;
pub mod post;
pub mod providers;
pub mod push;
mod pusher;
mod quiet;
mod rate;
mod record;
mod release;
pub mod store;
mod tokens;
mod unsubscribe;
mod users;
mod validate;
mod window;
mod words;

pub use config::Config;
pub use pusher::{Pusher, PusherStats, group_of};
pub use users::USERS_GROUP;

use crate::{
    digest::Digests,
    names::Names,
    post::Post,
    providers::{Providers, SetupError},
    pusher::round::Rounds,
    rate::Rates,
    store::{NextDigest, Store, StoreError},
};

/// The names of the services that [`Notifier::add_to`] adds.
pub const SERVICES: [&str; 2] = [
    "messenger.notifier.v1.NotifierService",
    "messenger.notifier.v1.EmailReportService",
];

/// How often rates of users who were quiet for long are forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// What the service needs from its process.
pub struct Deps {
    /// Targets, preferences, who was told of what.
    pub store: Arc<dyn Store>,
    /// Brings what users are to be told of.
    pub log: Arc<dyn EventLog>,
    /// What quiet hours and pushes end by.
    pub clock: Arc<dyn Clock>,
    /// The messaging service: what is read and unread.
    pub messaging: ServiceChannel,
    /// The profile service: what people are called.
    pub profile: ServiceChannel,
    /// The groups service: what groups are called.
    pub groups: ServiceChannel,
    /// What links and senders of mails are signed with, the same in all processes.
    pub mail_secret: Secret,
    /// Runs readers.
    pub tasks: Tasks,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A provider cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The log does not let it read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The running service.
#[derive(Clone)]
pub struct Notifier {
    service: Arc<Service>,
    pushers: Vec<Pusher>,
    users_broken: Arc<OnceLock<String>>,
}

type CallLimiter = RateLimiter<UserId, DashMapStateStore<UserId>, MonotonicClock>;

/// What calls share.
struct Service {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    providers: Providers,
    /// `None` = this deployment sends no mail.
    mail: Option<Arc<Post>>,
    calls: CallLimiter,
}

/// Starts the service: it pushes from now on, and answers calls once it is served.
pub async fn start(config: Config, deps: Deps) -> Result<Notifier, StartError> {
    let Deps {
        store,
        log,
        clock,
        messaging,
        profile,
        groups,
        mail_secret,
        tasks,
    } = deps;
    let providers = Providers::open(&config.providers, &clock)?;
    let mail = match config.mail {
        Some(of_mail) => Some(Arc::new(Post::open(
            of_mail,
            &config.app_name,
            &mail_secret,
        )?)),
        None => None,
    };
    let names = Arc::new(Names::new(profile, groups));
    let mut pushers = Vec::new();
    for guard in providers.guards() {
        let rounds = Rounds {
            guard,
            store: store.clone(),
            messaging: InboxServiceClient::new(messaging.clone()),
            names: names.clone(),
            // Each provider counts for itself: a user has devices of several.
            rates: Rates::new(config.sender_interval, config.sender_burst),
            clock: clock.clone(),
            counters: Arc::default(),
            app_name: config.app_name.clone(),
        };
        pushers.push(Pusher::start(log.clone(), rounds, &tasks).await?);
    }
    let users_broken = users::start(log.clone(), store.clone(), clock.clone(), &tasks).await?;
    release::start(log, store.clone(), clock.clone(), &tasks);
    if let Some(post) = &mail {
        let digests = Digests {
            store: store.clone(),
            messaging: InboxServiceClient::new(messaging),
            names,
            post: post.clone(),
            clock: clock.clone(),
        };
        digests.start(&tasks);
    }
    let quota = Quota::per_second(config.calls_per_second).allow_burst(config.calls_burst);
    let service = Arc::new(Service {
        store,
        clock,
        providers,
        mail,
        calls: RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock),
    });
    tasks.spawn(tidy(service.clone(), tasks.stop_token()));
    Ok(Notifier {
        service,
        pushers,
        users_broken,
    })
}

/// Forgets the rates of users who were quiet for long.
async fn tidy(service: Arc<Service>, stop: CancellationToken) {
    let pause = || tokio::time::sleep(TIDY_INTERVAL);
    while stop.run_until_cancelled(pause()).await.is_some() {
        service.calls.retain_recent();
    }
}

impl Notifier {
    /// Adds the service to a listener, which must ask for tokens by [`policy`].
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let grpc = grpc::Grpc::new(self.service.clone());
        let service = NotifierServiceServer::new(grpc);
        routes.add_service(service.max_decoding_message_size(REQUEST_BYTES_MAX));
        let grpc = grpc::Grpc::new(self.service.clone());
        let service = EmailReportServiceServer::new(grpc);
        routes.add_service(service.max_decoding_message_size(REQUEST_BYTES_MAX));
    }

    /// Listens for those who end digests, until the tasks are stopped, if mail is sent; answers where.
    pub async fn serve_http(&self, tasks: &Tasks) -> io::Result<Option<SocketAddr>> {
        let Some(post) = &self.service.mail else {
            return Ok(None);
        };
        let listener = TcpListener::bind(post.config.listen).await?;
        let address = listener.local_addr()?;
        post.listens_at(address);
        let http = http::Http::new(self.service.clone());
        let connections_max = post.config.http_connections_max;
        tasks.spawn(http1::serve(
            listener,
            http,
            connections_max,
            tasks.stop_token(),
        ));
        Ok(Some(address))
    }

    /// The readers, one for each provider.
    pub fn pushers(&self) -> &[Pusher] {
        &self.pushers
    }

    /// Why something cannot go on without breaking a promise, if so. A provider that is away is no such
    /// thing: its pushes wait in the log.
    pub fn broken(&self) -> Option<&str> {
        let of_pushers = self.pushers.iter().find_map(Pusher::broken);
        of_pushers.or_else(|| self.users_broken.get().map(String::as_str))
    }

    /// Whether everything can go on.
    pub fn is_healthy(&self) -> bool {
        self.broken().is_none()
    }
}

impl Service {
    /// When the next digest is due from now on.
    fn next_digest(&self) -> NextDigest {
        let now = self.clock.now_unix_ms();
        Arc::new(move |preferences| digest::schedule::next_digest(preferences, now))
    }

    /// Counts a call of a user.
    fn allow(&self, user: UserId) -> Result<(), ApiError> {
        use governor::clock::Clock as _;
        self.calls.check_key(&user).map_err(|not_yet| {
            ApiError::retry_after(
                ErrorReason::RateLimited,
                "too many calls",
                not_yet.wait_time_from(MonotonicClock.now()),
            )
        })
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable(&error),
            _ => Self::internal(&error),
        }
    }
}

/// Who may call which method; `None` for methods of others.
pub fn policy(path: &str) -> Option<Access> {
    let (service, _) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "messenger.notifier.v1.NotifierService" => Some(Access::User),
        "messenger.notifier.v1.EmailReportService" => Some(Access::Service),
        _ => None,
    }
}
