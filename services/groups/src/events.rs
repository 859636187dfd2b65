//! What this service puts into the log: changes of groups, by way of the outbox, to the topic `messages`.
//!
//! There is no lease: whoever has made a change gives all that waits of its group to the log at once, in
//! the order of versions, and every replica looks from time to time for what is left. A change may so
//! come several times, and late; the sequencer carries out version n + 1 after version n and ignores
//! every other, so that this costs space in the log and nothing else. A row leaves the outbox only when
//! its event was seen, so nothing is lost; and a row that the log has taken is due later after every time,
//! so that a log that nobody reads is not filled with repetitions. What the log did not take is due at once;
//! how often a log that is away is tried is up to the sweep.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_log::{AppendError, EventLog, NewRecord, Topic, Urgency};
use prost::Message;
use proto::log::v1::{GroupChange, MessagesRecord, messages_record::Record};
use runtime::{
    clock::Clock,
    ids::{ConversationId, GroupId},
    shutdown::CancellationToken,
};

use crate::store::{Store, StoreError};

/// The version of [`MessagesRecord`] that this program writes: the first one that knows of groups.
const SCHEMA_VERSION: u32 = 2;
/// How often a replica looks for changes that wait too long. It costs one look-up.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Groups of one sweep; if there are more, the next one comes at once.
const SWEEP_GROUPS_MAX: usize = 64;
/// Old requests that one sweep forgets: more than a replica takes on in that time.
const SWEEP_REQUESTS_MAX: usize = 1_000;
/// How often what calls of the past have left in memory is looked through: all of it is.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// How long the changes of one group may take to be durable before the sweep goes on.
const APPEND_DEADLINE: Duration = Duration::from_secs(10);
/// The pauses after failures.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The record of a change.
pub(crate) fn payload(group: GroupId, change: &GroupChange) -> Vec<u8> {
    MessagesRecord {
        schema_version: SCHEMA_VERSION,
        conversation_id: ConversationId::group(group).as_bytes().to_vec(),
        record: Some(Record::GroupChange(change.clone())),
    }
    .encode_to_vec()
}

/// Why changes are not in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log did not confirm them.
    #[error("the log: {0}")]
    Log(#[from] AppendError),
    /// It did not say.
    #[error("the log did not answer in time")]
    Silent,
}

/// Moves changes from the outbox into the log.
pub(crate) struct Relay {
    store: Arc<dyn Store>,
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    failing: AtomicBool,
    broken: Arc<OnceLock<String>>,
}

impl Relay {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        log: Arc<dyn EventLog>,
        clock: Arc<dyn Clock>,
        broken: Arc<OnceLock<String>>,
    ) -> Self {
        Self {
            store,
            log,
            clock,
            failing: AtomicBool::new(false),
            broken,
        }
    }

    /// Gives all that waits of a group to the log and answers when the log has it. If that fails, the
    /// sweep does it.
    pub(crate) async fn relay(&self, group: GroupId) -> Result<(), Failed> {
        let relayed = self.append(group).await;
        self.note(&relayed);
        relayed
    }

    async fn append(&self, group: GroupId) -> Result<(), Failed> {
        let outstanding = self.store.outstanding(group).await?;
        let key = Bytes::copy_from_slice(ConversationId::group(group).as_bytes());
        let records = outstanding.into_iter().map(|change| NewRecord {
            key: key.clone(),
            payload: change.payload.into(),
            headers: Vec::new(),
        });
        let records = records.collect();
        let appends = self.log.append_all(Topic::Messages, records, Urgency::Now);
        let results = tokio::time::timeout(APPEND_DEADLINE, appends).await;
        for result in results.map_err(|_| Failed::Silent)? {
            result?;
        }
        Ok(())
    }

    /// One line a change of state, and not one a failure.
    fn note(&self, relayed: &Result<(), Failed>) {
        match relayed {
            Ok(()) if self.failing.load(Ordering::Relaxed) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("changes of groups reach the log again");
                }
            }
            Ok(()) => {}
            Err(error) => {
                if let Failed::Store(StoreError::Corrupt(cause)) = error
                    && self.broken.set(cause.clone()).is_ok()
                {
                    tracing::error!(%cause, "the store of groups cannot be read");
                }
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "changes of groups do not reach the log; they wait");
                }
            }
        }
    }

    /// Looks for what is left, until `stop`. `tidy` is called from time to time, for what else is to be
    /// done.
    pub(crate) async fn sweep(self: Arc<Self>, stop: CancellationToken, tidy: impl Fn()) {
        let mut pause = SWEEP_EVERY;
        let mut retry = RETRY_FIRST;
        let mut tidied = Instant::now();
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            if tidied.elapsed() >= TIDY_EVERY {
                tidy();
                tidied = Instant::now();
            }
            pause = match stop.run_until_cancelled(self.round()).await {
                Some(Ok(more)) => {
                    retry = RETRY_FIRST;
                    if more { Duration::ZERO } else { SWEEP_EVERY }
                }
                Some(Err(error)) => {
                    self.note(&Err(error));
                    let now = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    now
                }
                None => return,
            };
        }
    }

    /// Answers whether there is more to do at once.
    async fn round(&self) -> Result<bool, Failed> {
        let now = self.clock.now_unix_ms();
        let forgotten = self.store.forget_requests(now, SWEEP_REQUESTS_MAX).await?;
        let groups = self.store.take_due(now, SWEEP_GROUPS_MAX).await?;
        let more = groups.len() >= SWEEP_GROUPS_MAX || forgotten >= SWEEP_REQUESTS_MAX;
        for (at, group) in groups.iter().enumerate() {
            if let Err(failed) = self.append(*group).await {
                let left = groups.get(at..).unwrap_or_default().to_vec();
                self.store.put_back(left, now).await?;
                return Err(failed);
            }
            self.note(&Ok(()));
        }
        Ok(more)
    }
}
