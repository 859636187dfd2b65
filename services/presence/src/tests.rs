//! Through gRPC, with the edges' and the askers' side that all services use.

use std::{net::SocketAddr, path::PathBuf};

use delivery::{
    Announcer, AnnouncerConfig, Broadcast, Delivery, DeliveryConfig, LocalEdge, Registries,
};
use futures_util::StreamExt;
use proto::{
    error::v1::ErrorReason,
    presence::v1::{
        AnnounceRequest, GetPresenceRequest, GetRoutesRequest, Presence as WirePresence, Session,
        WatchRoutesRequest, presence_service_client::PresenceServiceClient,
        registry_service_client::RegistryServiceClient,
    },
};
use runtime::{
    auth::{AuthLayer, KeyPair, ServiceChannel, ServiceIdentity, UserCaller, Verifier},
    channel,
    clock::{ManualClock, SystemClock},
    ids::{DeviceId, UserId},
    server::{self, ServerConfig},
    status::read_status,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, Status, Streaming, metadata::MetadataValue};

use super::*;
use crate::store::sqlite::SqliteStore;

mod replicas;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);
const EDGE: &str = "edge:1";

/// Waits until something is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// What outlives the service.
struct World {
    folder: tempfile::TempDir,
    clock: ManualClock,
    service_key: KeyPair,
    user_key: KeyPair,
    address: SocketAddr,
    channel: ServiceChannel,
}

/// The service, while it runs.
struct Running {
    tasks: Tasks,
    serving: JoinHandle<std::io::Result<()>>,
}

impl World {
    async fn start(config: Config) -> (Self, Running) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service_key = KeyPair::generate().unwrap();
        let identity = ServiceIdentity::new("test", service_key.clone(), Arc::new(SystemClock));
        let uri = format!("http://{address}").parse().unwrap();
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            clock: ManualClock::at(1_000),
            user_key: KeyPair::generate().unwrap(),
            service_key,
            address,
            channel: identity.on(channel::tcp(uri)),
        };
        let running = world.run(listener, config).await;
        (world, running)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("presence.db")
    }

    async fn run(&self, listener: TcpListener, config: Config) -> Running {
        let deps = Deps {
            store: Arc::new(SqliteStore::open(&self.path()).unwrap()),
            clock: Arc::new(self.clock.clone()),
            identity: self.identity(),
            tasks: Tasks::new(),
        };
        let verifier = Verifier::new(Arc::new(SystemClock), self.service_key.public());
        verifier
            .set_user_keys(vec![self.user_key.user_key()])
            .unwrap();
        Running::start(listener, config, deps, verifier).await
    }

    async fn restart(&self, running: Running) -> Running {
        running.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(listener, warm()).await
    }

    fn identity(&self) -> ServiceIdentity {
        ServiceIdentity::new("presence", self.service_key.clone(), Arc::new(SystemClock))
    }

    fn registry(&self) -> RegistryServiceClient<ServiceChannel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    async fn presence_of(&self, users: &[UserId]) -> Vec<WirePresence> {
        let user_ids = users.iter().map(UserId::to_string).collect();
        let request = GetPresenceRequest { user_ids };
        let mut client = PresenceServiceClient::new(self.channel.clone());
        client
            .get_presence(request)
            .await
            .unwrap()
            .into_inner()
            .presences
    }

    fn announcer(&self, tasks: &Tasks) -> Announcer {
        let registries = Registries::one(self.channel.clone());
        Announcer::start(patient(EDGE), &registries, tasks)
    }
}

/// An edge whose sessions wait for longer than anything here takes, however busy the machine is.
fn patient(edge: &str) -> AnnouncerConfig {
    AnnouncerConfig {
        opened_max: Duration::from_secs(60),
        ..AnnouncerConfig::new(edge, 1)
    }
}

/// Without a time in which nothing is certain: these edges are there before anybody asks.
fn warm() -> Config {
    Config {
        warm_up: Duration::ZERO,
        ..Config::default()
    }
}

