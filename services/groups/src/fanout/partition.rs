//! Drives the fan-out of one partition: reads the log, does the I/O that the core asks for, hands out
//! pushes, and moves the position last (I6).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use event_log::{EventLog, LogError, NewRecord, PartitionReader, Record, Topic, Urgency};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use runtime::{ids::GroupId, shutdown::CancellationToken};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{
    Counters, FanoutDeps,
    core::{Core, Loaded},
    limits::{
        CHUNKS_PER_TURN, MEMBERS_CACHED_MAX, POSITION_INTERVAL, READ_MAX, RESTART_PAUSE, RETRY_MAX,
        RETRY_MIN, SYNC_INTERVAL,
    },
};
use crate::{
    model::{Roster, Sequenced},
    store::{FanoutStore, LogIdentity, PositionAdvance, ReaderId, StoreError},
};

/// What the partitions of a node share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) deps: FanoutDeps,
    pub(super) stop: CancellationToken,
    pub(super) counters: Arc<Counters>,
}

/// Why a partition stopped.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Another node reads it now, or this one is stopping.
    GivenUp,
    /// Going on would break a promise; a person must look.
    Broken(String),
}

/// How the run of a partition went on.
enum Turn {
    Stop(Stopped),
    Restart,
}

enum Done {
    Loaded(GroupId, Result<Roster, StoreError>),
    Noted(Result<(), StoreError>),
    NotedDeferred(Result<(), StoreError>),
    Appended(usize),
    Saved(u64, Result<(), StoreError>),
    Synced(u64, Result<(), StoreError>),
    Forgotten,
}

/// Fans a partition out until it is revoked or broken.
pub(super) async fn run(context: Context, mut reader: Box<dyn PartitionReader>) -> Stopped {
    let topic = context.deps.log.identity(Topic::Fanout);
    let id = ReaderId {
        reader: "fanout",
        topic: Topic::Fanout.name(),
        partition: reader.partition(),
    };
    let partitions = usize::try_from(topic.partitions).unwrap_or(usize::MAX);
    let members_cached_max = MEMBERS_CACHED_MAX / partitions.max(1);
    let identity = LogIdentity {
        log_id: topic.log_id,
        topic_id: topic.topic_id,
        partitions: topic.partitions,
    };
    loop {
        let position = match start(&context, reader.as_mut(), &id, &identity).await {
            Ok(position) => position,
            Err(stopped) => return stopped,
        };
        tracing::debug!(partition = id.partition, position, "fanning out");
        let run = Run {
            context: &context,
            id: &id,
            core: Core::new(position, members_cached_max, context.deps.deferred_above),
            backlog: VecDeque::new(),
            io: FuturesUnordered::new(),
            is_behind: false,
            saved: position,
            synced: position,
            malformed: 0,
            coalesced: 0,
        };
        match run.until_it_ends(reader.as_mut()).await {
            Turn::Restart => {
                tracing::warn!(partition = id.partition, "starting again");
                // What made it start again may still be there.
                let pause = tokio::time::sleep(RESTART_PAUSE);
                if context.stop.run_until_cancelled(pause).await.is_none() {
                    return Stopped::GivenUp;
                }
            }
            Turn::Stop(stopped) => return stopped,
        }
    }
}

/// Finds the position and puts the reader there; refuses another log, and one that ends too early.
async fn start(
    context: &Context,
    reader: &mut dyn PartitionReader,
    id: &ReaderId,
    identity: &LogIdentity,
) -> Result<u64, Stopped> {
    let store = &context.deps.store;
    let mut pause = RETRY_MIN;
    loop {
        let error = match store.open_reader(id.clone(), identity.clone()).await {
            Ok(position) => match reader.seek(position).await {
                Ok(()) => return Ok(position),
                Err(LogError::Revoked | LogError::Closed) => return Err(Stopped::GivenUp),
                Err(error @ LogError::OutOfRange { .. }) => {
                    let why = format!("the store and the log are not of one time: {error}");
                    return Err(Stopped::Broken(why));
                }
                Err(error @ LogError::Failed(_)) => error.to_string(),
            },
            Err(StoreError::Unavailable(error)) => error,
            Err(error) => return Err(Stopped::Broken(error.to_string())),
        };
        tracing::warn!(partition = id.partition, %error, "cannot start yet");
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            () = context.stop.cancelled() => return Err(Stopped::GivenUp),
        }
    }
}

struct Run<'a> {
    context: &'a Context,
    id: &'a ReaderId,
    core: Core,
    /// Records that were read and found no room yet: at most [`READ_MAX`].
    backlog: VecDeque<Record>,
    io: FuturesUnordered<BoxFuture<'static, Done>>,
    /// It was said that the store is behind.
    is_behind: bool,
    /// The position in the store.
    saved: u64,
    /// The position in the store that survives a loss of power.
    synced: u64,
    /// What the counters have of the core's.
    malformed: u64,
    coalesced: u64,
}

