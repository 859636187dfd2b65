//! Reads facts about accounts: a device that was logged out takes no pushes any more.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use event_log::{EventLog, LogError, PartitionReader, Topic};
use prost::Message;
use proto::log::v1::{UsersRecord, users_record::Fact};
use runtime::{
    clock::Clock,
    ids::{DeviceId, UserId},
    shutdown::{CancellationToken, Tasks},
};

use crate::{
    record::RecordError,
    store::{LogIdentity, PositionAdvance, ReaderId, Store, StoreError},
};

/// The name of the group that reads `users`.
pub const USERS_GROUP: &str = "notifier-users";

/// The newest version of the records that this program understands.
const USERS_VERSION: u32 = 2;
/// Records of a batch: some milliseconds of a transaction.
const READ_MAX: usize = 256;
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

impl Stopped {
    fn passes(&self) -> bool {
        matches!(
            self,
            Self::Log(LogError::Failed(_))
                | Self::Store(StoreError::Unavailable(_) | StoreError::PositionBelowSaved)
        )
    }
}

#[derive(Clone)]
struct Users {
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    broken: Arc<OnceLock<String>>,
}

/// Joins the group and reads what is assigned, until the tasks are stopped. What it answers is set once a
/// partition has stopped because going on would break a promise.
pub(crate) async fn start(
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) -> Result<Arc<OnceLock<String>>, LogError> {
    let mut membership = log.join(USERS_GROUP, Topic::Users).await?;
    let users = Users {
        log,
        store,
        clock,
        stop: tasks.stop_token(),
        broken: Arc::default(),
    };
    let (broken, of_partitions) = (users.broken.clone(), tasks.clone());
    tasks.spawn(async move {
        let stop = users.stop.clone();
        while let Some(assigned) = stop.run_until_cancelled(membership.assigned()).await {
            match assigned {
                Ok(reader) => drop(of_partitions.spawn(users.clone().read_on(reader))),
                Err(error) => {
                    tracing::warn!(group = USERS_GROUP, %error, "no more partitions are assigned");
                    break;
                }
            }
        }
    });
    Ok(broken)
}

impl Users {
    async fn read_on(self, mut reader: Box<dyn PartitionReader>) {
        loop {
            match self.read(reader.as_mut()).await {
                Ok(()) | Err(Stopped::Log(LogError::Revoked | LogError::Closed)) => return,
                Err(error) if error.passes() => tracing::warn!(%error, "reading users again"),
                Err(error) => {
                    let why = error.to_string();
                    tracing::error!(why, "the users partition has stopped");
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

    async fn read(&self, reader: &mut dyn PartitionReader) -> Result<(), Stopped> {
        let identity = self.log.identity(Topic::Users);
        let identity = LogIdentity {
            log_id: identity.log_id,
            topic_id: identity.topic_id,
            partitions: identity.partitions,
        };
        let id = ReaderId {
            reader: USERS_GROUP,
            topic: Topic::Users.name(),
            partition: reader.partition(),
        };
        let mut saved = self.store.open_reader(id.clone(), identity).await?;
        match reader.seek(saved).await {
            // New here: of what the log keeps no more, no token is good. Later a gap would be log-outs that
            // are missed.
            Err(LogError::OutOfRange { first, .. }) if saved == 0 => reader.seek(first).await?,
            sought => sought?,
        }
        while let Some(records) = self.stop.run_until_cancelled(reader.next(READ_MAX)).await {
            let (mut devices, mut to) = (Vec::new(), saved);
            for record in records? {
                to = record.offset + 1;
                match revoked(&record.payload) {
                    Ok(device) => devices.extend(device),
                    Err(RecordError::Malformed) => {
                        tracing::error!(offset = record.offset, "malformed record skipped");
                    }
                    // Never skipped: somebody must start a newer program.
                    Err(RecordError::Newer(version)) => return Err(Stopped::Newer(version)),
                }
            }
            let (reader_id, from) = (id.clone(), saved);
            let advance = PositionAdvance {
                reader: reader_id,
                from,
                to,
            };
            let now = self.clock.now_unix_ms();
            self.store.forget_devices(devices, now, advance).await?;
            saved = to;
            // Log-outs are rare, and who logged out wants to be sure.
            self.store.sync().await?;
            reader.commit(saved);
        }
        Ok(())
    }
}

/// The device that a record says was logged out, if it says that.
fn revoked(payload: &[u8]) -> Result<Option<(UserId, DeviceId)>, RecordError> {
    let record = UsersRecord::decode(payload).map_err(|_| RecordError::Malformed)?;
    if record.schema_version > USERS_VERSION {
        return Err(RecordError::Newer(record.schema_version));
    }
    let user = UserId::from_slice(&record.user_id)?;
    match record.fact {
        Some(Fact::DeviceRevoked(fact)) => Ok(Some((user, DeviceId::from_slice(&fact.device_id)?))),
        Some(Fact::PictureChanged(_)) | None => Ok(None),
    }
}
