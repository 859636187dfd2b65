use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{LazyLock, atomic::AtomicU64},
};

use servers::postgres::{Postgres as Server, PostgresOptions};
use sqlx::migrate::{Migration, MigrationType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

use super::*;

/// Shared by the tests that leave it alone; its processes go with this one.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(PostgresOptions::fast()).unwrap());

/// A bound that tests can wait for.
const CALL_TIMEOUT: Duration = Duration::from_millis(800);
/// What a busy machine may add to a bound.
const SLACK: Duration = Duration::from_secs(10);
/// How long a state may take to come.
const DEADLINE: Duration = Duration::from_secs(60);

fn config(url: String, connections_max: u32) -> PostgresConfig {
    PostgresConfig {
        url,
        connections_max,
        call_timeout_ms: CALL_TIMEOUT.as_millis() as u64,
    }
}

/// The URL of a new database of the shared server.
fn fresh() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("fresh_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    SERVER.create_database(&name).unwrap();
    SERVER.url(&name)
}

async fn backend(database: &Database) -> Result<i32, PostgresError> {
    database
        .call("backend", async |connection| {
            let pid = sqlx::query_scalar("SELECT pg_backend_pid()");
            pid.fetch_one(connection).await
        })
        .await
}

async fn run(database: &Database, sql: &'static str) -> Result<(), PostgresError> {
    database
        .call("run", async |connection| {
            sqlx::query(sql).execute(connection).await.map(drop)
        })
        .await
}

/// Fails unless the call ended in time, and said that the server is away.
async fn expect_away(database: &Database) {
    let start = Instant::now();
    let error = backend(database).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Unavailable, "{error}");
    assert!(start.elapsed() < CALL_TIMEOUT + SLACK);
    assert!(!database.is_available());
}

/// Waits until as many calls as there are connections answer at the same time.
async fn expect_recovery(database: &Database, connections: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let calls = (0..connections).map(|_| run(database, "SELECT pg_sleep(0.05)"));
        let answers = futures_util::future::join_all(calls).await;
        if answers.iter().all(Result::is_ok) {
            break;
        }
        assert!(Instant::now() < deadline, "{answers:?}");
    }
    assert!(database.is_available());
}

