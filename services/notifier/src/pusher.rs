//! Reads `offline` for one provider: each has a position of its own, so one that is slow or away holds back
//! its own pushes and no others. What it has not taken stays in the log; a bounded part is in memory.
//!
//! A record is dealt with when its pushes are taken (or final in another way) and the store says so; only
//! then the position passes it (I6). Between the provider's answer and the store's there is a moment in
//! which a crash makes a push come twice: with the same collapse id, so that a device shows it once.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use event_log::{EventLog, LogError, PartitionReader, Topic};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use runtime::shutdown::{CancellationToken, Tasks};
use tokio::time::Instant;

use crate::{
    model::ProviderKind,
    record::{Offline, RecordError},
    store::{LogIdentity, PositionAdvance, ReaderId, Store, StoreError},
    window::{Item, Window},
};

pub(crate) mod round;

use round::{Round, Rounds};

/// The names of the groups that read `offline`, by provider.
pub const fn group_of(kind: ProviderKind) -> &'static str {
    match kind {
        ProviderKind::Apns => "notifier-apns",
        ProviderKind::Fcm => "notifier-fcm",
        ProviderKind::WebPush => "notifier-web-push",
    }
}

/// Records of a partition that are in memory and not dealt with: some 10 MB with texts.
const WINDOW_MAX: usize = 8_192;
/// Records read at a time.
const READ_MAX: usize = 512;
/// Users of a round: as many as messaging is asked about at once.
const USERS_MAX: usize = 200;
/// Conversations of a user in a round, as messaging allows.
const CONVERSATIONS_MAX: usize = 32;
/// Rounds of a partition at the same time: with 2 s for the slowest push of each, 1,600 users a second.
const ROUNDS_MAX: usize = 16;
/// How often the position is kept. What is above it is read again after a crash, and not pushed again.
const POSITION_INTERVAL: Duration = Duration::from_millis(250);
/// How often what is kept is made to survive a loss of power. Until then the log keeps the records.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// Pause before what could not be dealt with is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Pause between tries of what the store or the log refused.
const RETRY: Duration = Duration::from_secs(1);
/// How often a reader that may take no more looks whether its partition is taken away.
const LOOK: Duration = Duration::from_millis(250);

/// What happened so far; all grow only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PusherStats {
    /// Records read.
    pub records: u64,
    /// Records that could not be decoded, and were skipped.
    pub malformed: u64,
    /// Notifications that providers took.
    pub alerts: u64,
    /// Badges that providers took without a notification.
    pub badges: u64,
    /// Pushes that a provider refused for good.
    pub refused: u64,
    /// Devices that were gone.
    pub gone: u64,
    /// Records put off: quiet hours, a busy device, too many of one sender.
    pub held: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) alerts: AtomicU64,
    pub(crate) badges: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) gone: AtomicU64,
    pub(crate) held: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The readers of one provider on this node. Clones share everything.
#[derive(Clone)]
pub struct Pusher {
    kind: ProviderKind,
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
    rounds: Arc<Rounds>,
    stop: CancellationToken,
    counters: Arc<Counters>,
    /// Why the first partition stopped that did so because going on would break a promise.
    broken: Arc<OnceLock<String>>,
}

/// Rounds that are under way.
type UnderWay = FuturesUnordered<BoxFuture<'static, Round>>;

/// A partition that is read.
struct Partition {
    id: ReaderId,
    /// The position in the store.
    saved: u64,
    window: Window,
    under_way: UnderWay,
}

/// Why reading ended, or must be begun again.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the record at offset {offset}: {error}")]
    Record { offset: u64, error: RecordError },
}

impl Stopped {
    /// Whether it goes on by itself, from the stored position.
    fn passes(&self) -> bool {
        match self {
            Self::Log(LogError::Failed(_))
            | Self::Store(StoreError::Unavailable(_) | StoreError::PositionBelowSaved) => true,
            Self::Log(LogError::OutOfRange { offset, first, .. }) => offset < first,
            _ => false,
        }
    }
}

