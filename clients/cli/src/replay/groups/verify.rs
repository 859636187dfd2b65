//! Compares what happened in a group, by the acks, with what every device holds. Knows no network.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use messenger_client::model::{Conversation, GroupChangeKind, Role};
use serde::Serialize;

use crate::replay::{attached::Shown, cast::Held};

/// Examples that are kept: the first ones tell the most.
const EXAMPLES_MAX: usize = 10;
/// Unicode scalar values of a text in a preview.
const PREVIEW_CHARS: usize = 100;

/// What happened at one place of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) seq: u64,
    /// Who said it or did it.
    pub(crate) user_id: String,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Said {
        message_id: String,
        text: String,
        shown: Vec<Shown>,
        /// By the ack.
        message_index: u64,
    },
    /// The group was made.
    Created,
    Described(String),
    Added(String),
    Removed(String),
    Left,
}

/// What was found wrong. Each event counts once, however many devices show it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Of a stretch that the user was a member of, and absent on one of his devices.
    pub(crate) missing: usize,
    /// Twice on a device, or two things at one place.
    pub(crate) duplicated: usize,
    /// Not where the ack said, not after the one before, or not in the order of its author.
    pub(crate) out_of_order: usize,
    /// Another text, author or change than was sent.
    pub(crate) altered: usize,
    /// Seen by somebody who was not a member then.
    pub(crate) foreign: usize,
    /// Never sent by anybody.
    pub(crate) unexpected: usize,
    /// Devices that hold something else than the first one of their user.
    pub(crate) devices_diverged: usize,
    /// Rows, their unread counts and totals that are not exact.
    pub(crate) unread_wrong: usize,
}

/// What one device holds of the group, in the order in which it came.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) user_id: String,
    /// Which of the user's devices, for people who look for the reason.
    pub(crate) reader: &'static str,
    pub(crate) events: Vec<Held>,
}

/// What is true of a group.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) conversation_id: String,
    by_seq: BTreeMap<u64, Fact>,
    /// What is wrong of the acks alone.
    duplicated: BTreeSet<u64>,
    out_of_order: BTreeSet<u64>,
}

/// The row of a user's list as it has to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) last_seq: u64,
    pub(crate) last_message_index: u64,
    pub(crate) unread_count: u64,
    pub(crate) left: bool,
    /// Of the preview: its seq, and the text of a message; `None` = that the user has joined.
    preview: (u64, Option<String>),
}

impl Truth {
    /// Of the facts, in the order in which they were asked for.
    pub(crate) fn new(conversation_id: &str, facts: &[Fact]) -> Self {
        let mut truth = Self {
            conversation_id: conversation_id.to_owned(),
            by_seq: BTreeMap::new(),
            duplicated: BTreeSet::new(),
            out_of_order: BTreeSet::new(),
        };
        let mut last_of_author: HashMap<&str, u64> = HashMap::new();
        for fact in facts {
            let last = last_of_author.entry(&fact.user_id).or_default();
            // What one author says, and does to the group, keeps its order.
            if fact.seq <= *last {
                truth.out_of_order.insert(fact.seq);
            }
            *last = fact.seq;
            if truth.by_seq.insert(fact.seq, fact.clone()).is_some() {
                truth.duplicated.insert(fact.seq);
            }
        }
        let mut messages = 0;
        for (place, (seq, fact)) in (1_u64..).zip(&truth.by_seq) {
            let mut is_at_place = *seq == place;
            if let What::Said { message_index, .. } = fact.what {
                messages += 1;
                is_at_place &= message_index == messages;
            }
            if !is_at_place {
                truth.out_of_order.insert(*seq);
            }
        }
        truth
    }

    /// What the user is to hold: from his joining to his leaving, both included.
    pub(crate) fn of_user(&self, user_id: &str) -> Vec<&Fact> {
        let mut is_member = false;
        let mut facts = Vec::new();
        for fact in self.by_seq.values() {
            let membership = fact.membership_of(user_id);
            if is_member || membership == Some(true) {
                facts.push(fact);
            }
            is_member = membership.unwrap_or(is_member);
        }
        facts
    }

