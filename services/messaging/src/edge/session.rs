//! One session: what waits for its device, and what it waits for.
//!
//! Shared by the stream that serves the device, by whoever pushes to it, and by the sweeper. Nothing
//! here waits; an idle session holds no buffer, task or timer (I10).

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{
    error::v1::ErrorReason,
    log::v1 as log,
    messaging::v1::{self as wire_v1, server_frame::Frame},
};
use runtime::{
    ids::{ConversationId, DeviceId, MessageId, UserId},
    status::ApiError,
};

use crate::{
    limits::{QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX, REFUSED_BLOCK, SEND_DEADLINE},
    wire,
};

/// When to retry a send whose result is unknown: about when another node has taken over.
const UNKNOWN_RETRY: Duration = Duration::from_secs(1);

/// A device's live connection.
pub(crate) struct Session {
    pub(super) id: u64,
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    waker: Option<Waker>,
    /// Pushes dropped since the device stopped reading; 0 = not lagging.
    dropped: u64,
    end: Option<ApiError>,
    expires_unix_ms: i64,
    heard: Instant,
    heartbeat: Instant,
    request_last: u64,
    in_flight: VecDeque<InFlight>,
    /// In the order in which they came.
    unresolved: Vec<Unresolved>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was said yet.
    New,
    /// `hello` came; pushes wait for `welcome`.
    Opening,
    /// `welcome` is queued.
    Open,
    /// The device closed its half; what is in flight is still answered.
    HalfClosed,
}

/// A send that waits for its verdict.
struct InFlight {
    request_no: u64,
    client_request_id: u64,
    conversation: ConversationId,
    message_id: MessageId,
    deadline: Instant,
}

/// A send whose result the device does not have: later sends to the conversation must not overtake it.
struct Unresolved {
    /// In the numbers of requests: when it came first. One that came earlier may be refused later.
    arrived: u64,
    conversation: ConversationId,
    message_id: MessageId,
    /// When a send that was refused for now stops to matter; `None` = unknown, matters until resolved.
    until: Option<Instant>,
    retried: bool,
}

/// What the sweeper is to do with a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Nothing.
    Leave,
    /// A heartbeat is due.
    Heartbeat,
    /// It has ended.
    Ended,
}

/// What the sweeper goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct SweepRules {
    pub(super) now: Instant,
    pub(super) now_unix_ms: i64,
    pub(super) heartbeat_interval: Duration,
    pub(super) silent_max: Duration,
    pub(super) hello_deadline: Duration,
}

impl Session {
    pub(super) fn new(id: u64, user: UserId, device: DeviceId, expires_unix_ms: i64) -> Self {
        let now = Instant::now();
        Self {
            id,
            user,
            device,
            state: Mutex::new(State {
                phase: Phase::New,
                queue: VecDeque::new(),
                queued_bytes: 0,
                waker: None,
                dropped: 0,
                end: None,
                expires_unix_ms,
                heard: now,
                heartbeat: now,
                request_last: 0,
                in_flight: VecDeque::new(),
                unresolved: Vec::new(),
            }),
        }
    }

    /// Takes note of `hello`; an error if it is not the first.
    pub(super) fn begin(&self) -> Result<(), ApiError> {
        let mut state = self.state.lock();
        if state.phase != Phase::New {
            return Err(ApiError::new(
                ErrorReason::HelloRepeated,
                "a session has one hello",
            ));
        }
        state.phase = Phase::Opening;
        Ok(())
    }

    /// Queues `welcome` before everything that was pushed meanwhile.
    pub(super) fn welcome(&self, frame: Bytes, heartbeat_interval: Duration) {
        let mut state = self.state.lock();
        if state.phase == Phase::Opening {
            state.phase = Phase::Open;
        }
        state.queued_bytes += frame.len();
        state.queue.push_front(frame);
        state.heartbeat = Instant::now() + heartbeat_interval;
        state.wake();
    }

