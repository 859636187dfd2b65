//! Two nodes on one log and one store, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use event_log::{Record, Topic};
use prost::Message;
use proto::{
    log::v1::{self as log, references_record, verdict::Verdict},
    messaging::v1::{ServerFrame, server_frame::Frame},
};
use runtime::ids::{ConversationId, GroupId, MessageId, UserId};

use super::{
    reference::{Expected, expect},
    store::Store,
};
use crate::{
    codec::{self, MessageBody, Origin, Send, attachments::tests::attachment},
    model::{ConversationState, Event, EventKind, InboxChange, InboxRow, Marks, Watermark},
    sequencer::{
        barriers::Barriers,
        core::{Batch, Core, Derived, Name, Output},
        position::Position,
    },
    wire,
};

/// The session that all sends come through.
const SESSION: u64 = 1;

enum Answered {
    Loaded(Vec<ConversationId>, Vec<ConversationState>),
    Found(Vec<Name>, Vec<Event>),
}

/// One process that sequences the partition.
pub(super) struct Node {
    pub(super) core: Core,
    arriving: Vec<Answered>,
    /// A batch that the store has, and the node does not know it yet.
    told: Option<Batch>,
    /// What must be published before the position may cover it.
    publishing: Option<(Vec<InboxChange>, u64)>,
    /// What the log has not confirmed yet.
    pub(super) deriving: Vec<Derived>,
    /// What waits for the position.
    barriers: Barriers,
    position: Position,
}

impl Node {
    fn start(position: u64) -> Self {
        // Room for two conversations, so that they are forgotten and loaded again all the time.
        let core = Core::with_cache(position, 2, 100);
        Self {
            core,
            arriving: Vec::new(),
            told: None,
            publishing: None,
            deriving: Vec::new(),
            barriers: Barriers::default(),
            position: Position::new(position),
        }
    }

    fn is_busy(&self) -> bool {
        self.told.is_some() || self.publishing.is_some()
    }
}

/// What a message says besides its text.
#[derive(Default)]
pub(super) struct Said {
    pub(super) mentioned: Vec<UserId>,
    pub(super) mentions_all: bool,
    /// The numbers of its attachments.
    pub(super) attachments: Vec<u8>,
    pub(super) refused_unless_duplicate: u32,
}

/// Everything, and what came of it.
pub(super) struct World {
    pub(super) conversations: [ConversationId; 3],
    pub(super) group: ConversationId,
    /// The last change in the log that comes in its turn.
    pub(super) group_version: u64,
    pub(super) outsider: UserId,
    pub(super) log: Vec<Record>,
    pub(super) store: Store,
    pub(super) nodes: [Node; 2],
    inbox: Vec<InboxChange>,
    /// Confirmed.
    pub(super) fanned_out: Vec<Derived>,
    /// The topic `references`: the offset of what each record comes of, and the record.
    pub(super) references: Vec<(u64, references_record::Record)>,
    /// Verdicts by the offset of their record.
    pub(super) verdicts: BTreeMap<u64, Vec<Verdict>>,
    /// A node has crashed: barriers that waited in it are lost.
    pub(super) has_crashed: bool,
}

pub(super) fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 16])
}

pub(super) fn message_id(number: u8) -> MessageId {
    MessageId::from_bytes([number + 1; 16])
}

/// A change by user 1, without its version.
pub(super) fn change(
    members: &[(u8, u32)],
    announcement: bool,
    history_all: bool,
) -> log::GroupChange {
    let member = |(number, role): &(u8, u32)| log::GroupMember {
        user_id: user(*number).as_bytes().to_vec(),
        role: *role,
    };
    log::GroupChange {
        actor_id: user(1).as_bytes().to_vec(),
        members: members.iter().map(member).collect(),
        rules: Some(log::GroupRules {
            announcement,
            history_all,
        }),
        ..log::GroupChange::default()
    }
}

