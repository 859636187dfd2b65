//! What this service puts into the log: topic `users`, by way of the outbox.
//!
//! Every replica runs a relay, and one at a time relays: the one that holds a lease in the store, by the
//! store's clock. It may lose the lease without noticing (it was paused, the store was away), and what it
//! has given to the log may be written at any later time. So the lease keeps the work from being done
//! twice; the order rests on two rules, which hold for any number of relays at once:
//!
//! 1. A fact leaves the outbox only after a relay knows that the log holds it.
//! 2. A relay gives a fact to the log only when it knows that the log holds all earlier ones of that user:
//!    it confirmed them itself, or they were not in the outbox any more.
//!
//! By the first, nothing is lost. By both, the first occurrences of a user's facts are in the log in their
//! order, and all that a relay of the past can add are repetitions. Each record has the number of its
//! fact, so that a reader can tell.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_log::{AppendError, Appended, EventLog, NewRecord, Topic, Urgency};
use prost::Message;
use proto::log::v1::{DeviceRevoked, PictureChanged, UsersRecord, users_record};
use runtime::{
    ids::{DeviceId, UserId},
    shutdown::CancellationToken,
};
use tokio::sync::Notify;

use crate::{
    model::{Fact, User},
    store::{RelayId, Store, StoreError},
};

/// The version of [`UsersRecord`] that this program writes.
const SCHEMA_VERSION: u32 = 1;
/// The same of facts about pictures, which older readers do not know.
const VERSION_PICTURES: u32 = 2;
/// Facts appended at a time.
const RELAY_BATCH: usize = 256;
/// How long one batch may take to be durable before it is tried again.
const RELAY_DEADLINE: Duration = Duration::from_secs(30);
/// How often the outbox is looked at without being told to: a fact that another replica added waits
/// for this. It costs two look-ups, or one where another replica has the lease.
const RELAY_POLL: Duration = Duration::from_secs(1);
/// How long the lease is: a relay that died is replaced after this and [`RELAY_POLL`] at most. It is
/// written anew when half of it has passed.
const RELAY_LEASE: Duration = Duration::from_secs(6);
/// How often a relay that waits for the log makes sure of its lease.
const RELAY_RENEW: Duration = Duration::from_secs(1);
/// How long a relay that ends may take to give the lease back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(1);
/// The pauses after failures.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The fact that a user's picture is the one that he has now, encoded; of the version that he has now.
pub fn picture_changed(user: &User) -> Vec<u8> {
    let picture = PictureChanged {
        version: user.version,
        blob_id: user
            .picture
            .map_or_else(Vec::new, |blob| blob.as_bytes().to_vec()),
    };
    UsersRecord {
        schema_version: VERSION_PICTURES,
        user_id: user.user_id.as_bytes().to_vec(),
        fact: Some(users_record::Fact::PictureChanged(picture)),
        fact_number: 0,
    }
    .encode_to_vec()
}

/// The record that says that a device was logged out.
pub fn device_revoked(user_id: UserId, device_id: DeviceId) -> Vec<u8> {
    let fact = users_record::Fact::DeviceRevoked(DeviceRevoked {
        device_id: device_id.as_bytes().to_vec(),
    });
    let record = UsersRecord {
        schema_version: SCHEMA_VERSION,
        user_id: user_id.as_bytes().to_vec(),
        fact: Some(fact),
        // Known when it is in the outbox.
        fact_number: 0,
    };
    record.encode_to_vec()
}

/// Moves facts from the outbox into the log, each at least once, until `stop`.
pub async fn relay(
    store: Arc<dyn Store>,
    log: Arc<dyn EventLog>,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let relay = Relay {
        id: RelayId::generate(),
        store: store.as_ref(),
        log: log.as_ref(),
    };
    stop.run_until_cancelled(relay.run(&changed)).await;
    // So that another replica need not wait; if this fails, it waits.
    let _ = tokio::time::timeout(RELEASE_DEADLINE, store.release_relay(relay.id)).await;
}

struct Relay<'a> {
    id: RelayId,
    store: &'a dyn Store,
    log: &'a dyn EventLog,
}

