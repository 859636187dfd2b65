//! Several replicas over real listeners, some of which die.

use std::net::SocketAddr;

use bytes::Bytes;
use delivery::{Answer, Online, PushReceiver};
use proto::messaging::v1::edge_service_server::EdgeServiceServer;
use runtime::shards::{Replica, Shards, ShardsError};

use super::*;

const REPLICAS: usize = 3;
/// As long as nobody says otherwise, nothing is certain.
const NEVER: Duration = Duration::from_secs(60 * 60);

struct Cluster {
    _folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: ManualClock,
    service_key: KeyPair,
    user_key: KeyPair,
    replicas: Vec<Replica>,
    addresses: Vec<SocketAddr>,
    /// Each in a runtime of its own, which can be ended as a process is killed.
    running: Vec<Option<tokio::runtime::Runtime>>,
    shards: Shards,
}

impl Cluster {
    async fn start(config: Config) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..REPLICAS {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap());
        let addresses: Vec<SocketAddr> = addresses.collect();
        let replica = |(n, address): (usize, &SocketAddr)| Replica {
            name: format!("presence-{n}"),
            url: format!("http://{address}"),
        };
        let replicas: Vec<Replica> = addresses.iter().enumerate().map(replica).collect();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("presence.db")).unwrap();
        let mut cluster = Self {
            _folder: folder,
            store: Arc::new(store),
            clock: ManualClock::at(1_000),
            service_key: KeyPair::generate().unwrap(),
            user_key: KeyPair::generate().unwrap(),
            shards: Shards::new(replicas.iter().map(|r| &r.name)).unwrap(),
            replicas,
            addresses,
            running: (0..REPLICAS).map(|_| None).collect(),
        };
        for (n, listener) in listeners.into_iter().enumerate() {
            cluster.run(n, listener, config.clone()).await;
        }
        cluster
    }

    async fn run(&mut self, n: usize, listener: TcpListener, config: Config) {
        let config = Config {
            replicas: self.replicas.clone(),
            name: self.replicas[n].name.clone(),
            ..config
        };
        let deps = Deps {
            store: self.store.clone(),
            clock: Arc::new(self.clock.clone()),
            identity: self.identity(),
            tasks: Tasks::new(),
        };
        let verifier = Verifier::new(Arc::new(SystemClock), self.service_key.public());
        verifier
            .set_user_keys(vec![self.user_key.user_key()])
            .unwrap();
        let listener = listener.into_std().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let started = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            Running::start(listener, config, deps, verifier).await
        });
        started.await.unwrap();
        self.running[n] = Some(runtime);
    }

    /// As kill -9: nothing is written, nothing is said.
    fn kill(&mut self, n: usize) {
        self.running[n].take().unwrap().shutdown_background();
    }

    async fn restart(&mut self, n: usize, config: Config) {
        let mut listener = None;
        eventually("the address is free", async || {
            listener = TcpListener::bind(self.addresses[n]).await.ok();
            listener.is_some()
        })
        .await;
        self.run(n, listener.unwrap(), config).await;
    }

    fn identity(&self) -> ServiceIdentity {
        ServiceIdentity::new("test", self.service_key.clone(), Arc::new(SystemClock))
    }

    fn registries(&self) -> Registries {
        Registries::connect(&self.replicas, &self.identity()).unwrap()
    }

    fn user_of(&self, shard: usize) -> UserId {
        let owned = |user: &UserId| self.shards.owner(user.as_bytes()) == shard;
        { std::iter::repeat_with(UserId::generate) }
            .find(owned)
            .unwrap()
    }

    /// As many of each shard, by turns.
    fn users(&self, each: usize) -> Vec<UserId> {
        let users = (0..each * REPLICAS).map(|n| self.user_of(n % REPLICAS));
        users.collect()
    }

    /// What a user is shown who asks this replica.
    async fn shown_by(&self, n: usize, users: &[UserId]) -> Vec<WirePresence> {
        let user_ids = users.iter().map(UserId::to_string).collect();
        let mut request = tonic::Request::new(GetPresenceRequest { user_ids });
        let bearer = bearer(&self.user_key);
        request.metadata_mut().insert("authorization", bearer);
        let channel = channel::tcp(self.replicas[n].url.parse().unwrap());
        let mut client = PresenceServiceClient::new(channel);
        let answer = tokio::time::timeout(DEADLINE, client.get_presence(request)).await;
        answer.unwrap().unwrap().into_inner().presences
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for runtime in self.running.drain(..).flatten() {
            runtime.shutdown_background();
        }
    }
}

