use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::messaging::v1::{GroupChange, GroupChangeKind, Message, event::Kind};

use super::*;

mod cases;

const ME: &str = "me";
const CONVERSATIONS: usize = 4;
/// The conversation that is a group's: the user leaves it and joins it again.
const GROUP: usize = 2;

fn event(conversation: usize, seq: u64) -> RawEvent {
    RawEvent {
        conversation_id: conversation.to_string(),
        seq,
        message_index: seq,
        time_unix_ms: 0,
        sender_id: if seq.is_multiple_of(3) { ME } else { "peer" }.to_owned(),
        kind: Some(Kind::Message(Message {
            message_id: format!("{conversation}-{seq}"),
            ..Message::default()
        })),
    }
}

/// A change of the group; half of them are of a kind that this version does not know.
fn change(seq: u64) -> RawEvent {
    let mut event = event(GROUP, seq);
    event.kind = Some(Kind::GroupChange(GroupChange {
        version: seq,
        kind: (if seq.is_multiple_of(2) {
            GroupChangeKind::Added
        } else {
            GroupChangeKind::Unspecified
        })
        .into(),
        ..GroupChange::default()
    }));
    event
}

fn row(conversation: usize, version: u64, last_seq: u64) -> Conversation {
    Conversation {
        conversation_id: conversation.to_string(),
        version,
        last_seq,
        last_message_index: last_seq,
        ..Conversation::default()
    }
}

/// What is true: which events there are, and at which version each came.
#[derive(Default)]
struct Server {
    /// By version - 1: the conversation that got an event.
    changes: Vec<usize>,
    heads: [u64; CONVERSATIONS],
    /// Seqs of the group that are changes of it: leavings and joinings in turn.
    turns: Vec<u64>,
}

impl Server {
    /// A message, or a turn of the user's membership. `None` if the user does not get it.
    fn append(&mut self, conversation: usize, turn: bool) -> Option<(RawEvent, u64)> {
        let was_member = self.is_member();
        self.heads[conversation] += 1;
        let seq = self.heads[conversation];
        if conversation != GROUP {
            self.changes.push(conversation);
            return Some((event(conversation, seq), self.version()));
        }
        if turn {
            self.turns.push(seq);
        }
        if !was_member && !turn {
            return None;
        }
        self.changes.push(conversation);
        Some((self.event(conversation, seq), self.version()))
    }

    fn is_member(&self) -> bool {
        self.turns.len().is_multiple_of(2)
    }

    fn event(&self, conversation: usize, seq: u64) -> RawEvent {
        match conversation == GROUP && self.turns.contains(&seq) {
            true => change(seq),
            false => event(conversation, seq),
        }
    }

    /// Whether the user was a member at this place; leaving and joining are the last and the first
    /// event of a stretch.
    fn is_visible(&self, conversation: usize, seq: u64) -> bool {
        let turns_before = self.turns.iter().filter(|turn| **turn < seq).count();
        conversation != GROUP || turns_before.is_multiple_of(2) || self.turns.contains(&seq)
    }

    /// The row as it is now.
    fn row(&self, conversation: usize, version: u64) -> Conversation {
        let left = conversation == GROUP && !self.is_member();
        let last = match self.turns.last() {
            Some(turn) if left => *turn,
            _ => self.heads[conversation],
        };
        Conversation {
            left,
            ..row(conversation, version, last)
        }
    }

    fn version(&self) -> u64 {
        self.changes.len() as u64
    }

    /// Every seventh event is gone.
    fn is_gone(seq: u64) -> bool {
        seq % 7 == 5
    }

    fn list_changes(&self, after: u64, size: usize) -> (Vec<Conversation>, u64, bool) {
        let mut last: BTreeMap<u64, usize> = BTreeMap::new();
        for conversation in 0..CONVERSATIONS {
            let at = self.changes.iter().rposition(|c| *c == conversation);
            if let Some(at) = at
                && at as u64 + 1 > after
            {
                last.insert(at as u64 + 1, conversation);
            }
        }
        let more = last.len() > size;
        let rows: Vec<_> = last
            .iter()
            .take(size)
            .map(|(version, c)| self.row(*c, *version))
            .collect();
        let version = match rows.last() {
            Some(row) if more => row.version,
            _ => self.version(),
        };
        (rows, version, more)
    }

