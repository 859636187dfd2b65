//! Puts what the server tells into order, and knows what is missing. Pure: no I/O, no clock.
//!
//! Pushes come lost, repeated, late and in any order; pages of reads come in between. Out of it come
//! the events of each conversation once, in the order of seq ([`Output`]), and the reads that are
//! needed ([`Inbox::take_fetch`], [`Inbox::take_resume`]).
//!
//! A page of changes is treated as an update like a pushed one: it leads from a version to a version,
//! and the device is at the second one when it holds the events that the rows name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::model::{Conversation, EventPage, MemberMarks, RawEvent, Watermark};

mod deferred;
mod marks;
mod place;
mod rows;
mod versions;

use marks::KnownMarks;
pub(crate) use place::Known;
use place::Place;
use versions::Versions;

/// How long a gap may heal by itself, by a push that is late, before a read is spent on it.
const GRACE: Duration = Duration::from_millis(100);
/// Events of one conversation that wait for those before them; more are read again.
const EARLY_PER_CONVERSATION_MAX: usize = 256;
/// Events of all conversations that wait for those before them: at 3 KiB at most some 12 MiB.
const EARLY_MAX: usize = 4_096;
/// The first bound of the wait before a read is tried again, and the largest.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Something for the app, or for the cache.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// The next event of its conversation.
    Event(RawEvent),
    /// A row that is newer than the one before.
    Row(Box<Conversation>),
    /// Marks that have grown.
    Marks(String, Vec<MemberMarks>),
    /// Everything up to this inbox version has been put out.
    Version(u64),
}

/// A read of one conversation's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) conversation_id: String,
    pub(crate) after_seq: u64,
    /// Known to exist.
    pub(crate) min_seq: u64,
}

/// A read of what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) after_version: u64,
    /// Known to exist.
    pub(crate) min_version: u64,
}

/// Where conversations begin that nothing is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// The rows of all conversations are being listed; they begin where their row says.
    Listing,
    /// With their first event.
    AtFirst,
    /// Some were forgotten: with what is heard of next.
    AtNext,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    own_user_id: String,
    places: HashMap<String, Place>,
    places_max: usize,
    /// What is forgotten can be learned again, from a cache.
    backed: bool,
    unknown: Unknown,
    versions: Versions,
    /// Conversations that lack events and are not being read.
    gaps: HashSet<String>,
    /// Events that wait for those before them.
    early: usize,
    /// Conversations with events that the server does not know this device to hold.
    undelivered: BTreeSet<String>,
    /// Grows with each session.
    session: u64,
    /// Grows with each use of a place.
    clock: u64,
    /// Events that came again.
    pub(crate) repeated: u64,
}

impl Inbox {
    /// Begins after `version` with what is known of conversations; `None` = list all of them first,
    /// and begin where they are.
    pub(crate) fn new(
        own_user_id: &str,
        version: Option<u64>,
        known: impl IntoIterator<Item = Known>,
        places_max: usize,
        backed: bool,
    ) -> Self {
        let mut inbox = Self {
            own_user_id: own_user_id.to_owned(),
            places: HashMap::new(),
            places_max,
            backed,
            unknown: match version {
                Some(_) => Unknown::AtFirst,
                None => Unknown::Listing,
            },
            versions: Versions::new(version),
            gaps: HashSet::new(),
            early: 0,
            undelivered: BTreeSet::new(),
            session: 0,
            clock: 0,
            repeated: 0,
        };
        for known in known {
            inbox.learn(known);
        }
        inbox
    }

    /// What is known of a conversation, from a cache; ignored if more is known already.
    pub(crate) fn learn(&mut self, known: Known) {
        let touched = self.tick();
        self.places
            .entry(known.conversation_id)
            .or_insert_with(|| Place::held(known.seq, known.last_event, touched));
    }

    pub(crate) fn knows(&self, conversation_id: &str) -> bool {
        self.places.contains_key(conversation_id)
    }

    /// How far a conversation is held; `None` if nothing is known of it, or not yet.
    pub(crate) fn known(&self, conversation_id: &str) -> Option<Known> {
        let place = self.places.get(conversation_id)?;
        (!place.undecided).then(|| Known {
            conversation_id: conversation_id.to_owned(),
            seq: place.seq,
            last_event: place.last_event,
        })
    }

    /// The inbox version to say hello with.
    pub(crate) fn version(&self) -> u64 {
        self.versions.at()
    }

    /// Whether it is not yet known where conversations begin. A message sent before would be taken for
    /// history if its ack got lost.
    pub(crate) fn is_listing(&self) -> bool {
        self.unknown == Unknown::Listing
    }

