use std::{collections::HashMap, path::Path};

use async_trait::async_trait;
use event_log::{LogError, Membership, OnAppended, TopicIdentity};
use parking_lot::Mutex;

use super::*;
use crate::store::{
    sqlite::SqliteStore,
    suite::{FACTS_MAX, NOW, create, device},
};

/// Longer than any step of a test takes.
const SOON: Duration = Duration::from_secs(60);

/// The facts that are in the log, by user and number.
type Written = Arc<Mutex<Vec<(UserId, u64)>>>;

/// A log as one process knows it: what it is given is written at once, or (if it is bad) perhaps never,
/// later than it says, or without that it says so.
#[derive(Clone)]
struct TestLog {
    written: Written,
    bad: bool,
}

impl TestLog {
    fn of(written: &Written, bad: bool) -> Arc<dyn EventLog> {
        let written = written.clone();
        Arc::new(Self { written, bad })
    }

    fn write(&self, record: &NewRecord) {
        let record = UsersRecord::decode(record.payload.clone()).unwrap();
        assert!(matches!(
            record.fact,
            Some(users_record::Fact::DeviceRevoked(_))
        ));
        let user_id = UserId::from_slice(&record.user_id).unwrap();
        self.written.lock().push((user_id, record.fact_number));
    }

    fn write_later(&self, record: NewRecord, then: impl FnOnce() + Send + 'static) {
        let log = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..40))).await;
            log.write(&record);
            then();
        });
    }
}

#[async_trait]
impl EventLog for TestLog {
    fn identity(&self, _: Topic) -> TopicIdentity {
        TopicIdentity {
            log_id: "log".to_owned(),
            topic_id: "topic".to_owned(),
            partitions: 1,
        }
    }

    fn partition_of(&self, _: Topic, _: &[u8]) -> u32 {
        0
    }

    fn append(&self, _: Topic, record: NewRecord, _: Urgency, done: OnAppended) {
        let ok = Ok(Appended {
            partition: 0,
            offset: Some(0),
        });
        let unknown = || Err(AppendError::Unknown("no answer".to_owned()));
        match if self.bad {
            rand::random_range(0..16)
        } else {
            0
        } {
            12 => done(Err(AppendError::Failed("as the test wants".to_owned()))),
            13 => done(unknown()),
            14 => {
                done(unknown());
                self.write_later(record, || ());
            }
            15 => self.write_later(record, move || done(ok)),
            _ => {
                self.write(&record);
                done(ok);
            }
        }
    }

    async fn join(&self, _: &str, _: Topic) -> Result<Box<dyn Membership>, LogError> {
        Err(LogError::Closed)
    }
}

fn open(folder: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(&folder.join("profile.db")).unwrap())
}

/// Logs a new device in and out: one fact.
async fn add_fact(store: &dyn Store, user_id: UserId) {
    let device = device(user_id, NOW);
    let id = device.device_id;
    store.log_in_device(device, 9, NOW).await.unwrap();
    let fact = device_revoked(user_id, id);
    let out = store.log_out_device(user_id, id, None, fact, FACTS_MAX);
    assert!(out.await.unwrap());
}

async fn until_empty(store: &dyn Store) {
    let empty = async {
        while !store.facts(1).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, empty).await.unwrap();
}

/// The store of one process knows no lease: here several relay at once all the time, which is more than
/// relays of the past can do. They are killed and started again, and the log is bad.
#[tokio::test(flavor = "multi_thread")]
async fn facts_of_a_user_first_come_in_their_order_however_many_relay_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let written = Written::default();
    let mut users = Vec::new();
    for name in ["ann", "bob", "cid"] {
        let account = create(store.as_ref(), name, name).await.unwrap();
        users.push(account.user.user_id);
    }
    let stop = CancellationToken::new();
    let start = |changed: &Arc<Notify>| {
        let log = TestLog::of(&written, true);
        tokio::spawn(relay(store.clone(), log, changed.clone(), stop.clone()))
    };
    let changed: Vec<Arc<Notify>> = (0..3).map(|_| Arc::default()).collect();
    let mut relays: Vec<_> = changed.iter().map(start).collect();
    for n in 0..90 {
        add_fact(store.as_ref(), users[n % 3]).await;
        changed.iter().for_each(|changed| changed.notify_one());
        if n % 6 == 0 {
            let killed = n / 6 % 3;
            relays[killed].abort();
            relays[killed] = start(&changed[killed]);
        }
    }
    until_empty(store.as_ref()).await;
    stop.cancel();
    let mut first: HashMap<UserId, Vec<u64>> = HashMap::new();
    for (user_id, number) in written.lock().iter() {
        let numbers = first.entry(*user_id).or_default();
        if !numbers.contains(number) {
            numbers.push(*number);
        }
    }
    for (at, user_id) in (1..).zip(&users) {
        // Facts are numbered from 1 on, over all users.
        let all: Vec<u64> = (0..30).map(|n| n * 3 + at).collect();
        assert_eq!(first[user_id], all, "user {at}");
    }
}

