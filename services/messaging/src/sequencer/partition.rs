//! Drives the sequencer of one partition: reads the log, does the I/O that the core asks for, hands
//! out verdicts and pushes, and moves the position last (I6).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use delivery::Delivery;
use event_log::{EventLog, LogError, NewRecord, PartitionReader, Record, Topic, Urgency};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use runtime::{ids::ConversationId, shutdown::CancellationToken, trace};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::core::{Batch, Core, Name, Output};
use crate::{
    codec,
    limits::{INGEST_MAX, PERSIST_DELAY, PERSIST_NOW, POSITION_INTERVAL, SYNC_INTERVAL},
    model::{ConversationState, Event, InboxChange},
    readers::{advance, log_identity, reader_id},
    store::{LogIdentity, PositionAdvance, ReaderId, Store, StoreError},
};

/// First and longest pause between tries of what the store or the log refused.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Pause before a partition starts again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// What the sequencers of a node share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) delivery: Delivery,
    pub(crate) stop: CancellationToken,
}

/// One partition as readers of this node see it.
pub(crate) struct Owned {
    /// The state; locked for at most [`INGEST_MAX`] records at a time.
    pub(crate) core: Mutex<Core>,
    /// Changes whenever records were applied or persisted.
    pub(crate) progress: watch::Sender<u64>,
    /// Where the log ended when the partition was last started: below it there may be acknowledged
    /// records that neither store nor memory shows yet.
    end_at_start: AtomicU64,
}

impl Owned {
    pub(crate) fn new() -> Self {
        Self {
            core: Mutex::new(Core::new(0)),
            progress: watch::Sender::new(0),
            end_at_start: AtomicU64::new(u64::MAX),
        }
    }

    /// Whether everything that was in the log when the partition started is applied.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.core.lock().low_water() >= self.end_at_start.load(Ordering::SeqCst)
    }

    fn progressed(&self) {
        self.progress
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Why a partition stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    /// Another node reads it now, or this one is stopping.
    #[error("the partition was given up")]
    GivenUp,
    /// Going on would break a promise; a person must look.
    #[error("{0}")]
    Broken(String),
}

enum Done {
    Loaded(Vec<ConversationId>, Vec<ConversationState>),
    Found(Vec<Name>, Vec<Event>),
    Persisted(
        Result<(), StoreError>,
        Vec<(InboxChange, Option<Bytes>)>,
        u64,
    ),
    Published(u64),
    Saved(Option<u64>),
    Synced(u64),
}

/// How the run of a partition went on.
enum Turn {
    Stop(Stopped),
    Restart,
}