impl Running {
    async fn start(listener: TcpListener, config: Config, deps: Deps, verifier: Verifier) -> Self {
        let tasks = deps.tasks.clone();
        let presence = start(config, deps).await.unwrap();
        let mut routes = RoutesBuilder::default();
        presence.add_to(&mut routes);
        let serving = tokio::spawn(server::serve(
            listener,
            routes.routes(),
            AuthLayer::new(verifier, policy),
            ServerConfig::default(),
            tasks.stop_token(),
        ));
        Self { tasks, serving }
    }

    /// Streams end by themselves, and the server drains before anything is cut.
    async fn stop(self) {
        assert!(self.tasks.stop(DEADLINE).await);
        let drained = tokio::time::timeout(Duration::from_secs(9), self.serving);
        drained.await.unwrap().unwrap().unwrap();
    }
}

/// Any user's.
fn bearer(key: &KeyPair) -> MetadataValue<tonic::metadata::Ascii> {
    let now = SystemClock.now_unix_ms();
    let caller = UserCaller {
        user_id: UserId::generate(),
        device_id: DeviceId::generate(),
        issued_unix_ms: now,
        expires_unix_ms: now + 60_000,
    };
    let token = key.sign_user(&caller).unwrap();
    format!("Bearer {token}").parse().unwrap()
}

fn shown(user: UserId, online: bool, last_seen_unix_ms: i64) -> WirePresence {
    WirePresence {
        user_id: user.to_string(),
        online,
        last_seen_unix_ms,
        unknown: false,
    }
}

