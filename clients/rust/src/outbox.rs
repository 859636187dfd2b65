//! The messages that are not answered yet: what may be sent when. Pure: no I/O, no clock.
//!
//! Each conversation is a lane. While all goes well, a lane has several messages in flight, in order.
//! When the server refuses one for now, or its result is unknown, those behind it must not overtake:
//! the lane first waits for the answers to what is in flight, then tries its first unanswered message
//! alone, and opens again when that one has an ack. After a broken connection it does the same.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind},
    model::{Draft, ErrorReason},
};

/// The first bound of the wait before an unknown or refused send is tried again, and the largest.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A message that waits, with what belongs to it.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) message_id: String,
    pub(crate) draft: Draft,
    pub(crate) tag: T,
    /// Its place among all messages that were queued.
    queued_as: u64,
    /// The request that it is in flight with.
    request_id: Option<u64>,
}

/// A message that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outbound {
    pub(crate) request_id: u64,
    pub(crate) conversation_id: String,
    pub(crate) message_id: String,
    pub(crate) draft: Draft,
}

/// What an error means for its message.
#[derive(Debug)]
pub(crate) enum Refusal<T> {
    /// It is refused for good, and gone from here.
    ForGood(String, Entry<T>),
    /// It will be sent again.
    ForNow,
    /// The request is not one of those in flight.
    NotOurs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Several messages may be in flight.
    Open,
    /// Nothing is sent until everything in flight is answered.
    Draining,
    /// The first message is tried alone.
    Probing,
}

#[derive(Debug)]
struct Lane<T> {
    entries: VecDeque<Entry<T>>,
    in_flight: usize,
    mode: Mode,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// Whether it is in `Outbox::ready`.
    listed: bool,
}

/// All lanes. `T` goes along with each message.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    lanes: HashMap<String, Lane<T>>,
    /// Conversations that may have something to send, in turn.
    ready: VecDeque<String>,
    /// Conversations that wait for a time.
    waiting: BTreeSet<(Instant, String)>,
    /// What is in flight, and where it belongs.
    requests: HashMap<u64, String>,
    messages: usize,
    messages_max: usize,
    /// 0 = not connected.
    in_flight_max: usize,
    next_request_id: u64,
    next_queued_as: u64,
    /// The server wants no sends of this session before.
    hold_until: Option<Instant>,
    hold_backoff: Backoff,
}