impl Run<'_> {
    async fn until_it_ends(mut self, reader: &mut dyn PartitionReader) -> Turn {
        let (mut save, mut sync) = (every(POSITION_INTERVAL), every(SYNC_INTERVAL));
        let (mut saving, mut syncing) = (false, false);
        let stop = self.context.stop.clone();
        loop {
            let position = self.core.low_water();
            let due = self.core.next_due();
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let turn = tokio::select! {
                records = reader.next(READ_MAX), if self.backlog.is_empty() && self.core.has_room() => {
                    self.read(records)
                }
                Some(done) = self.io.next(), if !self.io.is_empty() => {
                    saving &= !matches!(done, Done::Saved(..));
                    syncing &= !matches!(done, Done::Synced(..));
                    self.done(done, reader)
                }
                () = due => None,
                // The other branches have their turns while large groups are pushed to.
                () = tokio::task::yield_now(), if self.core.has_chunks() => None,
                _ = save.tick(), if !saving && position > self.saved => {
                    saving = true;
                    let store = self.context.deps.store.clone();
                    self.io.push(save_position(store, self.advance_to(position)));
                    None
                }
                _ = sync.tick(), if !syncing && self.saved > self.synced => {
                    syncing = true;
                    let (store, saved) = (self.context.deps.store.clone(), self.saved);
                    self.io.push(Box::pin(async move { Done::Synced(saved, store.sync().await) }));
                    None
                }
                () = stop.cancelled() => {
                    let store = self.context.deps.store.clone();
                    save_position(store, self.advance_to(position)).await;
                    return Turn::Stop(Stopped::GivenUp);
                }
            };
            let turn = match turn {
                Some(turn) => Some(turn),
                None => self.ingest(),
            };
            if let Some(turn) = turn {
                return turn;
            }
            self.issue();
        }
    }

    fn advance_to(&self, position: u64) -> PositionAdvance {
        PositionAdvance {
            reader: self.id.clone(),
            from: self.saved,
            to: position,
        }
    }

    fn read(&mut self, records: Result<Vec<Record>, LogError>) -> Option<Turn> {
        match records {
            Ok(records) => {
                Counters::add(&self.context.counters.records, records.len());
                self.backlog.extend(records);
                None
            }
            Err(LogError::Revoked | LogError::Closed) => Some(Turn::Stop(Stopped::GivenUp)),
            Err(error @ LogError::OutOfRange { .. }) => {
                Some(Turn::Stop(Stopped::Broken(error.to_string())))
            }
            Err(error @ LogError::Failed(_)) => {
                tracing::warn!(partition = self.id.partition, %error, "cannot read the log");
                Some(Turn::Restart)
            }
        }
    }

    fn ingest(&mut self) -> Option<Turn> {
        let now = Instant::now();
        self.core.go_on(now);
        while self.core.has_room() {
            let Some(record) = self.backlog.pop_front() else {
                break;
            };
            if let Err(newer) = self.core.ingest(&record, now) {
                return Some(Turn::Stop(Stopped::Broken(format!(
                    "the record at offset {} has schema version {}, which this program does not know",
                    newer.offset, newer.version,
                ))));
            }
        }
        None
    }

    /// Hands out what the core made, and starts the I/O that it asks for.
    fn issue(&mut self) {
        let now = Instant::now();
        let context = self.context;
        let FanoutDeps {
            log,
            store,
            delivery,
            on_sequenced,
            ..
        } = &context.deps;
        for broadcast in self.core.take_pushes(CHUNKS_PER_TURN) {
            Counters::add(&context.counters.pushes, 1);
            Counters::add(&context.counters.members_reached, broadcast.users.len());
            delivery.push(broadcast);
        }
        let told = self.core.take_told();
        if !told.is_empty() {
            on_sequenced(&told);
        }
        for group in self.core.take_loads(now) {
            Counters::add(&context.counters.loads, 1);
            self.io
                .push(load(store.clone(), group, context.stop.clone()));
        }
        let changes = self.core.cut_sequenced();
        if !changes.is_empty() {
            self.io
                .push(note(store.clone(), changes, context.stop.clone()));
        }
        let deferred = self.core.cut_deferred();
        if !deferred.is_empty() {
            Counters::add(&context.counters.deferred, deferred.len());
            self.io
                .push(note_deferred(store.clone(), deferred, context.stop.clone()));
        }
        if let Some(records) = self.core.cut_inbox(now) {
            self.io
                .push(append(log.clone(), records, context.stop.clone()));
        }
        self.count();
    }

    fn count(&mut self) {
        let malformed = self.core.malformed() - self.malformed;
        if malformed > 0 {
            tracing::error!(
                partition = self.id.partition,
                count = malformed,
                "malformed records skipped"
            );
        }
        let grown = [
            (&self.context.counters.malformed, malformed),
            (
                &self.context.counters.coalesced,
                self.core.coalesced() - self.coalesced,
            ),
        ];
        for (counter, count) in grown {
            counter.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        }
        self.malformed = self.core.malformed();
        self.coalesced = self.core.coalesced();
    }

    fn done(&mut self, done: Done, reader: &dyn PartitionReader) -> Option<Turn> {
        let failed = match done {
            Done::Loaded(group, Ok(roster)) => {
                self.loaded(group, &roster);
                None
            }
            Done::NotedDeferred(Ok(())) => {
                self.core.noted_deferred();
                None
            }
            Done::Noted(Ok(())) => {
                self.core.noted();
                None
            }
            Done::Appended(count) => {
                Counters::add(&self.context.counters.inbox_records, count);
                self.core.appended();
                None
            }
            Done::Saved(position, Ok(())) => {
                self.saved = position;
                None
            }
            Done::Synced(position, Ok(())) => {
                self.synced = position;
                reader.commit(position);
                self.forget(position);
                None
            }
            Done::Forgotten => None,
            // Both are tried again at their time; the log keeps what is not synced.
            Done::Saved(_, Err(StoreError::Unavailable(error)))
            | Done::Synced(_, Err(StoreError::Unavailable(error))) => {
                tracing::warn!(error, "position not saved");
                None
            }
            Done::Loaded(_, Err(error))
            | Done::Noted(Err(error))
            | Done::NotedDeferred(Err(error))
            | Done::Saved(_, Err(error))
            | Done::Synced(_, Err(error)) => Some(error),
        };
        failed.map(|error| match error {
            // What was durable is not any more: it is made again from the log.
            StoreError::PositionBelowSaved => {
                tracing::warn!(partition = self.id.partition, %error, "the store went back");
                Turn::Restart
            }
            error => Turn::Stop(Stopped::Broken(error.to_string())),
        })
    }

    fn loaded(&mut self, group: GroupId, roster: &Roster) {
        match self.core.loaded(group, roster, Instant::now()) {
            Loaded::Used => {}
            Loaded::Behind if self.is_behind => {}
            Loaded::Behind => {
                self.is_behind = true;
                tracing::error!(
                    partition = self.id.partition,
                    %group,
                    "the store does not know a change that the log has; groups with such changes wait"
                );
            }
            Loaded::UsedInDoubt => {
                tracing::warn!(%group, "going on without a member whom the store does not know");
            }
        }
    }

    fn forget(&mut self, position: u64) {
        let groups = self.core.take_forgettable(position);
        if groups.is_empty() {
            return;
        }
        let store = self.context.deps.store.clone();
        self.io.push(Box::pin(async move {
            if let Err(error) = store.forget_stints(groups).await {
                // Only room is lost, and only until the next changes of these groups.
                tracing::warn!(%error, "ended stints not forgotten");
            }
            Done::Forgotten
        }));
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Tries until the store is there. Never answers when stopping: nobody waits for it any more.
async fn until_it_works<T, F>(
    what: &'static str,
    stop: CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = RETRY_MIN;
    loop {
        match attempt().await {
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(what, error, "store not available, trying again");
            }
            result => return result,
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            () = stop.cancelled() => return std::future::pending().await,
        }
    }
}

