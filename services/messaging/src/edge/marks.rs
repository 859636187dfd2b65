//! Delivered and read watermarks on their way into the log: those of all users of this edge in one
//! conversation make one record a second at most, so that receipts cost by edges and not by readers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use event_log::{EventLog, NewRecord, Topic, Urgency};
use parking_lot::Mutex;
use proto::error::v1::ErrorReason;
use runtime::{
    ids::{ConversationId, UserId},
    shutdown::CancellationToken,
    status::ApiError,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    codec,
    limits::{MARKS_CONVERSATIONS_MAX, MARKS_DELAY, MARKS_INTERVAL},
    model::Marks,
};

/// The watermarks that wait.
pub(super) struct MarkBuffer {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    conversations: HashMap<ConversationId, Vec<(UserId, Marks)>>,
    /// Conversations by when they are due; each delay is constant, so each queue is in order.
    quiet: VecDeque<(Instant, ConversationId)>,
    cooling: VecDeque<(Instant, ConversationId)>,
}

impl MarkBuffer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// A user has got this far.
    pub(super) fn add(
        &self,
        conversation: ConversationId,
        user: UserId,
        marks: Marks,
    ) -> Result<(), ApiError> {
        let mut state = self.state.lock();
        if let Some(waiting) = state.conversations.get_mut(&conversation) {
            merge(waiting, user, marks);
            return Ok(());
        }
        if state.conversations.len() >= MARKS_CONVERSATIONS_MAX {
            return Err(ApiError::retry_after(
                ErrorReason::Overloaded,
                "too many receipts are waiting",
                MARKS_INTERVAL,
            ));
        }
        state
            .conversations
            .insert(conversation, vec![(user, marks)]);
        state
            .quiet
            .push_back((Instant::now() + MARKS_DELAY, conversation));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Puts watermarks into the log when they are due, until `stop`; then what is left, at once.
    pub(super) async fn run(self: Arc<Self>, log: Arc<dyn EventLog>, stop: CancellationToken) {
        loop {
            let next = self.state.lock().next_due();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.wake.notified() => {}
                () = stop.cancelled() => break,
            }
            let due = self.state.lock().take_due(Instant::now());
            for (conversation, marks) in due {
                self.append(&log, conversation, marks);
            }
        }
        let left = std::mem::take(&mut self.state.lock().conversations);
        for (conversation, marks) in left {
            if !marks.is_empty() {
                self.append(&log, conversation, marks);
            }
        }
    }

    fn append(
        self: &Arc<Self>,
        log: &Arc<dyn EventLog>,
        conversation: ConversationId,
        marks: Vec<(UserId, Marks)>,
    ) {
        let record = NewRecord {
            key: bytes::Bytes::copy_from_slice(conversation.as_bytes()),
            payload: codec::encode_marks(conversation, &marks),
            headers: Vec::new(),
        };
        let buffer = self.clone();
        let done = move |result: Result<_, _>| {
            if result.is_err() {
                // Back into the buffer, where they wait for the next turn; watermarks only grow, so
                // one that was appended after all does no harm.
                for (user, marks) in marks {
                    let _ = buffer.add(conversation, user, marks);
                }
            }
        };
        log.append(Topic::Messages, record, Urgency::Derived, Box::new(done));
    }
}

impl State {
    fn next_due(&self) -> Option<Instant> {
        let front = |queue: &VecDeque<(Instant, _)>| queue.front().map(|(at, _)| *at);
        match (front(&self.quiet), front(&self.cooling)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn take_due(&mut self, now: Instant) -> Vec<(ConversationId, Vec<(UserId, Marks)>)> {
        let mut due = Vec::new();
        let mut conversations = Vec::new();
        for queue in [&mut self.quiet, &mut self.cooling] {
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                conversations.extend(queue.pop_front().map(|(_, conversation)| conversation));
            }
        }
        for conversation in conversations {
            let Some(marks) = self.conversations.get_mut(&conversation) else {
                continue;
            };
            if marks.is_empty() {
                // Nothing came for a while: the conversation is quiet again.
                self.conversations.remove(&conversation);
            } else {
                due.push((conversation, std::mem::take(marks)));
                self.cooling.push_back((now + MARKS_INTERVAL, conversation));
            }
        }
        due
    }
}

fn merge(waiting: &mut Vec<(UserId, Marks)>, user: UserId, marks: Marks) {
    match waiting.iter_mut().find(|(other, _)| *other == user) {
        Some((_, known)) => *known = known.max(marks),
        None => waiting.push((user, marks)),
    }
}
