//! What all readers of the log have in common: joining their group, and knowing their log.

use std::sync::Arc;

use event_log::{EventLog, LogError, PartitionReader, Topic};
use runtime::shutdown::Tasks;

use crate::store::{LogIdentity, PositionAdvance, ReaderId};

/// Joins a group, and runs `read` for each partition that is assigned, until the tasks are stopped.
pub(crate) async fn for_each_partition<F>(
    log: &Arc<dyn EventLog>,
    group: &'static str,
    topic: Topic,
    tasks: &Tasks,
    read: impl Fn(Box<dyn PartitionReader>) -> F + Send + 'static,
) -> Result<(), LogError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut membership = log.join(group, topic).await?;
    let (tasks_of_partitions, stop) = (tasks.clone(), tasks.stop_token());
    tasks.spawn(async move {
        while let Some(assigned) = stop.run_until_cancelled(membership.assigned()).await {
            match assigned {
                Ok(reader) => drop(tasks_of_partitions.spawn(read(reader))),
                Err(error) => {
                    tracing::warn!(group, %error, "no more partitions are assigned");
                    break;
                }
            }
        }
    });
    Ok(())
}

/// The log that a reader of this topic follows, as a store records it.
pub(crate) fn log_identity(log: &dyn EventLog, topic: Topic) -> LogIdentity {
    let identity = log.identity(topic);
    LogIdentity {
        log_id: identity.log_id,
        topic_id: identity.topic_id,
        partitions: identity.partitions,
    }
}

/// The name under which the store keeps a reader's position.
pub(crate) const fn reader_id(reader: &'static str, topic: Topic, partition: u32) -> ReaderId {
    ReaderId {
        reader,
        topic: topic.name(),
        partition,
    }
}

/// The step of a reader's position from what the store is known to have.
pub(crate) fn advance(reader: &ReaderId, from: u64, to: u64) -> PositionAdvance {
    PositionAdvance {
        reader: reader.clone(),
        from,
        to,
    }
}
