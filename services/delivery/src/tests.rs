use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::messaging::v1::edge_service_server::EdgeServiceServer;
use runtime::{channel::PipeConnector, shutdown::CancellationToken};

use tokio::sync::Semaphore;

use super::*;
use fake::{Registry, Sessions, eventually, identified, serve};

mod announcing;
mod costs;
mod fake;
mod pushing;
mod shards;

const HERE: &str = "here:1";
const THERE: &str = "there:1";

/// A node, a registry, and another edge.
struct Setup {
    delivery: Delivery,
    registry: Registry,
    here: Arc<Sessions>,
    there: Arc<Sessions>,
    tasks: Tasks,
}

impl Setup {
    fn start() -> Self {
        Self::with(DeliveryConfig::new(HERE, "test"))
    }

    fn with(config: DeliveryConfig) -> Self {
        let there = Arc::new(Sessions::default());
        let receiver = PushReceiver::new(there.clone(), CancellationToken::new());
        let router =
            tonic::transport::Server::builder().add_service(EdgeServiceServer::new(receiver));
        let edges = HashMap::from([(THERE.to_owned(), serve(router))]);
        Self::with_edges(config, there, edges)
    }

    fn with_edges(
        config: DeliveryConfig,
        there: Arc<Sessions>,
        edges: HashMap<String, PipeConnector>,
    ) -> Self {
        let (registry, channel) = Registry::start();
        let here = Arc::new(Sessions::default());
        let tasks = Tasks::new();
        let edges = Mutex::new(edges);
        let connect: ConnectEdge = Arc::new(move |edge| match edges.lock().get(edge) {
            Some(connector) => Ok(identified(connector)),
            None => Err("no such edge".into()),
        });
        let registries = Registries::one(channel);
        let delivery = Delivery::start(config, here.clone(), &registries, connect, &tasks);
        Self {
            delivery,
            registry,
            here,
            there,
            tasks,
        }
    }

    /// Waits until routes may be remembered.
    async fn watched(self) -> Self {
        let routes = self.delivery.inner.routes.clone();
        eventually("the watch is in force", || routes.is_watched()).await;
        self
    }

    /// A user on some edges whose route is known.
    async fn warm_user(&self, edges: &[&str]) -> UserId {
        let user = UserId::generate();
        self.registry.set_route(user, edges);
        self.delivery.push(frame(user, WARMING));
        eventually("the route is known", || {
            self.delivery
                .inner
                .routes
                .get(&user, Instant::now())
                .is_some()
        })
        .await;
        self.here.broadcasts.lock().clear();
        let arrived = || !self.there.broadcasts.lock().is_empty();
        if edges.contains(&THERE) {
            eventually("the first push arrives", arrived).await;
            self.there.broadcasts.lock().clear();
        }
        user
    }
}

/// The number of the push that made a route known.
const WARMING: u64 = u64::MAX;

fn frame(users: impl Into<Users>, number: u64) -> Broadcast {
    Broadcast {
        users: users.into(),
        frame: Bytes::copy_from_slice(&number.to_be_bytes()),
        except_session_id: 0,
        inbox_version: 0,
    }
}

#[tokio::test]
async fn a_warm_push_is_handed_over_in_the_call() {
    let setup = Setup::start().watched().await;
    let one = setup.warm_user(&[HERE]).await;
    let other = setup.warm_user(&[HERE]).await;
    let lookups = setup.registry.lookups();
    for n in 0..100 {
        setup.delivery.push(frame([one, other], n));
    }
    // Without a moment for any other task.
    assert_eq!(setup.here.frames(), (0..100).collect::<Vec<_>>());
    assert_eq!(&*setup.here.broadcasts.lock()[0].users, &[one, other]);
    assert_eq!(setup.registry.lookups(), lookups);
}

