//! Frames from the server, and frames to it.

use std::{collections::HashSet, time::Duration};

use proto::messaging::v1::{
    Delivered, Message, Read, Send, SendAck, ServerFrame, client_frame, event::Kind,
    server_frame::Frame,
};
use tokio::{sync::watch, time::Instant};

use super::{Driver, Link, commands::check_draft};
use crate::{
    connection::Connection,
    error::{Error, ErrorKind, Result},
    model::{ErrorReason, RawEvent, Receipt, Watermark},
    outbox::{Entry, Refusal},
    session::{OutgoingState, SessionState},
    stats::count,
};

/// How long deliveries are collected, so that a burst is acknowledged once.
const DELIVERED_DELAY: Duration = Duration::from_millis(50);
/// How long marks wait that the server refused for now without saying how long.
const MARKS_HOLD: Duration = Duration::from_secs(1);

impl Driver {
    /// With a cache, what it knows of conversations that these frames are about.
    pub(super) async fn learn_of(&mut self, frames: &[ServerFrame]) -> Result<()> {
        if self.cache.is_none() {
            return Ok(());
        }
        let mut unknown = HashSet::new();
        for frame in frames {
            match &frame.frame {
                Some(Frame::Event(event)) => {
                    unknown.insert(event.conversation_id.clone());
                }
                Some(Frame::SendAck(ack)) => {
                    unknown.insert(ack.conversation_id.clone());
                }
                Some(Frame::InboxUpdate(update)) => {
                    let rows = update.conversations.iter();
                    unknown.extend(rows.map(|row| row.conversation_id.clone()));
                }
                Some(Frame::Heartbeat(heartbeat)) => {
                    let heads = heartbeat.deferred.iter();
                    unknown.extend(heads.map(|head| head.conversation_id.clone()));
                }
                _ => {}
            }
        }
        self.learn(unknown).await
    }

    pub(super) async fn learn(&mut self, mut ids: HashSet<String>) -> Result<()> {
        ids.retain(|id| !self.inbox.knows(id));
        if let Some(cache) = &self.cache
            && !ids.is_empty()
        {
            let ids: Vec<String> = ids.into_iter().collect();
            for head in cache.heads(&ids).await? {
                self.inbox.learn(head.into());
            }
        }
        Ok(())
    }