/// Sequences a partition until it is revoked or broken.
pub(crate) async fn run(
    context: Context,
    owned: Arc<Owned>,
    mut reader: Box<dyn PartitionReader>,
) -> Stopped {
    let id = reader_id("sequencer", Topic::Messages, reader.partition());
    let identity = log_identity(context.log.as_ref(), Topic::Messages);
    loop {
        let position = match start(&context, reader.as_mut(), &id, &identity).await {
            Ok(position) => position,
            Err(stopped) => return stopped,
        };
        // Before the new state can be seen: it is not caught up until it has got there.
        let end = reader.range().await.map_or(u64::MAX, |(_, end)| end);
        owned.end_at_start.store(end, Ordering::SeqCst);
        *owned.core.lock() = Core::new(position);
        owned.progressed();
        tracing::debug!(partition = id.partition, position, "sequencing");
        let mut run = Run {
            context: &context,
            owned: &owned,
            id: &id,
            io: FuturesUnordered::new(),
            busy: false,
            cut_at: None,
            position,
            saved: position,
            synced: position,
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
    let mut pause = RETRY_MIN;
    loop {
        let error = match context
            .store
            .open_reader(id.clone(), identity.clone())
            .await
        {
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
    owned: &'a Arc<Owned>,
    id: &'a ReaderId,
    io: FuturesUnordered<BoxFuture<'static, Done>>,
    /// A batch is being persisted or published.
    busy: bool,
    /// When the next batch is to be cut; `None` while nothing has changed.
    cut_at: Option<Instant>,
    /// Everything below is durable in store and topics.
    position: u64,
    /// The position in the store.
    saved: u64,
    /// The position in the store that survives a loss of power.
    synced: u64,
}

impl Run<'_> {
    async fn until_it_ends(&mut self, reader: &mut dyn PartitionReader) -> Turn {
        let mut save = tokio::time::interval(POSITION_INTERVAL);
        save.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sync = tokio::time::interval(SYNC_INTERVAL);
        sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut saving, mut syncing) = (false, false);
        loop {
            let has_room = self.owned.core.lock().has_room();
            let cut_at = self.cut_at.filter(|_| !self.busy);
            let cut = async {
                match cut_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let turn = tokio::select! {
                records = reader.next(INGEST_MAX), if has_room => self.ingest(records),
                Some(done) = self.io.next(), if !self.io.is_empty() => match done {
                    Done::Saved(position) => {
                        saving = false;
                        self.saved = position.unwrap_or(self.saved);
                        None
                    }
                    Done::Synced(position) => {
                        syncing = false;
                        self.synced = position;
                        reader.commit(position);
                        None
                    }
                    done => self.done(done),
                },
                () = cut => None,
                _ = save.tick(), if !saving && self.position > self.saved => {
                    saving = true;
                    self.io.push(save_position(self.context.store.clone(), advance(self.id, self.saved, self.position)));
                    None
                }
                _ = sync.tick(), if !syncing && self.saved > self.synced => {
                    syncing = true;
                    self.io.push(sync_store(self.context.store.clone(), self.saved, self.synced));
                    None
                }
                () = self.context.stop.cancelled() => {
                    save_position(self.context.store.clone(), advance(self.id, self.saved, self.position)).await;
                    return Turn::Stop(Stopped::GivenUp);
                }
            };
            if let Some(turn) = turn {
                return turn;
            }
            self.issue();
        }
    }

    fn ingest(&mut self, records: Result<Vec<Record>, LogError>) -> Option<Turn> {
        let records = match records {
            Ok(records) => records,
            Err(LogError::Revoked | LogError::Closed) => return Some(Turn::Stop(Stopped::GivenUp)),
            Err(error @ LogError::OutOfRange { .. }) => {
                return Some(Turn::Stop(Stopped::Broken(error.to_string())));
            }
            Err(error @ LogError::Failed(_)) => {
                tracing::warn!(partition = self.id.partition, %error, "cannot read the log");
                return Some(Turn::Restart);
            }
        };
        let mut core = self.owned.core.lock();
        let malformed = core.malformed();
        for record in &records {
            if let Err(newer) = core.ingest(record) {
                return Some(Turn::Stop(Stopped::Broken(format!(
                    "the record at offset {} has schema version {}, which this program does not know",
                    newer.offset, newer.version,
                ))));
            }
        }
        if core.malformed() > malformed {
            let count = core.malformed() - malformed;
            tracing::error!(
                partition = self.id.partition,
                count,
                "malformed records skipped"
            );
        }
        None
    }

    /// Hands out what the core made, and starts the I/O that it asks for.
    fn issue(&mut self) {
        let (outputs, loads, finds, batch, idle_at) = {
            let mut core = self.owned.core.lock();
            let outputs = core.take_outputs();
            let batch = if self.may_cut(&core) {
                core.cut()
            } else {
                None
            };
            let idle = !self.busy && batch.is_none() && !core.has_changes();
            let idle_at = idle.then(|| core.low_water());
            (
                outputs,
                core.take_loads(),
                core.take_finds(),
                batch,
                idle_at,
            )
        };
        let progressed = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Answer { edge, answer } => self.context.delivery.answer(&edge, answer),
                Output::Push(broadcast) => self.context.delivery.push(broadcast),
            }
        }
        if progressed {
            self.owned.progressed();
        }
        let store = &self.context.store;
        if !loads.is_empty() {
            self.io
                .push(load(store.clone(), loads, self.context.stop.clone()));
        }
        if !finds.is_empty() {
            self.io
                .push(find(store.clone(), finds, self.context.stop.clone()));
        }
        if let Some(batch) = batch {
            self.busy = true;
            self.io
                .push(persist(store.clone(), batch, self.context.stop.clone()));
        }
        if let Some(position) = idle_at {
            // Nothing is left to make durable, so what was only skipped or refused is passed too.
            self.position = self.position.max(position);
        }
    }

    /// Whether it is time for a batch. The store is not on the way of a message (N3), so a batch may wait
    /// a moment for more to share its cost.
    fn may_cut(&mut self, core: &Core) -> bool {
        if self.busy || !core.has_changes() {
            return false;
        }
        let now = Instant::now();
        let cut_at = *self.cut_at.get_or_insert(now + PERSIST_DELAY);
        let due = cut_at <= now || core.unpersisted() >= PERSIST_NOW;
        if due {
            self.cut_at = None;
        }
        due
    }

    fn done(&mut self, done: Done) -> Option<Turn> {
        match done {
            Done::Loaded(asked, states) => self.owned.core.lock().loaded(&asked, states),
            Done::Found(asked, events) => self.owned.core.lock().found(&asked, events),
            Done::Persisted(Ok(()), inbox, covers) => {
                self.owned.core.lock().persisted();
                self.owned.progressed();
                let stop = self.context.stop.clone();
                self.io
                    .push(publish(self.context.log.clone(), inbox, covers, stop));
            }
            Done::Persisted(Err(error), ..) => return Some(self.persist_failed(&error)),
            Done::Published(covers) => {
                self.busy = false;
                self.position = self.position.max(covers);
            }
            Done::Saved(_) | Done::Synced(_) => {}
        }
        None
    }

    fn persist_failed(&self, error: &StoreError) -> Turn {
        match error {
            StoreError::HeadBelowBase { .. } => {
                tracing::warn!(partition = self.id.partition, %error, "the store is behind");
                Turn::Restart
            }
            // Only when stopping: otherwise it is tried until it works.
            StoreError::Unavailable(_) => Turn::Stop(Stopped::GivenUp),
            error => Turn::Stop(Stopped::Broken(error.to_string())),
        }
    }
}

/// Tries until it works; `None` when stopping.
async fn until_it_works<T, F>(
    what: &'static str,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Option<Result<T, StoreError>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = RETRY_MIN;
    loop {
        match attempt().await {
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(what, error, "store not available, trying again");
            }
            result => return Some(result),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            () = stop.cancelled() => return None,
        }
    }
}

