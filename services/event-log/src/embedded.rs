//! The embedded log: one SQLite file, one thread that writes it, and readers in the same process.
//!
//! * Appends that wait share a commit and its fsync (`writer`); they are packed by their callers
//!   (`queue`, `batch`), so that an append costs little more than copying its bytes.
//! * Readers that keep up are served from memory (`tail`), others from the file (`reader`).
//! * Groups share partitions in memory (`groups`). What all groups of a topic have committed is
//!   deleted in steps; a topic without groups keeps everything. The file never shrinks, its room is
//!   used again.
//! * The WAL is moved into the file beside the writer (`checkpoint`).
//!
//! The file is of one process: a second one is refused. It must lie on a local disk.

use std::{
    fs::{self, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use runtime::clock::{Clock, SystemClock};
use rusqlite::Connection;

use crate::{
    AppendError, EventLog, LogError, Membership, NewRecord, OnAppended, Topic, TopicIdentity,
    Urgency, partitioner,
};

mod batch;
mod checkpoint;
mod file;
mod groups;
mod queue;
mod reader;
mod reads;
mod tail;
mod writer;

/// [`EmbeddedConfig::bytes_max`] unless told otherwise: some minutes at full speed when a reader
/// hangs, days of ordinary use.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// [`EmbeddedConfig::queue_max`] unless told otherwise: a second of a busy machine.
const QUEUE_MAX: usize = 32_768;
/// [`EmbeddedConfig::tail_bytes_max`] unless told otherwise: seconds of a busy machine.
const TAIL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// [`EmbeddedConfig::revoke_wait`] unless told otherwise: longer than any batch takes to be stored.
const REVOKE_WAIT: Duration = Duration::from_secs(10);
/// The part of [`EmbeddedConfig::bytes_max`] (one in so many) that is kept for what readers derive.
const DERIVED_SHARE: u64 = 8;
/// Least memory for the last records of a partition.
const TAIL_BYTES_MIN: usize = 256 * 1024;

/// How to open a log.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// The SQLite file; its folder must be there. Files with longer names are made beside it.
    pub path: PathBuf,
    /// The topics, and how many partitions each has: fixed for ever when the file first has the
    /// topic. Each partition that has records costs a row in every commit; few are enough for one
    /// machine.
    pub topics: Vec<(Topic, u32)>,
    /// Everybody who reads: only these may join, and what all of a topic have committed is deleted.
    /// One that never reads keeps everything.
    pub groups: Vec<(String, Topic)>,
    /// What the file may hold, in bytes; appends beyond it are refused. At least
    /// [`EmbeddedConfig::bytes_max_min`]. Besides, the WAL has up to 64 MiB or so.
    pub bytes_max: u64,
    /// Appends that may wait; more are refused.
    pub queue_max: usize,
    /// Memory for the last records of all partitions together, in bytes.
    pub tail_bytes_max: usize,
    /// How long a reader may take to see that its partition was taken away. Then it is handed on
    /// all the same: a reader that hangs must not stop its partition. It gets no more records in
    /// any case.
    pub revoke_wait: Duration,
    /// Gives records their time.
    pub clock: Arc<dyn Clock>,
}

impl EmbeddedConfig {
    /// A log with these topics and groups, the usual limits, and the machine's clock.
    pub fn new(
        path: impl Into<PathBuf>,
        topics: &[(Topic, u32)],
        groups: &[(&str, Topic)],
    ) -> Self {
        let named = |&(name, topic): &(&str, Topic)| (name.to_owned(), topic);
        Self {
            path: path.into(),
            topics: topics.to_vec(),
            groups: groups.iter().map(named).collect(),
            bytes_max: BYTES_MAX,
            queue_max: QUEUE_MAX,
            tail_bytes_max: TAIL_BYTES_MAX,
            revoke_wait: REVOKE_WAIT,
            clock: Arc::new(SystemClock),
        }
    }
}

impl EmbeddedConfig {
    /// The least [`Self::bytes_max`] with which a full log always empties by itself, in bytes.
    ///
    /// A full log empties when its readers go on, and one that derives records can go on when one of
    /// these, of any size, finds room: then it is read, passed and deleted, and the next one does. So
    /// the part that is kept for derived records must hold the largest one, and the rest the largest
    /// message beside what an empty file has.
    pub fn bytes_max_min(&self) -> u64 {
        let record = (batch::RECORD_BYTES_MAX as u64) + file::ROW_BYTES_MAX;
        let partitions = |topic: Topic| {
            let of_topic = self.topics.iter().filter(|(t, _)| *t == topic);
            of_topic.map(|(_, count)| u64::from(*count)).sum::<u64>()
        };
        let all = Topic::ALL.into_iter().map(partitions).sum();
        let positions = self.groups.iter().map(|(_, topic)| partitions(*topic));
        let empty = file::empty_bytes_max(all, positions.sum());
        let derived = record * DERIVED_SHARE;
        derived.max((empty + record) * DERIVED_SHARE / (DERIVED_SHARE - 1) + 1)
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("the log {0} is in use")]
    InUse(PathBuf),
    /// The folder or a file in it cannot be used.
    #[error("the log's files: {0}")]
    Io(#[from] io::Error),
    /// SQLite cannot use the file.
    #[error("the log's file: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file was made by a newer program, or is none of ours.
    #[error("the log's schema: {0}")]
    Schema(rusqlite_migration::Error),
    /// Partition counts are fixed: keys would go elsewhere.
    #[error("topic {topic} has {has} partitions and cannot have {wanted}")]
    PartitionCount {
        /// The topic.
        topic: Topic,
        /// What it was made with.
        has: u32,
        /// What the configuration says.
        wanted: u32,
    },
    /// The bound is so small that a full log might stay full for ever.
    #[error("the log may hold {bytes_max} bytes, and needs at least {least}")]
    BytesMax {
        /// [`EmbeddedConfig::bytes_max`].
        bytes_max: u64,
        /// [`EmbeddedConfig::bytes_max_min`].
        least: u64,
    },
    /// The configuration contradicts itself.
    #[error("the log's configuration: {0}")]
    Config(&'static str),
}

/// What a log has done since it was opened, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Commits with records; each is one fsync.
    pub commits: u64,
    /// Appends that became durable.
    pub appends: u64,
    /// What the file holds, in bytes, about.
    pub used_bytes: u64,
}

/// An open log. Dropping the last one closes it, blocking until what waits is written.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    running: tokio::sync::Mutex<Option<Running>>,
}

/// What the threads and the readers share.
struct Shared {
    topics: Vec<file::TopicPlace>,
    queue: queue::Queue,
    /// Per partition of the file.
    partitions: Vec<tail::Partition>,
    /// Per partition of the file, its number in its topic.
    numbers: Vec<u32>,
    groups: Vec<groups::Group>,
    reads: Arc<reads::Reads>,
    checkpoint: checkpoint::Checkpoint,
    clock: Arc<dyn Clock>,
    bytes_max: u64,
    used_bytes: AtomicU64,
    /// Appends were refused for [`Shared::bytes_max`]: delete at once what can be deleted.
    is_full: AtomicBool,
    positions_dirty: AtomicBool,
    closed: AtomicBool,
    counters: Counters,
    /// Runs on the writer before the next commit.
    #[cfg(test)]
    before_commit: parking_lot::Mutex<Option<tests::BeforeCommit>>,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    appends: AtomicU64,
}

struct Running {
    writer: thread::JoinHandle<Option<Connection>>,
    checkpointer: thread::JoinHandle<()>,
    shared: Arc<Shared>,
    /// Says to others that the file is in use, until all of it is closed.
    _lock: fs::File,
}

impl EmbeddedLog {
    /// Opens the log, or makes it. Blocks for as long as the disk needs.
    pub fn open(config: EmbeddedConfig) -> Result<Arc<Self>, OpenError> {
        let lock = lock(&config.path)?;
        let mut opened = file::open(&config)?;
        let (bytes_max, least) = (config.bytes_max, config.bytes_max_min());
        if bytes_max < least {
            return Err(OpenError::BytesMax { bytes_max, least });
        }
        let checkpoints = file::open_checkpointer(&config.path)?;
        sync_folder(&config.path)?;
        let groups = groups(&config, &opened)?;
        let stored = groups
            .iter()
            .map(|g| {
                g.positions
                    .iter()
                    .map(|p| p.load(Ordering::Relaxed))
                    .collect()
            })
            .collect();
        let ranges = std::mem::take(&mut opened.ranges);
        let tail_bytes = config.tail_bytes_max / ranges.len().max(1);
        let tail_bytes = tail_bytes.max(TAIL_BYTES_MIN);
        let partition = |&(first, next): &(u64, u64)| tail::Partition::new(first, next, tail_bytes);
        let shared = Arc::new(Shared {
            queue: queue::Queue::new(ranges.len(), config.queue_max),
            partitions: ranges.iter().map(partition).collect(),
            numbers: numbers(&opened.topics, ranges.len()),
            topics: opened.topics,
            groups,
            reads: Arc::new(reads::Reads::new(config.path)),
            checkpoint: checkpoint::Checkpoint::default(),
            clock: config.clock,
            bytes_max: config.bytes_max,
            used_bytes: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            positions_dirty: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            counters: Counters::default(),
            #[cfg(test)]
            before_commit: parking_lot::Mutex::default(),
        });
        let writer = writer::Writer::new(shared.clone(), opened.connection, &ranges, stored);
        let checkpointer = checkpoint::start(checkpoints, shared.clone())?;
        let writer = start_writer(writer, shared.clone())?;
        let running = Running {
            writer,
            checkpointer,
            shared: shared.clone(),
            _lock: lock,
        };
        Ok(Arc::new(Self {
            shared,
            running: tokio::sync::Mutex::new(Some(running)),
        }))
    }

    /// Takes no more appends, finishes those that wait, stores positions, and closes the file.
    /// Readers get [`LogError::Closed`] then.
    pub async fn close(&self) {
        self.shared.queue.close();
        let mut running = self.running.lock().await;
        if let Some(running) = running.take()
            && tokio::task::spawn_blocking(|| running.join())
                .await
                .is_err()
        {
            tracing::error!("the log was not closed in order");
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            commits: counters.commits.load(Ordering::Relaxed),
            appends: counters.appends.load(Ordering::Relaxed),
            used_bytes: self.shared.used_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(running) = self.running.get_mut().take() {
            if running.writer.thread().id() == thread::current().id() {
                // A callback held the last one: the writer cannot wait for itself.
                thread::spawn(|| running.join());
            } else {
                running.join();
            }
        }
    }
}

impl Running {
    fn join(self) {
        let connection = self.writer.join();
        if self.checkpointer.join().is_err() {
            tracing::error!("the log's checkpoint thread panicked");
        }
        self.shared.reads.close();
        // The last connection to go moves the rest of the WAL and deletes it.
        drop(connection);
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A partition by its index in the file.
    fn partition(&self, at: u32) -> Result<&tail::Partition, LogError> {
        let missing = || LogError::Failed("there is no such partition".to_owned());
        self.partitions.get(queue::index(at)).ok_or_else(missing)
    }

    fn partition_in_topic(&self, at: u32) -> u32 {
        self.numbers.get(queue::index(at)).copied().unwrap_or(0)
    }

    fn topic(&self, topic: Topic) -> Option<&file::TopicPlace> {
        self.topics.iter().find(|place| place.topic == topic)
    }

    fn positions_changed(&self) {
        if !self.positions_dirty.swap(true, Ordering::AcqRel) {
            self.queue.poke();
        }
    }

    /// The writer has ended.
    fn end(&self) {
        for waiting in self.queue.abandon() {
            writer::answer(waiting.done, Err(AppendError::Closed));
        }
        self.closed.store(true, Ordering::Release);
        self.checkpoint.end();
        for partition in &self.partitions {
            partition.wake_all();
        }
        for group in &self.groups {
            group.wake_all();
        }
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    /// Of a topic that the log was not opened with: no partitions.
    fn identity(&self, topic: Topic) -> TopicIdentity {
        let none = TopicIdentity {
            log_id: String::new(),
            topic_id: String::new(),
            partitions: 0,
        };
        let place = self.shared.topic(topic);
        place.map_or(none, |place| place.identity.clone())
    }

    fn partition_of(&self, topic: Topic, key: &[u8]) -> u32 {
        let partitions = self.shared.topic(topic).map(|p| p.identity.partitions);
        partitioner::partition_of(key, partitions.unwrap_or(0))
    }

    fn append(&self, topic: Topic, record: NewRecord, urgency: Urgency, done: OnAppended) {
        let shared = &self.shared;
        let Some(place) = shared.topic(topic) else {
            let error = AppendError::Failed(format!("the log has no topic {topic}"));
            return done(Err(error));
        };
        let sized = match batch::Sized::new(record) {
            Ok(sized) => sized,
            Err(error) => return done(Err(error)),
        };
        let number = partitioner::partition_of(&sized.record().key, place.identity.partitions);
        // What readers derive must find room when clients' records have filled the log: without it they
        // could not pass those records, and nothing would ever be deleted.
        let reserved = match topic {
            Topic::Messages | Topic::Users => shared.bytes_max / DERIVED_SHARE,
            Topic::Fanout | Topic::Inbox | Topic::Offline | Topic::References => 0,
        };
        let room = queue::Room {
            bytes_max: shared.bytes_max - reserved,
            used_bytes: &shared.used_bytes,
        };
        let partition = place.first + number;
        let pushed = shared.queue.push(partition, &sized, urgency, &room, done);
        if let Err((error, done)) = pushed {
            if error == AppendError::Full && !shared.is_full.swap(true, Ordering::Relaxed) {
                shared.queue.poke();
            }
            done(Err(error));
        }
    }

    async fn join(&self, group: &str, topic: Topic) -> Result<Box<dyn Membership>, LogError> {
        let groups = &self.shared.groups;
        let found = groups
            .iter()
            .position(|g| g.name == group && g.topic == topic);
        let Some(found) = found else {
            let error = format!("the log was not told of group {group} of topic {topic}");
            return Err(LogError::Failed(error));
        };
        if self.shared.is_closed() {
            return Err(LogError::Closed);
        }
        let member = reader::Member::join(self.shared.clone(), found)?;
        Ok(Box::new(member))
    }
}

fn start_writer(
    writer: writer::Writer,
    shared: Arc<Shared>,
) -> io::Result<thread::JoinHandle<Option<Connection>>> {
    /// Also when the thread panics, nobody is left waiting.
    struct Ending(Arc<Shared>);
    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    let ending = Ending(shared);
    thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || {
            let _ending = ending;
            Some(writer.run())
        })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn lock(path: &Path) -> Result<fs::File, OpenError> {
    let file = fs::File::create(beside(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// A new file is durable only with its entry in the folder.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder)?.sync_all()
}

fn numbers(topics: &[file::TopicPlace], partitions: usize) -> Vec<u32> {
    let mut numbers = vec![0; partitions];
    for place in topics {
        let own = numbers.iter_mut().skip(queue::index(place.first));
        for (number, at) in (0..place.identity.partitions).zip(own) {
            *at = number;
        }
    }
    numbers
}

fn groups(config: &EmbeddedConfig, opened: &file::Opened) -> Result<Vec<groups::Group>, OpenError> {
    let mut groups: Vec<groups::Group> = Vec::new();
    for (name, topic) in &config.groups {
        let Some(place) = opened.topics.iter().find(|place| place.topic == *topic) else {
            return Err(OpenError::Config("a group of a topic that is not there"));
        };
        if groups.iter().any(|g| g.name == *name && g.topic == *topic) {
            return Err(OpenError::Config("a group is there twice"));
        }
        let position = |partition: u32| {
            let at = place.first + partition;
            let mut stored = opened.positions.iter();
            let stored = stored.find(|(group, p, _)| group == name && *p == at);
            let (_, next) = opened
                .ranges
                .get(queue::index(at))
                .copied()
                .unwrap_or((0, 0));
            // A position beyond the end is another log's; it must delete nothing.
            let stored = stored
                .map(|(_, _, position)| *position)
                .filter(|p| *p <= next);
            AtomicU64::new(stored.unwrap_or(0))
        };
        let positions = (0..place.identity.partitions).map(position).collect();
        groups.push(groups::Group::new(
            name.clone(),
            *topic,
            place.first,
            positions,
            config.revoke_wait,
        ));
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
