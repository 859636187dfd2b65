//! One time for all replicas.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use runtime::{clock::Clock, postgres::Database, shutdown::Tasks};

use super::{PostgresStore, sql};
use crate::store::StoreError;

/// How often the time is asked for. Until then a machine's quartz goes wrong by some hundred
/// microseconds.
const ASKED_EVERY: Duration = Duration::from_secs(10);
/// An answer that took longer says too little about the time.
const ANSWER_MAX: Duration = Duration::from_millis(250);

/// The time of the database: as it was last heard, and what has passed since by a clock that nobody
/// sets. So all replicas judge refresh tokens by one time, and one whose machine has a wrong clock, or
/// one that jumps, logs nobody out.
#[derive(Clone)]
pub struct DatabaseClock {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    unix_ms: i64,
}

impl DatabaseClock {
    /// Asks once, and then again and again. While the database is away, the last answer counts on.
    pub async fn start(store: &PostgresStore, tasks: &Tasks) -> Result<Self, StoreError> {
        let database = store.database.clone();
        let heard = Arc::new(Mutex::new(ask(&database).await?));
        let (stop, shared) = (tasks.stop_token(), heard.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(keep(&database, &shared)).await;
        });
        Ok(Self { heard })
    }
}

impl Clock for DatabaseClock {
    fn now_unix_ms(&self) -> i64 {
        let Heard { at, unix_ms } = *self.heard.lock();
        let since = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
        unix_ms.saturating_add(since)
    }
}

async fn keep(database: &Database, shared: &Mutex<Heard>) {
    loop {
        tokio::time::sleep(ASKED_EVERY).await;
        match ask(database).await {
            Ok(heard) if heard.at.elapsed() <= ANSWER_MAX => *shared.lock() = heard,
            // Asked again soon enough; that the database is away is logged elsewhere.
            Ok(_) | Err(_) => {}
        }
    }
}

async fn ask(database: &Database) -> Result<Heard, StoreError> {
    // From before the question: what is shown is ahead of the database by what the answer took, and
    // not behind.
    let at = Instant::now();
    let unix_ms = database.call("now", async |c| {
        sqlx::query_scalar(sql::NOW).fetch_one(c).await
    });
    Ok(Heard {
        unix_ms: unix_ms.await?,
        at,
    })
}
