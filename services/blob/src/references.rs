//! Reads what refers to blobs: the events of conversations and the pictures of groups from `references`,
//! the pictures of profiles from `users`; and the barriers, which say that everything before is known.
//!
//! A batch and the position behind it are one transaction, so a record takes effect once as far as this
//! reader is concerned; and records may come again, since the store ignores what it has.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use event_log::{EventLog, LogError, PartitionReader, Record, Topic};
use runtime::shutdown::{CancellationToken, Tasks};
use tokio::time::{Instant, MissedTickBehavior};

use crate::store::{Barrier, LogIdentity, PositionAdvance, ReaderId, Store, StoreError};

mod codec;

pub(crate) use codec::{RecordError, Said, decode};

/// The name of the group that reads `references`.
pub const REFERENCES_GROUP: &str = "blob-references";
/// The name of the group that reads `users`.
pub const USERS_GROUP: &str = "blob-users";

/// Records of a batch: some milliseconds of a transaction.
const READ_MAX: usize = 256;
/// How often what was applied is made to survive a loss of power. Until then the log keeps it.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between tries of what the store or the log refused.
const RETRY: Duration = Duration::from_secs(1);

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReferencesStats {
    /// Records read.
    pub records: u64,
    /// Records that could not be decoded, and were skipped.
    pub malformed: u64,
    /// References to blobs that are not there, of which there must never be one.
    pub missing: u64,
}

#[derive(Debug, Default)]
struct Counters {
    records: AtomicU64,
    malformed: AtomicU64,
    missing: AtomicU64,
}

fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The readers of this node. Clones share everything.
#[derive(Clone)]
pub struct References {
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
    counters: Arc<Counters>,
    /// Why the first partition stopped that did so because going on would break a promise.
    broken: Arc<OnceLock<String>>,
}

/// Why reading ended, or must be begun again.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the record at offset {offset} has schema version {version}, which this program does not know"
    )]
    Newer { offset: u64, version: u32 },
}

impl Stopped {
    /// Whether it goes on by itself, from the stored position.
    fn passes(&self) -> bool {
        matches!(
            self,
            Self::Log(LogError::Failed(_))
                | Self::Store(StoreError::Unavailable(_) | StoreError::PositionBelowSaved)
        )
    }
}

/// Joins both groups and reads what is assigned, until the tasks are stopped.
pub async fn start(
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    tasks: &Tasks,
) -> Result<References, LogError> {
    let references = References {
        log,
        store,
        stop: tasks.stop_token(),
        counters: Arc::default(),
        broken: Arc::default(),
    };
    for (group, topic) in [
        (REFERENCES_GROUP, Topic::References),
        (USERS_GROUP, Topic::Users),
    ] {
        let mut membership = references.log.join(group, topic).await?;
        let (this, of_partitions) = (references.clone(), tasks.clone());
        tasks.spawn(async move {
            let stop = this.stop.clone();
            while let Some(assigned) = stop.run_until_cancelled(membership.assigned()).await {
                match assigned {
                    Ok(reader) => drop(of_partitions.spawn(this.clone().read_on(topic, reader))),
                    Err(error) => {
                        tracing::warn!(group, %error, "no more partitions are assigned");
                        break;
                    }
                }
            }
        });
    }
    Ok(references)
}

impl References {
    /// Why a partition has stopped, if going on would break a promise: then this node is not healthy.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// What happened so far.
    pub fn stats(&self) -> ReferencesStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReferencesStats {
            records: read(&self.counters.records),
            malformed: read(&self.counters.malformed),
            missing: read(&self.counters.missing),
        }
    }

    /// Reads a partition until it is given up, or going on would break a promise.
    async fn read_on(self, topic: Topic, mut reader: Box<dyn PartitionReader>) {
        let identity = self.log.identity(topic);
        let identity = LogIdentity {
            log_id: identity.log_id,
            topic_id: identity.topic_id,
            partitions: identity.partitions,
        };
        let partition = reader.partition();
        loop {
            match self.read(topic, &identity, reader.as_mut()).await {
                Ok(()) | Err(Stopped::Log(LogError::Revoked | LogError::Closed)) => return,
                Err(error) if error.passes() => {
                    tracing::warn!(%topic, partition, %error, "reading again");
                }
                Err(error) => {
                    let why = error.to_string();
                    tracing::error!(%topic, partition, why, "the partition has stopped");
                    let _ = self.broken.set(why);
                    return;
                }
            }
            let pause = tokio::time::sleep(RETRY);
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn read(
        &self,
        topic: Topic,
        identity: &LogIdentity,
        reader: &mut dyn PartitionReader,
    ) -> Result<(), Stopped> {
        let id = ReaderId {
            reader: topic.name(),
            topic: topic.name(),
            partition: reader.partition(),
        };
        let opened = self.store.open_reader(id.clone(), identity.clone()).await;
        let mut saved = opened?;
        reader.seek(saved).await?;
        let mut synced = saved;
        let mut sync = tokio::time::interval_at(Instant::now() + SYNC_INTERVAL, SYNC_INTERVAL);
        sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                records = reader.next(READ_MAX) => {
                    saved = self.apply(topic, &id, saved, &records?).await?;
                }
                _ = sync.tick(), if saved > synced => {
                    self.store.sync().await?;
                    synced = saved;
                    reader.commit(synced);
                }
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Applies a batch and answers the position behind it.
    async fn apply(
        &self,
        topic: Topic,
        id: &ReaderId,
        from: u64,
        records: &[Record],
    ) -> Result<u64, Stopped> {
        let (mut references, mut barriers) = (Vec::new(), Vec::new());
        let (mut to, mut malformed) = (from, 0);
        for record in records {
            to = record.offset.saturating_add(1);
            match decode(topic, &record.payload) {
                Ok(Said::Reference(reference)) => references.push(reference),
                Ok(Said::Barrier { as_of_unix_ms }) => barriers.push(Barrier {
                    partition: id.partition,
                    as_of_unix_ms,
                }),
                Ok(Said::Nothing) => {}
                Err(RecordError::Malformed) => malformed += 1,
                // Never skipped: somebody must start a newer program.
                Err(RecordError::Newer(version)) => {
                    let offset = record.offset;
                    return Err(Stopped::Newer { offset, version });
                }
            }
        }
        let reader = id.clone();
        let advance = PositionAdvance { reader, from, to };
        let missing = self.store.apply(references, barriers, advance).await?;
        count(&self.counters.records, records.len());
        count(&self.counters.malformed, malformed);
        count(&self.counters.missing, missing.len());
        let partition = id.partition;
        if malformed > 0 {
            tracing::error!(%topic, partition, count = malformed, "malformed records skipped");
        }
        if !missing.is_empty() {
            let count = missing.len();
            tracing::error!(%topic, partition, count, "references to blobs that are not there");
        }
        Ok(to)
    }
}

#[cfg(test)]
mod tests;