    /// The messages with attachments.
    pub(crate) fn with_attachments(&self) -> impl Iterator<Item = (&Fact, &[Shown])> {
        self.by_seq.values().filter_map(|fact| match &fact.what {
            What::Said { shown, .. } if !shown.is_empty() => Some((fact, shown.as_slice())),
            _ => None,
        })
    }

    /// The user's row, if he ever was a member.
    pub(crate) fn row(&self, user_id: &str) -> Option<Row> {
        let facts = self.of_user(user_id);
        let mut row = Row {
            last_seq: facts.last()?.seq,
            last_message_index: 0,
            unread_count: 0,
            left: false,
            preview: (0, None),
        };
        let last_seq = row.last_seq;
        let (mut read, mut index) = (0, 0);
        let mut visible = facts.into_iter().peekable();
        for fact in self.by_seq.values().take_while(|fact| fact.seq <= last_seq) {
            let is_visible = visible.next_if(|next| next.seq == fact.seq).is_some();
            if let What::Said { text, .. } = &fact.what {
                index += 1;
                if is_visible {
                    row.preview = (fact.seq, Some(text.chars().take(PREVIEW_CHARS).collect()));
                }
                // Sending marks as read up to the own message.
                if fact.user_id == user_id {
                    read = index;
                }
            }
            match fact.membership_of(user_id) {
                Some(true) => {
                    row.preview = (fact.seq, None);
                    // What was before the joining is not unread.
                    read = index;
                    row.left = false;
                }
                Some(false) => row.left = true,
                None => {}
            }
        }
        row.last_message_index = index;
        row.unread_count = index - read;
        Some(row)
    }
}

impl Fact {
    /// Whether it makes the user a member (`true`), or one no more.
    fn membership_of(&self, user_id: &str) -> Option<bool> {
        match &self.what {
            What::Created if self.user_id == user_id => Some(true),
            What::Added(added) if added == user_id => Some(true),
            What::Removed(removed) if removed == user_id => Some(false),
            What::Left if self.user_id == user_id => Some(false),
            _ => None,
        }
    }

    fn is(&self, held: &Held) -> bool {
        match (&self.what, held) {
            (What::Said { text, shown, .. }, Held::Message(message)) => {
                let shown = shown.iter().map(|shown| &shown.attachment);
                message.text == *text
                    && shown.eq(&message.attachments)
                    && message.sender_id == self.user_id
            }
            (what, Held::Change(change)) => {
                let member = |user_id: &str| {
                    let role = change.role_of(user_id);
                    role.map(|role| role != Role::Unspecified)
                };
                change.actor_id == self.user_id
                    && match what {
                        What::Created => change.kind == GroupChangeKind::Created,
                        What::Described(text) => {
                            change.kind == GroupChangeKind::Updated
                                && change.description.as_ref() == Some(text)
                        }
                        What::Added(user_id) => {
                            change.kind == GroupChangeKind::Added && member(user_id) == Some(true)
                        }
                        What::Removed(user_id) => {
                            change.kind == GroupChangeKind::Removed
                                && member(user_id) == Some(false)
                        }
                        What::Left => {
                            change.kind == GroupChangeKind::Left
                                && member(&self.user_id) == Some(false)
                        }
                        What::Said { .. } => false,
                    }
            }
            _ => false,
        }
    }
}

impl Row {
    /// Whether the row of a list is this one.
    pub(crate) fn is(&self, row: &Conversation) -> bool {
        let preview = row.preview.clone().unwrap_or_default();
        let text = (!preview.joined).then_some(preview.text);
        row.last_seq == self.last_seq
            && row.last_message_index == self.last_message_index
            && row.unread_count == self.unread_count
            && row.left == self.left
            && (preview.seq, text) == self.preview
    }
}

