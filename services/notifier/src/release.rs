//! What was put off comes again: its record is appended to `offline` once more, and read, decided and pushed
//! as if it were new. At least once: one that comes twice is pushed once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use event_log::{EventLog, NewRecord, Topic, Urgency};
use runtime::{
    clock::Clock,
    shutdown::{CancellationToken, Tasks},
};

use crate::store::{Store, StoreError};

/// How often it is looked for what is due. The end of quiet hours is a minute's matter.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long what is claimed is left alone by other processes: an append takes a second at most.
const LEASE_MS: i64 = 60_000;
/// Records appended at a time: below 1 MB.
const BATCH_MAX: usize = 512;
/// How long it is remembered who was told of what: far longer than `offline` is kept, so no record of that
/// time comes again.
const TOLD_LIFE_MS: i64 = 90 * 24 * 60 * 60 * 1_000;

/// Looks for what is due, until the tasks are stopped.
pub(crate) fn start(
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) {
    let stop = tasks.stop_token();
    tasks.spawn(async move {
        while wait(&stop).await {
            loop {
                // Of each batch: many may take longer than a claim is good.
                let now = clock.now_unix_ms();
                match release(log.as_ref(), store.as_ref(), now).await {
                    Ok(count) if count == BATCH_MAX && !stop.is_cancelled() => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "what was put off cannot come again now");
                        break;
                    }
                }
            }
            let before = clock.now_unix_ms().saturating_sub(TOLD_LIFE_MS);
            let forgotten = store.forget_told(before, BATCH_MAX).await;
            if let Err(error) = forgotten {
                tracing::warn!(%error, "cannot forget who was told long ago");
            }
        }
    });
}

async fn wait(stop: &CancellationToken) -> bool {
    stop.run_until_cancelled(tokio::time::sleep(INTERVAL))
        .await
        .is_some()
}

/// Releases what is due, and answers how much it was.
async fn release(log: &dyn EventLog, store: &dyn Store, now: i64) -> Result<usize, StoreError> {
    let lease = now.saturating_add(LEASE_MS);
    let due = store.claim_held(now, lease, BATCH_MAX).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let records = due.iter().map(|held| NewRecord {
        key: Bytes::copy_from_slice(held.subject.user.as_bytes()),
        payload: held.payload.clone(),
        headers: Vec::new(),
    });
    let results = log
        .append_all(Topic::Offline, records.collect(), Urgency::Derived)
        .await;
    let mut gone = Vec::with_capacity(due.len());
    for (held, result) in due.iter().zip(results) {
        match result {
            Ok(_) => gone.push(held.subject),
            // Its claim ends, and it is tried again then.
            Err(error) => tracing::warn!(%error, "what was put off could not be appended"),
        }
    }
    store.forget_held(gone, lease).await?;
    Ok(due.len())
}
