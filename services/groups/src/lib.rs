//! Groups: who is a member of what, decided here and ordered by the log; and the fan-out of a group's
//! events to its members. See README.md beside this crate.

use std::sync::{Arc, OnceLock};

use event_log::EventLog;
use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};
use proto::groups::v1::{
    directory_service_server::DirectoryServiceServer, group_service_server::GroupServiceServer,
};
use runtime::{
    auth::{Access, ServiceChannel},
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
    error::Error,
    events::Relay,
    sequenced::{Heard, Waiting},
    store::{FanoutStore, Store},
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
    /// The profile service: who exists, and what he is called.
    pub profile: ServiceChannel,
    /// Runs the relay of the outbox.
    pub tasks: Tasks,
}

/// The running service.
#[derive(Clone)]
pub struct Groups {
    service: Arc<Service>,
    heard: Arc<Heard>,
    broken: Arc<OnceLock<String>>,
}

type CallLimiter = RateLimiter<UserId, DashMapStateStore<UserId>, MonotonicClock>;

/// What calls share.
struct Service {
    limits: Limits,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    directory: Directory,
    relay: Arc<Relay>,
    waiting: Arc<Waiting>,
    changes: CallLimiter,
    reads: CallLimiter,
}

/// Starts the service: it relays its outbox from now on, and answers calls once it is served.
/// Fails if a setting makes no sense.
pub fn start(config: &Config, deps: Deps) -> Result<Groups, Error> {
    config.check()?;
    let Deps {
        store,
        log,
        clock,
        profile,
        tasks,
    } = deps;
    let broken = Arc::new(OnceLock::new());
    let relay = Relay::new(store.clone(), log, clock.clone(), broken.clone());
    let limiter = |quota| RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock);
    let changes = Quota::per_second(config.changes_per_second).allow_burst(config.changes_burst);
    let reads = Quota::per_second(config.reads_per_second).allow_burst(config.reads_burst);
    let service = Arc::new(Service {
        limits: config.limits(),
        store: store.clone(),
        clock,
        directory: Directory::new(profile),
        relay: Arc::new(relay),
        waiting: Arc::default(),
        changes: limiter(changes),
        reads: limiter(reads),
    });
    let forgetful = service.clone();
    let tidy = move || {
        forgetful.changes.retain_recent();
        forgetful.reads.retain_recent();
    };
    tasks.spawn(service.relay.clone().sweep(tasks.stop_token(), tidy));
    let waiting = service.waiting.clone();
    Ok(Groups {
        service,
        heard: Arc::new(Heard { store, waiting }),
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

    /// The store for whoever reads the topic `fanout` in this process: calls that wait here hear at once
    /// what it notes.
    pub fn fanout_store(&self) -> Arc<dyn FanoutStore> {
        self.heard.clone()
    }

    /// Why something cannot go on without breaking a promise, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
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