/// What one look at the outbox came to.
enum Round {
    /// Another replica relays.
    NotOurs,
    /// Nothing waits.
    Empty,
    /// Facts are in the log; there may be more.
    Relayed,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log: {0}")]
    Log(#[from] AppendError),
    #[error("the log did not answer in time")]
    Silent,
    #[error("another replica took over")]
    LeaseLost,
}

impl Relay<'_> {
    async fn run(&self, changed: &Notify) {
        let (mut pause, mut failing) = (RETRY_FIRST, false);
        loop {
            match self.round().await {
                Ok(round) => {
                    if failing {
                        tracing::info!("the outbox is relayed again");
                    }
                    (pause, failing) = (RETRY_FIRST, false);
                    if !matches!(round, Round::Relayed) {
                        let _ = tokio::time::timeout(RELAY_POLL, changed.notified()).await;
                    }
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the outbox is not relayed; its facts wait");
                    }
                    failing = true;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Relays the first facts, if it is this replica's turn.
    async fn round(&self) -> Result<Round, Failed> {
        if !self.store.hold_relay(self.id, RELAY_LEASE).await? {
            return Ok(Round::NotOurs);
        }
        let facts = self.store.facts(RELAY_BATCH).await?;
        if facts.is_empty() {
            return Ok(Round::Empty);
        }
        let mut durable = Vec::with_capacity(facts.len());
        let appended = self.append(facts, &mut durable).await;
        // Also what came before a failure, and also when another one relays now: the log holds it.
        self.store.remove_facts(durable).await?;
        appended.map(|()| Round::Relayed)
    }

    /// Appends facts: at first the first one of each user, when they are durable the second ones, and
    /// so on; of a user with a fact that failed no further ones. Puts the ids of those that the log
    /// holds into `durable`.
    async fn append(&self, mut facts: Vec<Fact>, durable: &mut Vec<i64>) -> Result<(), Failed> {
        let mut first_failure = None;
        while !facts.is_empty() {
            let mut users = HashSet::new();
            let (wave, mut later): (Vec<Fact>, Vec<Fact>) = facts
                .into_iter()
                .partition(|fact| users.insert(fact.user_id));
            let ids: Vec<(i64, UserId)> = wave.iter().map(|fact| (fact.id, fact.user_id)).collect();
            let mut stuck = HashSet::new();
            for ((id, user_id), result) in ids.into_iter().zip(self.append_wave(wave).await?) {
                match result {
                    Ok(_) => durable.push(id),
                    Err(error) => {
                        stuck.insert(user_id);
                        first_failure.get_or_insert(error);
                    }
                }
            }
            later.retain(|fact| !stuck.contains(&fact.user_id));
            facts = later;
        }
        first_failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Appends facts of different users and waits until the log has answered, or the lease is lost.
    async fn append_wave(
        &self,
        wave: Vec<Fact>,
    ) -> Result<Vec<Result<Appended, AppendError>>, Failed> {
        let records = wave.into_iter().map(record).collect();
        let appends = self.log.append_all(Topic::Users, records, Urgency::Now);
        tokio::pin!(appends);
        let begun = Instant::now();
        loop {
            if let Ok(results) = tokio::time::timeout(RELAY_RENEW, &mut appends).await {
                return Ok(results);
            }
            if begun.elapsed() >= RELAY_DEADLINE {
                return Err(Failed::Silent);
            }
            if !self.store.hold_relay(self.id, RELAY_LEASE).await? {
                return Err(Failed::LeaseLost);
            }
        }
    }
}

fn record(fact: Fact) -> NewRecord {
    let number = UsersRecord {
        fact_number: fact.id.unsigned_abs(),
        ..UsersRecord::default()
    };
    // Encoded messages are merged by being put together: whatever the fact says, also in fields that
    // this program does not know, stays.
    let mut payload = fact.payload;
    payload.extend(number.encode_to_vec());
    NewRecord {
        key: Bytes::copy_from_slice(fact.user_id.as_bytes()),
        payload: payload.into(),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