impl Pusher {
    /// Joins the provider's group and reads what is assigned, until the tasks are stopped.
    pub(crate) async fn start(
        log: Arc<dyn EventLog>,
        rounds: Rounds,
        tasks: &Tasks,
    ) -> Result<Self, LogError> {
        let pusher = Self {
            kind: rounds.kind(),
            log,
            store: rounds.store.clone(),
            counters: rounds.counters.clone(),
            rounds: Arc::new(rounds),
            stop: tasks.stop_token(),
            broken: Arc::default(),
        };
        let group = group_of(pusher.kind);
        let mut membership = pusher.log.join(group, Topic::Offline).await?;
        let (this, of_partitions) = (pusher.clone(), tasks.clone());
        tasks.spawn(async move {
            let stop = this.stop.clone();
            while let Some(assigned) = stop.run_until_cancelled(membership.assigned()).await {
                match assigned {
                    Ok(reader) => drop(of_partitions.spawn(this.clone().read_on(reader))),
                    Err(error) => {
                        tracing::warn!(group, %error, "no more partitions are assigned");
                        break;
                    }
                }
            }
        });
        Ok(pusher)
    }

    /// Whose readers.
    pub const fn kind(&self) -> ProviderKind {
        self.kind
    }

    /// Why a partition has stopped, if going on would break a promise: then this node is not healthy.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// What happened so far.
    pub fn stats(&self) -> PusherStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PusherStats {
            records: read(&self.counters.records),
            malformed: read(&self.counters.malformed),
            alerts: read(&self.counters.alerts),
            badges: read(&self.counters.badges),
            refused: read(&self.counters.refused),
            gone: read(&self.counters.gone),
            held: read(&self.counters.held),
        }
    }

    /// Reads a partition until it is given up, or going on would break a promise.
    async fn read_on(self, mut reader: Box<dyn PartitionReader>) {
        let identity = self.log.identity(Topic::Offline);
        let identity = LogIdentity {
            log_id: identity.log_id,
            topic_id: identity.topic_id,
            partitions: identity.partitions,
        };
        let (provider, partition) = (self.kind.name(), reader.partition());
        reader.keep_until_dropped();
        while !reader.is_revoked() {
            match self.read(&identity, reader.as_mut()).await {
                Ok(()) | Err(Stopped::Log(LogError::Revoked | LogError::Closed)) => return,
                Err(error) if error.passes() => {
                    tracing::warn!(provider, partition, %error, "reading again");
                }
                Err(error) => {
                    let why = error.to_string();
                    tracing::error!(provider, partition, why, "the partition has stopped");
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
        identity: &LogIdentity,
        reader: &mut dyn PartitionReader,
    ) -> Result<(), Stopped> {
        let id = ReaderId {
            reader: group_of(self.kind),
            topic: Topic::Offline.name(),
            partition: reader.partition(),
        };
        let saved = self.store.open_reader(id.clone(), identity.clone()).await?;
        let begin = self.begin(reader, saved).await?;
        let mut partition = Partition {
            id,
            saved,
            window: Window::new(begin),
            under_way: UnderWay::new(),
        };
        let ending = self.stop.child_token();
        let ended = self.rounds(&mut partition, reader, &ending).await;
        // Pushes that are on their way are waited for, and what became of them is kept: the partition is
        // given to nobody else before, and whoever reads next must know those that were taken.
        ending.cancel();
        while let Some(round) = partition.under_way.next().await {
            partition.give_back(round);
        }
        if matches!(ended, Ok(()) | Err(Stopped::Log(LogError::Revoked)))
            && let Err(error) = self.save(&mut partition).await
        {
            let provider = self.kind.name();
            tracing::warn!(provider, %error, "the last position is not kept: records come again");
        }
        ended
    }

    /// Puts the reader at the position that is saved, or at the first record that there is still: a reader
    /// that is new, or was away for longer than the log keeps records, has nothing to tell of older ones.
    async fn begin(&self, reader: &mut dyn PartitionReader, saved: u64) -> Result<u64, Stopped> {
        let mut begin = saved;
        loop {
            match reader.seek(begin).await {
                Ok(()) => return Ok(begin),
                // The log may go on deleting meanwhile.
                Err(LogError::OutOfRange { first, .. }) if begin < first => begin = first,
                Err(error) => return Err(error.into()),
            }
            let (provider, partition) = (self.kind.name(), reader.partition());
            tracing::warn!(provider, partition, saved, begin, "older records are gone");
        }
    }

    async fn rounds(
        &self,
        partition: &mut Partition,
        reader: &mut dyn PartitionReader,
        ending: &CancellationToken,
    ) -> Result<(), Stopped> {
        let mut synced = partition.saved;
        let (mut save_at, mut sync_at) = (Instant::now(), Instant::now());
        loop {
            while partition.under_way.len() < ROUNDS_MAX && partition.window.is_ready() {
                let items = partition.window.take(USERS_MAX, CONVERSATIONS_MAX);
                partition.under_way.push(self.round(items, ending.clone()));
            }
            let (position, saved) = (partition.window.position(), partition.saved);
            let quiet = tokio::time::sleep_until(match position > saved {
                true => save_at,
                false => sync_at,
            });
            let is_full = partition.window.len() >= WINDOW_MAX;
            tokio::select! {
                records = reader.next(READ_MAX), if !is_full => {
                    for record in records? {
                        self.take_in(&mut partition.window, record.offset, &record.payload)?;
                    }
                }
                Some(round) = partition.under_way.next(), if !partition.under_way.is_empty() => {
                    partition.give_back(round);
                }
                () = quiet, if position > saved || saved > synced => {}
                () = tokio::time::sleep(LOOK), if is_full => {}
                () = self.stop.cancelled() => return Ok(()),
            }
            if reader.is_revoked() {
                return Err(LogError::Revoked.into());
            }
            let now = Instant::now();
            if now >= save_at {
                self.unless_away(self.save(partition).await)?;
                save_at = now + POSITION_INTERVAL;
            }
            if partition.saved > synced && now >= sync_at {
                if self.unless_away(self.store.sync().await)? {
                    synced = partition.saved;
                    reader.commit(synced);
                }
                sync_at = now + SYNC_INTERVAL;
            }
        }
    }

    /// A position waits for a store that is away. Reading again would give up what is under way, which was
    /// perhaps pushed and would be pushed once more. Answers whether it was done.
    fn unless_away(&self, done: Result<(), StoreError>) -> Result<bool, StoreError> {
        match done {
            Ok(()) => Ok(true),
            Err(StoreError::Unavailable(why)) => {
                let provider = self.kind.name();
                tracing::warn!(provider, why, "the position is not kept now, trying again");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn take_in(&self, window: &mut Window, offset: u64, payload: &[u8]) -> Result<(), Stopped> {
        count(&self.counters.records, 1);
        match Offline::decode(payload) {
            Ok(offline) => window.add(offset, offline),
            Err(RecordError::Malformed) => {
                count(&self.counters.malformed, 1);
                tracing::error!(offset, "malformed record skipped");
                window.skip(offset);
            }
            // Never skipped: somebody must start a newer program.
            Err(error @ RecordError::Newer(_)) => return Err(Stopped::Record { offset, error }),
        }
        Ok(())
    }

    /// One round; what it could not deal with comes back after a pause.
    fn round(&self, items: Vec<Item>, stop: CancellationToken) -> BoxFuture<'static, Round> {
        let rounds = self.rounds.clone();
        async move {
            let round = rounds.run(items, &stop).await;
            if !round.again.is_empty() {
                let _ = stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
            }
            round
        }
        .boxed()
    }

    async fn save(&self, partition: &mut Partition) -> Result<(), StoreError> {
        let (from, to) = (partition.saved, partition.window.position());
        if to > from {
            let reader = partition.id.clone();
            let advance = PositionAdvance { reader, from, to };
            self.store.save_position(advance).await?;
            partition.saved = to;
        }
        Ok(())
    }
}

impl Partition {
    fn give_back(&mut self, round: Round) {
        self.window.give_back(round.users, round.done, round.again);
    }
}

#[cfg(test)]
mod tests;
