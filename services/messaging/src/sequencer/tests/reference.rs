//! What the log alone decides, computed in the most obvious way.

use std::collections::{BTreeMap, HashMap};

use event_log::Record;
use proto::log::v1::{Accepted, verdict::Verdict};
use runtime::ids::{ConversationId, UserId};

use crate::{
    codec::{self, Action},
    model::{Event, EventKind, InboxRow, Marks, Watermark},
};

/// What must come of a log.
#[derive(Default)]
pub(super) struct Expected {
    /// By conversation and seq.
    pub(super) events: Vec<Event>,
    /// By offset; without rejections, which are not sent again after a crash.
    pub(super) verdicts: BTreeMap<u64, Verdict>,
    pub(super) rows: BTreeMap<(UserId, ConversationId), InboxRow>,
}

/// Applies every record in order.
pub(super) fn expect(log: &[Record]) -> Expected {
    let mut expected = Expected::default();
    let mut conversations: BTreeMap<ConversationId, Vec<Event>> = BTreeMap::new();
    let mut marks: HashMap<(UserId, ConversationId), Marks> = HashMap::new();
    let mut touched: Vec<ConversationId> = Vec::new();
    for record in log {
        let Ok(decoded) = codec::decode_messages(&record.payload) else {
            continue;
        };
        let conversation = decoded.conversation;
        let events = conversations.entry(conversation).or_default();
        let mark = |n: usize| Watermark {
            seq: n as u64,
            message_index: n as u64,
        };
        match decoded.action {
            Action::Send(send) if conversation.peer_of(send.sender).is_none() => {}
            Action::Send(send) => {
                let first = events
                    .iter()
                    .find(|e| e.sender == send.sender && e.message_id == send.message_id);
                let duplicate = first.is_some();
                let event = first.cloned().unwrap_or_else(|| {
                    let last_time = events.last().map_or(0, |e: &Event| e.time_unix_ms);
                    let event = Event {
                        conversation,
                        seq: events.len() as u64 + 1,
                        message_index: events.len() as u64 + 1,
                        log_offset: record.offset,
                        time_unix_ms: record.time_unix_ms.max(last_time),
                        kind: EventKind::Message,
                        sender: send.sender,
                        message_id: send.message_id,
                        body: send.body.clone(),
                    };
                    events.push(event.clone());
                    touched.push(conversation);
                    event
                });
                if !duplicate {
                    let own = Marks {
                        delivered: mark(events.len()),
                        read: mark(events.len()),
                    };
                    marks.insert((send.sender, conversation), own);
                }
                let accepted = Accepted {
                    seq: event.seq,
                    message_index: event.message_index,
                    time_unix_ms: event.time_unix_ms,
                    duplicate,
                };
                expected
                    .verdicts
                    .insert(record.offset, Verdict::Accepted(accepted));
            }
            Action::Marks(grown) => {
                for (user, said) in grown {
                    let cap = |said: Watermark| mark(events.len().min(said.seq as usize));
                    let said = Marks {
                        delivered: cap(said.delivered).max(cap(said.read)),
                        read: cap(said.read),
                    };
                    let known = marks.entry((user, conversation)).or_default();
                    if known.max(said) != *known {
                        *known = known.max(said);
                        touched.push(conversation);
                    }
                }
            }
        }
    }
    for conversation in touched {
        let last = conversations[&conversation].last();
        for user in conversation.members() {
            let peer = conversation.peer_of(user).unwrap();
            let of = |user| {
                marks
                    .get(&(user, conversation))
                    .copied()
                    .unwrap_or_default()
            };
            let mut row = InboxRow::new(conversation);
            row.last = last.map_or_else(Watermark::default, |e| Watermark {
                seq: e.seq,
                message_index: e.message_index,
            });
            row.preview = last.map(codec::preview_of);
            (row.own, row.peer) = (of(user), of(peer));
            expected.rows.insert((user, conversation), row);
        }
    }
    expected.events = conversations.into_values().flatten().collect();
    expected
}