impl<T> Outbox<T> {
    pub(crate) fn new(messages_max: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            requests: HashMap::new(),
            messages: 0,
            messages_max,
            in_flight_max: 0,
            next_request_id: 1,
            next_queued_as: 0,
            hold_until: None,
            hold_backoff: Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1),
        }
    }

    /// Whether another message may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.messages < self.messages_max
    }

    /// Messages in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    /// Puts a message behind the others of its conversation.
    pub(crate) fn queue(
        &mut self,
        conversation_id: &str,
        message_id: String,
        draft: impl Into<Draft>,
        tag: T,
    ) {
        let entry = Entry {
            message_id,
            draft: draft.into(),
            tag,
            queued_as: self.next_queued_as,
            request_id: None,
        };
        self.next_queued_as += 1;
        self.messages += 1;
        self.lanes
            .entry(conversation_id.to_owned())
            .or_insert_with(Lane::new)
            .entries
            .push_back(entry);
        self.list(conversation_id);
    }

    /// Whether a message of this name waits, or is in flight.
    pub(crate) fn holds(&self, conversation_id: &str, message_id: &str) -> bool {
        let entries = self.lanes.get(conversation_id).map(|lane| &lane.entries);
        let mut entries = entries.into_iter().flatten();
        entries.any(|entry| entry.message_id == message_id)
    }

    /// All messages, in the order in which they were queued.
    pub(crate) fn entries(&self) -> Vec<(&str, &Entry<T>)> {
        let mut entries: Vec<_> = self
            .lanes
            .iter()
            .flat_map(|(id, lane)| lane.entries.iter().map(move |entry| (id.as_str(), entry)))
            .collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.queued_as);
        entries
    }

    /// A session is open, and takes so many sends before it answers.
    pub(crate) fn connected(&mut self, in_flight_max: usize) {
        self.in_flight_max = in_flight_max.max(1);
        self.hold_until = None;
    }

    /// The session is gone: nobody knows what became of what is in flight.
    pub(crate) fn disconnected(&mut self) {
        self.in_flight_max = 0;
        for (_, conversation_id) in std::mem::take(&mut self.requests) {
            if let Some(lane) = self.lanes.get_mut(&conversation_id) {
                lane.in_flight = 0;
                lane.mode = Mode::Probing;
                lane.entries.iter_mut().for_each(|e| e.request_id = None);
            }
            self.list(&conversation_id);
        }
    }

    /// The next message to be sent, if one may be sent now. It counts as in flight afterwards.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Outbound> {
        self.wake(now);
        if self.requests.len() >= self.in_flight_max || self.hold_until.is_some() {
            return None;
        }
        loop {
            let conversation_id = self.ready.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&conversation_id) else {
                continue;
            };
            lane.listed = false;
            let request_id = self.next_request_id;
            let Some(entry) = lane.take(request_id) else {
                continue;
            };
            let outbound = Outbound {
                request_id,
                conversation_id: conversation_id.clone(),
                message_id: entry.message_id.clone(),
                draft: entry.draft.clone(),
            };
            self.next_request_id += 1;
            self.requests.insert(request_id, conversation_id.clone());
            self.list(&conversation_id);
            return Some(outbound);
        }
    }

    /// Whether [`Outbox::next`] has something now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
            && self.requests.len() < self.in_flight_max
            && self.hold_until.is_none()
    }

    /// When [`Outbox::next`] may give something that it does not give now, unless something happens.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        if self.in_flight_max == 0 {
            return None;
        }
        let first = self.waiting.first().map(|(at, _)| *at);
        [first, self.hold_until].into_iter().flatten().min()
    }

    /// The message has its place. Gives it back; `None` if the request is not one of those in flight.
    pub(crate) fn acked(&mut self, request_id: u64) -> Option<(String, Entry<T>)> {
        let (conversation_id, entry) = self.remove(request_id)?;
        self.hold_backoff.reset();
        if let Some(lane) = self.lanes.get_mut(&conversation_id) {
            lane.backoff.reset();
            if lane.mode == Mode::Probing {
                lane.mode = Mode::Open;
            }
        }
        self.answered(&conversation_id);
        Some((conversation_id, entry))
    }

    /// The server answered with an error.
    pub(crate) fn refused(&mut self, request_id: u64, error: &Error, now: Instant) -> Refusal<T> {
        if error.kind() == ErrorKind::Rejected {
            let Some((conversation_id, entry)) = self.remove(request_id) else {
                return Refusal::NotOurs;
            };
            self.answered(&conversation_id);
            return Refusal::ForGood(conversation_id, entry);
        }
        let Some(conversation_id) = self.requests.remove(&request_id) else {
            return Refusal::NotOurs;
        };
        let of_session = matches!(
            error.reason(),
            ErrorReason::RateLimited | ErrorReason::Overloaded | ErrorReason::TooManyInFlight
        );
        if of_session {
            let until = now + self.hold_backoff.next(error.retry_after());
            self.hold_until = self.hold_until.max(Some(until));
        }
        if let Some(lane) = self.lanes.get_mut(&conversation_id) {
            lane.refused(request_id, (!of_session).then_some((error, now)));
        }
        self.answered(&conversation_id);
        Refusal::ForNow
    }

    /// Takes a message out.
    fn remove(&mut self, request_id: u64) -> Option<(String, Entry<T>)> {
        let conversation_id = self.requests.remove(&request_id)?;
        let lane = self.lanes.get_mut(&conversation_id)?;
        let at = lane
            .entries
            .iter()
            .position(|entry| entry.request_id == Some(request_id))?;
        let entry = lane.entries.remove(at)?;
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.messages -= 1;
        Some((conversation_id, entry))
    }

    /// After an answer: goes on with the lane, or forgets it.
    fn answered(&mut self, conversation_id: &str) {
        let Some(lane) = self.lanes.get_mut(conversation_id) else {
            return;
        };
        if lane.mode == Mode::Draining && lane.in_flight == 0 {
            lane.mode = Mode::Probing;
        }
        if lane.entries.is_empty() {
            if let Some(at) = lane.not_before {
                self.waiting.remove(&(at, conversation_id.to_owned()));
            }
            self.lanes.remove(conversation_id);
        } else {
            self.list(conversation_id);
        }
    }

    /// Takes note that the lane may have something to send, now or at its time.
    fn list(&mut self, conversation_id: &str) {
        let Some(lane) = self.lanes.get_mut(conversation_id) else {
            return;
        };
        if lane.listed || !lane.may_send() {
            return;
        }
        match lane.not_before {
            Some(at) => {
                self.waiting.insert((at, conversation_id.to_owned()));
            }
            None => {
                lane.listed = true;
                self.ready.push_back(conversation_id.to_owned());
            }
        }
    }

    /// Takes note of the time.
    fn wake(&mut self, now: Instant) {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = None;
        }
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, conversation_id)) = self.waiting.pop_first() else {
                break;
            };
            if let Some(lane) = self.lanes.get_mut(&conversation_id)
                && lane.not_before == Some(at)
            {
                lane.not_before = None;
                self.list(&conversation_id);
            }
        }
    }
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            in_flight: 0,
            mode: Mode::Open,
            backoff: Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1),
            not_before: None,
            listed: false,
        }
    }

    fn may_send(&self) -> bool {
        match self.mode {
            Mode::Open => self.in_flight < self.entries.len(),
            Mode::Draining => false,
            Mode::Probing => self.in_flight == 0 && !self.entries.is_empty(),
        }
    }

    /// The next message to be sent, now in flight.
    fn take(&mut self, request_id: u64) -> Option<&Entry<T>> {
        if !self.may_send() {
            return None;
        }
        let entry = self.entries.iter_mut().find(|e| e.request_id.is_none())?;
        entry.request_id = Some(request_id);
        self.in_flight += 1;
        Some(entry)
    }

    /// One in flight has to be sent again; with `wait`, after a while.
    fn refused(&mut self, request_id: u64, wait: Option<(&Error, Instant)>) {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.request_id == Some(request_id));
        if let Some(entry) = entry {
            entry.request_id = None;
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        // What follows the first error in a lane is its consequence, and asks for no longer wait.
        if self.mode != Mode::Draining
            && let Some((error, now)) = wait
        {
            self.not_before = Some(now + self.backoff.next(error.retry_after()));
        }
        self.mode = Mode::Draining;
    }
}

#[cfg(test)]
mod tests;
