//! Compares what was sent with what every device holds afterwards. Knows no network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use messenger_client::Message;
use serde::Serialize;

use super::play::Sent;

/// Where the messages of a view come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A session that was connected while they were sent.
    Live,
    /// Read afterwards, by a device that knew nothing.
    ReadBack,
}

/// All messages that one reader has, in the order in which they came.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) user_id: String,
    pub(crate) source: Source,
    /// Which of the user's readers, for people who look for the reason.
    pub(crate) reader: &'static str,
    pub(crate) messages: Vec<Message>,
}

/// What was found wrong. Each message, device or row counts once, however many views show it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Acknowledged, and absent in some view of one of the two users.
    pub(crate) missing: usize,
    /// Held twice in some view, or given two places.
    pub(crate) duplicated: usize,
    /// Not where the ack said, not after the one before, or not in the order of their author.
    pub(crate) out_of_order: usize,
    /// Text or sender is not what was sent.
    pub(crate) altered: usize,
    /// Held by somebody, and never sent to him.
    pub(crate) unexpected: usize,
    /// Devices whose stream of some conversation is not that of the user's other readers.
    pub(crate) devices_diverged: usize,
    /// Unread counts that are not exact.
    pub(crate) unread_wrong: usize,
}

/// What the comparison of messages gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Acknowledged messages that came to every live session of both users.
    pub(crate) delivered: usize,
    /// Acknowledged messages that every read back of both users holds.
    pub(crate) read_back: usize,
    pub(crate) findings: Findings,
    /// Some of what was found, for people who look for the reason.
    pub(crate) examples: Vec<String>,
}

/// Examples that are kept: the first ones tell the most.
const EXAMPLES_MAX: usize = 10;

/// Compares. `unread_wrong` is not looked at here.
pub(crate) fn compare(sent: &[Sent], views: &[View]) -> Comparison {
    let mut marks = Marks::default();
    check_acks(sent, &mut marks);
    let by_id: HashMap<&str, &Sent> = sent
        .iter()
        .map(|sent| (sent.message_id.as_str(), sent))
        .collect();
    for view in views {
        check_view(sent, &by_id, view, &mut marks);
    }
    let acked = || sent.iter().filter(|sent| sent.receipt.is_some());
    let without = |absent: &BTreeSet<&str>| {
        acked()
            .filter(|sent| !absent.contains(sent.message_id.as_str()))
            .count()
    };
    Comparison {
        delivered: without(&marks.absent_live),
        read_back: without(&marks.absent_read_back),
        findings: Findings {
            missing: marks.absent_live.union(&marks.absent_read_back).count(),
            duplicated: marks.duplicated.len(),
            out_of_order: marks.out_of_order.len(),
            altered: marks.altered.len(),
            unexpected: marks.unexpected.len(),
            devices_diverged: diverged(views),
            unread_wrong: 0,
        },
        examples: marks.examples,
    }
}

/// The message ids that something was found about.
#[derive(Debug, Default)]
struct Marks<'a> {
    absent_live: BTreeSet<&'a str>,
    absent_read_back: BTreeSet<&'a str>,
    duplicated: BTreeSet<&'a str>,
    out_of_order: BTreeSet<&'a str>,
    altered: BTreeSet<&'a str>,
    unexpected: BTreeSet<&'a str>,
    examples: Vec<String>,
}

impl Marks<'_> {
    fn example(&mut self, view: &View, what: &str, message_id: &str) {
        if self.examples.len() < EXAMPLES_MAX {
            let (reader, user_id) = (view.reader, &view.user_id);
            self.examples
                .push(format!("{what}: {message_id} at {reader} of {user_id}"));
        }
    }
}

/// The acks alone: in each conversation the places 1, 2, 3 ..., each once, and each author's
/// messages in the order in which they were sent.
fn check_acks<'a>(sent: &'a [Sent], marks: &mut Marks<'a>) {
    let mut places: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    let mut last_of_author: HashMap<(&str, &str), u64> = HashMap::new();
    for message in sent {
        let Some(receipt) = message.receipt else {
            continue;
        };
        let (conversation, id) = (
            message.conversation_id.as_str(),
            message.message_id.as_str(),
        );
        if places.insert((conversation, receipt.seq), id).is_some() {
            marks.duplicated.insert(id);
        }
        let last = last_of_author
            .entry((conversation, &message.sender_id))
            .or_insert(0);
        // Only messages are sent, so that both numbers are the same.
        if receipt.seq <= *last || receipt.message_index != receipt.seq {
            marks.out_of_order.insert(id);
        }
        *last = receipt.seq;
    }
    // A message without an ack may have a place that nobody was told.
    let unsure: HashSet<&str> = sent
        .iter()
        .filter(|sent| sent.receipt.is_none())
        .map(|sent| sent.conversation_id.as_str())
        .collect();
    let mut before = ("", 0);
    for ((conversation, seq), id) in places {
        let expected = if before.0 == conversation {
            before.1 + 1
        } else {
            1
        };
        if seq != expected && !unsure.contains(conversation) {
            marks.out_of_order.insert(id);
        }
        before = (conversation, seq);
    }
}

