//! The inbox reader: turns records of the topic `inbox` into rows of conversation lists, and tells
//! the sessions of their users.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use delivery::{Broadcast, Delivery};
use event_log::{EventLog, LogError, PartitionReader, Record, Topic};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Fuse, FusedFuture},
};
use proto::messaging::v1::{self as wire_v1, server_frame::Frame};
use runtime::{
    ids::UserId,
    shutdown::{CancellationToken, Tasks},
};
use tokio::time::Instant;

use crate::{
    codec::{self, RecordError},
    limits::{INBOX_BATCH_MAX, POSITION_INTERVAL, SYNC_INTERVAL},
    model::InboxChange,
    readers::{advance, for_each_partition, log_identity, reader_id},
    store::{InboxApplied, ReaderId, Store, StoreError},
    wire,
};

mod offline;
mod pending;

pub(crate) use offline::OfflineWriter;
use pending::{Due, Pending};

/// The name of the group that reads inboxes.
pub const INBOX_GROUP: &str = "inbox";

/// First and longest pause between tries of what the store refused.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What the inbox readers of a node share.
#[derive(Clone)]
pub(crate) struct InboxReaders {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) delivery: Delivery,
    pub(crate) stop: CancellationToken,
    /// Writes what users have not received; `None` = nobody reads that.
    pub(crate) offline: Option<OfflineWriter>,
    /// Why a partition has stopped, if going on would break a promise.
    pub(crate) broken: Arc<OnceLock<String>>,
}

impl InboxReaders {
    /// Joins the group and reads what is assigned, until the tasks are stopped.
    pub(crate) async fn start(self, tasks: &Tasks) -> Result<(), LogError> {
        let log = self.log.clone();
        let read = move |reader| self.clone().read(reader);
        for_each_partition(&log, INBOX_GROUP, Topic::Inbox, tasks, read).await
    }

