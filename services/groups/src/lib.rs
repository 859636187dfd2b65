//! Groups: who is a member of what, decided here and ordered by the log; and the fan-out of a group's
//! events to its members. See README.md beside this crate.

use std::sync::{Arc, OnceLock};

use delivery::{ConnectEdge, Delivery, DeliveryConfig, LocalEdge, Registries};
use event_log::{EventLog, LogError};
use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};
use proto::groups::v1::{
    directory_service_server::DirectoryServiceServer, group_service_server::GroupServiceServer,
};
use runtime::{
    auth::{Access, ReceiptVerifier, ServiceChannel},
    clock::Clock,
    ids::UserId,
    server::REQUEST_BYTES_MAX,
    shutdown::Tasks,
};
use tonic::service::RoutesBuilder;

pub mod answer;
mod changes;
pub mod config;
pub mod decide;
mod directory;
pub mod error;
mod events;
pub mod fanout;
mod grpc;
pub mod model;
mod reads;
mod sequenced;
pub mod store;
mod tokens;
mod validate;

pub use config::Config;

use crate::{
    decide::Limits,
    directory::Directory,
    events::Relay,
    fanout::{Fanout, FanoutDeps, FanoutStats},
    sequenced::Waiting,
    store::Store,
};

/// The names of the services that [`Groups::add_to`] adds.
pub const SERVICES: [&str; 2] = [
    "messenger.groups.v1.GroupService",
    "messenger.groups.v1.DirectoryService",
];

/// What the service needs from its process.
pub struct Deps {
    /// Where groups are kept.
    pub store: Arc<dyn Store>,
    /// Gets the changes of groups, in the topic `messages`.
    pub log: Arc<dyn EventLog>,
    /// Dates groups and members, and what invitations expire by.
    pub clock: Arc<dyn Clock>,
    /// Believes the receipts of pictures.
    pub receipts: ReceiptVerifier,
    /// The profile service: who exists, and what he is called.
    pub profile: ServiceChannel,
    /// The registry of sessions: where members are.
    pub registries: Registries,
    /// Makes channels to edges.
    pub connect: ConnectEdge,
    /// Names this process to the registry, unlike every other process.
    pub subscriber: String,
    /// Runs the relay of the outbox, and the fan-out.
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
pub struct Groups {
    service: Arc<Service>,
    fanout: Fanout,
    broken: Arc<OnceLock<String>>,
}

type CallLimiter = RateLimiter<UserId, DashMapStateStore<UserId>, MonotonicClock>;

/// What calls share.
struct Service {
    limits: Limits,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    receipts: ReceiptVerifier,
    directory: Directory,
    relay: Arc<Relay>,
    waiting: Arc<Waiting>,
    changes: CallLimiter,
    reads: CallLimiter,
}

/// Starts the service: it relays its outbox and fans out from now on, and answers calls once it is served.
pub async fn start(config: &Config, deps: Deps) -> Result<Groups, StartError> {
    config.check()?;
    let Deps {
        store,
        log,
        clock,
        receipts,
        profile,
        registries,
        connect,
        subscriber,
        tasks,
    } = deps;
    let waiting = Arc::new(Waiting::default());
    // No session is here: edges hold them.
    let nowhere: Arc<dyn LocalEdge> = Arc::new(OnceLock::<Arc<dyn LocalEdge>>::new());
    let config_of_delivery = DeliveryConfig::new(String::new(), subscriber);
    let delivery = Delivery::start(config_of_delivery, nowhere, &registries, connect, &tasks);
    let told = waiting.clone();
    let fanout = fanout::start(
        FanoutDeps {
            log: log.clone(),
            store: store.clone(),
            delivery,
            on_sequenced: Arc::new(move |changes| told.tell(changes)),
            deferred_above: usize::try_from(config.deferred_above).unwrap_or(usize::MAX),
        },
        &tasks,
    )
    .await?;
    let broken = Arc::new(OnceLock::new());
    let relay = Relay::new(store.clone(), log, clock.clone(), broken.clone());
    let limiter = |quota| RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock);
    let changes = Quota::per_second(config.changes_per_second).allow_burst(config.changes_burst);
    let reads = Quota::per_second(config.reads_per_second).allow_burst(config.reads_burst);
    let service = Arc::new(Service {
        limits: config.limits(),
        store,
        clock,
        receipts,
        directory: Directory::new(profile),
        relay: Arc::new(relay),
        waiting,
        changes: limiter(changes),
        reads: limiter(reads),
    });
    let forgetful = service.clone();
    let tidy = move || {
        forgetful.changes.retain_recent();
        forgetful.reads.retain_recent();
    };
    tasks.spawn(service.relay.clone().sweep(tasks.stop_token(), tidy));
    Ok(Groups {
        service,
        fanout,
        broken,
    })
}

impl Groups {
    /// Adds the services to a listener, which must ask for tokens by [`policy`].
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let grpc = grpc::Grpc::new(self.service.clone());
        let groups = GroupServiceServer::new(grpc.clone());
        let directory = DirectoryServiceServer::new(grpc);
        routes
            .add_service(groups.max_decoding_message_size(REQUEST_BYTES_MAX))
            .add_service(directory.max_decoding_message_size(REQUEST_BYTES_MAX));
    }

    /// How often what happened in the fan-out.
    pub fn stats(&self) -> FanoutStats {
        self.fanout.stats()
    }

    /// Why something cannot go on without breaking a promise, if so.
    pub fn broken(&self) -> Option<&str> {
        let of_relay = self.broken.get().map(String::as_str);
        of_relay.or_else(|| self.fanout.broken())
    }

    /// Whether everything can go on.
    pub fn is_healthy(&self) -> bool {
        self.broken().is_none()
    }
}

/// Who may call which method; `None` for methods of others.
pub fn policy(path: &str) -> Option<Access> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match (service, method) {
        ("messenger.groups.v1.GroupService", _) => Some(Access::User),
        ("messenger.groups.v1.DirectoryService", "BatchGetSnippets") => Some(Access::Service),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
