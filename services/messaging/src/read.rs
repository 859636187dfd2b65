//! History: from the store, and from the memory of the sequencer for what the store does not
//! have yet (I7, N8).

use std::{collections::HashSet, sync::Arc, time::Duration};

use proto::error::v1::ErrorReason;
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    status::ApiError,
};
use tokio::time::Instant;

use crate::{
    limits::{EVENT_OVERHEAD_BYTES, EVENTS_PAGE_MAX, FRAME_BYTES_MAX, READ_WAIT_MAX},
    model::{Event, EventKind, MemberState, Window},
    sequencer::Sequencers,
    store::{SeqRange, Store, StoreError},
    validate::not_a_member,
};

mod lists;
mod unread;

pub(crate) use lists::ListPage;
pub(crate) use unread::{Unread, UnreadQuery};

/// First and longest pause between looks at a store that another node fills.
const POLL_MIN: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(100);

/// Bytes of bodies that one read takes from the store: above the longest page of the longest texts, so
/// that only the limits of the page cut it.
const STORE_BYTES_MAX: usize = (EVENTS_PAGE_MAX + 1) * FRAME_BYTES_MAX;

/// A page that is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageRequest {
    pub(crate) conversation: ConversationId,
    /// Who reads: of a group, only what this user may.
    pub(crate) user: UserId,
    /// Exclusive; 0 = from the first.
    pub(crate) after: u64,
    /// Exclusive; 0 = to the last.
    pub(crate) before: u64,
    /// The page must reflect at least this seq.
    pub(crate) min_seq: u64,
    /// Nothing above this seq is shown; 0 = everything.
    pub(crate) as_of_seq: u64,
    pub(crate) newest_first: bool,
    pub(crate) limit: usize,
    /// For the bodies of the page's events, with what each costs besides.
    pub(crate) bytes_max: usize,
}

/// A page of a range: it covers `from..=to`, whether or not there is an event at each place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) events: Vec<Arc<Event>>,
    /// The last seq that the page reflects.
    pub(crate) head_seq: u64,
    pub(crate) more: bool,
}

impl Page {
    /// What the page costs in an answer.
    pub(crate) fn bytes(&self) -> usize {
        self.events
            .iter()
            .map(|event| event.body.len() + EVENT_OVERHEAD_BYTES)
            .sum()
    }
}

/// Reads for one node.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sequencers: Arc<Sequencers>,
}

/// What is known of a conversation: its head, its newest events if the memory has them, and what the
/// reader may see of it.
struct Known {
    in_memory: bool,
    head_seq: u64,
    tail: Vec<Arc<Event>>,
    visible: Vec<Window>,
}

impl Known {
    /// The last seq for this reader; `Err` if nothing ever was.
    fn last_seq(&self) -> Result<u64, ApiError> {
        let last = self.visible.last().ok_or_else(|| not_a_member(""))?;
        Ok(last.to_seq.unwrap_or(u64::MAX).min(self.head_seq))
    }
}

/// All of a direct conversation.
const EVERYTHING: Window = Window {
    from_seq: 1,
    to_seq: None,
};

impl Reader {
    /// Events by seq.
    pub(crate) async fn events(&self, request: PageRequest) -> Result<Page, ApiError> {
        let known = self.wait_for(&request).await?;
        self.page(request, &known).await
    }

    /// Messages by message index: the range of `request` is in indexes, the page is in seqs.
    pub(crate) async fn messages(&self, mut request: PageRequest) -> Result<Page, ApiError> {
        let known = self.wait_for(&request).await?;
        let conversation = request.conversation;
        // From the message with the next index on.
        let next = self
            .seq_of_index(conversation, request.after.saturating_add(1), &known)
            .await?;
        request.after = next.map_or(known.head_seq, |seq| seq - 1);
        if request.before > 0 {
            let seq = self
                .seq_of_index(conversation, request.before, &known)
                .await?;
            request.before = seq.unwrap_or(0);
        }
        loop {
            let mut page = self.page(request, &known).await?;
            page.events.retain(|event| event.kind == EventKind::Message);
            if !page.events.is_empty() || !page.more {
                return Ok(page);
            }
            // Nothing but changes of the group: who pages by messages would not get past them.
            request.limit = EVENTS_PAGE_MAX;
            match request.newest_first {
                true => request.before = page.from,
                false => request.after = page.to,
            }
        }
    }

    async fn seq_of_index(
        &self,
        conversation: ConversationId,
        index: u64,
        known: &Known,
    ) -> Result<Option<u64>, ApiError> {
        // The tail's first event answers only for indexes that begin in it.
        if let Some(first) = known.tail.first()
            && first.message_index < index
        {
            let found = known.tail.iter().find(|event| event.message_index >= index);
            return Ok(found.map(|event| event.seq));
        }
        let seq = self
            .store
            .seq_of_message_index(conversation, index)
            .await
            .map_err(read_error)?;
        // The store may lack what the memory has.
        let in_tail = known.tail.iter().find(|event| event.message_index >= index);
        Ok(seq.or_else(|| in_tail.map(|event| event.seq)))
    }

