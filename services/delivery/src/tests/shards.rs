//! Several registries, each of which owns some of the users.

use tokio::sync::Semaphore;

use super::*;
use crate::{Announcer, AnnouncerConfig};

const NAMES: [&str; 3] = ["presence-0", "presence-1", "presence-2"];

struct Shards {
    registries: Registries,
    fakes: Vec<Registry>,
}

impl Shards {
    fn start() -> Self {
        let (fakes, channels): (Vec<_>, Vec<_>) = NAMES.iter().map(|_| Registry::start()).unzip();
        let named = NAMES.iter().map(|name| (*name).to_owned()).zip(channels);
        Self {
            registries: Registries::new(named).unwrap(),
            fakes,
        }
    }

    fn owner(&self, user: UserId) -> usize {
        self.registries.shards().owner(user.as_bytes())
    }

    /// A user of this shard.
    fn user_of(&self, shard: usize) -> UserId {
        let users = std::iter::repeat_with(UserId::generate);
        { users }.find(|user| self.owner(*user) == shard).unwrap()
    }

    /// A user of each shard, on an edge.
    fn users_on(&self, edge: &str) -> Vec<UserId> {
        let users: Vec<UserId> = (0..NAMES.len()).map(|shard| self.user_of(shard)).collect();
        for (user, fake) in users.iter().zip(&self.fakes) {
            fake.set_route(*user, &[edge]);
        }
        users
    }

    /// A node, and the sessions of another edge.
    fn delivery(&self, config: DeliveryConfig) -> (Delivery, Arc<Sessions>, Tasks) {
        let there = Arc::new(Sessions::default());
        let receiver = PushReceiver::new(there.clone(), CancellationToken::new());
        let router =
            tonic::transport::Server::builder().add_service(EdgeServiceServer::new(receiver));
        let edge = serve(router);
        let tasks = Tasks::new();
        let delivery = Delivery::start(
            config,
            Arc::new(Sessions::default()),
            &self.registries,
            Arc::new(move |_| Ok(identified(&edge))),
            &tasks,
        );
        (delivery, there, tasks)
    }

    async fn watched(&self) -> (Delivery, Arc<Sessions>, Tasks) {
        let node = self.delivery(DeliveryConfig::new(HERE, "test"));
        let routes = node.0.inner.routes.clone();
        eventually("all watches are in force", || routes.is_watched()).await;
        node
    }
}

fn is_warm(delivery: &Delivery, user: UserId) -> bool {
    delivery.inner.routes.get(&user, Instant::now()).is_some()
}

async fn warm(delivery: &Delivery, users: &[UserId]) {
    delivery.push(frame(users.to_vec(), WARMING));
    let known = || users.iter().all(|user| is_warm(delivery, *user));
    eventually("the routes are known", known).await;
}

#[tokio::test]
async fn each_user_is_looked_up_at_his_shard() {
    let shards = Shards::start();
    let (delivery, there, _tasks) = shards.watched().await;
    let users = shards.users_on(THERE);
    delivery.push(frame(users.clone(), 7));
    eventually("all get it", || there.count() == 3).await;
    assert_eq!(there.frames(), [7; 3]);
    for (user, fake) in users.iter().zip(&shards.fakes) {
        assert_eq!(fake.0.state.lock().lookups, [[*user]]);
    }
    assert_eq!(delivery.stats().lookups, 3);
    // And from then on nobody is asked, and the frame goes out once for all.
    delivery.push(frame(users.clone(), 8));
    eventually("all get it at once", || there.count() == 4).await;
    assert_eq!(&*there.broadcasts.lock()[3].users, &users);
    assert_eq!(delivery.stats().lookups, 3);
}

#[tokio::test]
async fn a_shard_that_does_not_answer_delays_nobody_else() {
    let shards = Shards::start();
    let (delivery, there, _tasks) = shards.watched().await;
    let users = shards.users_on(THERE);
    let gate = &shards.fakes[1].0.gate;
    gate.forget_permits(Semaphore::MAX_PERMITS);
    delivery.push(frame(users.clone(), 1));
    // While the silent shard is asked, the others' users get this and everything after it, also those
    // that must be looked up yet.
    eventually("it is asked", || shards.fakes[1].lookups() == 1).await;
    for n in 2..50 {
        let cold = shards.user_of(usize::try_from(n).unwrap() % 2 * 2);
        shards.fakes[shards.owner(cold)].set_route(cold, &[THERE]);
        let before = there.count();
        delivery.push(frame(cold, n));
        eventually("it arrives", || there.count() > before).await;
    }
    assert_eq!(shards.fakes[1].lookups(), 1);
    gate.add_permits(100);
    let late = || {
        let broadcasts = there.broadcasts.lock();
        broadcasts.iter().any(|b| b.users.contains(&users[1]))
    };
    eventually("who waited has it too", late).await;
}