    /// A frame from the server.
    pub(super) fn frame(&mut self, frame: ServerFrame, now: Instant) -> Result<()> {
        let is_news = matches!(
            frame.frame,
            Some(Frame::Event(_) | Frame::Marks(_) | Frame::InboxUpdate(_))
        );
        if is_news && (self.shed || self.is_full()) {
            self.shed = true;
            count(&self.counters.events_shed);
            return Ok(());
        }
        match frame.frame {
            Some(Frame::SendAck(ack)) => self.acked(frame.request_id, &ack, now),
            Some(Frame::Event(event)) => {
                count(&self.counters.pushes);
                self.inbox.event(event, now, &mut self.out);
            }
            Some(Frame::Marks(marks)) => {
                self.inbox
                    .marks(marks.conversation_id, marks.members, &mut self.out);
            }
            Some(Frame::InboxUpdate(update)) => self.inbox.update(
                update.previous_version,
                update.version,
                update.conversations,
                now,
                &mut self.out,
            ),
            Some(Frame::Heartbeat(heartbeat)) => {
                self.inbox.heartbeat(heartbeat.inbox_version, now);
                self.inbox
                    .deferred_heads(heartbeat.deferred, now, &mut self.out);
                if let Link::Up(connection) = &self.link {
                    self.told.settle(now, connection.doubt());
                }
            }
            Some(Frame::Lagging(_)) => {
                count(&self.counters.laggings);
                self.lagged(now);
            }
            Some(Frame::GoingAway(going)) => {
                if let Link::Up(connection) = &mut self.link {
                    let after = Duration::from_millis(going.reconnect_after_ms.into());
                    connection.leave_at = Some(now + after);
                }
            }
            Some(Frame::Error(error)) => return self.refused(frame.request_id, error.into(), now),
            // A second welcome says nothing, and a kind that is not known is for newer clients.
            Some(Frame::Welcome(_) | Frame::TokenRenewed(_)) | None => {}
        }
        let repeated = std::mem::take(&mut self.inbox.repeated);
        let counter = &self.counters.events_repeated;
        counter.fetch_add(repeated, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// What was pushed is lost, but nothing else: it is read.
    pub(super) fn lagged(&mut self, now: Instant) {
        self.inbox.lagged(now);
        if self.caught_up {
            self.caught_up = false;
            self.set_state(SessionState::CatchingUp);
        }
    }

    fn acked(&mut self, request_id: u64, ack: &SendAck, now: Instant) {
        let Some((conversation_id, entry)) = self.outbox.acked(request_id) else {
            return;
        };
        count(&self.counters.acks);
        if ack.duplicate {
            count(&self.counters.acks_duplicate);
        }
        let receipt = Receipt {
            seq: ack.seq,
            message_index: ack.message_index,
            time_unix_ms: ack.time_unix_ms,
            duplicate: ack.duplicate,
        };
        // The server does not echo it. An app that is slow gets it with the rest, later. So does one whose
        // earlier try was the one that counted, if that may have had receipts of other blobs.
        let is_as_drafted = !ack.duplicate || entry.draft.attachments.is_empty();
        if is_as_drafted && !self.shed && !self.is_full() {
            let event = RawEvent {
                conversation_id: conversation_id.clone(),
                seq: ack.seq,
                message_index: ack.message_index,
                time_unix_ms: ack.time_unix_ms,
                sender_id: self.user_id.to_string(),
                kind: Some(Kind::Message(Message {
                    message_id: entry.message_id.clone(),
                    text: entry.draft.text.clone(),
                    mentioned_user_ids: entry.draft.mentioned_user_ids.clone(),
                    mentions_all: entry.draft.mentions_all,
                    attachments: entry
                        .draft
                        .attachments
                        .iter()
                        .map(|held| held.attachment.clone())
                        .collect(),
                })),
            };
            self.inbox.event(event, now, &mut self.out);
        } else {
            self.shed = true;
        }
        self.resolve(conversation_id, entry, OutgoingState::Sent(receipt));
    }

    /// A frame was answered with an error.
    fn refused(&mut self, request_id: u64, error: Error, now: Instant) -> Result<()> {
        match self.outbox.refused(request_id, &error, now) {
            Refusal::ForGood(conversation_id, entry) => {
                self.resolve(conversation_id, entry, OutgoingState::Failed(error));
                return Ok(());
            }
            Refusal::ForNow => {
                tracing::debug!(%error, "a send is tried again");
                count(&self.counters.sends_retried);
                return Ok(());
            }
            Refusal::NotOurs => {}
        }
        let for_good = error.kind() == ErrorKind::Rejected;
        let hold = now + error.retry_after().unwrap_or(MARKS_HOLD);
        if let Some((conversation_id, up_to)) = self.marks.refused(request_id, for_good) {
            tracing::debug!(%error, "a read mark was refused");
            if for_good && self.cache.is_some() {
                self.batch.reads_confirmed.push((conversation_id, up_to));
            }
            self.marks_hold = Some(hold);
        } else if let Some(conversation_id) = self.told.take(request_id) {
            tracing::debug!(%error, "an acknowledgement was refused");
            if !for_good {
                self.inbox.redeliver(conversation_id);
            }
            self.marks_hold = Some(hold);
        } else if matches!(
            error.reason(),
            ErrorReason::TokenExpired | ErrorReason::TokenInvalid | ErrorReason::DeviceRevoked
        ) {
            // The answer to a token that was to replace the old one.
            return self.broke(error);
        }
        Ok(())
    }

    /// The message has its answer; it is told when the cache has it.
    fn resolve(
        &mut self,
        conversation_id: String,
        entry: Entry<watch::Sender<OutgoingState>>,
        state: OutgoingState,
    ) {
        if self.cache.is_some() {
            let resolved = (conversation_id, entry.message_id);
            self.batch.resolved.push(resolved);
        }
        let tag = entry.tag;
        self.afterwards.push(Box::new(move || {
            tag.send_replace(state);
        }));
    }

    /// The server knows this user's read mark.
    pub(super) fn read_confirmed(&mut self, conversation_id: &str, read: Option<Watermark>) {
        if let Some(read) = read
            && self.marks.confirmed(conversation_id, read)
            && self.cache.is_some()
        {
            let confirmed = (conversation_id.to_owned(), read);
            self.batch.reads_confirmed.push(confirmed);
        }
    }

    /// Writes what may be written now, marks first: they are few, and others wait for them.
    pub(super) fn write(&mut self, now: Instant) {
        if self.marks_hold.is_some_and(|until| until <= now) {
            self.marks_hold = None;
        }
        if !self.inbox.has_undelivered() {
            self.deliver_at = None;
        } else if self.closing.is_some() {
            self.deliver_at = Some(now);
        } else if self.deliver_at.is_none() {
            self.deliver_at = Some(now + DELIVERED_DELAY);
        }
        if self.marks_hold.is_none() {
            self.write_marks(now);
        }
        self.write_sends(now);
    }

    fn write_marks(&mut self, now: Instant) {
        let Link::Up(connection) = &mut self.link else {
            return;
        };
        while self.marks.has_unsent() && connection.has_room(now) {
            let request_id = connection.request_id();
            if let Some((conversation_id, up_to)) = self.marks.take_unsent(request_id) {
                let read = client_frame::Frame::Read(Read {
                    conversation_id,
                    up_to: Some(up_to),
                });
                connection.write(request_id, read, now);
            }
        }
        if self.deliver_at.is_none_or(|at| at > now) {
            return;
        }
        while self.inbox.has_undelivered() && connection.has_room(now) {
            let request_id = connection.request_id();
            if let Some((conversation_id, up_to)) = self.inbox.take_undelivered() {
                self.told.add(now, request_id, conversation_id.clone());
                let delivered = client_frame::Frame::Delivered(Delivered {
                    conversation_id,
                    up_to: Some(up_to),
                });
                connection.write(request_id, delivered, now);
            }
        }
        if !self.inbox.has_undelivered() {
            self.deliver_at = None;
        }
    }

    fn write_sends(&mut self, now: Instant) {
        let Link::Up(connection) = &mut self.link else {
            return;
        };
        // What is not sent yet goes to the next server, or stays for the next session.
        let is_leaving = connection.leave_at.is_some_and(|at| at <= now);
        if is_leaving || self.closing.is_some() {
            return;
        }
        let mut refused = Vec::new();
        while connection.has_room(now) {
            let Some(send) = self.outbox.next(now) else {
                break;
            };
            // Queued before this server said its limits.
            if let Err(error) = check_draft(self.limits, &send.draft) {
                refused.push((send.request_id, error));
                continue;
            }
            count(&self.counters.sends);
            let attachment_receipts = send.draft.receipts();
            let frame = client_frame::Frame::Send(Send {
                traceparent: String::new(),
                conversation_id: send.conversation_id,
                message_id: send.message_id,
                text: send.draft.text,
                mentioned_user_ids: send.draft.mentioned_user_ids,
                mentions_all: send.draft.mentions_all,
                attachment_receipts,
            });
            connection.write(send.request_id, frame, now);
        }
        for (request_id, error) in refused {
            if let Refusal::ForGood(conversation_id, entry) =
                self.outbox.refused(request_id, &error, now)
            {
                self.resolve(conversation_id, entry, OutgoingState::Failed(error));
            }
        }
    }

    /// When something may be written that may not be written now.
    pub(super) fn writes_wake_at(&self, connection: &Connection) -> Option<Instant> {
        if connection.is_blocked() || connection.leave_at.is_some_and(|at| at <= Instant::now()) {
            return None;
        }
        let marks = match self.marks_hold {
            Some(until) => Some(until),
            None if self.marks.has_unsent() => Some(connection.pacer.room_at()),
            None => self.deliver_at.map(|at| at.max(connection.pacer.room_at())),
        };
        let sends = match self.outbox.has_ready() && self.closing.is_none() {
            true => Some(connection.pacer.room_at()),
            false => self.outbox.wakes_at(),
        };
        [marks, sends].into_iter().flatten().min()
    }
}
