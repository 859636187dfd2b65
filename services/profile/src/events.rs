//! What this service puts into the log: topic `users`, by way of the outbox.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use event_log::{EventLog, NewRecord, Topic, Urgency};
use prost::Message;
use proto::log::v1::{DeviceRevoked, UsersRecord, users_record};
use runtime::ids::{DeviceId, UserId};
use tokio::sync::Notify;

use crate::{model::Fact, store::Store};

/// The version of [`UsersRecord`] that this program writes.
const SCHEMA_VERSION: u32 = 1;
/// Facts appended at a time.
const RELAY_BATCH: usize = 256;
/// How long one batch may take to be durable before it is tried again.
const RELAY_DEADLINE: Duration = Duration::from_secs(30);
/// How often the outbox is looked at without being told to.
const RELAY_POLL: Duration = Duration::from_secs(5);
/// The pauses after failures.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The record that says that a device was logged out.
pub fn device_revoked(user_id: UserId, device_id: DeviceId) -> Vec<u8> {
    let fact = users_record::Fact::DeviceRevoked(DeviceRevoked {
        device_id: device_id.as_bytes().to_vec(),
    });
    let record = UsersRecord {
        schema_version: SCHEMA_VERSION,
        user_id: user_id.as_bytes().to_vec(),
        fact: Some(fact),
    };
    record.encode_to_vec()
}

/// Moves facts from the outbox into the log, each at least once: a fact leaves the outbox only
/// after the log holds it. Never ends.
pub async fn relay(store: Arc<dyn Store>, log: Arc<dyn EventLog>, changed: Arc<Notify>) {
    let mut pause = RETRY_FIRST;
    loop {
        match relay_batch(&*store, &*log).await {
            Ok(0) => {
                pause = RETRY_FIRST;
                let _ = tokio::time::timeout(RELAY_POLL, changed.notified()).await;
            }
            Ok(_) => pause = RETRY_FIRST,
            Err(error) => {
                tracing::warn!(%error, "outbox not relayed");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Relays the first facts and answers how many.
async fn relay_batch(store: &dyn Store, log: &dyn EventLog) -> Result<usize, String> {
    let facts = store.facts(RELAY_BATCH).await.map_err(|e| e.to_string())?;
    if facts.is_empty() {
        return Ok(0);
    }
    let ids: Vec<i64> = facts.iter().map(|fact| fact.id).collect();
    let records = facts.into_iter().map(record).collect();
    let appends = log.append_all(Topic::Users, records, Urgency::Now);
    let results = tokio::time::timeout(RELAY_DEADLINE, appends).await;
    let results = results.map_err(|_| "not durable in time".to_owned())?;
    // What comes after one that failed is appended again with it, so that the last record of a user
    // is always the last fact.
    let durable = results.iter().take_while(|result| result.is_ok()).count();
    let done = ids.into_iter().take(durable).collect();
    store.remove_facts(done).await.map_err(|e| e.to_string())?;
    match results.into_iter().find_map(Result::err) {
        None => Ok(durable),
        Some(error) => Err(error.to_string()),
    }
}

fn record(fact: Fact) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(fact.user_id.as_bytes()),
        payload: fact.payload.into(),
        headers: Vec::new(),
    }
}