/// Who got something.
#[derive(Default)]
struct Got(Mutex<Vec<UserId>>);

impl Got {
    fn count(&self, user: UserId) -> usize {
        let got = self.0.lock();
        got.iter().filter(|other| **other == user).count()
    }
}

impl LocalEdge for Got {
    fn broadcast(&self, item: &Broadcast) -> u32 {
        self.0.lock().extend_from_slice(&item.users);
        0
    }

    fn answer(&self, _: Answer) {}

    fn end_sessions(&self, _: UserId, _: DeviceId) {}
}

/// A node without sessions, and what the edge of the sessions gets from it.
fn node(cluster: &Cluster, tasks: &Tasks) -> (Delivery, Arc<Got>) {
    let got = Arc::new(Got::default());
    let receiver = PushReceiver::new(got.clone(), CancellationToken::new());
    let router = tonic::transport::Server::builder().add_service(EdgeServiceServer::new(receiver));
    let (connector, incoming) = channel::pipe();
    tokio::spawn(router.serve_with_incoming(incoming));
    let identity = cluster.identity();
    let delivery = Delivery::start(
        DeliveryConfig::new("node:1", "node"),
        Arc::new(Counting::default()),
        &cluster.registries(),
        Arc::new(move |_| Ok(identity.on(connector.channel()))),
        tasks,
    );
    (delivery, got)
}

fn push(delivery: &Delivery, user: UserId) {
    delivery.push(Broadcast {
        users: user.into(),
        frame: Bytes::new(),
        except_session_id: 0,
        inbox_version: 0,
    });
}

