//! Messaging: sessions, the conversation log, history, conversation lists, receipts.
//!
//! Three roles in one service, which can be scaled apart later: the edge holds sessions, the sequencer
//! gives every event its place, the inbox reader keeps conversation lists.

use std::sync::{Arc, OnceLock};

use delivery::{
    Announcer, AnnouncerConfig, ConnectEdge, Delivery, DeliveryConfig, LocalEdge, PushReceiver,
};
use event_log::{EventLog, LogError};
use proto::messaging::v1::{
    edge_service_server::EdgeServiceServer, inbox_service_server::InboxServiceServer,
    messaging_service_server::MessagingServiceServer,
};
use runtime::{
    auth::{Access, ReceiptVerifier, ServiceChannel, Verifier},
    clock::Clock,
    server::{INTERNAL_REQUEST_BYTES_MAX, REQUEST_BYTES_MAX},
    shutdown::Tasks,
};
use tonic::service::RoutesBuilder;

mod codec;
pub mod config;
mod directory;
mod edge;
mod grpc;
mod inbox;
pub mod limits;
pub mod model;
mod read;
mod readers;
mod receipts;
mod sequencer;
pub mod store;
mod users;
mod validate;
mod wire;

pub use config::Config;
pub use delivery::Registries;
pub use inbox::INBOX_GROUP;
pub use sequencer::SEQUENCER_GROUP;
pub use users::USERS_GROUP;

use crate::{
    directory::Directory,
    edge::{Edge, EdgeParts, SessionServer},
    grpc::{Grpc, inbox::InboxGrpc},
    inbox::{InboxReaders, OfflineWriter},
    read::Reader,
    sequencer::{Sequencers, partition::Context},
    store::Store,
};

/// The services of messaging, by their names in the contract.
pub const SERVICES: [&str; 4] = [
    "messenger.messaging.v1.SessionService",
    "messenger.messaging.v1.MessagingService",
    "messenger.messaging.v1.EdgeService",
    "messenger.messaging.v1.InboxService",
];

/// Pause between looks at whether the node has caught up.
const CATCH_UP_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// What messaging needs of others.
pub struct Deps {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Time of day.
    pub clock: Arc<dyn Clock>,
    /// For the tokens that come in the streams of sessions.
    pub verifier: Verifier,
    /// For the receipts of what messages have attached.
    pub receipts: ReceiptVerifier,
    /// The profile service.
    pub profile: ServiceChannel,
    /// The groups service.
    pub groups: ServiceChannel,
    /// The registry of sessions.
    pub registries: Registries,
    /// Makes channels to other edges.
    pub connect: ConnectEdge,
}

/// A running messaging service.
pub struct Messaging {
    edge: Arc<Edge>,
    sequencers: Arc<Sequencers>,
    reader: Reader,
    directory: Arc<Directory>,
    delivery: Delivery,
    inbox_broken: Arc<OnceLock<String>>,
    tasks: Tasks,
}

