//! The fan-out of a group's events to its members: one reader per partition of the topic `fanout`.
//!
//! `core` decides and does no I/O; `partition` drives it; this file finds the partitions that this node
//! is to read. Of each record, the members of its version get one frame, shared by all of them, and of
//! an event also their rows of conversation lists, which wait for those of other events of the group for
//! at most a second.
//!
//! In a huge group, which is *deferred*, an event changes the rows of its author, and of those who join or
//! leave by it, and of nobody else: the others' are completed when they are read. So that they are, each
//! member has one record that says so, from the event by which the group crossed the limit.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use delivery::Delivery;
use event_log::{EventLog, LogError, PartitionReader, Topic};
use runtime::shutdown::Tasks;

use self::partition::{Context, Stopped};
use crate::{model::Sequenced, store::FanoutStore};

mod codec;
mod core;
mod limits;
mod members;
mod partition;
mod pushes;
mod rounds;
mod segment;

#[cfg(test)]
mod tests;

/// The name of the group that fans out.
pub const FANOUT_GROUP: &str = "fanout";

/// Told of changes that the log has carried out, as soon as they are read from it, and maybe again.
/// Must be quick and must not block. The store may not have noted them yet.
pub type OnSequenced = Arc<dyn Fn(&[Sequenced]) + Send + Sync>;

/// What the fan-out needs.
#[derive(Clone)]
pub struct FanoutDeps {
    /// Read: `fanout`, in the group [`FANOUT_GROUP`]. Written: `inbox`.
    pub log: Arc<dyn EventLog>,
    /// Members, and the positions of the partitions.
    pub store: Arc<dyn FanoutStore>,
    /// To live sessions.
    pub delivery: Delivery,
    /// For calls of this process that wait for the place of a change.
    pub on_sequenced: OnSequenced,
    /// Members above which a group is deferred: see [`crate::Config::deferred_above`].
    pub deferred_above: usize,
}

/// How often what happened; all grow only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FanoutStats {
    /// Records read.
    pub records: u64,
    /// Records that could not be decoded, and were skipped.
    pub malformed: u64,
    /// Calls of [`Delivery::push`].
    pub pushes: u64,
    /// Users in them.
    pub members_reached: u64,
    /// Records appended to `inbox`.
    pub inbox_records: u64,
    /// Events that shared the inbox records of others of their group.
    pub coalesced: u64,
    /// Groups whose members were loaded.
    pub loads: u64,
    /// Groups that became deferred.
    pub deferred: u64,
}

#[derive(Debug, Default)]
struct Counters {
    records: AtomicU64,
    malformed: AtomicU64,
    pushes: AtomicU64,
    members_reached: AtomicU64,
    inbox_records: AtomicU64,
    coalesced: AtomicU64,
    loads: AtomicU64,
    deferred: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The fan-out of this node. Clones share everything.
#[derive(Clone)]
pub struct Fanout {
    context: Context,
    /// Why the first partition stopped that did so because going on would break a promise.
    broken: Arc<OnceLock<String>>,
}

/// Joins the group and fans out what is assigned, until the tasks are stopped.
pub async fn start(deps: FanoutDeps, tasks: &Tasks) -> Result<Fanout, LogError> {
    let mut membership = deps.log.join(FANOUT_GROUP, Topic::Fanout).await?;
    let stop = tasks.stop_token();
    let fanout = Fanout {
        context: Context {
            deps,
            stop: stop.clone(),
            counters: Arc::default(),
        },
        broken: Arc::default(),
    };
    let (this, tasks_of_partitions) = (fanout.clone(), tasks.clone());
    tasks.spawn(async move {
        while let Some(assigned) = stop.run_until_cancelled(membership.assigned()).await {
            match assigned {
                Ok(reader) => drop(tasks_of_partitions.spawn(this.clone().read(reader))),
                Err(error) => {
                    tracing::warn!(group = FANOUT_GROUP, %error, "no more partitions are assigned");
                    break;
                }
            }
        }
    });
    Ok(fanout)
}

impl Fanout {
    async fn read(self, reader: Box<dyn PartitionReader>) {
        let partition = reader.partition();
        if let Stopped::Broken(why) = partition::run(self.context, reader).await {
            tracing::error!(partition, why, "the partition has stopped");
            let _ = self.broken.set(why);
        }
    }

    /// Why a partition has stopped, if going on would break a promise: then this node is not healthy.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// What happened so far.
    pub fn stats(&self) -> FanoutStats {
        let counters = &self.context.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FanoutStats {
            records: read(&counters.records),
            malformed: read(&counters.malformed),
            pushes: read(&counters.pushes),
            members_reached: read(&counters.members_reached),
            inbox_records: read(&counters.inbox_records),
            coalesced: read(&counters.coalesced),
            loads: read(&counters.loads),
            deferred: read(&counters.deferred),
        }
    }
}