impl World {
    pub(super) fn new() -> Self {
        let of = |one, other| ConversationId::direct(user(one), user(other)).unwrap();
        Self {
            conversations: [of(1, 2), of(1, 3), of(2, 3)],
            group: ConversationId::group(GroupId::from_bytes([7; 16])),
            group_version: 0,
            outsider: user(9),
            log: Vec::new(),
            store: Store::default(),
            nodes: [Node::start(0), Node::start(0)],
            inbox: Vec::new(),
            fanned_out: Vec::new(),
            references: Vec::new(),
            verdicts: BTreeMap::new(),
            has_crashed: false,
        }
    }

    /// Offsets have gaps.
    fn next_offset(&self) -> u64 {
        let last = self.log.last();
        last.map_or(0, |last| last.offset + 1 + last.offset % 2)
    }

    pub(super) fn append(&mut self, payload: Bytes) {
        let offset = self.next_offset();
        // The log's clock goes back now and then.
        let time_unix_ms =
            1_000 + 10 * i64::try_from(offset).unwrap() - 25 * i64::from(offset.is_multiple_of(3));
        let (key, headers) = (Bytes::new(), Vec::new());
        self.log.push(Record {
            offset,
            time_unix_ms,
            key,
            payload,
            headers,
        });
    }

    pub(super) fn send(&mut self, conversation: ConversationId, sender: UserId, id: u8) {
        self.say(conversation, sender, message_id(id), Said::default());
    }

    pub(super) fn say(
        &mut self,
        conversation: ConversationId,
        sender: UserId,
        id: MessageId,
        said: Said,
    ) {
        let offset = self.next_offset();
        let origin = Origin {
            edge: "edge".to_owned(),
            session_id: SESSION,
            request_id: offset,
        };
        let body = MessageBody {
            // Another text each time: the first one must stay.
            text: format!("{id} at {offset}"),
            mentioned: said.mentioned,
            mentions_all: said.mentions_all,
            attachments: said.attachments.into_iter().map(attachment).collect(),
        };
        let send = Send {
            sender,
            message_id: id,
            body,
            refused_unless_duplicate: said.refused_unless_duplicate,
            origin,
        };
        self.append(codec::encode_send(conversation, send));
    }

    pub(super) fn barrier(&mut self, as_of_unix_ms: i64) {
        let record = log::MessagesRecord {
            schema_version: codec::SCHEMA_VERSION,
            conversation_id: Vec::new(),
            record: Some(log::messages_record::Record::ReferenceBarrier(
                log::ReferenceBarrier { as_of_unix_ms },
            )),
        };
        self.append(record.encode_to_vec().into());
    }

    pub(super) fn marks(&mut self, conversation: ConversationId, user: UserId, marks: Marks) {
        self.append(codec::encode_marks(conversation, &[(user, marks)]));
    }

    pub(super) fn change(&mut self, version: u64, change: log::GroupChange) {
        if version == self.group_version + 1 {
            self.group_version = version;
        }
        let record = log::MessagesRecord {
            schema_version: codec::SCHEMA_VERSION,
            conversation_id: self.group.as_bytes().to_vec(),
            record: Some(log::messages_record::Record::GroupChange(
                log::GroupChange { version, ..change },
            )),
        };
        self.append(record.encode_to_vec().into());
    }

    pub(super) fn ingest(&mut self, node: usize, count: usize) {
        let core = &mut self.nodes[node].core;
        let next = core.next_offset();
        for record in self
            .log
            .iter()
            .filter(|record| record.offset >= next)
            .take(count)
        {
            core.ingest(record).unwrap();
        }
    }

    pub(super) fn read(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let loads = node.core.take_loads();
        if !loads.is_empty() {
            let states = self.store.load(&loads);
            node.arriving.push(Answered::Loaded(loads, states));
        }
        let finds = node.core.take_finds();
        if !finds.is_empty() {
            let events = self.store.find(&finds);
            node.arriving.push(Answered::Found(finds, events));
        }
    }

