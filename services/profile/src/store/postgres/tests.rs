//! On a real server, each test on its own; "replicas" are stores with pools of their own.

use servers::postgres::{Postgres, PostgresOptions};
use sqlx::PgConnection;

use super::*;
use crate::store::suite::{self, FACTS_MAX, NOW, account, create, device};

mod plans;
mod races;

/// Longer than any step of a test takes.
const SOON: Duration = Duration::from_secs(60);

fn server() -> Postgres {
    Postgres::start(PostgresOptions::fast()).unwrap()
}

async fn open(server: &Postgres, database: &str) -> PostgresStore {
    let config = PostgresConfig::new(server.url(database));
    PostgresStore::open(&config).await.unwrap()
}

/// Stores of several processes on one new database.
async fn replicas<const N: usize>(server: &Postgres) -> [PostgresStore; N] {
    server.create_database("profile").unwrap();
    let mut stores = Vec::new();
    for _ in 0..N {
        stores.push(open(server, "profile").await);
    }
    stores.try_into().unwrap_or_else(|_| unreachable!())
}

/// A connection beside the stores.
async fn connection(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url("profile")).await.unwrap()
}

/// Returns when somebody waits for a lock, or `done` says that there is nothing to wait for.
async fn somebody_waits(c: &mut PgConnection, done: impl Fn() -> bool) {
    let waits = async {
        while !done() {
            let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut *c).await.unwrap();
            if waiting > 0 {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, waits).await.unwrap();
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    let server = server();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let open = async || {
        let made = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let name = format!("profile{made}");
        server.create_database(&name).unwrap();
        (open(&server, &name).await, ())
    };
    suite::run(open).await.unwrap();
}

#[tokio::test]
async fn processes_that_start_together_make_the_schema_once() {
    let server = server();
    server.create_database("profile").unwrap();
    let opens = (0..4).map(|_| open(&server, "profile"));
    let stores = futures_util::future::join_all(opens).await;
    // They see one seed, and so one cell of a name.
    assert!(stores.iter().all(|store| store.seed == stores[0].seed));
    create(&stores[0], "ann", "Ann").await.unwrap();
    assert!(stores[3].account("ann").await.unwrap().is_some());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = connection(&server).await;
    sqlx::query("UPDATE _sqlx_migrations SET version = 999, checksum = '' WHERE version = 1")
        .execute(&mut c)
        .await
        .unwrap();
    let refused = PostgresStore::open(&PostgresConfig::new(server.url("profile"))).await;
    let error = refused.err().unwrap();
    assert!(
        matches!(error, OpenError::NewerSchema { stored: 999, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn the_lease_goes_to_one_and_comes_back_when_its_holder_is_gone() {
    let server = server();
    let [one, two, three] = replicas(&server).await;
    let (a, b) = (RelayId::generate(), RelayId::generate());
    let life = Duration::from_secs(3_600);
    assert!(one.hold_relay(a, life).await.unwrap());
    assert!(!two.hold_relay(b, life).await.unwrap());
    assert!(one.hold_relay(a, life).await.unwrap());
    // The holder is gone, and time passes.
    let mut c = connection(&server).await;
    let mut set = async |at: &'static str| {
        sqlx::query(at).execute(&mut c).await.unwrap();
    };
    set("UPDATE relay_lease SET expires_at = clock_timestamp() - interval '1 ms'").await;
    let holders: Vec<RelayId> = (0..24).map(|_| RelayId::generate()).collect();
    let stores = [&one, &two, &three];
    let tries = holders
        .iter()
        .zip(stores.iter().cycle())
        .map(|(holder, store)| store.hold_relay(*holder, life));
    let held = futures_util::future::join_all(tries).await;
    let held: Vec<bool> = held.into_iter().map(Result::unwrap).collect();
    assert_eq!(held.iter().filter(|held| **held).count(), 1, "{held:?}");
    assert!(!one.hold_relay(a, life).await.unwrap());
    // Less than half is left: the holder writes it anew, and nobody else may.
    let holder = holders[held.iter().position(|held| *held).unwrap()];
    set("UPDATE relay_lease SET expires_at = clock_timestamp() + interval '20 min'").await;
    assert!(!two.hold_relay(b, life).await.unwrap());
    assert!(two.hold_relay(holder, life).await.unwrap());
    let sql = "SELECT expires_at > clock_timestamp() + interval '50 min' FROM relay_lease";
    let renewed: bool = sqlx::query_scalar(sql).fetch_one(&mut c).await.unwrap();
    assert!(renewed);
    // The clock of the database was set back by a day: nobody waits for a day.
    let mut set = async |at: &'static str| {
        sqlx::query(at).execute(&mut c).await.unwrap();
    };
    set("UPDATE relay_lease SET expires_at = expires_at + interval '1 day'").await;
    assert!(two.hold_relay(b, life).await.unwrap());
    assert!(!one.hold_relay(holder, life).await.unwrap());
}

#[tokio::test]
async fn failed_log_ins_are_counted_for_all_processes_and_come_back() {
    let server = server();
    let [one, two] = replicas(&server).await;
    let quota = Quota {
        burst: 3,
        every: Duration::from_secs(3_600),
    };
    let taken = async |store: &PostgresStore, name: &str| {
        let (account, taken) = store.account_to_log_in(name).await.unwrap();
        assert_eq!(account, None);
        quota.check(i64::try_from(taken.as_millis()).unwrap())
    };
    for _ in 0..3 {
        assert_eq!(taken(&two, "ann").await, Ok(()));
        one.note_failed_log_in("ann", &quota).await.unwrap();
    }
    let wait = taken(&two, "ann").await.unwrap_err();
    assert!(wait <= quota.every && wait > quota.every - SOON, "{wait:?}");
    assert_eq!(taken(&one, "bob").await, Ok(()));
    // An hour later one has come back.
    let mut c = connection(&server).await;
    sqlx::query("UPDATE failed_log_ins SET full_at = full_at - interval '1 hour'")
        .execute(&mut c)
        .await
        .unwrap();
    assert_eq!(taken(&one, "ann").await, Ok(()));
    // Whatever is taken, it comes back in a bounded time.
    for _ in 0..40 {
        one.note_failed_log_in("ann", &quota).await.unwrap();
    }
    let wait = taken(&one, "ann").await.unwrap_err();
    let longest = Duration::from_millis(quota.taken_max_ms().unsigned_abs());
    assert!(wait < longest, "{wait:?}");
    two.clear_failed_log_ins("ann").await.unwrap();
    assert_eq!(taken(&one, "ann").await, Ok(()));
}

#[tokio::test]
async fn all_replicas_have_the_time_of_the_database() {
    use runtime::clock::Clock;
    let server = server();
    let [store] = replicas(&server).await;
    let tasks = runtime::shutdown::Tasks::new();
    let clock = DatabaseClock::start(&store, &tasks).await.unwrap();
    let now = async || {
        let now = store.database().call("now", async |c| {
            sqlx::query_scalar::<_, i64>(sql::NOW).fetch_one(c).await
        });
        now.await.unwrap()
    };
    let before = now().await;
    let shown = clock.now_unix_ms();
    let after = now().await;
    let slack = i64::try_from(SOON.as_millis()).unwrap();
    assert!(
        before <= shown + 1 && shown <= after + slack,
        "{before} {shown} {after}"
    );
    // It goes on by itself.
    while clock.now_unix_ms() < shown + 20 {
        tokio::task::yield_now().await;
    }
    assert!(tasks.stop(SOON).await);
}