/// A result that never comes, for work that was given up because the partition stops.
async fn never<T>() -> T {
    std::future::pending().await
}

fn load(
    store: Arc<dyn Store>,
    asked: Vec<ConversationId>,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let attempt = || store.load_conversations(asked.clone());
        match until_it_works("load", &stop, attempt).await {
            Some(Ok(states)) => Done::Loaded(asked, states),
            Some(Err(error)) => Done::Persisted(Err(error), Vec::new(), 0),
            None => never().await,
        }
    })
}

fn find(
    store: Arc<dyn Store>,
    asked: Vec<Name>,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let attempt = || store.find_events(asked.clone());
        match until_it_works("find", &stop, attempt).await {
            Some(Ok(events)) => Done::Found(asked, events),
            Some(Err(error)) => Done::Persisted(Err(error), Vec::new(), 0),
            None => never().await,
        }
    })
}

fn persist(
    store: Arc<dyn Store>,
    batch: Batch,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let Batch {
            sequenced,
            inbox,
            covers,
        } = batch;
        match until_it_works("persist", &stop, || store.persist(sequenced.clone())).await {
            Some(result) => Done::Persisted(result, inbox, covers),
            None => never().await,
        }
    })
}

/// Puts the changes of inboxes into their topic; what was not confirmed is appended again, since a
/// change may come twice but must come.
fn publish(
    log: Arc<dyn EventLog>,
    changes: Vec<(InboxChange, Option<Bytes>)>,
    covers: u64,
    stop: CancellationToken,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let mut records: Vec<NewRecord> = changes
            .into_iter()
            .map(|(change, trace)| NewRecord {
                key: Bytes::copy_from_slice(change.user.as_bytes()),
                payload: codec::encode_inbox(&change),
                headers: trace::headers(trace),
            })
            .collect();
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
            tracing::warn!(
                count = records.len(),
                "inbox records not appended, trying again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = stop.cancelled() => return never().await,
            }
        }
        Done::Published(covers)
    })
}

fn save_position(store: Arc<dyn Store>, advance: PositionAdvance) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let position = advance.to;
        match store.save_position(advance).await {
            Ok(()) => Done::Saved(Some(position)),
            Err(error) => {
                tracing::warn!(%error, "position not saved");
                Done::Saved(None)
            }
        }
    })
}

fn sync_store(store: Arc<dyn Store>, position: u64, before: u64) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        match store.sync().await {
            Ok(()) => Done::Synced(position),
            Err(error) => {
                tracing::warn!(%error, "store not synced");
                Done::Synced(before)
            }
        }
    })
}