    pub(super) fn arrive(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.arriving.is_empty() {
            return;
        }
        match node.arriving.remove(0) {
            Answered::Loaded(asked, states) => node.core.loaded(&asked, states),
            Answered::Found(asked, events) => node.core.found(&asked, events),
        }
    }

    pub(super) fn outputs(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        for output in node.core.take_outputs() {
            match output {
                Output::Answer { answer, .. } => {
                    let verdict = answer.verdict.verdict.unwrap();
                    let verdicts = self.verdicts.entry(answer.request_id).or_default();
                    verdicts.push(verdict);
                }
                Output::Push(broadcast) => {
                    let frame = ServerFrame::decode(&broadcast.frame[..]).unwrap().frame;
                    let id = match frame.unwrap() {
                        Frame::Event(event) => event.conversation_id,
                        Frame::Marks(marks) => marks.conversation_id,
                        frame => panic!("{frame:?}"),
                    };
                    let conversation = ConversationId::parse(&id).unwrap();
                    let members = conversation.direct_members().expect("groups fan out");
                    assert_eq!(broadcast.users[..], members);
                }
                Output::Derived(derived) => {
                    if derived.topic == Topic::Fanout {
                        assert_eq!(derived.conversation, self.group);
                    }
                    let mut before = node.deriving.iter();
                    let same = |d: &&Derived| {
                        (d.topic, d.conversation) == (derived.topic, derived.conversation)
                    };
                    let before = before.rfind(same);
                    assert!(before.is_none_or(|before| before.offset < derived.offset));
                    node.position.derived_begun(derived.offset, derived.topic);
                    node.deriving.push(derived);
                }
                Output::Barrier(barrier) => node.barriers.add(barrier),
            }
        }
    }

    pub(super) fn persist(&mut self, node: usize) {
        self.outputs(node);
        let node = &mut self.nodes[node];
        if node.is_busy() {
            return;
        }
        match node.core.cut() {
            Some(batch) => {
                self.store.persist(&batch.sequenced);
                node.told = Some(batch);
            }
            None => node.position.cover(node.core.low_water()),
        }
    }

    pub(super) fn persisted(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let Some(batch) = node.told.take() {
            node.core.persisted();
            let inbox = batch.inbox.into_iter().map(|(change, _)| change);
            node.publishing = Some((inbox.collect(), batch.covers));
        }
    }

    pub(super) fn publish(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let Some((inbox, covers)) = node.publishing.take() {
            self.inbox.extend(inbox);
            node.position.cover(covers);
        }
    }

    pub(super) fn derived(&mut self, node: usize, which: usize) {
        let node = &mut self.nodes[node];
        if node.deriving.is_empty() {
            return;
        }
        let derived = node.deriving.remove(which % node.deriving.len());
        node.position
            .derived_confirmed(derived.offset, derived.topic);
        if derived.topic == Topic::Fanout {
            return self.fanned_out.push(derived);
        }
        assert_eq!(derived.topic, Topic::References);
        let record = log::ReferencesRecord::decode(derived.payload).unwrap();
        assert_eq!(record.schema_version, codec::REFERENCES_VERSION);
        let key = match record.record.as_ref().unwrap() {
            references_record::Record::Event(event) => event.conversation_id.clone(),
            _ => self.group.as_bytes().to_vec(),
        };
        assert_eq!(derived.conversation.as_bytes()[..], key);
        self.references
            .push((derived.offset, record.record.unwrap()));
    }

    /// The node passes a barrier on, if it may: everything that is before it refers by now.
    pub(super) fn pass_barrier(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let Some(barrier) = node.barriers.reached(node.position.get()) else {
            return;
        };
        let expected = expect(&self.log);
        for (offset, references) in expected.references.range(..barrier.offset) {
            let is_there = self.references.contains(&(*offset, references.clone()));
            assert!(is_there, "a barrier came before what {offset} refers to");
        }
        let as_of_unix_ms = barrier.as_of_unix_ms;
        let said = self.log.iter().filter(|r| r.offset <= barrier.offset);
        let mut said = said.map(|record| codec::decode_messages(&record.payload));
        let is_said = said.any(|said| said == Ok(codec::MessagesRecord::Barrier { as_of_unix_ms }));
        assert!(is_said, "nobody said {as_of_unix_ms} before {barrier:?}");
        let passed = log::ReferenceBarrier { as_of_unix_ms };
        let passed = references_record::Record::Barrier(passed);
        self.references.push((barrier.offset, passed));
    }