/// Waits until as many connections are back in the pool.
async fn expect_idle(database: &Database, connections: usize) {
    let deadline = Instant::now() + DEADLINE;
    while database.inner.pool.num_idle() < connections {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_makes_calls_fail_in_time_and_the_pool_recovers() {
    let server = Server::start(PostgresOptions::fast()).unwrap();
    let database = Database::connect(&config(server.url("postgres"), 3))
        .await
        .unwrap();
    expect_recovery(&database, 3).await;
    server.pause().unwrap();
    // More than there are connections: none is lost with a call that was given up.
    for _ in 0..5 {
        expect_away(&database).await;
    }
    let another = Database::connect(&config(server.url("postgres"), 1)).await;
    assert!(matches!(another.err(), Some(OpenError::Unavailable(_))));
    server.resume().unwrap();
    expect_recovery(&database, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_makes_calls_fail_in_time_and_the_pool_recovers() {
    let mut server = Server::start(PostgresOptions::fast()).unwrap();
    let config = config(server.url("postgres"), 3);
    let database = Database::connect(&config).await.unwrap();
    expect_recovery(&database, 3).await;
    server.kill().unwrap();
    for _ in 0..5 {
        expect_away(&database).await;
    }
    let another = Database::connect(&config).await;
    assert!(matches!(another.err(), Some(OpenError::Unavailable(_))));
    server.start_again().unwrap();
    expect_recovery(&database, 3).await;
}

/// A network between the pool and the server that can swallow what the connections of now still
/// send, in both directions, without closing them.
struct Network {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl Network {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let watched = cuts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (client_reads, client_writes) = client.into_split();
                let server = TcpStream::connect(server).await.unwrap();
                let (server_reads, server_writes) = server.into_split();
                tokio::spawn(carry(client_reads, server_writes, watched.subscribe()));
                tokio::spawn(carry(server_reads, client_writes, watched.subscribe()));
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<u64>,
) {
    let mut buffer = vec![0; 16_384];
    loop {
        tokio::select! {
            biased;
            _ = cut.changed() => break,
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => if to.write_all(&buffer[..count]).await.is_err() { return },
            },
        }
    }
    // Neither end hears anything, not even that it is over.
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_everything_costs_a_bounded_time() {
    let network = Network::to(([127, 0, 0, 1], SERVER.port()).into()).await;
    let url = format!("postgres://test@{}/postgres", network.address);
    let database = Database::connect(&config(url, 3)).await.unwrap();
    for _ in 0..3 {
        expect_recovery(&database, 3).await;
        expect_idle(&database, 3).await;
        network.cut();
        let start = Instant::now();
        expect_recovery(&database, 3).await;
        assert!(start.elapsed() < 4 * CALL_TIMEOUT + SLACK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_went_dead_while_idle_costs_no_call() {
    let network = Network::to(([127, 0, 0, 1], SERVER.port()).into()).await;
    let url = format!("postgres://test@{}/postgres", network.address);
    let database = Database::connect(&config(url, 1)).await.unwrap();
    let before = backend(&database).await.unwrap();
    expect_idle(&database, 1).await;
    network.cut();
    tokio::time::sleep(TRUSTED_IDLE + Duration::from_millis(100)).await;
    let after = backend(&database).await.unwrap();
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_dead_on_its_way_back_frees_its_place() {
    let network = Network::to(([127, 0, 0, 1], SERVER.port()).into()).await;
    let url = format!("postgres://test@{}/postgres", network.address);
    let database = Database::connect(&config(url, 1)).await.unwrap();
    for _ in 0..3 {
        expect_recovery(&database, 1).await;
        let connection = database.inner.pool.acquire().await.unwrap();
        network.cut();
        Lease::of(connection).give_back(CALL_TIMEOUT);
    }
    expect_recovery(&database, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_leaves_no_connection_in_use() {
    let database = Database::connect(&config(fresh(), 1)).await.unwrap();
    for _ in 0..5 {
        let slow = run(&database, "SELECT pg_sleep(60)");
        let dropped = tokio::time::timeout(Duration::from_millis(20), slow).await;
        assert!(dropped.is_err());
        // It does not wait for the answer of the one before.
        backend(&database).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_ends_on_the_server_too_and_its_connection_goes_on() {
    let database = Database::connect(&config(fresh(), 1)).await.unwrap();
    let before = backend(&database).await.unwrap();
    let error = run(&database, "SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(error.failure(), Failure::Unavailable);
    assert_eq!(error.sqlstate().as_deref(), Some("57014"), "{error}");
    assert_eq!(backend(&database).await.unwrap(), before);
    assert!(database.is_available());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_in_a_transaction_holds_no_lock_for_long() {
    let url = fresh();
    let stopped = Database::connect(&config(url.clone(), 1)).await.unwrap();
    let other = Database::connect(&config(url, 1)).await.unwrap();
    run(&stopped, "CREATE TABLE t (n int)").await.unwrap();
    run(&stopped, "INSERT INTO t VALUES (1)").await.unwrap();
    // As a process that is stopped with SIGSTOP: no deadline of its own runs.
    let mut connection = stopped.inner.pool.acquire().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let update = sqlx::query("UPDATE t SET n = 2");
    update.execute(&mut *transaction).await.unwrap();
    let start = Instant::now();
    while run(&other, "UPDATE t SET n = 3").await.is_err() {
        assert!(start.elapsed() < 2 * CALL_TIMEOUT + SLACK);
    }
    // Seen by the first one as its end, and not as a success.
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(classify(&error), Failure::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_durable_whatever_the_server_says() {
    let options = PostgresOptions {
        settings: vec![("synchronous_commit".to_owned(), "off".to_owned())],
        ..PostgresOptions::fast()
    };
    let server = Server::start(options).unwrap();
    let database = Database::connect(&config(server.url("postgres"), 1))
        .await
        .unwrap();
    let setting: String = database
        .call("show", async |connection| {
            let show = sqlx::query_scalar("SHOW synchronous_commit");
            show.fetch_one(connection).await
        })
        .await
        .unwrap();
    assert_eq!(setting, "on");
}

fn migrator(scripts: &[&'static str]) -> Migrator {
    let migrations = scripts.iter().zip(1..).map(|(sql, version)| {
        let kind = MigrationType::Simple;
        let sql = sqlx::AssertSqlSafe(*sql);
        Migration::new(
            version,
            Cow::Borrowed("test"),
            kind,
            sqlx::SqlSafeStr::into_sql_str(sql),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

const FIRST: &str = "CREATE TABLE one (n int); INSERT INTO one VALUES (1)";
const SECOND: &str = "INSERT INTO one SELECT n + 1 FROM one; SELECT pg_sleep(0.3)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_once_when_replicas_start_together() {
    let url = fresh();
    let replicas = (0..4).map(|_| async {
        let database = Database::connect(&config(url.clone(), 1)).await.unwrap();
        database.migrate(&migrator(&[FIRST, SECOND])).await.unwrap();
        database
    });
    let databases = futures_util::future::join_all(replicas).await;
    let rows: Vec<i32> = databases[0]
        .call("rows", async |connection| {
            let rows = sqlx::query_scalar("SELECT n FROM one ORDER BY n");
            rows.fetch_all(connection).await
        })
        .await
        .unwrap();
    assert_eq!(rows, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused_with_both_versions() {
    let database = Database::connect(&config(fresh(), 1)).await.unwrap();
    database.migrate(&migrator(&[FIRST, SECOND])).await.unwrap();
    for _ in 0..2 {
        let error = database.migrate(&migrator(&[FIRST])).await.unwrap_err();
        let OpenError::NewerSchema { stored, known } = error else {
            panic!("{error}");
        };
        assert_eq!((stored, known), (2, 1));
    }
    // A refusal leaves no lock behind.
    database.migrate(&migrator(&[FIRST, SECOND])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_or_was_changed_is_fatal_and_changes_nothing() {
    let database = Database::connect(&config(fresh(), 1)).await.unwrap();
    let wrong = "INSERT INTO one VALUES (7); SELECT 1/0";
    let failed = database.migrate(&migrator(&[FIRST, wrong])).await;
    let Err(OpenError::Migration(text)) = failed else {
        panic!("{failed:?}");
    };
    assert!(text.contains("version 2"), "{text}");
    let changed = migrator(&["SELECT 1"]);
    let refused = database.migrate(&changed).await;
    assert!(matches!(refused, Err(OpenError::Migration(_))));
    database.migrate(&migrator(&[FIRST, SECOND])).await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_fatal_and_says_why() {
    let nobody = SERVER.url("nobody_made_this");
    let mut too_short = config(SERVER.url("postgres"), 1);
    too_short.call_timeout_ms = 0;
    for (config, why) in [
        (config(nobody, 1), "nobody_made_this"),
        (config("mysql://x".to_owned(), 1), "url"),
        (config(SERVER.url("postgres"), 0), "connections_max"),
        (too_short, "call_timeout_ms"),
    ] {
        match Database::connect(&config).await.err() {
            Some(OpenError::Config(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    let read = |text| toml::from_str::<PostgresConfig>(text);
    let config = read("url = 'postgres://u:secret@h/d'").unwrap();
    assert_eq!(
        (config.connections_max, config.call_timeout_ms),
        (CONNECTIONS_MAX, CALL_TIMEOUT_MS)
    );
    assert!(!format!("{config:?}").contains("secret"));
    let unknown = read("url = 'x'\nconections_max = 3").unwrap_err();
    assert!(unknown.to_string().contains("conections_max"));
}

#[test]
fn a_sqlstate_says_what_can_be_done() {
    for (code, expected) in [
        ("08006", Failure::Unavailable),
        ("53100", Failure::Unavailable),
        ("53300", Failure::Unavailable),
        ("57P01", Failure::Unavailable),
        ("57P03", Failure::Unavailable),
        ("57014", Failure::Unavailable),
        ("58030", Failure::Unavailable),
        ("55P03", Failure::Unavailable),
        ("25006", Failure::Unavailable),
        ("25P03", Failure::Unavailable),
        ("40001", Failure::Conflict),
        ("40P01", Failure::Conflict),
        ("23505", Failure::Unique),
        ("23502", Failure::Lasting),
        ("22003", Failure::Lasting),
        ("28P01", Failure::Lasting),
        ("3D000", Failure::Lasting),
        ("42P01", Failure::Lasting),
        ("XX001", Failure::Lasting),
        ("ME001", Failure::Lasting),
    ] {
        assert_eq!(failure::of_sqlstate(code), expected, "{code}");
    }
}
