//! Keeps one session busy: sends with so many in flight, takes what comes, and counts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use proto::{
    error::v1::ErrorReason,
    messaging::v1::{
        Delivered, Error, Event, Send, SendAck, ServerFrame, Watermark, client_frame, event,
        server_frame,
    },
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    allowance::Allowance,
    figures::{Errors, Latencies},
    wire::{self, Wire},
};

/// How often a session looks whether it has a watermark or a heartbeat to send: as an app would,
/// several messages share one watermark.
const TICK: Duration = Duration::from_millis(500);
/// The pause before a retry for which the server named none.
const RETRY_PAUSE_MS_MIN: u64 = 10;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Under load, not counted in the figures.
    WarmUp = 0,
    /// Under load and counted.
    Measured = 1,
    /// No new messages; those on the way arrive.
    Draining = 2,
}

/// What all sessions of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    phase: AtomicU8,
    /// New messages that may still be sent.
    left: AtomicU64,
    /// Cancelled when the sessions are to close.
    pub(crate) ended: CancellationToken,
    counts: Mutex<Counts>,
}

/// What all sessions have counted together.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Of the measured phase.
    pub(crate) ack: Latencies,
    pub(crate) delivery: Latencies,
    /// Of the whole run.
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) received: u64,
    /// New messages that had to wait because the server allows a session only so many frames.
    pub(crate) held_back: u64,
    pub(crate) errors: Errors,
}