#[tokio::test]
async fn many_cold_pushes_are_one_lookup() {
    let setup = Setup::start().watched().await;
    let users: Vec<UserId> = (0..200).map(|_| UserId::generate()).collect();
    for user in &users {
        setup.registry.set_route(*user, &[THERE]);
    }
    for (n, pair) in (0..).zip(users.chunks(2)) {
        setup.delivery.push(frame([pair[0], pair[1]], n));
    }
    eventually("all arrive", || setup.there.count() == 100).await;
    assert_eq!(setup.there.frames(), (0..100).collect::<Vec<_>>());
    assert_eq!(setup.registry.lookups(), 1);
    assert_eq!(setup.delivery.stats().lookups, 1);
}

#[tokio::test]
async fn a_push_that_must_be_looked_up_is_handed_to_own_sessions_at_once_and_once() {
    let setup = Setup::start().watched().await;
    let user = UserId::generate();
    setup.registry.set_route(user, &[HERE]);
    setup.delivery.push(frame(user, 0));
    // Before anybody was asked, so that nothing that comes later by a known route overtakes it.
    assert_eq!(setup.here.frames(), [0]);
    let is_warm = || {
        setup
            .delivery
            .inner
            .routes
            .get(&user, Instant::now())
            .is_some()
    };
    eventually("the route is known", is_warm).await;
    setup.delivery.push(frame(user, 1));
    assert_eq!(setup.here.frames(), [0, 1]);
}

#[tokio::test]
async fn absence_is_never_remembered() {
    let setup = Setup::start().watched().await;
    let user = UserId::generate();
    setup.delivery.push(frame(user, 1));
    eventually("it is looked up", || setup.registry.lookups() == 1).await;
    setup.registry.set_route(user, &[THERE]);
    // Not told by any watch: who has no lease is not told.
    setup.delivery.push(frame(user, 2));
    eventually("it arrives", || setup.there.frames() == [2]).await;
    assert_eq!(setup.registry.lookups(), 2);
}

#[tokio::test]
async fn a_told_change_moves_pushes_to_the_new_edge() {
    let setup = Setup::start().watched().await;
    let user = setup.warm_user(&[HERE]).await;
    let lookups = setup.registry.lookups();
    setup.registry.change_route(user, &[THERE]);
    let mut n = 0;
    eventually("pushes go there", || {
        n += 1;
        setup.delivery.push(frame(user, n));
        setup.there.count() > 0
    })
    .await;
    let here = setup.here.count();
    setup.delivery.push(frame(user, 0));
    assert_eq!(setup.here.count(), here);
    assert_eq!(setup.registry.lookups(), lookups);

    setup.registry.change_route(user, &[]);
    let forgotten = || {
        setup
            .delivery
            .inner
            .routes
            .get(&user, Instant::now())
            .is_none()
    };
    eventually("the user is forgotten", forgotten).await;
}