    fn list_events(&self, fetch: &Fetch, size: u64) -> EventPage {
        let conversation: usize = fetch.conversation_id.parse().unwrap();
        let last_seq = self.heads[conversation];
        if fetch.after_seq >= last_seq {
            return EventPage {
                conversation_id: fetch.conversation_id.clone(),
                last_seq,
                ..EventPage::default()
            };
        }
        let to_seq = last_seq.min(fetch.after_seq + size);
        EventPage {
            conversation_id: fetch.conversation_id.clone(),
            from_seq: fetch.after_seq + 1,
            to_seq,
            events: (fetch.after_seq + 1..=to_seq)
                .filter(|seq| !Self::is_gone(*seq) && self.is_visible(conversation, *seq))
                .map(|seq| self.event(conversation, seq))
                .collect(),
            last_seq,
            more: to_seq < last_seq,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An event happens; the pushes of it and of its row get lost or not.
    Append(usize, bool, bool),
    /// The user leaves the group, or joins it again.
    Turn(bool, bool),
    /// One of the pushes that are on their way arrives, and may stay to arrive again.
    Arrive(usize, bool),
    Heartbeat,
    Lagging,
    Reconnect,
    /// Reads that are due are answered, with pages of some size, or fail.
    Read(usize, bool),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..CONVERSATIONS, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(c, a, b)| Step::Append(c, a, b)),
        2 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(a, b)| Step::Turn(a, b)),
        10 => (0..8_usize, prop::bool::weighted(0.2)).prop_map(|(i, b)| Step::Arrive(i, b)),
        2 => Just(Step::Heartbeat),
        1 => Just(Step::Lagging),
        1 => Just(Step::Reconnect),
        4 => (1..5_usize, prop::bool::weighted(0.2)).prop_map(|(n, b)| Step::Read(n, b)),
        4 => Just(Step::Wait),
    ]
}

#[derive(Clone)]
enum Push {
    Event(RawEvent),
    Update(u64, Box<Conversation>),
}

struct World {
    server: Server,
    inbox: Inbox,
    now: Instant,
    under_way: Vec<Push>,
    /// What was asked and is not answered.
    fetches: Vec<Fetch>,
    resume: Option<Resume>,
    /// What came out: the seqs of each conversation.
    told: [Vec<u64>; CONVERSATIONS],
    /// Where each conversation began.
    from: [u64; CONVERSATIONS],
    version: Option<u64>,
}

impl World {
    fn new(history: usize, start: Option<u64>) -> Self {
        let mut server = Server::default();
        for n in 0..history {
            server.append(n % (CONVERSATIONS - 1), n % 5 == 4);
        }
        let mut world = Self {
            inbox: Inbox::new(ME, start, [], 100, false),
            now: Instant::now(),
            under_way: Vec::new(),
            fetches: Vec::new(),
            resume: None,
            told: Default::default(),
            from: [0; CONVERSATIONS],
            version: start,
            server,
        };
        world.inbox.connected(world.server.version(), world.now);
        world
    }

    fn step(&mut self, step: Step) {
        let mut out = Vec::new();
        match step {
            Step::Append(conversation, event_lost, row_lost) => {
                self.append(conversation, false, event_lost, row_lost);
            }
            Step::Turn(event_lost, row_lost) => self.append(GROUP, true, event_lost, row_lost),
            Step::Arrive(at, again) => {
                if at < self.under_way.len() {
                    let push = self.under_way[at].clone();
                    if !again {
                        self.under_way.remove(at);
                    }
                    match push {
                        Push::Event(event) => self.inbox.event(event, self.now, &mut out),
                        Push::Update(previous, row) => {
                            let version = row.version;
                            self.inbox
                                .update(previous, version, vec![*row], self.now, &mut out);
                        }
                    }
                }
            }
            Step::Heartbeat => self.inbox.heartbeat(self.server.version(), self.now),
            Step::Lagging => {
                self.under_way.clear();
                self.inbox.lagged(self.now);
            }
            Step::Reconnect => {
                self.under_way.clear();
                self.inbox.connected(self.server.version(), self.now);
            }
            Step::Read(size, fails) => self.read(size, fails, &mut out),
            Step::Wait => {
                if let Some(at) = self.inbox.wakes_at() {
                    self.now = self.now.max(at);
                }
            }
        }
        self.check(out);
        self.fetches.extend(self.inbox.take_fetch(self.now, 3));
        let resume = self.inbox.take_resume(self.now);
        assert!(resume.is_none() || self.resume.is_none());
        self.resume = self.resume.or(resume);
    }

    fn append(&mut self, conversation: usize, turn: bool, event_lost: bool, row_lost: bool) {
        let Some((event, version)) = self.server.append(conversation, turn) else {
            return;
        };
        let row = self.server.row(conversation, version);
        if !event_lost && !Server::is_gone(event.seq) {
            self.under_way.push(Push::Event(event));
        }
        if !row_lost {
            self.under_way
                .push(Push::Update(version - 1, Box::new(row)));
        }
    }

