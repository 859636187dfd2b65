//! When users were last seen: noted in memory at once, written to the store many at a time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use runtime::{ids::UserId, shutdown::CancellationToken};
use tokio::sync::Notify;

use crate::store::{Store, StoreError};

/// Times in one write: enough to spread its cost, few enough to leave the store to others.
const WRITE_MAX: usize = 1_000;
/// How long times are collected before they are written: a user who comes and goes is one row.
const COLLECT: Duration = Duration::from_secs(1);
/// How long the last writes may take when the service stops.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Last-seen times over the store.
pub(crate) struct LastSeen {
    store: Arc<dyn Store>,
    waiting: Mutex<Waiting>,
    wake: Notify,
    waiting_max: usize,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    times: HashMap<UserId, i64>,
    /// Under way to the store; still read here.
    writing: Arc<HashMap<UserId, i64>>,
}

impl LastSeen {
    pub(crate) fn new(store: Arc<dyn Store>, waiting_max: usize) -> Self {
        Self {
            store,
            waiting: Mutex::new(Waiting::default()),
            wake: Notify::new(),
            waiting_max,
            lost: AtomicU64::new(0),
        }
    }

    /// Notes that users were seen. The latest time of each counts.
    pub(crate) fn note(&self, seen: impl IntoIterator<Item = (UserId, i64)>) {
        let mut lost = 0;
        {
            let mut waiting = self.waiting.lock();
            for (user, unix_ms) in seen {
                if waiting.times.len() >= self.waiting_max && !waiting.times.contains_key(&user) {
                    lost += 1;
                } else {
                    latest(&mut waiting.times, user, unix_ms);
                }
            }
        }
        if lost > 0 && self.lost.fetch_add(lost, Ordering::Relaxed) == 0 {
            tracing::warn!("the store is too slow: last-seen times are lost");
        }
        self.wake.notify_one();
    }

    /// When these users were last seen; who never was is left out.
    pub(crate) async fn get(&self, users: Vec<UserId>) -> Result<HashMap<UserId, i64>, StoreError> {
        // Before the store, so that what is written meanwhile is found in one of the two.
        let mut noted = HashMap::new();
        {
            let waiting = self.waiting.lock();
            for user in &users {
                for times in [&waiting.times, &*waiting.writing] {
                    if let Some(unix_ms) = times.get(user) {
                        latest(&mut noted, *user, *unix_ms);
                    }
                }
            }
        }
        if users.is_empty() {
            return Ok(noted);
        }
        let mut found = self.store.last_seen(users).await?;
        for (user, unix_ms) in noted {
            latest(&mut found, user, unix_ms);
        }
        Ok(found)
    }

    /// Writes what waits until `stop`, then all that is left after `last` has been noted.
    pub(crate) async fn run(
        &self,
        stop: CancellationToken,
        last: impl FnOnce() -> Vec<(UserId, i64)>,
    ) {
        let mut failing = false;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(COLLECT) => {}
            }
            let written = self.write_all().await;
            match &written {
                Err(error) if !failing => tracing::warn!(%error, "last-seen times wait"),
                _ => {}
            }
            failing = written.is_err();
            if failing {
                self.wake.notify_one();
            }
        }
        self.note(last());
        match tokio::time::timeout(STOP_DEADLINE, self.write_all()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "last-seen times are lost"),
            Err(_) => tracing::error!("last-seen times were not written in time"),
        }
    }

    async fn write_all(&self) -> Result<(), StoreError> {
        let times = {
            let mut waiting = self.waiting.lock();
            let times = Arc::new(std::mem::take(&mut waiting.times));
            waiting.writing = times.clone();
            times
        };
        let mut all = times.iter().map(|(user, unix_ms)| (*user, *unix_ms));
        let mut result = Ok(());
        loop {
            let some: Vec<_> = all.by_ref().take(WRITE_MAX).collect();
            if some.is_empty() {
                break;
            }
            result = self.store.note_seen(some).await;
            if result.is_err() {
                break;
            }
        }
        let mut waiting = self.waiting.lock();
        waiting.writing = Arc::default();
        if result.is_err() {
            // All of them again: writing one twice changes nothing.
            for (user, unix_ms) in times.iter() {
                latest(&mut waiting.times, *user, *unix_ms);
            }
        }
        result
    }
}

fn latest(times: &mut HashMap<UserId, i64>, user: UserId, unix_ms: i64) {
    let time = times.entry(user).or_insert(unix_ms);
    *time = (*time).max(unix_ms);
}

#[cfg(test)]
mod tests;
