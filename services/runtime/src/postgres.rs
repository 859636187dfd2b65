//! PostgreSQL for the stores of the distributed form: a pool whose every call ends, and migrations.
//!
//! **Every call ends.** A server that is paused, or a network that swallows packets, leaves a
//! socket open on which nothing ever comes; the driver itself would wait for as long as the kernel
//! does, a quarter of an hour. So each call is made through [`Database::call`], which gives up
//! after [`PostgresConfig::call_timeout_ms`], closes the connection and answers
//! [`PostgresError::TimedOut`]. A call that was given up or dropped never leaves its connection in
//! the pool. What it asked for may still take effect, also later than a repetition of it: a
//! statement must be written so that this changes nothing.
//!
//! **The pool recovers by itself.** A connection that was idle for a moment, or for as long as a
//! call has failed, is tried with a deadline before it is used; one that does not answer is
//! replaced.
//!
//! **The server gives up as well**, a little earlier: statements and waits for locks are bounded on
//! each connection, and a transaction whose client has gone silent is ended, so that it does not
//! hold its locks against the one that goes on.
//!
//! Every commit is durable before it is answered (`synchronous_commit` is on for our connections,
//! whatever the server's default is). Each service has a database of its own.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Deserialize;
use sqlx::{
    ConnectOptions, Connection,
    pool::{PoolConnection, PoolConnectionMetadata},
    postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres},
};
pub use sqlx::{migrate::Migrator, postgres::PgConnection};

mod failure;
mod migrate;

pub use self::failure::{Failure, PostgresError, classify};

/// Connections of one process to its database, if the configuration does not say. A few writers and
/// some readers keep a server busy; a server lets in 100 by default, for all processes together.
const CONNECTIONS_MAX: u32 = 8;
/// How long a call may take, if the configuration does not say. A batch takes milliseconds; the
/// deadline of calls between services is as long.
const CALL_TIMEOUT_MS: u64 = 5_000;
/// The shortest time that a call can be given: below it, the server's own bounds would be zero.
const CALL_TIMEOUT_MS_MIN: u64 = 100;
/// The longest: a caller that waits longer has given up.
const CALL_TIMEOUT_MS_MAX: u64 = 60_000;
/// A connection that was idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How often the server looks whether a silent client is still there, and how often it tries, so
/// that the locks of one that has gone are free after some seconds.
const KEEPALIVE_SECONDS: u32 = 5;
/// How many of these looks may go unanswered.
const KEEPALIVE_TRIES: u32 = 3;

/// What a URL may begin with; the driver does not look.
const URL_SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where a service's database is.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`. Secret: `Debug` does not show it.
    pub url: String,
    /// The most connections that this process opens.
    #[serde(default = "default_connections_max")]
    pub connections_max: u32,
    /// How long a call may take, from asking for a connection to the last row, in milliseconds.
    #[serde(default = "default_call_timeout_ms")]
    pub call_timeout_ms: u64,
}

const fn default_connections_max() -> u32 {
    CONNECTIONS_MAX
}

const fn default_call_timeout_ms() -> u64 {
    CALL_TIMEOUT_MS
}

impl PostgresConfig {
    /// With the defaults of everything but the URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections_max: CONNECTIONS_MAX,
            call_timeout_ms: CALL_TIMEOUT_MS,
        }
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("connections_max", &self.connections_max)
            .field("call_timeout_ms", &self.call_timeout_ms)
            .finish_non_exhaustive()
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is away, or starting, or full of others: wait and try again. Everything else is fatal.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(String),
    /// A newer program has been here; this one must not touch what it does not know.
    #[error("the schema has version {stored}, this program knows versions up to {known}")]
    NewerSchema {
        /// What the database has.
        stored: i64,
        /// The newest that this program has.
        known: i64,
    },
    /// The schema is not the one that this program's migrations make, or one of them failed.
    #[error("migrations: {0}")]
    Migration(String),
    /// The configuration names something that is not there, or that lets nobody in.
    #[error("{0}")]
    Config(String),
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    call_timeout: Duration,
    health: Arc<Health>,
}

/// What the last calls said about the server.
#[derive(Default)]
struct Health {
    away: AtomicBool,
    /// When a call last failed for want of a server: connections that are idle since then are
    /// suspect.
    failed_at: Mutex<Option<Instant>>,
}