/// Pushes until it comes through without asking anybody.
async fn warm_up(delivery: &Delivery, got: &Got, users: &[UserId]) {
    for user in users {
        eventually("pushes flow without a look-up", async || {
            let (lookups, before) = (delivery.stats().lookups, got.count(*user));
            push(delivery, *user);
            eventually("it arrives", async || {
                got.count(*user) > before || {
                    push(delivery, *user);
                    false
                }
            })
            .await;
            delivery.stats().lookups == lookups
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_disturbs_no_user_of_another_and_is_complete_again_when_it_is_back() {
    let mut cluster = Cluster::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = Announcer::start(patient(EDGE), &cluster.registries(), &tasks);
    let users = cluster.users(20);
    for (session_id, user) in (1..).zip(&users) {
        announcer.opened(*user, session_id).await;
    }
    let (delivery, got) = node(&cluster, &tasks);
    warm_up(&delivery, &got, &users).await;

    cluster.kill(1);
    let (lost, kept): (Vec<UserId>, Vec<UserId>) = users
        .iter()
        .partition(|user| cluster.shards.owner(user.as_bytes()) == 1);
    // Their routes stay known, so nobody waits for anything, and nothing is lost.
    let lookups = delivery.stats().lookups;
    for user in &kept {
        let before = got.count(*user);
        push(&delivery, *user);
        eventually("it arrives", async || got.count(*user) == before + 1).await;
    }
    assert_eq!(delivery.stats().lookups, lookups);
    // Those that come now are known at once, and found at the first push.
    for (session_id, shard) in (1_000..).zip([0, 2, 0, 2]) {
        let user = cluster.user_of(shard);
        announcer.opened(user, session_id).await;
        push(&delivery, user);
        eventually("it arrives", async || got.count(user) == 1).await;
    }
    // A session of the lost shard begins as well, and is found later.
    let late = cluster.user_of(1);
    announcer.opened(late, 2_000).await;
    for n in [0, 2] {
        let presences = cluster.shown_by(n, &users).await;
        for (user, presence) in users.iter().zip(presences) {
            let is_lost = lost.contains(user);
            assert_eq!((presence.online, presence.unknown), (!is_lost, is_lost));
        }
    }

    let still_warming = Config {
        warm_up: NEVER,
        ..Config::default()
    };
    cluster.restart(1, still_warming).await;
    let back = [lost, vec![late]].concat();
    for n in 0..REPLICAS {
        eventually("all are known again", async || {
            let presences = cluster.shown_by(n, &back).await;
            // And nobody was said to be offline meanwhile.
            assert!(presences.iter().all(|p| p.online || p.unknown));
            presences.iter().all(|p| p.online)
        })
        .await;
    }
    warm_up(&delivery, &got, &back).await;
    assert!(tasks.stop(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_shows_the_same() {
    let cluster = Cluster::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = Announcer::start(patient(EDGE), &cluster.registries(), &tasks);
    let (online, gone, never) = (cluster.users(10), cluster.users(10), cluster.users(10));
    for (session_id, user) in (1..).zip(online.iter().chain(&gone)) {
        announcer.opened(*user, session_id).await;
    }
    cluster.clock.set(2_000);
    for (session_id, user) in (31..).zip(&gone) {
        announcer.closed(*user, session_id);
    }
    // One of them twice.
    let asked = [&online[..], &gone, &never, &gone[..1]].concat();
    let expected: Vec<WirePresence> = asked
        .iter()
        .map(|user| {
            let seen = if gone.contains(user) { 2_000 } else { 0 };
            shown(*user, online.contains(user), seen)
        })
        .collect();
    for n in 0..REPLICAS {
        eventually("it is as it is", async || {
            cluster.shown_by(n, &asked).await == expected
        })
        .await;
    }
    let (delivery, _) = node(&cluster, &tasks);
    let answers = delivery.online(&[&online[..], &never].concat()).await;
    assert_eq!(
        answers,
        [vec![Online::Yes; 30], vec![Online::No; 30]].concat()
    );
    assert!(tasks.stop(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_restarted_claims_nobody_to_be_offline_until_all_edges_had_their_time() {
    let mut cluster = Cluster::start(warm()).await;
    let tasks = Tasks::new();
    let (delivery, _) = node(&cluster, &tasks);
    let users = cluster.users(1);
    let offline: Vec<WirePresence> = users.iter().map(|user| shown(*user, false, 0)).collect();
    assert_eq!(cluster.shown_by(0, &users).await, offline);
    assert_eq!(delivery.online(&users).await, [Online::No; 3]);
    cluster.kill(1);
    let still_warming = Config {
        warm_up: NEVER,
        ..Config::default()
    };
    cluster.restart(1, still_warming).await;
    let mut doubtful = offline.clone();
    doubtful[1].unknown = true;
    for n in 0..REPLICAS {
        assert_eq!(cluster.shown_by(n, &users).await, doubtful);
    }
    let certain = [Online::No, Online::Unknown, Online::No];
    assert_eq!(delivery.online(&users).await, certain);
    // Warm again.
    cluster.kill(1);
    cluster.restart(1, warm()).await;
    for n in 0..REPLICAS {
        eventually("all are offline", async || {
            cluster.shown_by(n, &users).await == offline
        })
        .await;
    }
    eventually("all are certain", async || {
        delivery.online(&users).await == [Online::No; 3]
    })
    .await;
    assert!(tasks.stop(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_accepts_and_never_answers_fails_no_screen() {
    let mut cluster = Cluster::start(warm()).await;
    cluster.kill(2);
    let mut silent = None;
    eventually("the address is free", async || {
        silent = std::net::TcpListener::bind(cluster.addresses[2]).ok();
        silent.is_some()
    })
    .await;
    let users = cluster.users(2);
    let presences = cluster.shown_by(0, &users).await;
    for (user, presence) in users.iter().zip(presences) {
        let unknown = cluster.shards.owner(user.as_bytes()) == 2;
        let expected = WirePresence {
            unknown,
            ..shown(*user, false, 0)
        };
        assert_eq!(presence, expected);
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_answered_from_what_the_replica_itself_knows() {
    let cluster = Cluster::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = Announcer::start(patient(EDGE), &cluster.registries(), &tasks);
    let users = cluster.users(1);
    for (session_id, user) in (1..).zip(&users) {
        announcer.opened(*user, session_id).await;
    }
    let channel = channel::tcp(cluster.replicas[0].url.parse().unwrap());
    let channel = cluster.identity().on(channel);
    let user_ids = users.iter().map(UserId::to_string).collect();
    let mut client = PresenceServiceClient::new(channel.clone());
    let answer = client.get_presence(GetPresenceRequest { user_ids }).await;
    let presences = answer.unwrap().into_inner().presences;
    let known: Vec<(bool, bool)> = presences.iter().map(|p| (p.online, p.unknown)).collect();
    // So replicas that disagree about the owner never ask each other in circles.
    assert_eq!(known, [(true, false), (false, true), (false, true)]);

    // Nor does it vouch for the absence of users that are announced elsewhere.
    let mut registry = RegistryServiceClient::new(channel);
    let mut ask = async |users: &[UserId]| {
        let user_ids = users.iter().map(|user| user.as_bytes().to_vec()).collect();
        let request = GetRoutesRequest {
            subscriber: "asker".to_owned(),
            user_ids,
        };
        let answer = registry.get_routes(request).await.unwrap().into_inner();
        (answer.routes.len(), answer.complete)
    };
    assert_eq!(ask(&users).await, (1, false));
    assert_eq!(
        ask(&[users[0], cluster.user_of(0), users[0]]).await,
        (2, true)
    );
    assert!(tasks.stop(DEADLINE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_marks_nobody_and_who_left_meanwhile_was_seen_when_he_was_there() {
    let mut cluster = Cluster::start(warm()).await;
    let tasks = Tasks::new();
    let announcer = Announcer::start(patient(EDGE), &cluster.registries(), &tasks);
    let (stays, leaves) = (cluster.user_of(1), cluster.user_of(1));
    announcer.opened(stays, 1).await;
    announcer.opened(leaves, 2).await;
    let noted = async || {
        let seen = cluster.store.last_seen(vec![stays, leaves]).await.unwrap();
        (seen.get(&stays).copied(), seen.get(&leaves).copied())
    };
    eventually("both were noted when they came", async || {
        noted().await == (Some(1_000), Some(1_000))
    })
    .await;
    cluster.kill(1);
    cluster.clock.set(5_000);
    announcer.closed(leaves, 2);
    cluster.restart(1, warm()).await;
    for n in 0..REPLICAS {
        let expected = [shown(stays, true, 0), shown(leaves, false, 1_000)];
        eventually("it is as it is", async || {
            cluster.shown_by(n, &[stays, leaves]).await == expected
        })
        .await;
    }
    assert!(tasks.stop(DEADLINE).await);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_is_refused_by_its_key() {
    let identity =
        ServiceIdentity::new("test", KeyPair::generate().unwrap(), Arc::new(SystemClock));
    let refused = |name: &str, url: &str| {
        let config = Config {
            name: name.to_owned(),
            replicas: vec![Replica {
                name: "presence-0".to_owned(),
                url: url.to_owned(),
            }],
            ..Config::default()
        };
        Peers::new(&config, &identity).err().map(|e| e.to_string())
    };
    assert_eq!(refused("presence-0", "http://10.0.0.1:7003"), None);
    let error = refused("presence-1", "http://10.0.0.1:7003").unwrap();
    assert_eq!(error, "name: \"presence-1\" is not among the replicas");
    let error = refused("presence-0", "10.0.0.1:7003").unwrap();
    let expected = ShardsError::BadUrl {
        name: "presence-0".to_owned(),
        url: "10.0.0.1:7003".to_owned(),
    };
    assert_eq!(error, expected.to_string());
}