#[tokio::test]
async fn a_shard_that_is_away_takes_no_place_of_the_others_and_its_routes_alone_are_forgotten() {
    let shards = Shards::start();
    let config = DeliveryConfig {
        cold_pushes_max: 30,
        ..DeliveryConfig::new(HERE, "test")
    };
    let (delivery, there, _tasks) = shards.delivery(config);
    let routes = delivery.inner.routes.clone();
    eventually("all watches are in force", || routes.is_watched()).await;
    let users = shards.users_on(THERE);
    warm(&delivery, &users).await;
    let away = &shards.fakes[1];
    away.0.state.lock().refuse_watches = true;
    away.0.gate.forget_permits(Semaphore::MAX_PERMITS);
    away.break_watches();
    eventually("its route is forgotten", || !is_warm(&delivery, users[1])).await;
    assert!(is_warm(&delivery, users[0]) && is_warm(&delivery, users[2]));
    let asked = away.lookups();
    delivery.push(frame(users[1], 1));
    eventually("it is asked", || away.lookups() > asked).await;
    for n in 2..50 {
        delivery.push(frame(users[1], n));
    }
    assert_eq!(delivery.stats().cold_dropped, 38);
    let cold = shards.user_of(0);
    shards.fakes[0].set_route(cold, &[THERE]);
    let before = there.count();
    delivery.push(frame(vec![users[0], cold, users[2]], 50));
    eventually("all three have it", || there.count() == before + 2).await;
    assert_eq!(delivery.stats().cold_dropped, 38);
    // What was asked before the watch broke is not remembered after it either.
    assert!(!is_warm(&delivery, users[1]));
}

#[tokio::test]
async fn a_device_is_logged_out_by_asking_its_users_shard() {
    let shards = Shards::start();
    let (delivery, there, _tasks) = shards.watched().await;
    let users = shards.users_on(THERE);
    let device = DeviceId::generate();
    for user in &users {
        delivery.end_sessions(*user, device);
    }
    eventually("all are ended", || there.ended.lock().len() == 3).await;
    for (user, fake) in users.iter().zip(&shards.fakes) {
        assert_eq!(fake.0.state.lock().lookups, [[*user]]);
    }
}

#[tokio::test]
async fn sessions_are_announced_to_their_users_shards_and_one_that_is_away_holds_up_no_other() {
    let shards = Shards::start();
    let tasks = Tasks::new();
    let config = AnnouncerConfig {
        opened_max: Duration::from_secs(60),
        ..AnnouncerConfig::new(HERE, 1)
    };
    let announcer = Announcer::start(config, &shards.registries, &tasks);
    let users: Vec<UserId> = (0..3).map(|shard| shards.user_of(shard)).collect();
    for (session_id, user) in (0..).zip(&users) {
        announcer.opened(*user, session_id).await;
    }
    let sessions = |shard: usize| shards.fakes[shard].0.state.lock().sessions.clone();
    for (shard, user) in users.iter().enumerate() {
        assert_eq!(sessions(shard), HashMap::from([(shard as u64, *user)]));
    }
    assert_eq!(announcer.sessions(), 3);
    let gate = &shards.fakes[1].0.announce_gate;
    gate.forget_permits(Semaphore::MAX_PERMITS);
    let waits = announcer.opened(shards.user_of(1), 10);
    for session_id in 11..20 {
        announcer.opened(shards.user_of(0), session_id).await;
        assert!(sessions(0).contains_key(&session_id));
    }
    gate.add_permits(100);
    waits.await;
    announcer.closed(users[2], 2);
    eventually("it is forgotten", || sessions(2).is_empty()).await;
    assert_eq!(announcer.sessions(), 12);
}

#[tokio::test]
async fn who_is_not_found_is_offline_only_if_his_shard_is_certain_of_it() {
    let shards = Shards::start();
    let (delivery, _, _tasks) = shards.watched().await;
    let there = shards.users_on(THERE);
    let nowhere: Vec<UserId> = (0..3).map(|shard| shards.user_of(shard)).collect();
    shards.fakes[0].0.state.lock().incomplete = true;
    shards.fakes[1].0.state.lock().refuse_lookups = true;
    let asked = [nowhere.clone(), there].concat();
    use Online::{No, Unknown, Yes};
    let expected = [Unknown, Unknown, No, Yes, Unknown, Yes];
    assert_eq!(delivery.online(&asked).await, expected);
    assert!(delivery.online(&[]).await.is_empty());
    // More than one question holds.
    let many = vec![nowhere[2]; 2_500];
    assert_eq!(delivery.online(&many).await, vec![No; 2_500]);
    // It is not a push, and leaves nothing behind.
    assert_eq!(delivery.stats().lookups, 0);
    assert_eq!(delivery.inner.routes.len(), 0);
}