#[tokio::test]
async fn presence_is_online_while_there_is_a_session_and_then_when_it_ended() {
    let (world, running) = World::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = world.announcer(&tasks);
    let (user, never) = (UserId::generate(), UserId::generate());
    announcer.opened(user, 1).await;
    announcer.opened(user, 2).await;
    let presences = world.presence_of(&[never, user]).await;
    assert_eq!(presences, [shown(never, false, 0), shown(user, true, 0)]);
    world.clock.set(2_000);
    announcer.closed(user, 1);
    announcer.opened(never, 3).await;
    assert_eq!(world.presence_of(&[user]).await, [shown(user, true, 0)]);
    world.clock.set(3_000);
    announcer.closed(user, 2);
    let gone = [shown(user, false, 3_000)];
    eventually("the user is offline", async || {
        world.presence_of(&[user]).await == gone
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn an_edge_that_vanishes_takes_its_users_offline() {
    let config = Config {
        edge_grace: Duration::from_millis(10),
        ..warm()
    };
    let (world, running) = World::start(config).await;
    let tasks = Tasks::new();
    let user = UserId::generate();
    world.announcer(&tasks).opened(user, 1).await;
    assert_eq!(world.presence_of(&[user]).await, [shown(user, true, 0)]);
    assert!(tasks.stop(DEADLINE).await);
    let gone = [shown(user, false, 1_000)];
    eventually("the user is offline", async || {
        world.presence_of(&[user]).await == gone
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn last_seen_survives_a_restart_and_who_was_online_was_seen() {
    let (world, running) = World::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = world.announcer(&tasks);
    let (gone, online) = (UserId::generate(), UserId::generate());
    announcer.opened(gone, 1).await;
    announcer.opened(online, 2).await;
    world.clock.set(2_000);
    announcer.closed(gone, 1);
    let offline = [shown(gone, false, 2_000)];
    eventually("one is offline", async || {
        world.presence_of(&[gone]).await == offline
    })
    .await;
    // The edge and the service end together, as in one process.
    world.clock.set(3_000);
    let both = tokio::join!(tasks.stop(DEADLINE), world.restart(running));
    let presences = world.presence_of(&[gone, online]).await;
    assert_eq!(
        presences,
        [shown(gone, false, 2_000), shown(online, false, 3_000)]
    );
    both.1.stop().await;
}

/// Counts what it gets.
#[derive(Default)]
struct Counting(Mutex<usize>);

impl LocalEdge for Counting {
    fn broadcast(&self, _: &Broadcast) -> u32 {
        *self.0.lock() += 1;
        0
    }

    fn answer(&self, _: delivery::Answer) {}

    fn end_sessions(&self, _: UserId, _: DeviceId) {}
}

#[tokio::test]
async fn a_restarted_registry_is_complete_again_and_pushes_flow() {
    let (world, running) = World::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = world.announcer(&tasks);
    let users: Vec<UserId> = (0..20_000).map(|_| UserId::generate()).collect();
    for (session_id, user) in (1..).zip(&users) {
        drop(announcer.opened(*user, session_id));
    }
    let sessions = Arc::new(Counting::default());
    let delivery = Delivery::start(
        DeliveryConfig::new(EDGE, "asker"),
        sessions.clone(),
        &Registries::one(world.channel.clone()),
        Arc::new(|_| Err("no other edge".into())),
        &tasks,
    );
    let push_to_all = async || {
        for some in users.chunks(200) {
            *sessions.0.lock() = 0;
            eventually("a push arrives", async || {
                delivery.push(Broadcast {
                    users: some.to_vec().into(),
                    frame: bytes::Bytes::new(),
                    except_session_id: 0,
                    inbox_version: 0,
                });
                *sessions.0.lock() > 0
            })
            .await;
        }
    };
    let complete = async || {
        let known = async |some: &[UserId]| {
            let presences = world.presence_of(some).await;
            presences.iter().all(|presence| presence.online)
        };
        for some in users.chunks(200) {
            eventually("all are known", async || known(some).await).await;
        }
    };
    complete().await;
    push_to_all().await;
    let running = world.restart(running).await;
    complete().await;
    push_to_all().await;
    assert!(tasks.stop(DEADLINE).await);
    running.stop().await;
}

#[tokio::test]
async fn an_announced_change_reaches_who_was_told_the_route() {
    let (world, running) = World::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = world.announcer(&tasks);
    let user = UserId::generate();
    announcer.opened(user, 1).await;
    let request = WatchRoutesRequest {
        subscriber: "asker".to_owned(),
    };
    let mut changes = world
        .registry()
        .watch_routes(request)
        .await
        .unwrap()
        .into_inner();
    // The first says that the watch is in force, the second that it still is.
    for _ in 0..2 {
        let nothing = next(&mut changes).await.unwrap().unwrap();
        assert!(nothing.routes.is_empty());
    }
    let ask = GetRoutesRequest {
        subscriber: "asker".to_owned(),
        user_ids: vec![
            user.as_bytes().to_vec(),
            UserId::generate().as_bytes().to_vec(),
        ],
    };
    let answer = world.registry().get_routes(ask).await.unwrap().into_inner();
    assert_eq!(answer.routes.len(), 1);
    assert_eq!(answer.routes[0].edges, [EDGE]);
    assert_eq!(u64::from(answer.lease_ms), 5 * 60 * 1_000);
    announcer.closed(user, 1);
    let told = next(&mut changes).await.unwrap().unwrap();
    assert_eq!(told.routes[0].user_id, user.as_bytes());
    assert!(told.routes[0].edges.is_empty());
    // A newer watch of the same asker ends this one.
    let request = WatchRoutesRequest {
        subscriber: "asker".to_owned(),
    };
    let newer = world.registry().watch_routes(request).await.unwrap();
    assert_eq!(
        reason(next(&mut changes).await),
        ErrorReason::SessionReplaced
    );
    drop(newer);
    assert!(tasks.stop(DEADLINE).await);
    running.stop().await;
}

/// The next message, which must come.
async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    tokio::time::timeout(DEADLINE, stream.message())
        .await
        .unwrap()
}

fn reason<T>(result: Result<T, Status>) -> ErrorReason {
    let status = result.err().unwrap();
    assert_ne!(status.code(), Code::Unknown);
    read_status(&status).reason
}

#[tokio::test]
async fn bad_requests_have_named_reasons() {
    let (world, running) = World::start(warm()).await;
    let get = async |user_ids: Vec<String>| {
        let mut client = PresenceServiceClient::new(world.channel.clone());
        reason(client.get_presence(GetPresenceRequest { user_ids }).await)
    };
    let id = UserId::generate().to_string();
    assert_eq!(get(vec![]).await, ErrorReason::FieldRequired);
    assert_eq!(
        get(vec![id.clone(); 201]).await,
        ErrorReason::FieldOutOfRange
    );
    assert_eq!(
        get(vec![id, "me".to_owned()]).await,
        ErrorReason::FieldMalformed
    );

    let ask = async |subscriber: &str, user_ids: Vec<Vec<u8>>| {
        let subscriber = subscriber.to_owned();
        let request = GetRoutesRequest {
            subscriber,
            user_ids,
        };
        reason(world.registry().get_routes(request).await)
    };
    assert_eq!(ask("", vec![vec![1; 16]]).await, ErrorReason::FieldRequired);
    assert_eq!(
        ask(&"x".repeat(257), vec![vec![1; 16]]).await,
        ErrorReason::FieldOutOfRange
    );
    assert_eq!(ask("x", vec![]).await, ErrorReason::FieldRequired);
    assert_eq!(
        ask("x", vec![vec![1; 16]; 1_001]).await,
        ErrorReason::FieldOutOfRange
    );
    assert_eq!(
        ask("x", vec![vec![1; 15]]).await,
        ErrorReason::FieldMalformed
    );

    let announce = async |requests: Vec<AnnounceRequest>| {
        let stream = futures_util::stream::iter(requests);
        let mut answers = world
            .registry()
            .announce(stream)
            .await
            .unwrap()
            .into_inner();
        loop {
            match next(&mut answers).await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(read_status(&status).reason),
            }
        }
    };
    let session = |bytes: usize| Session {
        user_id: vec![1; bytes],
        session_id: 1,
    };
    let good = AnnounceRequest {
        edge: EDGE.to_owned(),
        epoch: 2,
        snapshot: true,
        opened: vec![session(16)],
        ..AnnounceRequest::default()
    };
    let with = |change: fn(&mut AnnounceRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    use ErrorReason as R;
    assert_eq!(announce(vec![good.clone()]).await, None);
    let stays = futures_util::stream::iter([good.clone()]).chain(futures_util::stream::pending());
    let mut there = world.registry().announce(stays).await.unwrap().into_inner();
    assert!(next(&mut there).await.unwrap().is_some());
    assert_eq!(
        announce(vec![with(|r| r.epoch = 1)]).await,
        Some(R::FieldOutOfRange)
    );
    drop(there);
    assert_eq!(
        announce(vec![with(|r| r.snapshot = false)]).await,
        Some(R::FieldRequired)
    );
    assert_eq!(
        announce(vec![with(|r| r.edge.clear())]).await,
        Some(R::FieldRequired)
    );
    assert_eq!(
        announce(vec![good.clone(), with(|r| r.edge.push('2'))]).await,
        Some(R::FieldOutOfRange)
    );
    assert_eq!(
        announce(vec![with(|r| r.opened[0].user_id.clear())]).await,
        Some(R::FieldMalformed)
    );
    let many = with(|r| r.opened = vec![r.opened[0].clone(); 50_001]);
    assert_eq!(announce(vec![many]).await, Some(R::FieldOutOfRange));
    assert_eq!(
        announce(vec![with(|r| r.closed = r.opened.clone())]).await,
        Some(R::FieldOutOfRange)
    );
    running.stop().await;
}

#[tokio::test]
async fn users_may_ask_for_presence_and_not_touch_the_registry() {
    let (world, running) = World::start(warm()).await;
    let bearer = bearer(&world.user_key);
    let uri = format!("http://{}", world.address).parse().unwrap();
    let channel = channel::tcp(uri);
    let mut request = tonic::Request::new(GetPresenceRequest {
        user_ids: vec![UserId::generate().to_string()],
    });
    let mut client = PresenceServiceClient::new(channel.clone());
    assert_eq!(
        reason(client.get_presence(GetPresenceRequest::default()).await),
        ErrorReason::TokenMissing
    );
    request
        .metadata_mut()
        .insert("authorization", bearer.clone());
    assert!(client.get_presence(request).await.is_ok());
    let mut request = tonic::Request::new(WatchRoutesRequest {
        subscriber: "me".to_owned(),
    });
    request.metadata_mut().insert("authorization", bearer);
    let mut client = RegistryServiceClient::new(channel);
    let refused = client.watch_routes(request).await;
    assert_eq!(reason(refused), ErrorReason::CallerNotAllowed);
    running.stop().await;
}
