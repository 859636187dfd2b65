//! Removes what nobody needs: blobs to which nothing refers, and what uploads have left.
//!
//! **Why nothing goes that a message needs.** A message with a blob is accepted by an edge while a receipt
//! of the blob is good, and every receipt is good until the blob's `kept_until` at most. When something could
//! go, a barrier is appended to every partition of `messages`, with the time. What comes behind it there
//! was accepted later than that, by a clock that differs by [`CLOCK_SKEW_MAX`] at most: so not by a receipt
//! that had expired that much earlier. The sequencer passes the barrier on behind all references of what
//! came before it. When this service has read it in every partition, it knows all references that there
//! can be to a blob whose receipts expired [`CLOCK_SKEW_MAX`] before the barrier; if it knows none,
//! there is none. However long a sequencer or a reader is behind: then the barrier is too.
//!
//! **Why no crash loses or leaves bytes.** A blob is marked as going, durably, before its bytes are
//! removed, and forgotten afterwards. Whoever comes next, here or in another process, goes on with those
//! that are marked; doing it twice changes nothing. An upload is ended in the store first, and its bytes are
//! removed [`LEFTOVER_GRACE`] later, when no call that had begun before can write any more.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use event_log::{AppendError, EventLog, NewRecord, Topic, Urgency};
use futures_util::{StreamExt, stream};
use prost::Message;
use proto::log::v1::{MessagesRecord, ReferenceBarrier, messages_record::Record};
use runtime::{
    clock::Clock,
    ids::BlobId,
    shutdown::{CancellationToken, Tasks},
};

use crate::{
    limits::{CLOCK_SKEW_MAX, PICTURE_GRACE, UPLOAD_LIFE},
    model::Leftover,
    objects::{ObjectError, Objects, StageKey},
    store::{KeptBefore, Store, StoreError},
};

/// The version of [`MessagesRecord`] that a barrier has: the first one that knows of them.
const SCHEMA_VERSION: u32 = 3;
/// How often a process looks for what can go, unless told otherwise.
pub const REMOVAL_INTERVAL: Duration = Duration::from_secs(60);
/// A barrier that is younger than this is used, and no other one appended: so the log gets a barrier a
/// partition in this time, however many processes there are.
const BARRIER_AGE: Duration = Duration::from_secs(5 * 60);
/// How long after the end of an upload its bytes are removed: much longer than any call may take.
pub const LEFTOVER_GRACE: Duration = Duration::from_secs(60 * 60);
/// Blobs, or uploads, of one step: some seconds of an object store far away.
const STEP_MAX: usize = 128;
/// Steps of one round: more than a process uploads in that time. What is left is for the next round.
const STEPS_MAX: usize = 64;
/// Removals at the same time: they wait for an object store, mostly.
const REMOVALS_AT_ONCE: usize = 8;
/// How long the barriers may take to be durable before the round goes on without them.
const APPEND_DEADLINE: Duration = Duration::from_secs(10);
/// Keys that are tried for each partition, on average. Some ten are enough for thousands of partitions.
const KEYS_PER_PARTITION_MAX: u64 = 1_000;

/// What the removal needs of its process.
#[derive(Clone)]
pub struct RemovalDeps {
    /// What is to be removed.
    pub store: Arc<dyn Store>,
    /// Its bytes.
    pub objects: Arc<dyn Objects>,
    /// Takes the barriers, in `messages`.
    pub log: Arc<dyn EventLog>,
    /// What receipts and uploads expire by.
    pub clock: Arc<dyn Clock>,
}

/// Why a round ended early. The next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes could not be removed.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The log did not take the barriers.
    #[error("the log did not take the barriers: {0}")]
    Log(#[from] AppendError),
    /// The topics cannot be used: they do not have the same partitions.
    #[error("`messages` and `references` do not have the same partitions")]
    Partitions,
}