fn load(
    store: Arc<dyn FanoutStore>,
    group: GroupId,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let roster = until_it_works("roster", stop, || store.roster(group)).await;
        Done::Loaded(group, roster)
    })
}

fn note_deferred(
    store: Arc<dyn FanoutStore>,
    groups: Vec<(GroupId, u64)>,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let attempt = || store.note_deferred(groups.clone());
        Done::NotedDeferred(until_it_works("note_deferred", stop, attempt).await)
    })
}

fn note(
    store: Arc<dyn FanoutStore>,
    changes: Vec<Sequenced>,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let attempt = || store.note_sequenced(changes.clone());
        Done::Noted(until_it_works("note_sequenced", stop, attempt).await)
    })
}

/// Appends inbox records; what was not confirmed is appended again, since a record may come twice but
/// must come.
fn append(
    log: Arc<dyn EventLog>,
    mut records: Vec<NewRecord>,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let count = records.len();
        let mut pause = RETRY_MIN;
        while !records.is_empty() {
            let results = log
                .append_all(Topic::Inbox, records.clone(), Urgency::Derived)
                .await;
            let mut results = results.into_iter();
            records.retain(|_| !matches!(results.next(), Some(Ok(_))));
            if records.is_empty() {
                break;
            }
            let left = records.len();
            tracing::warn!(count = left, "inbox records not appended, trying again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = stop.cancelled() => return std::future::pending().await,
            }
        }
        Done::Appended(count)
    })
}

fn save_position(
    store: Arc<dyn FanoutStore>,
    advance: PositionAdvance,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let position = advance.to;
        Done::Saved(position, store.save_position(advance).await)
    })
}