#[tokio::test]
async fn a_broken_watch_forgets_all_routes() {
    let setup = Setup::start().watched().await;
    let user = setup.warm_user(&[HERE]).await;
    setup.registry.0.state.lock().refuse_watches = true;
    setup.registry.set_route(user, &[THERE]);
    setup.registry.break_watches();
    let routes = &setup.delivery.inner.routes;
    eventually("all is forgotten", || routes.len() == 0).await;
    // Without a watch the answers are used, and not remembered.
    for n in 1..=3 {
        setup.delivery.push(frame(user, n));
        eventually("it arrives", || setup.there.count() as u64 == n).await;
        assert_eq!(routes.len(), 0);
    }
    assert_eq!(setup.registry.lookups(), 4);
    setup.registry.0.state.lock().refuse_watches = false;
    eventually("the watch comes back", || routes.is_watched()).await;
    setup.delivery.push(frame(user, 4));
    eventually("it is remembered again", || routes.len() == 1).await;
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_over_and_its_routes_are_forgotten() {
    let config = DeliveryConfig {
        watch_silent_max: Duration::from_millis(500),
        ..DeliveryConfig::new(HERE, "test")
    };
    let setup = Setup::with(config).watched().await;
    setup.warm_user(&[HERE]).await;
    // This registry never says anything by itself.
    let routes = &setup.delivery.inner.routes;
    eventually("all is forgotten", || routes.len() == 0).await;
    let watches = || setup.registry.0.state.lock().watchers.len();
    eventually("there is another watch", || watches() > 1).await;
}

#[tokio::test]
async fn a_route_that_changes_while_it_is_looked_up_is_not_remembered() {
    let setup = Setup::start().watched().await;
    let user = UserId::generate();
    setup.registry.set_route(user, &[HERE]);
    setup.registry.0.gate.forget_permits(Semaphore::MAX_PERMITS);
    setup.delivery.push(frame(user, 1));
    eventually("it is asked", || setup.registry.lookups() == 1).await;
    let told = setup.delivery.inner.routes.changes();
    setup.registry.change_route(user, &[THERE]);
    eventually("the change is told", || {
        setup.delivery.inner.routes.changes() > told
    })
    .await;
    // Now the old answer arrives.
    setup.registry.0.gate.add_permits(100);
    eventually("it is used", || setup.here.count() == 1).await;
    setup.delivery.push(frame(user, 2));
    eventually("the next goes there", || setup.there.frames() == [2]).await;
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    let setup = Setup::start().watched().await;
    let user = setup.warm_user(&[HERE]).await;
    let routes = &setup.delivery.inner.routes;
    let later = Instant::now() + Duration::from_secs(61);
    assert!(matches!(routes.plan(&[user], Instant::now()), Plan::Here));
    assert!(matches!(routes.plan(&[user], later), Plan::Split(split) if !split.cold.is_empty()));
}

#[tokio::test]
async fn a_push_that_misses_its_user_forgets_the_route() {
    let setup = Setup::start().watched().await;
    let here = setup.warm_user(&[HERE]).await;
    let there = setup.warm_user(&[THERE]).await;
    setup.here.absent.lock().insert(here);
    setup.there.absent.lock().insert(there);
    let routes = &setup.delivery.inner.routes;
    assert_eq!(routes.len(), 2);
    setup.delivery.push(frame(here, 1));
    assert_eq!(routes.len(), 1);
    setup.delivery.push(frame(there, 2));
    eventually("the other is forgotten too", || routes.len() == 0).await;
    assert_eq!(setup.delivery.stats().missed, 2);
}

#[tokio::test]
async fn without_the_registry_the_sessions_of_this_node_still_get_theirs() {
    let setup = Setup::start().watched().await;
    setup.registry.0.state.lock().refuse_lookups = true;
    setup.delivery.push(frame(UserId::generate(), 1));
    eventually("it arrives", || setup.here.frames() == [1]).await;
}

#[tokio::test]
async fn too_many_cold_pushes_are_dropped_and_counted() {
    let config = DeliveryConfig {
        cold_pushes_max: 10,
        ..DeliveryConfig::new(HERE, "test")
    };
    let setup = Setup::with(config).watched().await;
    setup.registry.0.gate.forget_permits(Semaphore::MAX_PERMITS);
    let user = UserId::generate();
    setup.registry.set_route(user, &[THERE]);
    setup.delivery.push(frame(user, 0));
    eventually("the first is asked for", || setup.registry.lookups() == 1).await;
    for n in 1..=50 {
        setup.delivery.push(frame(user, n));
    }
    assert_eq!(setup.delivery.stats().cold_dropped, 40);
    setup.registry.0.gate.add_permits(100);
    eventually("the others arrive", || setup.there.count() == 11).await;
    assert_eq!(setup.there.frames(), (0..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_edge_that_is_made_later_is_pushed_to() {
    let late: OnceLock<Arc<dyn LocalEdge>> = OnceLock::new();
    let user = UserId::generate();
    assert_eq!(late.broadcast(&frame(user, 1)), 1);
    let sessions = Arc::new(Sessions::default());
    assert!(late.set(sessions.clone()).is_ok());
    assert_eq!(late.broadcast(&frame(user, 2)), 0);
    assert_eq!(sessions.frames(), [2]);
}