fn check_view<'a>(
    sent: &'a [Sent],
    by_id: &HashMap<&'a str, &'a Sent>,
    view: &'a View,
    marks: &mut Marks<'a>,
) {
    let mut held: HashSet<&str> = HashSet::new();
    let mut last_seq: HashMap<&str, u64> = HashMap::new();
    for message in &view.messages {
        let id = message.message_id.as_str();
        let Some(sent) = by_id.get(id).filter(|sent| sent.is_of(&view.user_id)) else {
            marks.unexpected.insert(id);
            marks.example(view, "unexpected", id);
            continue;
        };
        if !held.insert(id) {
            marks.duplicated.insert(id);
            marks.example(view, "duplicated", id);
            continue;
        }
        let last = last_seq
            .entry(message.conversation_id.as_str())
            .or_insert(0);
        let is_at_ack = sent.receipt.is_none_or(|receipt| {
            receipt.seq == message.seq && receipt.message_index == message.message_index
        });
        if message.seq != *last + 1 || !is_at_ack {
            marks.out_of_order.insert(id);
            marks.example(view, "out of order", id);
        }
        *last = message.seq;
        let shown = sent.shown.iter().map(|shown| &shown.attachment);
        let is_same = sent.text == message.text
            && shown.eq(&message.attachments)
            && sent.sender_id == message.sender_id
            && sent.conversation_id == message.conversation_id;
        if !is_same {
            marks.altered.insert(id);
            marks.example(view, "altered", id);
        }
    }
    let expected = sent.iter().filter(|sent| sent.is_acked_of(&view.user_id));
    for id in expected.map(|sent| sent.message_id.as_str()) {
        if held.contains(id) {
            continue;
        }
        marks.example(view, "missing", id);
        match view.source {
            Source::Live => marks.absent_live.insert(id),
            Source::ReadBack => marks.absent_read_back.insert(id),
        };
    }
}

/// Readers that have another stream, in any conversation, than the first read-back of their user.
fn diverged(views: &[View]) -> usize {
    let mut of_user: HashMap<&str, (&View, Vec<&View>)> = HashMap::new();
    // Read-backs first, so that they are what the others are measured by.
    let (read_back, live): (Vec<_>, Vec<_>) = views
        .iter()
        .partition(|view| view.source == Source::ReadBack);
    for view in read_back.into_iter().chain(live) {
        of_user
            .entry(&view.user_id)
            .and_modify(|(_, others)| others.push(view))
            .or_insert((view, Vec::new()));
    }
    of_user
        .values()
        .map(|(first, others)| {
            let expected = streams(first);
            others
                .iter()
                .filter(|view| streams(view) != expected)
                .count()
        })
        .sum()
}

/// Conversation by conversation, what came, in the order in which it came.
fn streams(view: &View) -> BTreeMap<&str, Vec<(u64, &str, &str, &str)>> {
    let mut streams: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for message in &view.messages {
        streams.entry(&message.conversation_id).or_default().push((
            message.seq,
            message.message_id.as_str(),
            message.sender_id.as_str(),
            message.text.as_str(),
        ));
    }
    streams
}

/// How many messages of each of his conversations the user has not read: those after his own last
/// one, since sending marks as read up to the own message.
pub(crate) fn expected_unread<'a>(sent: &'a [Sent], user_id: &str) -> HashMap<&'a str, u64> {
    let mut places: HashMap<&str, (u64, u64)> = HashMap::new();
    for message in sent.iter().filter(|sent| sent.is_acked_of(user_id)) {
        let Some(receipt) = message.receipt else {
            continue;
        };
        let (last, own) = places.entry(&message.conversation_id).or_default();
        *last = (*last).max(receipt.message_index);
        if message.sender_id == user_id {
            *own = (*own).max(receipt.message_index);
        }
    }
    places
        .into_iter()
        .map(|(id, (last, own))| (id, last - own))
        .collect()
}

impl Sent {
    /// Whether the user is its sender or its recipient.
    fn is_of(&self, user_id: &str) -> bool {
        self.sender_id == user_id || self.recipient_id == user_id
    }
}

#[cfg(test)]
mod tests;
