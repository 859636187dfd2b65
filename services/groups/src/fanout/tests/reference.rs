//! What the groups and the sequencer do, and what follows from it for everybody, event by event.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use event_log::Record;
use prost::Message;
use proto::log::v1::{self as log, GroupChangeKind};
use runtime::ids::{ConversationId, GroupId, MessageId, UserId};

use super::Rows;
use crate::model::{Roster, Stint};

pub(super) fn user(number: usize) -> UserId {
    UserId::from_bytes([u8::try_from(number).unwrap() + 1; 16])
}

pub(super) fn group(number: usize) -> GroupId {
    GroupId::from_bytes([u8::try_from(number).unwrap() + 101; 16])
}

pub(super) fn record(offset: u64, payload: Vec<u8>) -> Record {
    Record {
        offset,
        time_unix_ms: 0,
        key: Bytes::new(),
        payload: payload.into(),
        headers: Vec::new(),
    }
}

/// Larger of each: the rule of messaging.
pub(super) fn merge(row: &mut log::InboxRecord, other: &log::InboxRecord) {
    row.schema_version = 1;
    row.user_id.clone_from(&other.user_id);
    row.conversation_id.clone_from(&other.conversation_id);
    row.last_seq = row.last_seq.max(other.last_seq);
    row.last_message_index = row.last_message_index.max(other.last_message_index);
    row.joined_seq = row.joined_seq.max(other.joined_seq);
    row.left_seq = row.left_seq.max(other.left_seq);
    row.deferred_seq = row.deferred_seq.max(other.deferred_seq);
    row.mentioned_seq = row.mentioned_seq.max(other.mentioned_seq);
    let seq = |row: &log::InboxRecord| row.preview.as_ref().map(|preview| preview.seq);
    if seq(other) > seq(row) {
        row.preview.clone_from(&other.preview);
    }
    if let Some(own) = other.own.as_ref().filter(|own| own.delivered_seq > 0) {
        let known = row.own.get_or_insert_default();
        assert!(own.user_id == other.user_id, "the mark is the user's");
        known.delivered_seq = known.delivered_seq.max(own.delivered_seq);
        known.delivered_message_index = known
            .delivered_message_index
            .max(own.delivered_message_index);
        known.read_seq = known.read_seq.max(own.read_seq);
        known.read_message_index = known.read_message_index.max(own.read_message_index);
    }
}

/// A change that the store has.
#[derive(Clone)]
struct Change {
    record: log::GroupChange,
    before: BTreeSet<UserId>,
    after: BTreeSet<UserId>,
}

/// What was given out once, and what it means for everybody.
#[derive(Clone)]
struct Fact {
    payload: Vec<u8>,
    frame: u64,
    recipients: BTreeSet<UserId>,
    rows: Vec<(UserId, log::InboxRecord)>,
    sequenced: Option<(GroupId, u64, u64)>,
}

#[derive(Default)]
struct Group {
    stints: Vec<Stint>,
    changes: Vec<Change>,
    /// Changes that the log has.
    version: usize,
    seq: u64,
    message_index: u64,
    facts: Vec<Fact>,
}