impl Run {
    pub(crate) fn new(messages: u64) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            phase: AtomicU8::new(Phase::WarmUp as u8),
            left: AtomicU64::new(messages),
            ended: CancellationToken::new(),
            counts: Mutex::new(Counts {
                ack: Latencies::new()?,
                delivery: Latencies::new()?,
                sent: 0,
                acked: 0,
                refused: 0,
                received: 0,
                held_back: 0,
                errors: Errors::new(),
            }),
        }))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_message(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        !self.is(Phase::Draining)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
    }

    pub(crate) fn error(&self, name: impl Into<String>) {
        *self.counts().errors.entry(name.into()).or_insert(0) += 1;
    }

    /// Waits until all that was sent is answered, and `received_each` sessions have received each
    /// of it, at most until `deadline`. Answers how many receipts are missing.
    pub(crate) async fn settled(&self, received_each: u64, deadline: Duration) -> u64 {
        let end = Instant::now() + deadline;
        loop {
            let undelivered = {
                let counts = self.counts();
                let undelivered = (counts.acked * received_each).saturating_sub(counts.received);
                if counts.acked + counts.refused >= counts.sent && undelivered == 0 {
                    return 0;
                }
                undelivered
            };
            if Instant::now() >= end {
                let counts = self.counts();
                let unanswered = counts.sent.saturating_sub(counts.acked + counts.refused);
                drop(counts);
                if unanswered > 0 {
                    *self
                        .counts()
                        .errors
                        .entry("UNANSWERED".to_owned())
                        .or_insert(0) += unanswered;
                }
                return undelivered;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One session of a run.
pub(crate) struct Session {
    run: Arc<Run>,
    wire: Wire,
    conversation_id: String,
    allowance: Allowance,
    /// The sends in flight, by request id less one.
    slots: Vec<Option<(Send, u64)>>,
    /// Slots to be sent again, by message id: in the order in which they were sent first.
    again: BTreeMap<String, usize>,
    /// Slots that wait for a new message to be allowed.
    free: VecDeque<usize>,
    /// When to go on with these.
    resume_at: Option<Instant>,
    /// Between an ack and the next message.
    pause: Duration,
    /// The newest event that was received, and the seq up to which the server has been told so.
    newest: Watermark,
    told_seq: u64,
    acked_seq: u64,
}

impl Session {
    pub(crate) fn new(
        run: Arc<Run>,
        wire: Wire,
        conversation_id: String,
        in_flight: usize,
    ) -> Self {
        Self {
            run,
            allowance: Allowance::new(&wire.welcome.limits.unwrap_or_default()),
            wire,
            conversation_id,
            slots: vec![None; in_flight],
            again: BTreeMap::new(),
            free: VecDeque::new(),
            resume_at: None,
            pause: Duration::ZERO,
            newest: Watermark::default(),
            told_seq: 0,
            acked_seq: 0,
        }
    }

    /// With a pause between an ack and the next message.
    pub(crate) fn pausing(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Runs until [`Run::ended`], or until the session breaks.
    pub(crate) async fn drive(mut self) {
        let ended = self.run.ended.clone();
        let ended = ended.cancelled();
        tokio::pin!(ended);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heartbeat_interval = self.wire.heartbeat_interval();
        let mut heartbeat_at = Instant::now() + heartbeat_interval;

        for slot in 0..self.slots.len() {
            self.send_next(slot);
        }
        loop {
            tokio::select! {
                biased;
                frame = self.wire.frames.next() => match frame {
                    Some(Ok(frame)) => self.take(frame),
                    Some(Err(status)) => {
                        return self.run.error(format!("session ended: {:?}", status.code()));
                    }
                    None => return self.run.error("session ended"),
                },
                _ = tick.tick() => {
                    self.tell_delivered();
                    if Instant::now() >= heartbeat_at {
                        heartbeat_at = Instant::now() + heartbeat_interval;
                        self.put_beside(wire::heartbeat());
                    }
                }
                () = until(self.resume_at), if self.resume_at.is_some() => self.resume(),
                () = &mut ended => return,
            }
        }
    }

    fn take(&mut self, frame: ServerFrame) {
        match frame.frame {
            Some(server_frame::Frame::SendAck(ack)) => self.take_ack(frame.request_id, &ack),
            Some(server_frame::Frame::Event(event)) => self.take_event(&event),
            Some(server_frame::Frame::Error(error)) => self.take_error(frame.request_id, &error),
            Some(server_frame::Frame::Lagging(_)) => self.run.error("LAGGING"),
            Some(server_frame::Frame::GoingAway(_)) => self.run.error("GOING_AWAY"),
            // Watermarks, inbox updates and heartbeats: an app shows them, here they only come.
            _ => {}
        }
    }

    fn take_ack(&mut self, request_id: u64, ack: &SendAck) {
        let Some(slot) = self.slot(request_id) else {
            return self.run.error("ACK_OF_NOTHING");
        };
        let Some((send, sent_nanos)) = self.slots[slot].take() else {
            return self.run.error("ACK_REPEATED");
        };
        let mut counts = self.run.counts();
        counts.acked += 1;
        if self.run.is(Phase::Measured) {
            counts
                .ack
                .record(wire::now_nanos().saturating_sub(sent_nanos));
        }
        drop(counts);
        if ack.message_id != send.message_id {
            self.run.error("ACK_OF_ANOTHER_MESSAGE");
        }
        if ack.seq <= self.acked_seq {
            self.run.error("ACK_OUT_OF_ORDER");
        }
        self.acked_seq = ack.seq;
        if !self.pause.is_zero() {
            self.free.push_back(slot);
            self.resume_at = Some(Instant::now() + self.pause);
            return;
        }
        self.send_next(slot);
    }

    fn take_event(&mut self, event: &Event) {
        if event.seq <= self.newest.seq {
            return;
        }
        self.newest = Watermark {
            seq: event.seq,
            message_index: event.message_index,
        };
        let Some(event::Kind::Message(message)) = &event.kind else {
            return;
        };
        let mut counts = self.run.counts();
        counts.received += 1;
        if self.run.is(Phase::Measured)
            && let Some(sent_nanos) = wire::sent_nanos(&message.text)
        {
            counts
                .delivery
                .record(wire::now_nanos().saturating_sub(sent_nanos));
        }
    }

    /// Sends it again if that can help, as the documentation of the reasons says.
    fn take_error(&mut self, request_id: u64, error: &Error) {
        self.run.error(error.reason().info_name());
        let Some(slot) = self.slot(request_id) else {
            return;
        };
        let Some((send, _)) = &self.slots[slot] else {
            return;
        };
        if is_final(error.reason()) {
            self.slots[slot] = None;
            self.run.counts().refused += 1;
            return self.send_next(slot);
        }
        self.again.insert(send.message_id.clone(), slot);
        let pause = u64::from(error.retry_after_ms).max(RETRY_PAUSE_MS_MIN);
        let at = Instant::now() + Duration::from_millis(pause);
        self.resume_at = self.resume_at.max(Some(at));
    }

    /// Sends what had to wait, in order, as far as it is allowed now.
    fn resume(&mut self) {
        self.resume_at = None;
        while let Some((message_id, slot)) = self.again.pop_first() {
            let Some((send, _)) = &self.slots[slot] else {
                continue;
            };
            let frame = wire::frame(slot as u64 + 1, client_frame::Frame::Send(send.clone()));
            if let Err(at) = self.allowance.take() {
                self.again.insert(message_id, slot);
                self.resume_at = Some(at);
                return;
            }
            self.put(frame);
        }
        while let Some(slot) = self.free.pop_front() {
            if let Err(at) = self.allowance.take() {
                self.free.push_front(slot);
                self.resume_at = Some(at);
                return;
            }
            self.send_new(slot);
        }
    }

    fn slot(&self, request_id: u64) -> Option<usize> {
        let slot = usize::try_from(request_id.checked_sub(1)?).ok()?;
        (slot < self.slots.len()).then_some(slot)
    }

    fn send_next(&mut self, slot: usize) {
        // What waits goes first.
        let allowed = if self.resume_at.is_some() {
            Err(self.resume_at)
        } else {
            self.allowance.take().map_err(Some)
        };
        if let Err(at) = allowed {
            self.resume_at = at;
            self.free.push_back(slot);
            self.run.counts().held_back += 1;
            return;
        }
        self.send_new(slot);
    }

    fn send_new(&mut self, slot: usize) {
        if !self.run.take_message() {
            return;
        }
        let send = wire::new_send(&self.conversation_id);
        self.slots[slot] = Some((send.clone(), wire::now_nanos()));
        self.run.counts().sent += 1;
        self.put(wire::frame(
            slot as u64 + 1,
            client_frame::Frame::Send(send),
        ));
    }

    fn tell_delivered(&mut self) {
        if self.newest.seq > self.told_seq {
            self.told_seq = self.newest.seq;
            self.put_beside(wire::frame(
                0,
                client_frame::Frame::Delivered(Delivered {
                    conversation_id: self.conversation_id.clone(),
                    up_to: Some(self.newest),
                }),
            ));
        }
    }

    /// Few, so that they are sent whatever else waits.
    fn put_beside(&mut self, frame: proto::messaging::v1::ClientFrame) {
        let _ = self.allowance.take();
        self.put(frame);
    }

    /// The queue has room for every slot and for what is sent beside; if it is full, the connection
    /// has stood still for seconds.
    fn put(&mut self, frame: proto::messaging::v1::ClientFrame) {
        if self.wire.sender.try_send(frame).is_err() {
            self.run.error("STUCK");
        }
    }
}

async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// Whether the reason is of the kind "rejected".
fn is_final(reason: ErrorReason) -> bool {
    use ErrorReason as R;
    !matches!(
        reason,
        R::RateLimited
            | R::TooManyInFlight
            | R::Overloaded
            | R::SendUnknown
            | R::PrecedingSendUnknown
            | R::NotYetAvailable
            | R::Unavailable
            | R::GoingAway
            | R::Internal
    )
}
