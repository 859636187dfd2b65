//! On a real server, each test on its own; "replicas" are stores with pools of their own.

use servers::postgres::{Postgres, PostgresOptions};
use sqlx::{Connection, PgConnection};

use super::*;
use crate::store::suite;

fn server() -> Postgres {
    let server = Postgres::start(PostgresOptions::fast()).unwrap();
    server.create_database("presence").unwrap();
    server
}

async fn open(server: &Postgres) -> PostgresStore {
    let config = PostgresConfig::new(server.url("presence"));
    PostgresStore::open(&config).await.unwrap()
}

async fn connection(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url("presence"))
        .await
        .unwrap()
}

#[tokio::test]
async fn keeps_what_every_store_must() {
    let server = server();
    suite::run(async || open(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_note_the_same_users_at_once_keep_the_latest_times() {
    let server = server();
    let stores = [
        open(&server).await,
        open(&server).await,
        open(&server).await,
    ];
    let users: Vec<UserId> = (0..300).map(|_| UserId::generate()).collect();
    let mut writes = Vec::new();
    for n in 0..30_i64 {
        let mut seen: Vec<(UserId, i64)> = users.iter().map(|user| (*user, n)).collect();
        // Each write has the users in another order.
        seen.rotate_left(usize::try_from(n).unwrap() * 10);
        if n % 2 == 0 {
            seen.reverse();
        }
        let store = stores[usize::try_from(n).unwrap() % 3].clone();
        writes.push(tokio::spawn(async move { store.note_seen(seen).await }));
    }
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let found = stores[0].last_seen(users.clone()).await.unwrap();
    assert_eq!(found.len(), users.len());
    assert!(found.values().all(|seen| *seen == 29), "{found:?}");
}

#[tokio::test]
async fn last_seen_times_are_looked_up_by_the_key() {
    let server = server();
    let _store = open(&server).await;
    let mut c = connection(&server).await;
    let fill = "INSERT INTO last_seen SELECT gen_random_uuid(), n FROM generate_series(1, 50000) n;
        ANALYZE";
    sqlx::raw_sql(fill).execute(&mut c).await.unwrap();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let sql = format!(
            "SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE it (uuid[]) AS {LAST_SEEN}"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut c)
            .await
            .unwrap();
        // As many as one call may ask for.
        let users: Vec<String> = (0..200).map(|_| UserId::generate().to_string()).collect();
        let explain = format!("EXPLAIN EXECUTE it ('{{{}}}')", users.join(","));
        let explain = sqlx::raw_sql(sqlx::AssertSqlSafe(explain));
        let rows = explain.fetch_all(&mut c).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, 0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("last_seen_pkey"), "{plan}");
        assert!(!plan.contains("Seq Scan"), "{plan}");
    }
}

#[tokio::test]
async fn the_schema_is_made_once_and_a_newer_one_is_refused() {
    let server = server();
    tokio::join!(open(&server), open(&server), open(&server));
    let mut c = connection(&server).await;
    sqlx::query("UPDATE _sqlx_migrations SET version = 999, checksum = '' WHERE version = 1")
        .execute(&mut c)
        .await
        .unwrap();
    let refused = PostgresStore::open(&PostgresConfig::new(server.url("presence"))).await;
    let error = refused.err().unwrap();
    assert!(
        matches!(error, OpenError::NewerSchema { stored: 999, .. }),
        "{error}"
    );
}