/// The groups, and the partition of their log.
pub(super) struct World {
    pub(super) log: Vec<Record>,
    facts: BTreeMap<u64, Fact>,
    late: Vec<Fact>,
    groups: [Group; 2],
    /// What the store was told: from which event on.
    pub(super) deferred: BTreeMap<GroupId, u64>,
    frames: u64,
    pub(super) time_unix_ms: i64,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            log: Vec::new(),
            facts: BTreeMap::new(),
            late: Vec::new(),
            groups: Default::default(),
            deferred: BTreeMap::new(),
            frames: 0,
            time_unix_ms: 0,
        };
        for group in 0..2 {
            world.change(group, 0, 0b111);
        }
        world
    }

    /// The users are a bit each.
    pub(super) fn change(&mut self, number: usize, kind: u8, users: u8) {
        let group = &mut self.groups[number];
        let before = group.changes.last().map(|change| change.after.clone());
        let before = before.unwrap_or_default();
        let named = (0..6).filter(|bit| users >> bit & 1 == 1).map(user);
        let (members, others): (Vec<_>, Vec<_>) = named.partition(|user| before.contains(user));
        let with_role = |users: &[UserId], role| -> Vec<(UserId, u32)> {
            users.iter().map(|user| (*user, role)).collect()
        };
        let version = group.changes.len() as u64 + 1;
        let (kind, changed) = match kind {
            0 if version == 1 => (GroupChangeKind::Created, with_role(&others, 1)),
            0 => (GroupChangeKind::Added, with_role(&others, 1)),
            1 => (GroupChangeKind::Joined, with_role(&others, 1)),
            2 => (GroupChangeKind::Removed, with_role(&members, 0)),
            3 => match members.split_first() {
                // The owner leaves, and somebody is the owner now.
                Some((leaver, [heir, ..])) => {
                    let changed = vec![(*leaver, 0), (*heir, 3)];
                    (GroupChangeKind::Left, changed)
                }
                _ => (GroupChangeKind::Left, with_role(&members, 0)),
            },
            _ if users & 1 == 0 => (GroupChangeKind::Roles, with_role(&members, 2)),
            _ => (GroupChangeKind::Updated, Vec::new()),
        };
        let mut after = before.clone();
        for (user, role) in &changed {
            if *role == 0 {
                after.remove(user);
                let stint = group.stints.iter_mut();
                let mut stint = stint.filter(|s| s.user == *user && s.left_version.is_none());
                stint.next().unwrap().left_version = Some(version);
            } else if after.insert(*user) {
                group.stints.push(Stint {
                    user: *user,
                    joined_version: version,
                    left_version: None,
                });
            }
        }
        let record = log::GroupChange {
            version,
            actor_id: user(7).as_bytes().to_vec(),
            members: changed
                .iter()
                .map(|(user, role)| log::GroupMember {
                    user_id: user.as_bytes().to_vec(),
                    role: *role,
                })
                .collect(),
            rules: Some(log::GroupRules::default()),
            info: None,
            kind: kind.into(),
            member_count: u32::try_from(after.len()).unwrap(),
        };
        group.changes.push(Change {
            record,
            before,
            after,
        });
    }

    pub(super) fn roster(&self, id: GroupId) -> Roster {
        let number = (0..2).find(|number| group(*number) == id).unwrap();
        Roster {
            stints: self.groups[number].stints.clone(),
            deferred: self.deferred.contains_key(&id),
        }
    }

    /// Whether the group ever had so many members, as far as the log is.
    pub(super) fn was_huge(&self, id: GroupId, deferred_above: usize) -> bool {
        let number = (0..2).find(|number| group(*number) == id).unwrap();
        let group = &self.groups[number];
        let mut changes = group.changes[..group.version].iter();
        changes.any(|change| change.after.len() > deferred_above)
    }

    pub(super) fn forget(&mut self, id: GroupId, version: u64) {
        let number = (0..2).find(|number| group(*number) == id).unwrap();
        let is_kept = |stint: &Stint| stint.left_version.is_none_or(|left| left > version);
        self.groups[number].stints.retain(is_kept);
    }

    /// The log carries out the next change.
    pub(super) fn emit(&mut self, number: usize, late: bool) {
        let group = &mut self.groups[number];
        let Some(change) = group.changes.get(group.version).cloned() else {
            return;
        };
        group.version += 1;
        let event = log::FanoutEvent {
            sender_id: change.record.actor_id.clone(),
            change: Some(change.record.clone()),
            ..self.next_event(number)
        };
        let recipients = change.before.union(&change.after).copied().collect();
        let row = |user: &UserId, row: &mut log::InboxRecord| {
            if !change.before.contains(user) {
                row.joined_seq = event.seq;
                row.own = Some(mark(*user, event.seq, event.message_index));
                row.preview = Some(log::InboxPreview {
                    sender_id: event.sender_id.clone(),
                    message_id: MessageId::of_change(change.record.version)
                        .as_bytes()
                        .to_vec(),
                    seq: event.seq,
                    time_unix_ms: event.time_unix_ms,
                    text: String::new(),
                    joined: true,
                    attachment_count: 0,
                    video_count: 0,
                });
            }
            if !change.after.contains(user) {
                row.left_seq = event.seq;
            }
        };
        self.give_out(number, Some(event.clone()), recipients, row, late);
    }

    /// A message of a member, if there is one.
    pub(super) fn message(&mut self, number: usize, sender: usize, late: bool) {
        let members = self.members(number);
        let Some(sender) = members.iter().nth(sender % members.len().max(1)).copied() else {
            return;
        };
        self.groups[number].message_index += 1;
        let mut event = self.next_event(number);
        event.sender_id = sender.as_bytes().to_vec();
        event.preview = Some(log::InboxPreview {
            sender_id: event.sender_id.clone(),
            message_id: vec![9; 16],
            seq: event.seq,
            time_unix_ms: event.time_unix_ms,
            text: format!("text {}", event.seq),
            joined: false,
            attachment_count: 0,
            video_count: 0,
        });
        // Now and then all, or a member, who may be the sender, and one who is none.
        event.mentions_all = event.seq.is_multiple_of(7);
        if event.seq.is_multiple_of(3) {
            let at = usize::try_from(event.seq).unwrap() / 3 % members.len();
            let named = members.iter().nth(at).copied();
            let named = named.into_iter().chain([user(99)]);
            event.mentioned_ids = named.map(|user| user.as_bytes().to_vec()).collect();
        }
        let row = |user: &UserId, row: &mut log::InboxRecord| {
            row.preview.clone_from(&event.preview);
            let is_named = event.mentioned_ids.iter().any(|id| id == user.as_bytes());
            if event.mentions_all || is_named {
                row.mentioned_seq = event.seq;
            }
            if *user == sender {
                row.own = Some(mark(*user, event.seq, event.message_index));
            }
        };
        self.give_out(number, Some(event.clone()), members, row, late);
    }

    pub(super) fn marks(&mut self, number: usize) {
        if self.groups[number].version > 0 {
            let members = self.members(number);
            self.give_out(number, None, members, |_, _| {}, false);
        }
    }

    fn members(&self, number: usize) -> BTreeSet<UserId> {
        let group = &self.groups[number];
        let change = group.version.checked_sub(1).map(|at| &group.changes[at]);
        change
            .map(|change| change.after.clone())
            .unwrap_or_default()
    }

    fn next_event(&mut self, number: usize) -> log::FanoutEvent {
        let group = &mut self.groups[number];
        group.seq += 1;
        log::FanoutEvent {
            seq: group.seq,
            message_index: group.message_index,
            time_unix_ms: i64::try_from(group.seq).unwrap() * 10,
            ..log::FanoutEvent::default()
        }
    }

    fn give_out(
        &mut self,
        number: usize,
        event: Option<log::FanoutEvent>,
        recipients: BTreeSet<UserId>,
        special: impl Fn(&UserId, &mut log::InboxRecord),
        late: bool,
    ) {
        let id = group(number);
        self.frames += 1;
        let conversation = ConversationId::group(id);
        let of_event = |event: &log::FanoutEvent| {
            let row = |user: &UserId| {
                let mut row = log::InboxRecord {
                    schema_version: 1,
                    user_id: user.as_bytes().to_vec(),
                    conversation_id: conversation.as_bytes().to_vec(),
                    last_seq: event.seq,
                    last_message_index: event.message_index,
                    ..log::InboxRecord::default()
                };
                special(user, &mut row);
                (*user, row)
            };
            recipients.iter().map(row).collect()
        };
        let change = event.as_ref().and_then(|event| event.change.as_ref());
        let fact = Fact {
            frame: self.frames,
            sequenced: change.map(|change| {
                let seq = event.as_ref().map_or(0, |event| event.seq);
                (id, change.version, seq)
            }),
            rows: event.as_ref().map(of_event).unwrap_or_default(),
            payload: log::FanoutRecord {
                schema_version: 1,
                conversation_id: conversation.as_bytes().to_vec(),
                group_version: self.groups[number].version as u64,
                frame: self.frames.to_be_bytes().to_vec().into(),
                except_session_id: 0,
                event,
            }
            .encode_to_vec(),
            recipients,
        };
        self.groups[number].facts.push(fact.clone());
        if late {
            self.late.push(fact);
        } else {
            self.append_fact(fact);
        }
    }

    pub(super) fn release(&mut self) {
        for fact in std::mem::take(&mut self.late) {
            self.append_fact(fact);
        }
    }

    /// The last records of a group come again.
    pub(super) fn again(&mut self, number: usize, count: usize) {
        let facts = &self.groups[number].facts;
        let again = facts[facts.len().saturating_sub(count)..].to_vec();
        for fact in again {
            self.append_fact(fact);
        }
    }

    fn append_fact(&mut self, fact: Fact) {
        let offset = self.log.len() as u64;
        self.append(fact.payload.clone());
        self.facts.insert(offset, fact);
    }

    pub(super) fn append(&mut self, payload: Vec<u8>) {
        let mut record = record(self.log.len() as u64, payload);
        record.time_unix_ms = self.time_unix_ms;
        self.log.push(record);
    }

    pub(super) fn expected_of(&self, offset: u64) -> Vec<(UserId, log::InboxRecord)> {
        let fact = self.facts.get(&offset);
        fact.map(|fact| fact.rows.clone()).unwrap_or_default()
    }

    pub(super) fn sequenced_of(&self, offset: u64) -> Option<(GroupId, u64, u64)> {
        self.facts.get(&offset)?.sequenced
    }

    pub(super) fn expected_rows(&self) -> Rows {
        let mut rows = Rows::new();
        for (user, row) in self.facts.values().flat_map(|fact| &fact.rows) {
            let known = rows.entry((*user, super::row_group(row))).or_default();
            merge(known, row);
        }
        rows
    }

    pub(super) fn expected_pushes(&self) -> BTreeMap<u64, BTreeSet<UserId>> {
        let facts = self
            .facts
            .values()
            .filter(|fact| !fact.recipients.is_empty());
        facts
            .map(|fact| (fact.frame, fact.recipients.clone()))
            .collect()
    }
}

fn mark(user: UserId, seq: u64, message_index: u64) -> log::Mark {
    log::Mark {
        user_id: user.as_bytes().to_vec(),
        delivered_seq: seq,
        delivered_message_index: message_index,
        read_seq: seq,
        read_message_index: message_index,
    }
}
