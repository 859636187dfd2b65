//! On a real server, each test on its own; "replicas" are stores with pools of their own.

use servers::postgres::{Postgres, PostgresOptions};
use sqlx::PgConnection;

use super::*;
use crate::store::suite;

mod plans;
mod races;

fn server() -> Postgres {
    Postgres::start(PostgresOptions::fast()).unwrap()
}

async fn open(server: &Postgres, database: &str) -> PostgresStore {
    let config = PostgresConfig::new(server.url(database));
    PostgresStore::open(&config).await.unwrap()
}

/// Stores of several processes on one new database.
async fn replicas<const N: usize>(server: &Postgres) -> [PostgresStore; N] {
    server.create_database("notifier").unwrap();
    let mut stores = Vec::new();
    for _ in 0..N {
        stores.push(open(server, "notifier").await);
    }
    stores.try_into().unwrap_or_else(|_| unreachable!())
}

async fn connection(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url("notifier"))
        .await
        .unwrap()
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    let server = server();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let open = async || {
        let made = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let name = format!("notifier{made}");
        server.create_database(&name).unwrap();
        (open(&server, &name).await, ())
    };
    suite::run(open).await;
}

#[tokio::test]
async fn processes_that_start_together_make_the_schema_once() {
    let server = server();
    server.create_database("notifier").unwrap();
    let opens = (0..4).map(|_| open(&server, "notifier"));
    let stores = futures_util::future::join_all(opens).await;
    let (user, device) = (UserId::generate(), DeviceId::generate());
    let target = suite::fcm(user, device, "token");
    assert!(stores[0].put_target(target.clone(), 0).await.unwrap());
    let found = stores[3].targets(ProviderKind::Fcm, vec![user]).await;
    assert_eq!(found.unwrap(), [target]);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = connection(&server).await;
    sqlx::query("UPDATE _sqlx_migrations SET version = 999, checksum = '' WHERE version = 2")
        .execute(&mut c)
        .await
        .unwrap();
    let refused = PostgresStore::open(&PostgresConfig::new(server.url("notifier"))).await;
    let error = refused.err().unwrap();
    assert!(
        matches!(error, OpenError::NewerSchema { stored: 999, .. }),
        "{error}"
    );
}