/// The seqs that something was found about, and the devices.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    missing: BTreeSet<u64>,
    duplicated: BTreeSet<u64>,
    out_of_order: BTreeSet<u64>,
    altered: BTreeSet<u64>,
    foreign: BTreeSet<u64>,
    unexpected: BTreeSet<String>,
    devices_diverged: usize,
    /// Some of what was found, for people who look for the reason.
    pub(crate) examples: Vec<String>,
}

impl Comparison {
    /// Compares. `unread_wrong` is not looked at here.
    pub(crate) fn of(truth: &Truth, views: &[View]) -> Self {
        let mut comparison = Self {
            duplicated: truth.duplicated.clone(),
            out_of_order: truth.out_of_order.clone(),
            ..Self::default()
        };
        let places: HashMap<&str, u64> = truth
            .by_seq
            .values()
            .filter_map(|fact| match &fact.what {
                What::Said { message_id, .. } => Some((message_id.as_str(), fact.seq)),
                _ => None,
            })
            .collect();
        let mut first_of_user: HashMap<&str, &View> = HashMap::new();
        for view in views {
            comparison.look_at(truth, &places, view);
            let first = first_of_user.entry(&view.user_id).or_insert(view);
            comparison.devices_diverged += usize::from(first.events != view.events);
        }
        comparison
    }

    pub(crate) fn findings(&self) -> Findings {
        Findings {
            missing: self.missing.len(),
            duplicated: self.duplicated.len(),
            out_of_order: self.out_of_order.len(),
            altered: self.altered.len(),
            foreign: self.foreign.len(),
            unexpected: self.unexpected.len(),
            devices_diverged: self.devices_diverged,
            unread_wrong: 0,
        }
    }

    fn look_at(&mut self, truth: &Truth, places: &HashMap<&str, u64>, view: &View) {
        let due: BTreeMap<u64, &Fact> = truth
            .of_user(&view.user_id)
            .into_iter()
            .map(|fact| (fact.seq, fact))
            .collect();
        let mut held = BTreeSet::new();
        let mut last = 0;
        for event in &view.events {
            let told = seq_of(event);
            let seq = match event {
                Held::Message(message) => match places.get(message.message_id.as_str()) {
                    Some(seq) => *seq,
                    None => {
                        self.unexpected.insert(message.message_id.clone());
                        self.example(view, "unexpected", told);
                        continue;
                    }
                },
                Held::Change(_) => told,
            };
            if !held.insert(seq) {
                self.duplicated.insert(seq);
                self.example(view, "duplicated", seq);
                continue;
            }
            if told != seq || told <= last {
                self.out_of_order.insert(seq);
                self.example(view, "out of order", seq);
            }
            last = last.max(told);
            match (due.get(&seq), truth.by_seq.get(&seq)) {
                (Some(fact), _) if !fact.is(event) => {
                    self.altered.insert(seq);
                    self.example(view, "altered", seq);
                }
                (Some(_), _) => {}
                (None, Some(_)) => {
                    self.foreign.insert(seq);
                    self.example(view, "foreign", seq);
                }
                (None, None) => {
                    self.unexpected.insert(seq.to_string());
                    self.example(view, "unexpected", seq);
                }
            }
        }
        for seq in due.into_keys().filter(|seq| !held.contains(seq)) {
            self.missing.insert(seq);
            self.example(view, "missing", seq);
        }
    }

    fn example(&mut self, view: &View, what: &str, seq: u64) {
        if self.examples.len() < EXAMPLES_MAX {
            let (reader, user_id) = (view.reader, &view.user_id);
            self.examples
                .push(format!("{what}: event {seq} at {reader} of {user_id}"));
        }
    }
}

pub(crate) fn seq_of(held: &Held) -> u64 {
    match held {
        Held::Message(message) => message.seq,
        Held::Change(change) => change.seq,
    }
}

#[cfg(test)]
mod tests;
