use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;

/// A store in memory that can fail, and waits for a permit before each write.
struct Faulty {
    times: Mutex<HashMap<UserId, i64>>,
    rows: AtomicU64,
    fails: AtomicBool,
    gate: Semaphore,
}

impl Faulty {
    fn new(writes: usize) -> Arc<Self> {
        Arc::new(Self {
            times: Mutex::default(),
            rows: AtomicU64::new(0),
            fails: AtomicBool::new(false),
            gate: Semaphore::new(writes),
        })
    }
}

#[async_trait]
impl Store for Faulty {
    async fn note_seen(&self, seen: Vec<(UserId, i64)>) -> Result<(), StoreError> {
        self.gate.acquire().await.unwrap().forget();
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError("test".to_owned()));
        }
        self.rows.fetch_add(seen.len() as u64, Ordering::SeqCst);
        self.times.lock().extend(seen);
        Ok(())
    }

    async fn last_seen(&self, users: Vec<UserId>) -> Result<HashMap<UserId, i64>, StoreError> {
        let times = self.times.lock();
        let known = |user: UserId| Some((user, *times.get(&user)?));
        Ok(users.into_iter().filter_map(known).collect())
    }
}

async fn seen(last_seen: &LastSeen, user: UserId) -> Option<i64> {
    last_seen.get(vec![user]).await.unwrap().remove(&user)
}

#[tokio::test]
async fn a_time_is_known_at_once_and_while_it_is_written_and_after() {
    let store = Faulty::new(0);
    let last_seen = Arc::new(LastSeen::new(store.clone(), 100));
    let user = UserId::generate();
    last_seen.note([(user, 5), (user, 4)]);
    assert_eq!(seen(&last_seen, user).await, Some(5));
    let writer = last_seen.clone();
    let writing = tokio::spawn(async move { writer.write_all().await });
    while last_seen.waiting.lock().writing.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen(&last_seen, user).await, Some(5));
    last_seen.note([(user, 6)]);
    assert_eq!(seen(&last_seen, user).await, Some(6));
    store.gate.add_permits(1);
    writing.await.unwrap().unwrap();
    assert_eq!(store.times.lock().get(&user), Some(&5));
    assert_eq!(seen(&last_seen, user).await, Some(6));
}

#[tokio::test]
async fn many_times_of_one_user_are_one_row() {
    let store = Faulty::new(100);
    let last_seen = LastSeen::new(store.clone(), 100);
    let user = UserId::generate();
    last_seen.note((0..50).map(|ms| (user, ms)));
    last_seen.write_all().await.unwrap();
    assert_eq!(store.rows.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn times_wait_for_a_store_that_fails_up_to_a_bound() {
    let store = Faulty::new(100);
    store.fails.store(true, Ordering::SeqCst);
    let last_seen = LastSeen::new(store.clone(), 2);
    let users: Vec<UserId> = (0..3).map(|_| UserId::generate()).collect();
    last_seen.note([(users[0], 1), (users[1], 1)]);
    assert!(last_seen.write_all().await.is_err());
    last_seen.note([(users[0], 2), (users[2], 2)]);
    assert_eq!(last_seen.lost.load(Ordering::SeqCst), 1);
    store.fails.store(false, Ordering::SeqCst);
    last_seen.write_all().await.unwrap();
    let expected = HashMap::from([(users[0], 2), (users[1], 1)]);
    assert_eq!(*store.times.lock(), expected);
}

#[tokio::test]
async fn what_waits_when_the_service_stops_is_written() {
    let store = Faulty::new(100);
    let last_seen = LastSeen::new(store.clone(), 100);
    let (gone, online) = (UserId::generate(), UserId::generate());
    last_seen.note([(gone, 1)]);
    let stop = CancellationToken::new();
    stop.cancel();
    last_seen.run(stop, || vec![(online, 2)]).await;
    let expected = HashMap::from([(gone, 1), (online, 2)]);
    assert_eq!(*store.times.lock(), expected);
}
