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
    server.create_database("blob").unwrap();
    let mut stores = Vec::new();
    for _ in 0..N {
        stores.push(open(server, "blob").await);
    }
    stores.try_into().unwrap_or_else(|_| unreachable!())
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    let server = server();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let open = async || {
        let made = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let name = format!("blob{made}");
        server.create_database(&name).unwrap();
        (open(&server, &name).await, ())
    };
    suite::run(open).await;
}