    pub(super) fn save(&mut self, node: usize) {
        self.store.position = self.store.position.max(self.nodes[node].position.get());
        let expected = expect(&self.log);
        self.check_fan_outs(&expected);
        self.check_references(&expected);
    }

    pub(super) fn crash(&mut self, node: usize) {
        self.nodes[node] = Node::start(self.store.position);
        self.has_crashed = true;
    }

    /// Both nodes finish everything.
    pub(super) fn settle(&mut self) {
        for node in 0..2 {
            for _ in 0..10_000 {
                self.ingest(node, usize::MAX);
                self.read(node);
                self.arrive(node);
                self.persist(node);
                self.persisted(node);
                self.publish(node);
                while !self.nodes[node].deriving.is_empty() {
                    self.derived(node, 0);
                }
                self.pass_barrier(node);
                let end = self.log.last().map_or(0, |last| last.offset + 1);
                if self.nodes[node].position.get() == end {
                    break;
                }
            }
            self.save(node);
        }
    }

    pub(super) fn check(&self) {
        let expected: Expected = expect(&self.log);
        let stored: Vec<Event> = self.store.events.values().cloned().collect();
        assert_eq!(
            stored, expected.events,
            "the history is not what the log says"
        );
        self.check_verdicts(&expected);
        self.check_groups(&expected);
        self.check_rows(&expected);
        self.check_barriers();
        let end = self.log.last().map_or(0, |last| last.offset + 1);
        assert_eq!(
            self.store.position, end,
            "the position did not get to the end"
        );
    }

    fn check_verdicts(&self, expected: &Expected) {
        for (offset, verdict) in &expected.verdicts {
            let got = self
                .verdicts
                .get(offset)
                .map(Vec::as_slice)
                .unwrap_or_default();
            assert!(!got.is_empty(), "no verdict for the record at {offset}");
            assert!(
                got.iter().all(|got| got == verdict),
                "{got:?} is not {verdict:?}"
            );
        }
        for (offset, reason) in &expected.rejections {
            let rejected = Verdict::Rejected(*reason);
            for got in self.verdicts.get(offset).into_iter().flatten() {
                assert_eq!(*got, rejected, "at {offset}");
            }
        }
    }

    fn check_groups(&self, expected: &Expected) {
        for (conversation, group) in &expected.groups {
            let Some(state) = self.store.states.get(conversation) else {
                // Nothing but what came early, or named nobody.
                assert_eq!(group.state.version, 0);
                continue;
            };
            assert_eq!(state.group, group.state);
            let users: Vec<UserId> = state.members.iter().map(|member| member.user).collect();
            assert_eq!(users, group.members.keys().copied().collect::<Vec<_>>());
            for member in &state.members {
                let expected = &group.members[&member.user];
                let membership = member.membership.as_ref().unwrap();
                assert_eq!(membership.version, expected.version);
                assert_eq!(membership.role, expected.role);
                assert_eq!(member.marks, expected.marks, "of {}", member.user);
                let mut readable = BTreeSet::new();
                let mut after = 0;
                for window in &membership.windows {
                    assert!(window.from_seq > after, "{:?}", membership.windows);
                    after = window.to_seq.unwrap_or(u64::MAX);
                    readable.extend(window.from_seq..=after.min(state.head_seq));
                }
                assert_eq!(readable, expected.readable, "of {}", member.user);
                let is_open = after == u64::MAX && !membership.windows.is_empty();
                assert_eq!(is_open, expected.role.is_some());
            }
        }
    }