    pub(super) fn is_new(&self) -> bool {
        self.state.lock().phase == Phase::New
    }

    /// The device said something.
    pub(super) fn heard(&self) {
        self.state.lock().heard = Instant::now();
    }

    /// The device closed its half of the stream.
    pub(super) fn half_closed(&self) {
        self.state.lock().phase = Phase::HalfClosed;
    }

    pub(super) fn renewed(&self, expires_unix_ms: i64) {
        self.state.lock().expires_unix_ms = expires_unix_ms;
    }

    /// Queues a push, or drops it if the device does not read.
    pub(super) fn push(&self, frame: &Bytes) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        let full = state.queue.len() >= QUEUE_FRAMES_MAX
            || state.queued_bytes + frame.len() > QUEUE_BYTES_MAX;
        if state.dropped > 0 || full {
            state.dropped += 1;
            return;
        }
        state.enqueue(frame.clone());
    }

    /// Queues the answer to a frame. Never dropped: there are as many as the device may have in flight.
    pub(super) fn answer(&self, frame: Bytes) {
        self.state.lock().enqueue(frame);
    }

    /// Whether so much waits that the device must read before more of it is read.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().queue.len() >= QUEUE_FRAMES_MAX
    }

    /// Ends the session with an error; the first one counts.
    pub(super) fn end(&self, error: ApiError) {
        let mut state = self.state.lock();
        state.end.get_or_insert(error);
        state.wake();
    }

    /// The next frame; `Ready(None)` when the session is over.
    pub(super) fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Open | Phase::HalfClosed) {
            if let Some(frame) = state.queue.pop_front() {
                state.queued_bytes -= frame.len();
                if state.queue.is_empty() && state.queue.capacity() > 8 {
                    // Buffers exist only while they hold something.
                    state.queue = VecDeque::new();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            if state.dropped > 0 {
                let dropped = std::mem::take(&mut state.dropped);
                let frame = wire::push(Frame::Lagging(wire_v1::Lagging { dropped }));
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        if let Some(error) = state.end.take() {
            state.phase = Phase::HalfClosed;
            state.in_flight.clear();
            return Poll::Ready(Some(Err(error)));
        }
        if state.phase == Phase::HalfClosed && state.in_flight.is_empty() {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Admits a send, or says why it must not go on. Answers the number under which its verdict comes.
    pub(super) fn admit(
        &self,
        client_request_id: u64,
        conversation: ConversationId,
        message_id: MessageId,
        in_flight_max: usize,
    ) -> Result<u64, ApiError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state
            .unresolved
            .retain(|entry| entry.retried || entry.until.is_none_or(|until| now < until));
        let own = state
            .unresolved
            .iter()
            .position(|entry| entry.conversation == conversation && entry.message_id == message_id);
        let before = &state.unresolved[..own.unwrap_or(state.unresolved.len())];
        if before
            .iter()
            .any(|entry| entry.conversation == conversation && !entry.retried)
        {
            // Or a later one could overtake this one, once the earlier is resolved.
            state.refuse_new(conversation, message_id, now);
            return Err(ApiError::new(
                ErrorReason::PrecedingSendUnknown,
                "retry the earlier send to this conversation first",
            ));
        }
        if state.in_flight.len() >= in_flight_max {
            state.refuse_new(conversation, message_id, now);
            return Err(ApiError::retry_after(
                ErrorReason::TooManyInFlight,
                format!("at most {in_flight_max} sends may wait for their answers"),
                Duration::from_millis(100),
            ));
        }
        if let Some(own) = own {
            // It keeps its place until its verdict comes.
            state.unresolved[own].retried = true;
        }
        state.request_last += 1;
        let request_no = state.request_last;
        state.in_flight.push_back(InFlight {
            request_no,
            client_request_id,
            conversation,
            message_id,
            deadline: now + SEND_DEADLINE,
        });
        Ok(request_no)
    }

    /// A send was refused for now, before it was admitted: later ones must not overtake it.
    pub(super) fn refused(&self, conversation: ConversationId, message_id: MessageId) {
        self.state
            .lock()
            .refuse_new(conversation, message_id, Instant::now());
    }

    /// An admitted send was not appended: `error` is retryable, or `SendUnknown`.
    pub(super) fn not_appended(&self, request_no: u64, error: &ApiError) {
        let mut state = self.state.lock();
        let Some(send) = state.take(request_no) else {
            return;
        };
        if error.reason == ErrorReason::SendUnknown {
            state.unknown(&send);
        } else {
            state.refuse(&send, Instant::now());
        }
        state.enqueue(error_frame(
            send.client_request_id,
            error,
            Some(send.message_id),
        ));
    }

    /// The verdict on a send.
    pub(super) fn verdict(&self, request_no: u64, verdict: &log::Verdict) {
        let mut state = self.state.lock();
        let sent = state.take(request_no);
        let (Ok(conversation), Ok(message_id)) = (
            ConversationId::from_slice(&verdict.conversation_id),
            MessageId::from_slice(&verdict.message_id),
        ) else {
            return;
        };
        state
            .unresolved
            .retain(|entry| entry.conversation != conversation || entry.message_id != message_id);
        // A verdict that comes after the deadline was answered as unknown before.
        let Some(sent) = sent else { return };
        let frame = match &verdict.verdict {
            Some(log::verdict::Verdict::Accepted(accepted)) => wire::answer(
                sent.client_request_id,
                Frame::SendAck(wire_v1::SendAck {
                    conversation_id: conversation.to_string(),
                    message_id: message_id.to_string(),
                    seq: accepted.seq,
                    message_index: accepted.message_index,
                    time_unix_ms: accepted.time_unix_ms,
                    duplicate: accepted.duplicate,
                }),
            ),
            other => error_frame(sent.client_request_id, &rejection(other), Some(message_id)),
        };
        state.enqueue(frame);
    }

    /// Ends what has waited too long, and says what else is due.
    pub(super) fn sweep(&self, rules: &SweepRules) -> Sweep {
        let mut state = self.state.lock();
        while state
            .in_flight
            .front()
            .is_some_and(|send| send.deadline <= rules.now)
        {
            let Some(send) = state.in_flight.pop_front() else {
                break;
            };
            state.unknown(&send);
            let frame = error_frame(
                send.client_request_id,
                &send_unknown(),
                Some(send.message_id),
            );
            state.enqueue(frame);
        }
        let silent = rules.now.saturating_duration_since(state.heard);
        let end = if state.expires_unix_ms <= rules.now_unix_ms {
            Some(ApiError::new(
                ErrorReason::TokenExpired,
                "the session's token has expired",
            ))
        } else if silent > rules.silent_max {
            Some(ApiError::new(
                ErrorReason::SessionSilent,
                "nothing came for three heartbeats",
            ))
        } else if state.phase == Phase::New && silent > rules.hello_deadline {
            Some(ApiError::new(
                ErrorReason::HelloRequired,
                "no hello came in time",
            ))
        } else {
            None
        };
        if state.end.is_some() && silent > rules.silent_max {
            // The device does not even read that it is over; what waits for it is not worth keeping.
            state.queue = VecDeque::new();
            state.queued_bytes = 0;
        }
        if let Some(error) = end {
            state.end.get_or_insert(error);
            state.wake();
            return Sweep::Ended;
        }
        if state.phase == Phase::Open && state.heartbeat <= rules.now {
            state.heartbeat = rules.now + rules.heartbeat_interval;
            return Sweep::Heartbeat;
        }
        Sweep::Leave
    }
}

impl State {
    fn enqueue(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn take(&mut self, request_no: u64) -> Option<InFlight> {
        // Verdicts come nearly in order, so this looks at the first entries only.
        let at = self
            .in_flight
            .iter()
            .position(|send| send.request_no == request_no)?;
        self.in_flight.remove(at)
    }

    fn unknown(&mut self, send: &InFlight) {
        self.remember(Unresolved {
            arrived: send.request_no,
            conversation: send.conversation,
            message_id: send.message_id,
            until: None,
            retried: false,
        });
    }

    /// One that was admitted is refused for now.
    fn refuse(&mut self, send: &InFlight, now: Instant) {
        self.remember(Unresolved {
            arrived: send.request_no,
            conversation: send.conversation,
            message_id: send.message_id,
            until: Some(now + REFUSED_BLOCK),
            retried: false,
        });
    }

    /// One that has just come is refused for now.
    fn refuse_new(&mut self, conversation: ConversationId, message_id: MessageId, now: Instant) {
        self.request_last += 1;
        self.remember(Unresolved {
            arrived: self.request_last,
            conversation,
            message_id,
            until: Some(now + REFUSED_BLOCK),
            retried: false,
        });
    }

    /// Remembers the entry, in the place of an earlier one of the same message, or where it came.
    fn remember(&mut self, entry: Unresolved) {
        let same = |other: &&mut Unresolved| {
            other.conversation == entry.conversation && other.message_id == entry.message_id
        };
        if let Some(known) = self.unresolved.iter_mut().find(same) {
            known.retried = false;
            // Once unknown, it stays so until it is resolved.
            known.until = known.until.and(entry.until);
            return;
        }
        if self.unresolved.len() >= QUEUE_FRAMES_MAX {
            let error = ApiError::new(ErrorReason::Overloaded, "too many sends are unresolved");
            self.end.get_or_insert(error);
            return;
        }
        let place = self
            .unresolved
            .partition_point(|other| other.arrived < entry.arrived);
        self.unresolved.insert(place, entry);
    }
}

/// What a send that got no verdict in time is answered with.
pub(super) fn send_unknown() -> ApiError {
    ApiError::retry_after(
        ErrorReason::SendUnknown,
        "no definite result yet; retry with the same message_id",
        UNKNOWN_RETRY,
    )
}

/// The error for a verdict that is not an acceptance.
pub(crate) fn rejection(verdict: &Option<log::verdict::Verdict>) -> ApiError {
    let reason = match verdict {
        Some(log::verdict::Verdict::Rejected(number)) => i32::try_from(*number)
            .ok()
            .and_then(|number| ErrorReason::try_from(number).ok()),
        _ => None,
    };
    match reason {
        Some(ErrorReason::NotAMember) => {
            ApiError::new(ErrorReason::NotAMember, "not a member of the conversation")
        }
        Some(ErrorReason::AdminsOnly) => ApiError::new(
            ErrorReason::AdminsOnly,
            "only admins send to this group, or mention all of it",
        ),
        Some(ErrorReason::MentionNotAMember) => ApiError::new(
            ErrorReason::MentionNotAMember,
            "a user who is mentioned is not a member of the group",
        ),
        Some(ErrorReason::ReceiptExpired) => ApiError::new(
            ErrorReason::ReceiptExpired,
            "a receipt has expired; upload the same bytes again for a new one",
        ),
        Some(reason) => ApiError::new(reason, "the send was rejected"),
        None => send_unknown(),
    }
}

/// An error that answers one frame and leaves the session alive.
pub(super) fn error_frame(
    request_id: u64,
    error: &ApiError,
    message_id: Option<MessageId>,
) -> Bytes {
    let retry_after_ms = error.retry_after.map_or(0, |after| {
        u32::try_from(after.as_millis()).unwrap_or(u32::MAX).max(1)
    });
    wire::answer(
        request_id,
        Frame::Error(wire_v1::Error {
            code: error.code() as i32,
            reason: error.reason as i32,
            message: error.message.clone(),
            field: error.field.clone(),
            retry_after_ms,
            message_id: message_id.map_or_else(String::new, |id| id.to_string()),
        }),
    )
}

#[cfg(test)]
mod tests;
