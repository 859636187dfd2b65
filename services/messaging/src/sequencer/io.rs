//! The I/O of one partition: each call is a future that ends when it is done, or never if the partition
//! stops before.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use event_log::{AppendError, Appended, EventLog, NewRecord, Topic, Urgency};
use futures_util::future::BoxFuture;
use runtime::{ids::ConversationId, shutdown::CancellationToken, trace};
use tokio::sync::oneshot;

use super::{
    barriers::Barrier,
    core::{Batch, Derived, Name},
};
use crate::{
    codec,
    model::{ConversationState, Event, InboxChange},
    store::{PositionAdvance, Store, StoreError},
};

/// First and longest pause between tries of what the store or the log refused.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(20);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(2);

/// What was done.
pub(super) enum Done {
    Loaded(Vec<ConversationId>, Vec<ConversationState>),
    Found(Vec<Name>, Vec<Event>),
    Persisted(
        Result<(), StoreError>,
        Vec<(InboxChange, Option<Bytes>)>,
        u64,
    ),
    Published(u64),
    DerivedAppended(Derived, Result<Appended, AppendError>),
    BarrierPassed(Result<Appended, AppendError>),
    Saved(Result<u64, StoreError>),
    Synced(u64),
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

pub(super) fn load(
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

pub(super) fn find(
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

pub(super) fn persist(
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
pub(super) fn publish(
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

/// Appends a derived record, at once, so that those of a conversation take their places in the order of
/// the calls.
pub(super) fn append_derived(log: &dyn EventLog, derived: Derived) -> BoxFuture<'static, Done> {
    let record = NewRecord {
        key: Bytes::copy_from_slice(derived.conversation.as_bytes()),
        payload: derived.payload.clone(),
        headers: trace::headers(derived.trace.clone()),
    };
    let urgency = match derived.topic {
        Topic::Fanout => Urgency::Now,
        // Nobody waits for what refers to blobs.
        _ => Urgency::Derived,
    };
    let appended = append(log, derived.topic, record, urgency);
    Box::pin(async move { Done::DerivedAppended(derived, appended.await) })
}

/// Passes a barrier on; it is behind all that was confirmed.
pub(super) fn pass_barrier(log: &dyn EventLog, barrier: Barrier) -> BoxFuture<'static, Done> {
    let record = NewRecord {
        payload: codec::encode_barrier(barrier.as_of_unix_ms),
        key: barrier.key,
        headers: Vec::new(),
    };
    let appended = append(log, Topic::References, record, Urgency::Derived);
    Box::pin(async move { Done::BarrierPassed(appended.await) })
}

fn append(
    log: &dyn EventLog,
    topic: Topic,
    record: NewRecord,
    urgency: Urgency,
) -> impl Future<Output = Result<Appended, AppendError>> + use<> {
    let (done, result) = oneshot::channel();
    let done = Box::new(move |result| drop(done.send(result)));
    log.append(topic, record, urgency, done);
    async move {
        let lost = |_| Err(AppendError::Unknown("the log went away".to_owned()));
        result.await.unwrap_or_else(lost)
    }
}

pub(super) fn save_position(
    store: Arc<dyn Store>,
    advance: PositionAdvance,
) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let position = advance.to;
        Done::Saved(store.save_position(advance).await.map(|()| position))
    })
}

pub(super) fn sync_store(
    store: Arc<dyn Store>,
    position: u64,
    before: u64,
) -> BoxFuture<'static, Done> {
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