    fn read(&mut self, size: usize, fails: bool, out: &mut Vec<Output>) {
        if let Some(asked) = self.resume.take() {
            let (rows, version, more) = self.server.list_changes(asked.after_version, size);
            if fails {
                self.inbox.resume_failed(None, self.now);
            } else {
                assert!(
                    self.inbox
                        .changes(asked, version, rows, more, self.now, out)
                );
            }
        }
        for fetch in std::mem::take(&mut self.fetches) {
            if fails {
                self.inbox.fetch_failed(&fetch, None, self.now);
            } else {
                let page = self.server.list_events(&fetch, size as u64);
                self.inbox.page(&fetch, page, self.now, out);
            }
        }
    }

    fn check(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Event(event) => {
                    let conversation: usize = event.conversation_id.parse().unwrap();
                    let told = &mut self.told[conversation];
                    assert!(
                        told.last() < Some(&event.seq),
                        "{told:?} then {}",
                        event.seq
                    );
                    told.push(event.seq);
                    assert!(self.server.is_visible(conversation, event.seq));
                    assert_eq!(event, self.server.event(conversation, event.seq));
                }
                Output::Version(version) => {
                    assert!(self.version < Some(version));
                    self.version = Some(version);
                    // Whoever starts again from this version hears of everything that was not told.
                    let (rows, _, _) = self.server.list_changes(version, CONVERSATIONS);
                    for (c, head) in self.server.heads.into_iter().enumerate() {
                        if !rows.iter().any(|row| row.conversation_id == c.to_string()) {
                            self.is_told(c, head);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Everything up to `head` has been told, if it can be.
    fn is_told(&self, conversation: usize, head: u64) {
        let told = &self.told[conversation];
        let from = self.from[conversation];
        let is_due =
            |seq: &u64| !Server::is_gone(*seq) && self.server.is_visible(conversation, *seq);
        let expected: Vec<_> = (from + 1..=head).filter(is_due).collect();
        let told: Vec<_> = told.iter().copied().filter(|s| *s <= head).collect();
        let missing: Vec<_> = expected.iter().filter(|s| !told.contains(s)).collect();
        assert!(missing.is_empty(), "{conversation}: not told {missing:?}");
    }

    /// From now on the network is good: one heartbeat, and all is there.
    fn finish(&mut self) {
        self.step(Step::Heartbeat);
        for _ in 0..10_000 {
            if self.inbox.is_complete() && self.inbox.gaps.is_empty() && self.fetches.is_empty() {
                break;
            }
            self.step(Step::Wait);
            self.step(Step::Read(3, false));
        }
        assert!(self.inbox.is_complete(), "{:?}", self.inbox.versions);
        assert_eq!(self.version, Some(self.inbox.version()));
        assert_eq!(self.version, Some(self.server.version()));
        for conversation in 0..CONVERSATIONS {
            self.is_told(conversation, self.server.heads[conversation]);
        }
        assert_eq!(self.inbox.early, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_come_in_order_once_and_none_is_missing_after_a_heartbeat(
        history in 0..20_usize,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(history, Some(0));
        for step in steps {
            world.step(step);
        }
        world.finish();
    }

    #[test]
    fn a_session_without_a_past_begins_at_the_present_and_misses_nothing_after(
        history in 0..20_usize,
        listing in prop::collection::vec((1..3_usize, prop::bool::weighted(0.2)), 0..6),
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(history, None);
        world.from = world.server.heads;
        for (size, fails) in listing {
            world.step(Step::Read(size, fails));
            world.step(Step::Wait);
        }
        while !world.inbox.is_complete() {
            world.step(Step::Wait);
            world.step(Step::Read(2, false));
        }
        prop_assert!(world.told.iter().all(Vec::is_empty), "history is not news");
        for step in steps {
            world.step(step);
        }
        world.finish();
    }

    #[test]
    fn what_happens_while_rows_are_listed_is_told_or_shown_by_its_row(
        history in 1..20_usize,
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let mut world = World::new(history, None);
        let before = world.server.heads;
        // What is not told may be in a row of the listing, which shows it.
        world.from = [u64::MAX - 1; CONVERSATIONS];
        for step in steps {
            world.step(step);
        }
        world.from = world.server.heads;
        world.finish();
        for (conversation, (told, head)) in world.told.iter().zip(before).enumerate() {
            prop_assert!(told.iter().all(|seq| *seq > head), "history is not news");
            let is_absent = |s| Server::is_gone(s) || !world.server.is_visible(conversation, s);
            let dense = told.windows(2).all(|w| (w[0] + 1..w[1]).all(is_absent));
            prop_assert!(dense, "{:?}", told);
        }
    }
}