    async fn read(self, mut reader: Box<dyn PartitionReader>) {
        let id = reader_id("inbox", Topic::Inbox, reader.partition());
        loop {
            match self.read_until(&id, reader.as_mut()).await {
                Ok(()) | Err(Stop::GivenUp) => return,
                Err(Stop::Broken(why)) => {
                    let partition = id.partition;
                    tracing::error!(partition, why, "the inbox partition has stopped");
                    let _ = self.broken.set(why);
                    return;
                }
                Err(Stop::Again(why)) => {
                    tracing::warn!(partition = id.partition, why, "reading the inbox again");
                }
            }
            let pause = tokio::time::sleep(RETRY_MAX);
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn read_until(
        &self,
        id: &ReaderId,
        reader: &mut dyn PartitionReader,
    ) -> Result<(), Stop> {
        let identity = log_identity(self.log.as_ref(), Topic::Inbox);
        let mut saved = self
            .retry(|| self.store.open_reader(id.clone(), identity.clone()))
            .await?;
        reader.seek(saved).await?;
        let (mut read, mut synced) = (saved, saved);
        let mut pending = Pending::default();
        // One of each at a time: what is due is written, and it is asked who is there.
        let mut writing: Fuse<BoxFuture<'static, Due>> = Fuse::terminated();
        let mut asking: Fuse<BoxFuture<'static, BTreeSet<UserId>>> = Fuse::terminated();
        let (mut save_at, mut sync_at) = (Instant::now(), Instant::now());
        loop {
            let (mut next_due, mut is_full) = (None, false);
            if let Some(offline) = &self.offline {
                if asking.is_terminated()
                    && let Some(asked) = offline.ask(&mut pending)
                {
                    asking = asked.boxed().fuse();
                }
                if writing.is_terminated() {
                    let due = offline.take_due(&mut pending);
                    if due.is_empty() {
                        next_due = offline.quiet(&pending);
                    } else {
                        writing = write_until_done(offline.clone(), due, self.stop.clone()).fuse();
                    }
                }
                is_full = OfflineWriter::is_full(&pending);
            }
            let position = pending.position(read);
            // Positions are saved also when nothing more comes.
            let quiet = tokio::time::sleep_until(save_at.max(sync_at));
            let waited = tokio::time::sleep(next_due.unwrap_or_default());
            tokio::select! {
                records = reader.next(INBOX_BATCH_MAX), if !is_full => {
                    let records = records?;
                    let Some(last) = records.last() else { continue };
                    read = last.offset + 1;
                    self.apply(&records, &mut pending).await?;
                }
                due = &mut writing => pending.done(&due),
                absent = &mut asking => pending.absent(&absent),
                () = quiet, if position > synced => {}
                () = waited, if next_due.is_some() => {}
                () = self.stop.cancelled() => {
                    let _ = self.store.save_position(advance(id, saved, position)).await;
                    return Err(Stop::GivenUp);
                }
            }
            let now = Instant::now();
            let position = pending.position(read);
            if position > saved && now >= save_at {
                self.retry(|| self.store.save_position(advance(id, saved, position)))
                    .await?;
                saved = position;
                save_at = now + POSITION_INTERVAL;
            }
            if saved > synced && now >= sync_at {
                sync_at = now + SYNC_INTERVAL;
                match self.store.sync().await {
                    Ok(()) => {
                        synced = saved;
                        reader.commit(synced);
                    }
                    // The log keeps what is not synced; reading goes on.
                    Err(error) => tracing::warn!(%error, "store not synced"),
                }
            }
        }
    }

    async fn apply(&self, records: &[Record], pending: &mut Pending) -> Result<(), Stop> {
        let mut changes: Vec<(u64, InboxChange)> = Vec::with_capacity(records.len());
        let mut malformed = 0_u64;
        for record in records {
            match codec::decode_inbox(&record.payload) {
                // Version 0 means "nothing has happened yet", so offset 0 is version 1.
                Ok(change) => changes.push((record.offset + 1, change)),
                Err(RecordError::Malformed) => malformed += 1,
                Err(error @ RecordError::Newer(_)) => {
                    return Err(Stop::Broken(format!("offset {}: {error}", record.offset)));
                }
            }
        }
        if malformed > 0 {
            tracing::error!(count = malformed, "malformed inbox records skipped");
        }
        // Of the records, and not of what has changed: records that come again change nothing, and what
        // they say still has to be dealt with.
        if let Some(offline) = &self.offline {
            let times = records
                .iter()
                .map(|record| (record.offset, record.time_unix_ms));
            let times: HashMap<u64, i64> = times.collect();
            for (version, change) in &changes {
                let offset = version - 1;
                let time = times.get(&offset).copied().unwrap_or(0);
                offline.take_in(pending, (offset, time), change);
            }
        }
        for applied in self
            .retry(|| self.store.apply_inbox(changes.clone()))
            .await?
        {
            self.tell(&applied);
        }
        Ok(())
    }

    fn tell(&self, applied: &InboxApplied) {
        let conversations = applied
            .rows
            .iter()
            .filter(|row| row.is_listed())
            .map(|row| wire::conversation(applied.user, row))
            .collect();
        self.delivery.push(Broadcast {
            users: applied.user.into(),
            frame: wire::push(Frame::InboxUpdate(wire_v1::InboxUpdate {
                previous_version: applied.previous_version,
                version: applied.version,
                conversations,
            })),
            except_session_id: 0,
            inbox_version: applied.version,
        });
    }

    /// Tries until the store is there.
    async fn retry<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = RETRY_MIN;
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(StoreError::Unavailable(error)) => {
                    tracing::warn!(error, "store not available, trying again");
                }
                // Rows that were durable are not any more: they are made again from the log.
                Err(error @ StoreError::PositionBelowSaved) => {
                    return Err(Stop::Again(error.to_string()));
                }
                Err(error) => return Err(Stop::Broken(error.to_string())),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = self.stop.cancelled() => return Err(Stop::GivenUp),
            }
        }
    }
}

/// Writes until it is written, or the process ends; then it is not, and its records come again.
fn write_until_done(
    offline: OfflineWriter,
    due: Due,
    stop: CancellationToken,
) -> BoxFuture<'static, Due> {
    async move {
        let mut pause = RETRY_MIN;
        while let Err(error) = offline.write(&due).await {
            tracing::warn!(%error, "who is away is not told yet, trying again");
            let sleep = tokio::time::sleep(pause);
            if stop.run_until_cancelled(sleep).await.is_none() {
                return std::future::pending().await;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        due
    }
    .boxed()
}

/// Why an inbox reader ended.
enum Stop {
    /// Another node reads the partition now, or this one is stopping.
    GivenUp,
    /// The log cannot be read now; the same call may work later.
    Again(String),
    /// Going on would break a promise; a person must look.
    Broken(String),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Revoked | LogError::Closed => Self::GivenUp,
            LogError::Failed(_) => Self::Again(error.to_string()),
            LogError::OutOfRange { .. } => Self::Broken(format!(
                "the store and the log are not of one time: {error}"
            )),
        }
    }
}