/// What a round has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs, with their bytes.
    pub blobs: usize,
    /// What uploads had left.
    pub leftovers: usize,
}

/// Removes what nobody needs. Clones share everything.
#[derive(Clone)]
pub struct Removal {
    deps: RemovalDeps,
    /// Of each partition of `messages`, a key that belongs to it.
    keys: Arc<OnceLock<Vec<[u8; 8]>>>,
}

/// Runs a round in every interval, until the tasks are stopped.
pub fn start(deps: RemovalDeps, interval: Duration, tasks: &Tasks) -> Removal {
    let removal = Removal::new(deps);
    let rounds = removal.clone().rounds(interval, tasks.stop_token());
    tasks.spawn(rounds);
    removal
}

impl Removal {
    /// Does nothing by itself.
    pub fn new(deps: RemovalDeps) -> Self {
        Self {
            deps,
            keys: Arc::default(),
        }
    }

    async fn rounds(self, interval: Duration, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(interval))
            .await
            .is_some()
        {
            // What it was doing is gone on with by the next one, wherever it ends.
            match stop.run_until_cancelled(self.round()).await {
                Some(Ok(removed)) if removed != Removed::default() => {
                    let Removed { blobs, leftovers } = removed;
                    tracing::info!(blobs, leftovers, "removed what nobody needs");
                }
                Some(Err(RemovalError::Partitions)) => {
                    tracing::error!(error = %RemovalError::Partitions, "nothing can be removed");
                }
                Some(Err(error)) => tracing::warn!(%error, "not everything was removed"),
                Some(Ok(_)) | None => {}
            }
        }
    }

    /// Removes what can go now, up to a bound, and asks for barriers if more could.
    pub async fn round(&self) -> Result<Removed, RemovalError> {
        let now = self.deps.clock.now_unix_ms();
        let leftovers = self.remove_leftovers(now).await?;
        let could = self.deps.store.has_removable(kept_before(now)).await?;
        // What goes already is gone on with, whatever the log does.
        let asked = match could {
            true => self.ask_for_barriers(now).await,
            false => Ok(()),
        };
        let blobs = self.remove_blobs(now).await?;
        asked?;
        Ok(Removed { blobs, leftovers })
    }

    async fn remove_leftovers(&self, now: i64) -> Result<usize, RemovalError> {
        let store = &self.deps.store;
        let mut removed = 0;
        let begun_before = before(now, UPLOAD_LIFE);
        for _ in 0..STEPS_MAX {
            if store.end_uploads(begun_before, now, STEP_MAX).await? < STEP_MAX {
                break;
            }
        }
        for _ in 0..STEPS_MAX {
            let left = store
                .leftovers(before(now, LEFTOVER_GRACE), STEP_MAX)
                .await?;
            let count = left.len();
            let each = left
                .into_iter()
                .map(|leftover| self.remove_leftover(leftover));
            at_once(each).await?;
            removed += count;
            if count < STEP_MAX {
                break;
            }
        }
        Ok(removed)
    }

    async fn remove_leftover(&self, leftover: Leftover) -> Result<(), RemovalError> {
        let objects = &self.deps.objects;
        if leftover.stage_can_go {
            let stage = StageKey {
                owner: leftover.owner,
                upload: leftover.upload,
            };
            objects.discard_stage(stage).await?;
        }
        if leftover.bytes_can_go {
            objects.delete(leftover.blob).await?;
        }
        Ok(self.deps.store.forget_leftover(leftover).await?)
    }

    async fn remove_blobs(&self, now: i64) -> Result<usize, RemovalError> {
        let partitions = self.deps.log.identity(Topic::References).partitions;
        let barrier = self.deps.store.barrier(partitions).await?;
        let before = match barrier {
            // Of a process whose clock is before ours, it is none of the future.
            Some(barrier) => kept_before(barrier.min(now)),
            None => KeptBefore {
                attachments_unix_ms: i64::MIN,
                pictures_unix_ms: i64::MIN,
            },
        };
        let mut removed = 0;
        for _ in 0..STEPS_MAX {
            let going = self.deps.store.take_removable(before, STEP_MAX).await?;
            let count = going.len();
            at_once(going.into_iter().map(|blob| self.remove_blob(blob))).await?;
            removed += count;
            if count < STEP_MAX {
                break;
            }
        }
        Ok(removed)
    }

    async fn remove_blob(&self, blob: BlobId) -> Result<(), RemovalError> {
        self.deps.objects.delete(blob).await?;
        Ok(self.deps.store.forget_blob(blob).await?)
    }

    /// Appends a barrier to every partition, unless there are young ones.
    async fn ask_for_barriers(&self, now: i64) -> Result<(), RemovalError> {
        let keys = self.keys()?;
        let partitions = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let latest = self.deps.store.barrier(partitions).await?;
        if latest.is_some_and(|latest| latest > before(now, BARRIER_AGE)) {
            return Ok(());
        }
        let record = MessagesRecord {
            schema_version: SCHEMA_VERSION,
            conversation_id: Vec::new(),
            record: Some(Record::ReferenceBarrier(ReferenceBarrier {
                as_of_unix_ms: now,
            })),
        };
        let payload = bytes::Bytes::from(record.encode_to_vec());
        let records = keys.iter().map(|key| NewRecord {
            key: bytes::Bytes::copy_from_slice(key),
            payload: payload.clone(),
            headers: Vec::new(),
        });
        let log = &self.deps.log;
        let appended = log.append_all(Topic::Messages, records.collect(), Urgency::Derived);
        let appended = tokio::time::timeout(APPEND_DEADLINE, appended).await;
        let appended =
            appended.map_err(|_| AppendError::Unknown("no answer in time".to_owned()))?;
        // Some may be there, and are read; without the others they say nothing yet.
        appended.into_iter().try_for_each(|one| one.map(drop))?;
        Ok(())
    }

    fn keys(&self) -> Result<&[[u8; 8]], RemovalError> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys);
        }
        let keys = keys(self.deps.log.as_ref()).ok_or(RemovalError::Partitions)?;
        Ok(self.keys.get_or_init(|| keys))
    }
}