    async fn page(&self, request: PageRequest, known: &Known) -> Result<Page, ApiError> {
        let head_seq = known.last_seq()?;
        let mut last = head_seq;
        if request.as_of_seq > 0 {
            last = last.min(request.as_of_seq);
        }
        if request.before > 0 {
            last = last.min(request.before - 1);
        }
        let first = request.after.saturating_add(1);
        if first > last {
            return Ok(Page {
                from: 0,
                to: 0,
                events: Vec::new(),
                head_seq,
                more: false,
            });
        }
        let Some(part) = visible_part(&known.visible, first, last, request.newest_first) else {
            return Ok(Page {
                from: first,
                to: last,
                events: Vec::new(),
                head_seq,
                more: false,
            });
        };
        let events = match from_memory(known, part.first, part.last, &request) {
            Some(events) => events,
            None => {
                self.with_store(known, part.first, part.last, &request)
                    .await?
            }
        };
        let page = cover(events, part.first, part.last, head_seq, &request);
        Ok(with_hidden(page, &part, first, last, request.newest_first))
    }

    async fn with_store(
        &self,
        known: &Known,
        first: u64,
        last: u64,
        request: &PageRequest,
    ) -> Result<Vec<Arc<Event>>, ApiError> {
        let range = SeqRange {
            after_seq: first - 1,
            before_seq: last.saturating_add(1),
        };
        // One more than asked, to know whether there is more.
        let limit = request.limit + 1;
        let stored = self
            .store
            .events(
                request.conversation,
                range,
                request.newest_first,
                limit,
                STORE_BYTES_MAX,
            )
            .await
            .map_err(read_error)?;
        let mut events: Vec<Arc<Event>> = stored.into_iter().map(Arc::new).collect();
        let tail = known
            .tail
            .iter()
            .filter(|event| (first..=last).contains(&event.seq));
        if request.newest_first {
            // What the memory has is newer than what the store has, or the same.
            let newest = events.first().map_or(0, |event| event.seq);
            let mut newer: Vec<_> = tail.filter(|event| event.seq > newest).cloned().collect();
            newer.reverse();
            newer.append(&mut events);
            events = newer;
        } else if events.len() < limit {
            let newest = events.last().map_or(first - 1, |event| event.seq);
            events.extend(tail.filter(|event| event.seq > newest).cloned());
        }
        Ok(events)
    }