#[tokio::test]
async fn a_record_says_the_number_of_its_fact_and_everything_that_the_fact_said() {
    let (user_id, device_id) = (UserId::generate(), DeviceId::generate());
    let mut payload = device_revoked(user_id, device_id);
    let plain = UsersRecord::decode(payload.as_slice()).unwrap();
    // A field that this program does not know: number 100, text "new".
    let unknown = [0xa2, 0x06, 3, b'n', b'e', b'w'];
    payload.extend(unknown);
    let record = record(Fact {
        id: 77,
        user_id,
        payload,
    });
    assert_eq!(record.key, user_id.as_bytes().as_slice());
    assert!(record.payload.windows(6).any(|bytes| bytes == unknown));
    let read = UsersRecord::decode(record.payload).unwrap();
    let expected = UsersRecord {
        fact_number: 77,
        ..plain
    };
    assert_eq!(read, expected);
}

#[cfg(feature = "distributed")]
mod replicas {
    use runtime::postgres::PostgresConfig;
    use servers::postgres::{Postgres, PostgresOptions};

    use super::*;
    use crate::store::postgres::PostgresStore;

    /// The store as several processes have it open.
    async fn stores(server: &Postgres, count: usize) -> Vec<Arc<dyn Store>> {
        server.create_database("profile").unwrap();
        let config = PostgresConfig::new(server.url("profile"));
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for _ in 0..count {
            stores.push(Arc::new(PostgresStore::open(&config).await.unwrap()));
        }
        stores
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_replica_relays_and_when_it_dies_another_one_goes_on() {
        let server = Postgres::start(PostgresOptions::fast()).unwrap();
        let stores = stores(&server, 2).await;
        let ann = create(stores[0].as_ref(), "ann", "Ann").await.unwrap();
        let ann = ann.user.user_id;
        let stop = CancellationToken::new();
        let changed: Arc<Notify> = Arc::default();
        let (of_one, of_other) = (Written::default(), Written::default());
        let start = |store: &Arc<dyn Store>, written: &Written| {
            let log = TestLog::of(written, false);
            tokio::spawn(relay(store.clone(), log, changed.clone(), stop.clone()))
        };
        let one = start(&stores[0], &of_one);
        add_fact(stores[0].as_ref(), ann).await;
        until_empty(stores[0].as_ref()).await;
        // The other one comes; facts of both replicas go through the first, once each.
        let other = start(&stores[1], &of_other);
        for n in 0..20 {
            add_fact(stores[n % 2].as_ref(), ann).await;
        }
        until_empty(stores[1].as_ref()).await;
        let numbers: Vec<u64> = of_one.lock().iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers, (1..=21).collect::<Vec<u64>>());
        assert_eq!(*of_other.lock(), []);
        // Killed: it gives nothing back.
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
        add_fact(stores[1].as_ref(), ann).await;
        until_empty(stores[1].as_ref()).await;
        assert_eq!(*of_other.lock(), [(ann, 22)]);
        // Stopped: it leaves the lease to whoever comes.
        stop.cancel();
        other.await.unwrap();
        let next = stores[0].hold_relay(RelayId::generate(), RELAY_LEASE);
        assert!(next.await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_relay_waits_for_a_log_that_is_away_and_keeps_its_lease() {
        let server = Postgres::start(PostgresOptions::fast()).unwrap();
        let stores = stores(&server, 2).await;
        let ann = create(stores[0].as_ref(), "ann", "Ann").await.unwrap();
        let ann = ann.user.user_id;
        add_fact(stores[0].as_ref(), ann).await;
        // A log that takes its time: longer than the lease.
        let log = Arc::new(SlowLog::default());
        let stop = CancellationToken::new();
        let waiting = tokio::spawn(relay(
            stores[0].clone(),
            log.clone(),
            Arc::default(),
            stop.clone(),
        ));
        let appended = async {
            while log.waiting.lock().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, appended).await.unwrap();
        let begun = Instant::now();
        while begun.elapsed() < RELAY_LEASE + RELAY_RENEW {
            let taken = stores[1].hold_relay(RelayId::generate(), RELAY_LEASE);
            assert!(!taken.await.unwrap(), "the lease was lost");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let done = log.waiting.lock().take().unwrap();
        done(Ok(Appended {
            partition: 0,
            offset: Some(0),
        }));
        until_empty(stores[1].as_ref()).await;
        stop.cancel();
        waiting.await.unwrap();
    }

    /// Answers when the test says so.
    #[derive(Default)]
    struct SlowLog {
        waiting: Mutex<Option<OnAppended>>,
    }

    #[async_trait]
    impl EventLog for SlowLog {
        fn identity(&self, topic: Topic) -> TopicIdentity {
            TestLog {
                written: Written::default(),
                bad: false,
            }
            .identity(topic)
        }

        fn partition_of(&self, _: Topic, _: &[u8]) -> u32 {
            0
        }

        fn append(&self, _: Topic, _: NewRecord, _: Urgency, done: OnAppended) {
            *self.waiting.lock() = Some(done);
        }

        async fn join(&self, _: &str, _: Topic) -> Result<Box<dyn Membership>, LogError> {
            Err(LogError::Closed)
        }
    }
}