/// Starts all roles. Sessions may come once [`Messaging::add_to`]'s routes are served.
pub async fn start(config: Config, deps: Deps) -> Result<Messaging, LogError> {
    let Deps {
        log,
        store,
        clock,
        verifier,
        receipts,
        profile,
        groups,
        registries,
        connect,
    } = deps;
    let tasks = Tasks::new();
    let epoch = u64::try_from(clock.now_unix_ms()).unwrap_or(0);
    let (offline_after, clock_of_inbox) = (config.offline_after, clock.clone());
    let own_edge = config.advertised_edge.clone();
    let announcer = Announcer::start(
        AnnouncerConfig::new(own_edge.clone(), epoch),
        &registries,
        &tasks,
    );
    let directory = Arc::new(Directory::new(profile, groups));
    let edge = Edge::new(EdgeParts {
        config,
        clock,
        log: log.clone(),
        store: store.clone(),
        directory: directory.clone(),
        announcer,
        verifier,
        receipts,
    });
    let subscriber = format!("messaging/{own_edge}/{epoch}");
    let delivery = Delivery::start(
        DeliveryConfig::new(own_edge, subscriber),
        edge.clone() as Arc<dyn LocalEdge>,
        &registries,
        connect,
        &tasks,
    );
    let sequencers = Sequencers::new(Context {
        log: log.clone(),
        store: store.clone(),
        delivery: delivery.clone(),
        stop: tasks.stop_token(),
    });
    sequencers.start(&tasks).await?;
    let broken = Arc::new(OnceLock::new());
    let inbox = InboxReaders {
        offline: (!offline_after.is_zero()).then(|| OfflineWriter {
            log: log.clone(),
            store: store.clone(),
            delivery: delivery.clone(),
            clock: clock_of_inbox,
            after: offline_after,
        }),
        broken: broken.clone(),
        log: log.clone(),
        store: store.clone(),
        delivery: delivery.clone(),
        stop: tasks.stop_token(),
    };
    inbox.start(&tasks).await?;
    users::start(log, store.clone(), delivery.clone(), &tasks).await?;
    edge.start(&tasks);
    let reader = Reader {
        store: store.clone(),
        sequencers: sequencers.clone(),
    };
    Ok(Messaging {
        edge,
        sequencers,
        reader,
        directory,
        delivery,
        inbox_broken: broken,
        tasks,
    })
}

impl Messaging {
    /// Adds the services of messaging.
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        routes.add_service(SessionServer::new(self.edge.clone()));
        let calls = MessagingServiceServer::new(Grpc {
            edge: self.edge.clone(),
            reader: self.reader.clone(),
            directory: self.directory.clone(),
        });
        routes.add_service(calls.max_decoding_message_size(REQUEST_BYTES_MAX));
        let inboxes = InboxServiceServer::new(InboxGrpc {
            reader: self.reader.clone(),
        });
        routes.add_service(inboxes.max_decoding_message_size(INTERNAL_REQUEST_BYTES_MAX));
        let local = self.edge.clone() as Arc<dyn LocalEdge>;
        let receiver = PushReceiver::new(local, self.tasks.stop_token());
        routes.add_service(
            EdgeServiceServer::new(receiver).max_decoding_message_size(INTERNAL_REQUEST_BYTES_MAX),
        );
    }

    /// Waits until this node has applied all that was in the log when it started, at most `deadline`.
    /// For a node that has all partitions: what it answers then is not older than any ack.
    pub async fn caught_up(&self, deadline: std::time::Duration) -> bool {
        let caught_up = async {
            while !self.sequencers.all_caught_up() && self.broken().is_none() {
                tokio::time::sleep(CATCH_UP_PAUSE).await;
            }
        };
        tokio::time::timeout(deadline, caught_up).await.is_ok()
    }

    /// Why something that this node reads cannot go on without breaking a promise, if so.
    pub fn broken(&self) -> Option<&str> {
        let of_inbox = || self.inbox_broken.get().map(String::as_str);
        self.sequencers.broken().or_else(of_inbox)
    }

    /// Whether everything that this node reads can go on.
    pub fn is_healthy(&self) -> bool {
        self.broken().is_none()
    }

    /// Asks the sessions to go elsewhere, then stops all roles. What was acknowledged is in the log.
    pub async fn stop(&self, deadline: std::time::Duration) -> bool {
        self.edge.drain().await;
        tracing::info!(stats = ?self.delivery.stats(), "delivered what there was");
        let stopped = self.tasks.stop(deadline).await;
        self.edge.end_all();
        stopped
    }
}

/// Who may call what; `None` if it is not of messaging.
pub fn policy(path: &str) -> Option<Access> {
    let (service, _) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "messenger.messaging.v1.SessionService" | "messenger.messaging.v1.MessagingService" => {
            Some(Access::User)
        }
        "messenger.messaging.v1.EdgeService" | "messenger.messaging.v1.InboxService" => {
            Some(Access::Service)
        }
        _ => None,
    }
}
