use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use servers::postgres::{Postgres as Server, PostgresOptions};

use super::*;
use crate::store::suite::{self, Fixture};

/// Shared by the tests that leave it alone; its processes go with this one.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(PostgresOptions::fast()).unwrap());

/// The URL of a new database of the shared server.
fn fresh() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("messaging_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    SERVER.create_database(&name).unwrap();
    SERVER.url(&name)
}

/// As many connections as a test needs: all tests share the server's.
fn config(url: String) -> PostgresConfig {
    PostgresConfig {
        connections_max: 4,
        // Machines that run tests are busy; the bound itself is tested elsewhere.
        call_timeout_ms: 30_000,
        ..PostgresConfig::new(url)
    }
}

/// A store in a database of its own.
struct PostgresFixture {
    config: PostgresConfig,
    store: PostgresStore,
}

impl PostgresFixture {
    async fn new() -> Self {
        let config = config(fresh());
        let store = PostgresStore::open(&config).await.unwrap();
        Self { config, store }
    }
}

#[async_trait]
impl Fixture for PostgresFixture {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn reopen(&mut self) {
        self.store.database().close().await;
        self.store = PostgresStore::open(&self.config).await.unwrap();
    }
}

suite::run_suite!(PostgresFixture::new().await);
