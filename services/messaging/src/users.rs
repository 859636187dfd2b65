//! Reads facts about accounts: a device that was logged out loses its sessions.
//!
//! At least once: a fact that is read twice ends nothing twice. One that is lost with the store's last
//! moments before a loss of power ends with the token of the session.

use std::{sync::Arc, time::Duration};

use delivery::Delivery;
use event_log::{EventLog, LogError, PartitionReader, Topic};
use runtime::shutdown::{CancellationToken, Tasks};

use crate::{
    codec::{self, RecordError},
    limits::INBOX_BATCH_MAX,
    readers::{advance, for_each_partition, log_identity, reader_id},
    store::{LogIdentity, Store, StoreError},
};

/// The name of the group that reads facts about accounts.
pub const USERS_GROUP: &str = "messaging-users";

/// Pause between tries of what the store or the log refused.
const RETRY: Duration = Duration::from_secs(1);

/// Why reading ended, or must be begun again.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("schema version {0} is newer than this program")]
    Newer(u32),
}

/// Joins the group and reads what is assigned, until the tasks are stopped.
pub(crate) async fn start(
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    delivery: Delivery,
    tasks: &Tasks,
) -> Result<(), LogError> {
    let (of_log, stop) = (log.clone(), tasks.stop_token());
    let read = move |reader| {
        read_on(
            of_log.clone(),
            store.clone(),
            reader,
            delivery.clone(),
            stop.clone(),
        )
    };
    for_each_partition(&log, USERS_GROUP, Topic::Users, tasks, read).await
}

async fn read_on(
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    mut reader: Box<dyn PartitionReader>,
    delivery: Delivery,
    stop: CancellationToken,
) {
    let identity = log_identity(log.as_ref(), Topic::Users);
    loop {
        match read(&identity, store.as_ref(), reader.as_mut(), &delivery, &stop).await {
            Ok(()) | Err(Stopped::Log(LogError::Revoked | LogError::Closed)) => return,
            Err(error @ Stopped::Store(StoreError::OtherLog { .. })) => {
                tracing::error!(%error, "the users partition has stopped");
                return;
            }
            Err(error) => tracing::warn!(%error, "reading users again"),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(RETRY))
            .await
            .is_none()
        {
            return;
        }
    }
}

async fn read(
    identity: &LogIdentity,
    store: &dyn Store,
    reader: &mut dyn PartitionReader,
    delivery: &Delivery,
    stop: &CancellationToken,
) -> Result<(), Stopped> {
    let id = reader_id("users", Topic::Users, reader.partition());
    let mut saved = store.open_reader(id.clone(), identity.clone()).await?;
    reader.seek(saved).await?;
    while let Some(records) = stop.run_until_cancelled(reader.next(INBOX_BATCH_MAX)).await {
        let records = records?;
        for record in &records {
            match codec::decode_users(&record.payload) {
                Ok(Some((user, device))) => delivery.end_sessions(user, device),
                Ok(None) => {}
                Err(RecordError::Malformed) => {
                    tracing::error!(offset = record.offset, "malformed record skipped");
                }
                // Never skipped: somebody must start a newer program.
                Err(RecordError::Newer(version)) => return Err(Stopped::Newer(version)),
            }
        }
        if let Some(last) = records.last() {
            let position = last.offset + 1;
            store.save_position(advance(&id, saved, position)).await?;
            saved = position;
            store.sync().await?;
            reader.commit(last.offset + 1);
        }
    }
    Ok(())
}