    /// What is known of a conversation, once it has got to `min_seq`.
    async fn wait_for(&self, request: &PageRequest) -> Result<Known, ApiError> {
        let (conversation, min_seq) = (request.conversation, request.min_seq);
        let deadline = Instant::now() + READ_WAIT_MAX;
        let mut pause = POLL_MIN;
        loop {
            // Taken before looking, so that nothing is missed in between.
            let progress = self.sequencers.progress(&conversation);
            let known = self.known(conversation, request.user).await?;
            if known.head_seq >= min_seq {
                return Ok(known);
            }
            if Instant::now() >= deadline {
                return Err(not_yet());
            }
            let next_look = deadline.min(Instant::now() + pause);
            match progress {
                // Worth looking at once only where looking costs nothing.
                Some(mut progress) if known.in_memory => {
                    let _ = tokio::time::timeout_at(next_look, progress.changed()).await;
                }
                _ => tokio::time::sleep_until(next_look).await,
            }
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    async fn known(&self, conversation: ConversationId, user: UserId) -> Result<Known, ApiError> {
        let deadline = Instant::now() + READ_WAIT_MAX;
        while !self.sequencers.is_caught_up(&conversation) {
            if Instant::now() >= deadline {
                return Err(not_yet());
            }
            tokio::time::sleep(POLL_MIN).await;
        }
        let is_group = conversation.group_id().is_some();
        let visible = |member: Option<MemberState>| match is_group {
            true => windows_of(member),
            false => vec![EVERYTHING],
        };
        if let Some(view) = self.sequencers.view(&conversation, user) {
            return Ok(Known {
                in_memory: true,
                head_seq: view.head.seq,
                tail: view.events,
                visible: visible(view.member),
            });
        }
        let state = self
            .store
            .load_conversation_of(conversation, user)
            .await
            .map_err(read_error)?;
        let head_seq = state.as_ref().map_or(0, |state| state.head_seq);
        let member = state.and_then(|mut state| state.members.pop());
        Ok(Known {
            in_memory: false,
            head_seq,
            tail: Vec::new(),
            visible: visible(member),
        })
    }

    /// Whether the user is, or was, a member of the conversation.
    pub(crate) async fn check_was_member(
        &self,
        conversation: ConversationId,
        user: UserId,
        field: &str,
    ) -> Result<(), ApiError> {
        match self.known(conversation, user).await?.visible.is_empty() {
            true => Err(not_a_member(field)),
            false => Ok(()),
        }
    }

    /// Those of the conversations in which nothing has happened, as far as memory and store know.
    pub(crate) async fn without_events(
        &self,
        conversations: Vec<ConversationId>,
    ) -> Result<HashSet<ConversationId>, ApiError> {
        let in_memory = |id: &ConversationId| {
            let head = self.sequencers.head(id);
            head.is_some_and(|head| head.seq > 0)
        };
        let mut empty: HashSet<_> = conversations.into_iter().collect();
        empty.retain(|id| !in_memory(id));
        if empty.is_empty() {
            return Ok(empty);
        }
        let asked = empty.iter().copied().collect();
        let states = self.store.load_conversations(asked).await;
        for state in states.map_err(read_error)? {
            if state.head_seq > 0 {
                empty.remove(&state.conversation);
            }
        }
        Ok(empty)
    }

    /// What became of a message: the event, or the seq up to which there is none.
    pub(crate) async fn find(
        &self,
        conversation: ConversationId,
        sender: UserId,
        message_id: MessageId,
    ) -> Result<Result<Arc<Event>, u64>, ApiError> {
        let known = self.known(conversation, sender).await?;
        known.last_seq()?;
        let is_named =
            |event: &&Arc<Event>| event.sender == sender && event.message_id == message_id;
        if let Some(event) = known.tail.iter().find(is_named) {
            return Ok(Ok(event.clone()));
        }
        let name = (conversation, sender, message_id);
        let found = self
            .store
            .find_events(vec![name])
            .await
            .map_err(read_error)?;
        Ok(found.into_iter().next().map(Arc::new).ok_or(known.head_seq))
    }
}

/// What a member of a group may read, or one who was.
fn windows_of(member: Option<MemberState>) -> Vec<Window> {
    let membership = member.and_then(|member| member.membership);
    membership.map_or_else(Vec::new, |membership| membership.windows)
}

/// The first stretch of a range that the reader may see, in the direction of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    first: u64,
    last: u64,
    /// Where the next one begins, in the direction of reading.
    next: Option<u64>,
}

fn visible_part(visible: &[Window], first: u64, last: u64, newest_first: bool) -> Option<Part> {
    let within = |window: &Window| {
        let from = window.from_seq.max(first);
        let to = window.to_seq.unwrap_or(u64::MAX).min(last);
        (from <= to).then_some((from, to))
    };
    let mut parts = visible.iter().filter_map(within);
    if newest_first {
        let mut parts = parts.rev();
        let (first, last) = parts.next()?;
        let next = parts.next().map(|(_, to)| to);
        return Some(Part { first, last, next });
    }
    let (first, last) = parts.next()?;
    let next = parts.next().map(|(from, _)| from);
    Some(Part { first, last, next })
}

/// The page covers also what is hidden before it and after it, up to the next stretch: it counts as seen.
fn with_hidden(mut page: Page, part: &Part, first: u64, last: u64, newest_first: bool) -> Page {
    let ends = !page.more;
    page.more |= part.next.is_some();
    if newest_first {
        page.to = last;
        if ends {
            page.from = part.next.map_or(first, |next| next + 1);
        }
    } else {
        page.from = first;
        if ends {
            page.to = part.next.map_or(last, |next| next - 1);
        }
    }
    page
}

/// The page, if the memory has all of it.
fn from_memory(
    known: &Known,
    first: u64,
    last: u64,
    request: &PageRequest,
) -> Option<Vec<Arc<Event>>> {
    let oldest = known.tail.first()?.seq;
    let in_range = known
        .tail
        .iter()
        .filter(|event| (first..=last).contains(&event.seq));
    let limit = request.limit + 1;
    if request.newest_first {
        let events: Vec<_> = in_range.rev().take(limit).cloned().collect();
        (oldest <= first || events.len() == limit).then_some(events)
    } else {
        (oldest <= first).then(|| in_range.take(limit).cloned().collect())
    }
}

/// Cuts to the limits, and says what the page covers.
fn cover(
    mut events: Vec<Arc<Event>>,
    first: u64,
    last: u64,
    head_seq: u64,
    request: &PageRequest,
) -> Page {
    let mut bytes = 0_usize;
    let mut keep = 0;
    for event in events.iter().take(request.limit) {
        bytes = bytes.saturating_add(event.body.len() + EVENT_OVERHEAD_BYTES);
        if keep > 0 && bytes > request.bytes_max {
            break;
        }
        keep += 1;
    }
    let more = events.len() > keep;
    events.truncate(keep);
    let edge = events.last().map(|event| event.seq);
    let (from, to) = match edge {
        Some(seq) if more && request.newest_first => (seq, last),
        Some(seq) if more => (first, seq),
        _ => (first, last),
    };
    Page {
        from,
        to,
        events,
        head_seq,
        more,
    }
}

fn not_yet() -> ApiError {
    ApiError::retry_after(
        ErrorReason::NotYetAvailable,
        "the state that the call names was not reached in time",
        Duration::from_millis(500),
    )
}

/// What a failed read of the store is to a caller.
pub(crate) fn read_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(_) => ApiError::unavailable(&error),
        error => ApiError::internal(&error),
    }
}

#[cfg(test)]
mod tests;