    /// What was confirmed is right, and whatever the position has passed is among it.
    fn check_fan_outs(&self, expected: &Expected) {
        let mut seen = BTreeSet::new();
        for fan_out in &self.fanned_out {
            let record = log::FanoutRecord::decode(&fan_out.payload[..]).unwrap();
            assert_eq!(record.conversation_id, fan_out.conversation.as_bytes());
            let Some(got) = record.event else {
                continue;
            };
            let mut events = expected.events.iter();
            let event = events
                .find(|event| event.conversation == fan_out.conversation && event.seq == got.seq)
                .expect("a fan-out of no event");
            assert_eq!(fan_out.offset, event.log_offset);
            assert_eq!(got.message_index, event.message_index);
            assert_eq!(got.time_unix_ms, event.time_unix_ms);
            assert_eq!(got.sender_id, event.sender.as_bytes());
            let version = expected.groups[&fan_out.conversation].versions[&event.seq];
            assert_eq!(record.group_version, version, "of {}", event.seq);
            assert_eq!(record.frame, wire::push(Frame::Event(wire::event(event))));
            match codec::decode_body(&event.body).unwrap() {
                log::event_body::Kind::Message(body) => {
                    assert_eq!(record.except_session_id, SESSION);
                    let preview = got.preview.unwrap();
                    let videos = body.attachments.iter();
                    let videos = videos.filter(|a| a.media_type.starts_with("video/"));
                    let counts = (body.attachments.len() as u32, videos.count() as u32);
                    assert_eq!((preview.attachment_count, preview.video_count), counts);
                    let version = match counts.0 {
                        0 => codec::FANOUT_VERSION,
                        _ => codec::FANOUT_VERSION_ATTACHMENTS,
                    };
                    assert_eq!(record.schema_version, version);
                    assert_eq!((preview.seq, preview.text), (event.seq, body.text));
                    assert_eq!(got.mentioned_ids, body.mentioned_ids);
                    assert_eq!(got.mentions_all, body.mentions_all);
                }
                log::event_body::Kind::GroupChange(change) => {
                    assert_eq!(event.kind, EventKind::GroupChange);
                    assert_eq!((record.except_session_id, got.preview), (0, None));
                    assert_eq!(got.change, Some(change));
                }
            }
            seen.insert((fan_out.conversation, event.seq));
        }
        for event in &expected.events {
            let is_passed = event.log_offset < self.store.position;
            if is_passed && event.conversation.group_id().is_some() {
                let is_seen = seen.contains(&(event.conversation, event.seq));
                assert!(is_seen, "the position passed {} unsent", event.seq);
            }
        }
    }

    fn check_rows(&self, expected: &Expected) {
        let mut rows: BTreeMap<(UserId, ConversationId), InboxRow> = BTreeMap::new();
        for change in &self.inbox {
            let row = rows
                .entry((change.user, change.conversation))
                .or_insert_with(|| InboxRow::new(change.conversation));
            row.merge(change);
            // At any time, also in the middle of a replay: what a row ends with is what it shows.
            let shown = row.preview.as_ref().map_or(0, |preview| preview.seq);
            assert_eq!(
                shown, row.last.seq,
                "a row shows another message than its last"
            );
        }
        let (of_groups, direct): (BTreeMap<_, _>, BTreeMap<_, _>) = rows
            .into_iter()
            .partition(|((_, conversation), _)| conversation.group_id().is_some());
        assert_eq!(direct, expected.rows, "the lists are not what the log says");
        for ((user, conversation), row) in &of_groups {
            assert_eq!(row.last, Watermark::default(), "groups says it");
            let known = expected.groups[conversation].members[user].marks;
            assert_eq!(known.max(row.own), known, "further than {user} got");
        }
        for (conversation, group) in &expected.groups {
            for (user, member) in &group.members {
                let Some(published) = member.published else {
                    continue;
                };
                let row = &of_groups[&(*user, *conversation)];
                assert_eq!(row.own.max(published), row.own, "marks of {user} are lost");
            }
        }
    }
}