    /// Whether nothing is known to be missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.unknown != Unknown::Listing && self.versions.is_complete()
    }

    /// A session is open, and the user is at this version.
    pub(crate) fn connected(&mut self, version: u64, now: Instant) {
        self.session += 1;
        self.versions.connected(version, now);
        if self.unknown == Unknown::Listing {
            self.versions.force(now);
        }
        for conversation_id in &self.gaps {
            if let Some(place) = self.places.get_mut(conversation_id) {
                place.retry_now(now);
            }
        }
    }

    /// The server, or this client, let frames go: what they said has to be read.
    pub(crate) fn lagged(&mut self, now: Instant) {
        self.versions.force(now);
    }

    /// The user is at this version.
    pub(crate) fn heartbeat(&mut self, version: u64, now: Instant) {
        self.versions.heard(version, now);
    }

    /// An event came by push, or was made from an ack.
    pub(crate) fn event(&mut self, event: RawEvent, now: Instant, out: &mut Vec<Output>) {
        if event.seq == 0 {
            return;
        }
        let id = event.conversation_id.clone();
        let touched = self.tick();
        let unknown = self.unknown;
        let place = self.places.entry(id.clone()).or_insert_with(|| {
            let mut place = Place::listed(0, Watermark::default(), touched);
            match unknown {
                Unknown::Listing => place.undecided = true,
                Unknown::AtFirst => {}
                Unknown::AtNext => place.seq = event.seq.saturating_sub(1),
            }
            place
        });
        place.touched = touched;
        if event.seq <= place.seq || place.early.contains_key(&event.seq) {
            self.repeated += 1;
            return;
        }
        place.hear(event.seq);
        place.first_heard = place.first_heard.min(event.seq);
        let in_turn = event.seq == place.seq.saturating_add(1) && !place.undecided;
        let room = self.early < EARLY_MAX && place.early.len() < EARLY_PER_CONVERSATION_MAX;
        if in_turn || room {
            place.early.insert(event.seq, event);
            self.early += 1;
        }
        self.advance(&id, 0, now + GRACE, out);
        self.settle(out);
    }

    /// Rows that changed between two versions, by push or as the page that `resume` asked for.
    pub(crate) fn update(
        &mut self,
        previous_version: u64,
        version: u64,
        rows: Vec<Conversation>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let rows = self.without_unplaced(rows, now);
        let needed = self.rows(rows, now + GRACE, out);
        if self.unknown == Unknown::Listing {
            self.versions.heard(version, now);
        } else {
            self.versions.update(previous_version, version, needed, now);
        }
        self.settle(out);
    }

    /// The answer to a resume. `false` if it is none that could be: then it has to be asked again.
    pub(crate) fn changes(
        &mut self,
        asked: Resume,
        version: u64,
        rows: Vec<Conversation>,
        more: bool,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> bool {
        if version < asked.after_version || (more && version == asked.after_version) {
            return false;
        }
        self.versions.answered(version, more, now);
        if self.unknown == Unknown::Listing {
            self.rows(rows, now, out);
            if !more {
                self.listed(version, now, out);
            }
        } else {
            let needed = self.rows(rows, now, out);
            self.versions
                .update(asked.after_version, version, needed, now);
        }
        self.settle(out);
        true
    }

    /// Marks that the server says have grown. Puts out those that have. Those of a conversation that is
    /// not known are let go: its row brings them, and may have been read before they grew.
    pub(crate) fn marks(
        &mut self,
        conversation_id: String,
        members: Vec<MemberMarks>,
        out: &mut Vec<Output>,
    ) {
        let Some(place) = self.places.get_mut(&conversation_id) else {
            return;
        };
        let grown = place.marks.merge(members);
        let is_own = |marks: &&MemberMarks| marks.user_id == self.own_user_id;
        let row = match (&mut place.deferred, grown.iter().find(is_own)) {
            (Some(row), Some(own)) => {
                row.own(own);
                Some(Output::Row(Box::new(row.row().clone())))
            }
            _ => None,
        };
        if !grown.is_empty() {
            out.push(Output::Marks(conversation_id, grown));
        }
        out.extend(row);
    }

    /// Conversations whose events are to be read now, at most `max`. They count as being read.
    pub(crate) fn take_fetch(&mut self, now: Instant, max: usize) -> Vec<Fetch> {
        let due: Vec<String> = self
            .gaps
            .iter()
            .filter(|id| {
                self.places
                    .get(*id)
                    .is_some_and(|p| p.fetch_at <= Some(now))
            })
            .take(max)
            .cloned()
            .collect();
        let mut fetches = Vec::with_capacity(due.len());
        for conversation_id in due {
            self.gaps.remove(&conversation_id);
            if let Some(place) = self.places.get_mut(&conversation_id) {
                place.fetching = true;
                place.fetch_at = None;
                fetches.push(Fetch {
                    after_seq: place.seq,
                    min_seq: place.target,
                    conversation_id,
                });
            }
        }
        fetches
    }

    /// The answer to a fetch, oldest events first.
    pub(crate) fn page(
        &mut self,
        asked: &Fetch,
        page: EventPage,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let Some(place) = self.places.get_mut(&asked.conversation_id) else {
            return;
        };
        place.fetching = false;
        let before = place.seq;
        place.aim(page.last_seq);
        let empty = page.from_seq == 0 && page.to_seq == 0;
        // Nothing in a range that is open at its end: all of it is gone.
        let covered = match (empty, page.more) {
            (true, false) => page.last_seq,
            (true, true) => 0,
            (false, _) => page.to_seq,
        };
        for event in page.events {
            if event.seq > place.seq && event.seq <= covered {
                self.early += usize::from(place.early.insert(event.seq, event).is_none());
            }
        }
        self.advance(&asked.conversation_id, covered, now, out);
        if let Some(place) = self.places.get_mut(&asked.conversation_id) {
            if place.seq > before || (empty && page.more) {
                place.backoff.reset();
            } else if place.seq < place.target {
                place.retry_later(now, None);
            }
        }
        self.settle(out);
    }

    /// A fetch failed; it is tried again after a while.
    pub(crate) fn fetch_failed(
        &mut self,
        asked: &Fetch,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        if let Some(place) = self.places.get_mut(&asked.conversation_id) {
            place.fetching = false;
            if place.target > place.seq {
                place.retry_later(now, retry_after);
                self.gaps.insert(asked.conversation_id.clone());
            }
        }
    }

    /// The events of a conversation are not for this user: they count as seen.
    pub(crate) fn fetch_refused(&mut self, asked: &Fetch, now: Instant, out: &mut Vec<Output>) {
        if let Some(place) = self.places.get_mut(&asked.conversation_id) {
            place.fetching = false;
            let target = place.target;
            self.advance(&asked.conversation_id, target, now, out);
        }
        self.settle(out);
    }

    /// What changed is to be read now. It counts as being read.
    pub(crate) fn take_resume(&mut self, now: Instant) -> Option<Resume> {
        self.versions.take_resume(now)
    }

    /// A resume failed; it is tried again after a while.
    pub(crate) fn resume_failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.versions.failed(retry_after, now);
    }

    /// When a fetch or a resume becomes due, unless something happens.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let fetches = self
            .gaps
            .iter()
            .filter_map(|id| self.places.get(id)?.fetch_at);
        fetches.chain(self.versions.wakes_at()).min()
    }

    /// Whether there is something to acknowledge.
    pub(crate) fn has_undelivered(&self) -> bool {
        !self.undelivered.is_empty()
    }

    /// A conversation with events that the server does not know this device to hold, and the last.
    pub(crate) fn take_undelivered(&mut self) -> Option<(String, Watermark)> {
        while let Some(conversation_id) = self.undelivered.pop_first() {
            if let Some(place) = self.places.get_mut(&conversation_id) {
                place.told = (self.session, place.last_event.seq);
                return Some((conversation_id, place.last_event));
            }
        }
        None
    }

    /// An acknowledgement may not have arrived.
    pub(crate) fn redeliver(&mut self, conversation_id: String) {
        self.undelivered.insert(conversation_id);
    }

    /// Puts out what is next, counting everything up to `covered` as seen. What is missing then is
    /// read from `fetch_at` on.
    fn advance(&mut self, id: &str, covered: u64, fetch_at: Instant, out: &mut Vec<Output>) {
        let Some(place) = self.places.get_mut(id) else {
            return;
        };
        if place.undecided {
            return;
        }
        let mut has_new = false;
        while let Some(first) = place.early.first_entry() {
            let seq = *first.key();
            let next = place.seq.max(covered).saturating_add(1);
            if seq > covered && seq != next {
                break;
            }
            let event = first.remove();
            self.early = self.early.saturating_sub(1);
            place.put_out(&event);
            if let Some(row) = &mut place.deferred {
                row.event(&event, &self.own_user_id);
                has_new = true;
            }
            if event.sender_id != self.own_user_id {
                self.undelivered.insert(id.to_owned());
            }
            out.push(Output::Event(event));
        }
        if let Some(row) = place.deferred.as_ref().filter(|_| has_new) {
            out.push(Output::Row(Box::new(row.row().clone())));
        }
        place.seq = place.seq.max(covered);
        place.target = place.target.max(place.seq);
        if place.seq == place.target {
            place.fetch_at = None;
            self.gaps.remove(id);
        } else if !place.fetching && self.gaps.insert(id.to_owned()) {
            place.fetch_at = Some(fetch_at);
        }
    }

    /// Adopts the versions whose events are held, and forgets what is too much.
    fn settle(&mut self, out: &mut Vec<Output>) {
        let places = &self.places;
        let holds = |id: &str, seq: u64| places.get(id).is_none_or(|place| place.seq >= seq);
        if let Some(version) = self.versions.settle(holds) {
            out.push(Output::Version(version));
        }
        if self.places.len() > self.places_max {
            self.forget();
        }
    }

    /// Forgets a tenth of the places, those not used for longest, of those that lack nothing.
    fn forget(&mut self) {
        let mut idle: BTreeMap<u64, &String> = BTreeMap::new();
        for (id, place) in &self.places {
            if place.is_idle() && !self.undelivered.contains(id) {
                idle.insert(place.touched, id);
            }
        }
        let surplus = self.places.len() - self.places_max + self.places_max / 10;
        let oldest: Vec<String> = idle
            .values()
            .take(surplus)
            .map(|id| (*id).clone())
            .collect();
        for id in oldest {
            self.places.remove(&id);
        }
        if self.unknown == Unknown::AtFirst && !self.backed {
            self.unknown = Unknown::AtNext;
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests;