impl Database {
    /// Opens the pool and makes a first connection. Ends within the call's timeout.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, OpenError> {
        let options = connect_options(config)?;
        let call_timeout = Duration::from_millis(config.call_timeout_ms);
        let health = Arc::new(Health::default());
        let try_timeout = call_timeout / 4;
        let watched = health.clone();
        let pool = PgPoolOptions::new()
            .max_connections(config.connections_max)
            // A call that waits for so long for a connection leaves the rest to the statement.
            .acquire_timeout(call_timeout / 2)
            // One that is slow is ours to report, as a call that failed.
            .acquire_slow_threshold(call_timeout)
            .test_before_acquire(false)
            .before_acquire(move |connection, idle| {
                let trusted = watched.trusts(&idle);
                Box::pin(async move {
                    if trusted {
                        return Ok(true);
                    }
                    let answer = tokio::time::timeout(try_timeout, connection.ping()).await;
                    // With an error, it is closed without a farewell that nobody may read.
                    answer.map_err(|_| sqlx::Error::PoolTimedOut)??;
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        let database = Self {
            inner: Arc::new(Inner {
                pool,
                call_timeout,
                health,
            }),
        };
        let first = database.call("connect", async |connection| connection.ping().await);
        first.await.map_err(|error| match error.failure() {
            Failure::Unavailable | Failure::Conflict => OpenError::Unavailable(error.to_string()),
            Failure::Unique | Failure::Lasting => OpenError::Config(error.to_string()),
        })?;
        Ok(database)
    }

    /// Brings the schema up to date. When several processes start together, one does it and the
    /// others wait, or are told to come again ([`OpenError::Unavailable`]). Refuses a schema that
    /// is newer.
    pub async fn migrate(&self, migrator: &Migrator) -> Result<(), OpenError> {
        let options = self.inner.pool.connect_options();
        migrate::run(options.as_ref().clone(), migrator, self.inner.call_timeout).await
    }

    /// Whether the last call reached the server: for a service's health.
    pub fn is_available(&self) -> bool {
        !self.inner.health.away.load(Ordering::Relaxed)
    }

    /// Runs `work` on a connection of the pool and ends within the call's timeout. `operation`
    /// names it in errors. Where `work` begins a transaction, it also commits it.
    pub async fn call<T, F>(&self, operation: &'static str, work: F) -> Result<T, PostgresError>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    {
        let Inner {
            pool,
            call_timeout,
            health,
        } = self.inner.as_ref();
        let attempt = async {
            let mut lease = Lease::of(pool.acquire().await?);
            let result = work(lease.connection()?).await;
            if result
                .as_ref()
                .err()
                .is_none_or(failure::leaves_connection_sound)
            {
                lease.give_back(*call_timeout);
            }
            result
        };
        let result = match tokio::time::timeout(*call_timeout, attempt).await {
            Ok(result) => result.map_err(|source| PostgresError::Failed { operation, source }),
            Err(_) => Err(PostgresError::TimedOut {
                operation,
                after: *call_timeout,
            }),
        };
        health.learn(&result);
        result
    }

    /// Closes every connection; calls fail from then on.
    pub async fn close(&self) {
        self.inner.pool.close().await;
    }
}

impl Health {
    fn trusts(&self, connection: &PoolConnectionMetadata) -> bool {
        let failed_meanwhile = (*self.failed_at.lock())
            .is_some_and(|failed_at| failed_at.elapsed() < connection.idle_for);
        connection.idle_for <= TRUSTED_IDLE && !failed_meanwhile
    }

    /// One line a change, and not one a call.
    fn learn<T>(&self, result: &Result<T, PostgresError>) {
        match result {
            Err(error) if error.is_silence() => {
                *self.failed_at.lock() = Some(Instant::now());
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "postgresql does not answer");
                }
            }
            Err(_) | Ok(_) => {
                if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("postgresql answers again");
                }
            }
        }
    }
}

/// A connection while a call uses it. Unless it is given back, it is closed: nobody knows what is
/// still to come on it.
struct Lease(Option<PoolConnection<Postgres>>);

impl Lease {
    const fn of(connection: PoolConnection<Postgres>) -> Self {
        Self(Some(connection))
    }

    fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// The pool asks the server once more before it keeps a connection. Done here and not when it
    /// is dropped, because that would wait without a bound and hold one of the pool's places.
    fn give_back(mut self, within: Duration) {
        if let Some(mut connection) = self.0.take() {
            tokio::spawn(tokio::time::timeout(within, connection.return_to_pool()));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            // Closes the socket and says nothing: the server may not be there to hear it.
            drop(connection.detach());
        }
    }
}

fn connect_options(config: &PostgresConfig) -> Result<PgConnectOptions, OpenError> {
    let timeout = config.call_timeout_ms;
    if !(CALL_TIMEOUT_MS_MIN..=CALL_TIMEOUT_MS_MAX).contains(&timeout) {
        return Err(OpenError::Config(format!(
            "call_timeout_ms must be from {CALL_TIMEOUT_MS_MIN} to {CALL_TIMEOUT_MS_MAX}"
        )));
    }
    if config.connections_max == 0 {
        let text = "connections_max must be at least 1";
        return Err(OpenError::Config(text.to_owned()));
    }
    if !URL_SCHEMES
        .iter()
        .any(|scheme| config.url.starts_with(scheme))
    {
        let text = format!("url: must begin with {}", URL_SCHEMES.join(" or "));
        return Err(OpenError::Config(text));
    }
    let options = PgConnectOptions::from_str(&config.url)
        .map_err(|error| OpenError::Config(format!("url: {error}")))?;
    // A little before the client gives up, so that it hears why and keeps its connection.
    let statement = timeout * 9 / 10;
    Ok(options.disable_statement_logging().options([
        ("synchronous_commit", "on".to_owned()),
        ("statement_timeout", format!("{statement}ms")),
        ("lock_timeout", format!("{}ms", statement / 2)),
        (
            "idle_in_transaction_session_timeout",
            format!("{timeout}ms"),
        ),
        ("tcp_keepalives_idle", KEEPALIVE_SECONDS.to_string()),
        ("tcp_keepalives_interval", KEEPALIVE_SECONDS.to_string()),
        ("tcp_keepalives_count", KEEPALIVE_TRIES.to_string()),
        (
            "tcp_user_timeout",
            format!("{}s", KEEPALIVE_SECONDS * KEEPALIVE_TRIES),
        ),
    ]))
}

#[cfg(test)]
mod tests;
