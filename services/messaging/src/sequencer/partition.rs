//! Drives the sequencer of one partition: reads the log, has the I/O done that the core asks for, hands
//! out verdicts, pushes and derived records, and moves the position last (I6).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use delivery::Delivery;
use event_log::{AppendError, Appended, EventLog, LogError, PartitionReader, Record, Topic};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use runtime::shutdown::CancellationToken;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{
    barriers::Barriers,
    core::{Core, Derived, Output},
    derived::Refused,
    io::{self, Done, RETRY_MAX, RETRY_MIN},
    position::Position,
};
use crate::{
    limits::{
        DERIVED_MAX, INGEST_MAX, PERSIST_DELAY, PERSIST_NOW, POSITION_INTERVAL, SYNC_INTERVAL,
    },
    readers::{advance, log_identity, reader_id},
    store::{LogIdentity, ReaderId, Store, StoreError},
};

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
            refused: Refused::default(),
            derive_again_at: None,
            derive_pause: RETRY_MIN,
            barriers: Barriers::default(),
            position: Position::new(position),
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
    /// Derived records that wait to be appended again, when, and the pause before that.
    refused: Refused,
    derive_again_at: Option<Instant>,
    derive_pause: Duration,
    /// Those that the position has not got to.
    barriers: Barriers,
    /// Everything below is durable in store and topics.
    position: Position,
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
            let has_room = self.has_room();
            let cut = sleep_until(self.cut_at.filter(|_| !self.busy));
            let again = sleep_until(self.derive_again_at);
            let turn = tokio::select! {
                records = reader.next(INGEST_MAX), if has_room => self.ingest(records),
                Some(done) = self.io.next(), if !self.io.is_empty() => match done {
                    Done::Saved(result) => {
                        saving = false;
                        self.was_saved(result)
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
                () = again => {
                    self.derive_again();
                    None
                }
                _ = save.tick(), if !saving && self.position.get() > self.saved => {
                    saving = true;
                    self.io.push(self.save());
                    None
                }
                _ = sync.tick(), if !syncing && self.saved > self.synced => {
                    syncing = true;
                    let store = self.context.store.clone();
                    self.io.push(io::sync_store(store, self.saved, self.synced));
                    None
                }
                () = self.context.stop.cancelled() => {
                    if self.position.get() > self.saved {
                        self.save().await;
                    }
                    return Turn::Stop(Stopped::GivenUp);
                }
            };
            if let Some(turn) = turn {
                return turn;
            }
            self.issue();
        }
    }

    /// What is not durable yet is bounded (I10): in the core, and on its way to other topics.
    fn has_room(&self) -> bool {
        self.position.derived() < DERIVED_MAX && self.owned.core.lock().has_room()
    }

    fn save(&self) -> BoxFuture<'static, Done> {
        let advance = advance(self.id, self.saved, self.position.get());
        io::save_position(self.context.store.clone(), advance)
    }

    fn was_saved(&mut self, result: Result<u64, StoreError>) -> Option<Turn> {
        match result {
            Ok(position) => self.saved = position,
            Err(error @ StoreError::PositionBelowSaved) => {
                // What the store had is made again from the log.
                tracing::warn!(partition = self.id.partition, %error, "the store went back");
                return Some(Turn::Restart);
            }
            Err(error) => {
                tracing::warn!(partition = self.id.partition, %error, "position not saved");
            }
        }
        None
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
                Output::Derived(derived) => {
                    self.position.derived_begun(derived.offset, derived.topic);
                    if let Some(derived) = self.refused.admit(derived) {
                        self.derive(derived);
                    }
                }
                Output::Barrier(barrier) => self.barriers.add(barrier),
            }
        }
        if progressed {
            self.owned.progressed();
        }
        let store = &self.context.store;
        if !loads.is_empty() {
            self.io
                .push(io::load(store.clone(), loads, self.context.stop.clone()));
        }
        if !finds.is_empty() {
            self.io
                .push(io::find(store.clone(), finds, self.context.stop.clone()));
        }
        if let Some(batch) = batch {
            self.busy = true;
            self.io
                .push(io::persist(store.clone(), batch, self.context.stop.clone()));
        }
        if let Some(position) = idle_at {
            // Nothing is left to make durable, so what was only skipped or refused is passed too.
            self.position.cover(position);
        }
        if let Some(barrier) = self.barriers.reached(self.position.get()) {
            let log = self.context.log.as_ref();
            self.io.push(io::pass_barrier(log, barrier));
        }
    }

    fn derive(&mut self, derived: Derived) {
        let log = self.context.log.as_ref();
        self.io.push(io::append_derived(log, derived));
    }

    /// Appends what was refused, each conversation's in its order.
    fn derive_again(&mut self) {
        self.derive_again_at = None;
        let refused = self.refused.take();
        let count = refused.len();
        tracing::warn!(
            partition = self.id.partition,
            count,
            "derived records not appended, trying again"
        );
        for derived in refused {
            self.derive(derived);
        }
    }

    fn derived(
        &mut self,
        derived: Derived,
        result: &Result<Appended, AppendError>,
    ) -> Option<Turn> {
        match result {
            Ok(_) => {
                let Derived { topic, offset, .. } = derived;
                self.position.derived_confirmed(offset, topic);
                self.derive_pause = RETRY_MIN;
            }
            Err(error @ AppendError::TooLarge) => {
                // No repetition would help, and without it nobody would ever hear of the event.
                let (topic, offset) = (derived.topic.name(), derived.offset);
                let why = format!("what the record at {offset} makes of {topic}: {error}");
                return Some(Turn::Stop(Stopped::Broken(why)));
            }
            Err(_) => {
                self.refused.add(derived);
                if self.derive_again_at.is_none() {
                    self.derive_again_at = Some(Instant::now() + self.derive_pause);
                    self.derive_pause = (self.derive_pause * 2).min(RETRY_MAX);
                }
            }
        }
        None
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
                    .push(io::publish(self.context.log.clone(), inbox, covers, stop));
            }
            Done::Persisted(Err(error), ..) => return Some(self.persist_failed(&error)),
            Done::Published(covers) => {
                self.busy = false;
                self.position.cover(covers);
            }
            Done::DerivedAppended(derived, result) => return self.derived(derived, &result),
            Done::BarrierPassed(Ok(_)) => {}
            Done::BarrierPassed(Err(error)) => {
                // The blob service sends another.
                tracing::warn!(partition = self.id.partition, %error, "a barrier was not passed on");
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