/// Does all, some at a time, and answers the first error when all are done.
async fn at_once(
    removals: impl Iterator<Item = impl Future<Output = Result<(), RemovalError>>>,
) -> Result<(), RemovalError> {
    let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE);
    let mut result = Ok(());
    while let Some(removed) = removals.next().await {
        result = result.and(removed);
    }
    result
}

/// A key of each partition of `messages`, which `references` has in the same one; `None` if there are
/// not such keys. They have another length than any conversation's.
fn keys(log: &dyn EventLog) -> Option<Vec<[u8; 8]>> {
    let partitions = log.identity(Topic::Messages).partitions;
    if partitions != log.identity(Topic::References).partitions {
        return None;
    }
    let wanted = usize::try_from(partitions).ok()?;
    let mut keys = BTreeMap::new();
    for n in 0..u64::from(partitions).saturating_mul(KEYS_PER_PARTITION_MAX) {
        let key = n.to_be_bytes();
        let partition = log.partition_of(Topic::Messages, &key);
        if partition == log.partition_of(Topic::References, &key) {
            keys.entry(partition).or_insert(key);
        }
        if keys.len() == wanted {
            break;
        }
    }
    (keys.len() == wanted).then(|| keys.into_values().collect())
}

/// What can go when everything is known that was accepted before this.
fn kept_before(known_unix_ms: i64) -> KeptBefore {
    KeptBefore {
        attachments_unix_ms: before(known_unix_ms, CLOCK_SKEW_MAX),
        pictures_unix_ms: before(known_unix_ms, PICTURE_GRACE),
    }
}

fn before(unix_ms: i64, by: Duration) -> i64 {
    unix_ms.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
