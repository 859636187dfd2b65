//! On a real server, each test on its own; "replicas" are stores with pools of their own.

use servers::postgres::{Postgres, PostgresOptions};
use sqlx::PgConnection;

use super::*;
use crate::store::suite::{self, change, create, made, outstanding, request};

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
    server.create_database("groups").unwrap();
    let mut stores = Vec::new();
    for _ in 0..N {
        stores.push(open(server, "groups").await);
    }
    stores.try_into().unwrap_or_else(|_| unreachable!())
}

/// A connection beside the stores.
async fn connection(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url("groups")).await.unwrap()
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    let server = server();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let open = async || {
        let made = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let name = format!("groups{made}");
        server.create_database(&name).unwrap();
        (open(&server, &name).await, ())
    };
    suite::run(open).await;
}

#[tokio::test]
async fn processes_that_start_together_make_the_schema_and_its_secret_once() {
    let server = server();
    server.create_database("groups").unwrap();
    let opens = (0..4).map(|_| open(&server, "groups"));
    let stores = futures_util::future::join_all(opens).await;
    assert!(stores.iter().all(|store| store.secret == stores[0].secret));
    assert_ne!(stores[0].secret, [0; 32]);
    let made = made(&stores[0], 2).await;
    let seen = stores[3].group(made.group, made.owner).await.unwrap();
    assert!(seen.is_some());
}
