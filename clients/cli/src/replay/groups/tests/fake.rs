//! A server of any number of users that has groups and nothing else, in memory; a test tells it what to
//! do wrong.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use proto::{
    groups::v1 as groups,
    messaging::v1::{self as pb, GroupChangeKind as Kind, server_frame::Frame},
};
use tokio::sync::mpsc;
use tonic::{Request, Status};

/// Frames that wait for a session of a test.
pub(super) const FRAMES_MAX: usize = 10_000;

/// What the server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// Breaks sessions before and after it takes a message, loses answers to changes, and is away: all
    /// of which changes nothing in the end.
    Rough,
    /// Who has left is given what comes after, too.
    Leaks,
    /// Who joins is not given the event of his joining.
    Forgets,
    /// Every tenth message is another one.
    Alters,
}

pub(super) type Sender = mpsc::Sender<Result<pb::ServerFrame, Status>>;

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) name: String,
    version: u64,
    pub(super) events: Vec<pb::Event>,
    /// From and to of the stretches of each user.
    windows: HashMap<String, Vec<(u64, Option<u64>)>>,
    /// By user: the message_index up to which he has read.
    reads: HashMap<String, u64>,
    /// The seq of each request that was carried out.
    pub(super) done: HashMap<String, u64>,
    /// By user: the inbox version of his row.
    row_versions: HashMap<String, u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) fault: Fault,
    /// By username: user_id and password.
    pub(super) users: HashMap<String, (String, String)>,
    pub(super) devices: usize,
    pub(super) groups: BTreeMap<String, Group>,
    /// By user: the version of his inbox.
    pub(super) versions: HashMap<String, u64>,
    /// By access token, which is a device's: its user, and its session.
    pub(super) sessions: HashMap<String, (String, Sender)>,
    /// Sends and changes that came.
    pub(super) asked: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Service(Arc<Mutex<State>>);

impl Service {
    pub(super) fn with(fault: Fault) -> Self {
        let service = Self::default();
        service.state().fault = fault;
        service
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The token, and the user whose it is.
    #[allow(clippy::result_large_err)] // As tonic has it.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<(String, String), Status> {
        let header = request.metadata().get("authorization");
        let token = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| Status::unauthenticated("no token"))?;
        let (user_id, _) = token.split_once('/').unwrap();
        Ok((token.to_owned(), user_id.to_owned()))
    }
}

impl Group {
    pub(super) fn is_member(&self, user_id: &str) -> bool {
        let windows = self.windows.get(user_id);
        windows.is_some_and(|w| w.last().is_some_and(|(_, to)| to.is_none()))
    }

    pub(super) fn sees(&self, user_id: &str, seq: u64, fault: Fault) -> bool {
        let windows = self.windows.get(user_id).into_iter().flatten();
        let mut windows = windows.map(|(from, to)| match fault {
            Fault::Leaks => (*from, u64::MAX),
            Fault::Forgets => (*from + 1, to.unwrap_or(u64::MAX)),
            _ => (*from, to.unwrap_or(u64::MAX)),
        });
        windows.any(|(from, to)| from <= seq && seq <= to)
    }

    fn last_index(&self) -> u64 {
        self.events.last().map_or(0, |event| event.message_index)
    }

    pub(super) fn row(&self, group_id: &str, user_id: &str) -> pb::Conversation {
        let (joined, left) = *self.windows[user_id].last().unwrap();
        let end = left.unwrap_or(self.events.len() as u64);
        let last = &self.events[end as usize - 1];
        let in_window = |event: &&pb::Event| event.seq >= joined && event.seq <= end;
        let mut newest = self.events.iter().filter(in_window).rev();
        let newest = newest.find_map(|event| match &event.kind {
            Some(pb::event::Kind::Message(message)) => Some(pb::Preview {
                sender_id: event.sender_id.clone(),
                seq: event.seq,
                text: message.text.chars().take(100).collect(),
                ..pb::Preview::default()
            }),
            _ => None,
        });
        let joining = pb::Preview {
            seq: joined,
            joined: true,
            ..pb::Preview::default()
        };
        let read = self.reads.get(user_id).copied().unwrap_or(0);
        pb::Conversation {
            conversation_id: format!("g:{group_id}"),
            version: self.row_versions[user_id],
            last_seq: last.seq,
            last_message_index: last.message_index,
            preview: Some(newest.unwrap_or(joining)),
            unread_count: last.message_index - read,
            left: left.is_some(),
            ..pb::Conversation::default()
        }
    }
}

impl State {
    /// Carries a change out, unless it was; gives its seq.
    pub(super) fn change(
        &mut self,
        group_id: &str,
        request_id: &str,
        actor_id: &str,
        change: pb::GroupChange,
    ) -> u64 {
        let group = self.groups.entry(group_id.to_owned()).or_default();
        if let Some(seq) = group.done.get(request_id) {
            return *seq;
        }
        group.version += 1;
        let seq = group.events.len() as u64 + 1;
        group.done.insert(request_id.to_owned(), seq);
        let index = group.last_index();
        let mut gone = None;
        for member in &change.members {
            let windows = group.windows.entry(member.user_id.clone()).or_default();
            match member.role {
                0 => {
                    windows.last_mut().unwrap().1 = Some(seq);
                    gone = Some(member.user_id.clone());
                }
                _ => {
                    windows.push((seq, None));
                    group.reads.insert(member.user_id.clone(), index);
                }
            }
        }
        let version = group.version;
        let kind = pb::event::Kind::GroupChange(pb::GroupChange { version, ..change });
        self.publish(group_id, actor_id, kind, index, "", gone);
        seq
    }

    /// Takes a message, unless it was; gives its event.
    pub(super) fn say(&mut self, user_id: &str, token: &str, send: &pb::Send) -> Option<pb::Event> {
        let group_id = send.conversation_id.strip_prefix("g:")?;
        let group = self.groups.get_mut(group_id)?;
        let known = group.events.iter().find(|event| {
            let kind = &event.kind;
            matches!(kind, Some(pb::event::Kind::Message(m)) if m.message_id == send.message_id)
        });
        if let Some(known) = known {
            return Some(known.clone());
        }
        if !group.is_member(user_id) {
            return None;
        }
        let index = group.last_index() + 1;
        group.reads.insert(user_id.to_owned(), index);
        let mut text = send.text.clone();
        if self.fault == Fault::Alters && index % 10 == 0 {
            text.push('!');
        }
        let kind = pb::event::Kind::Message(pb::Message {
            message_id: send.message_id.clone(),
            text,
            ..pb::Message::default()
        });
        Some(self.publish(group_id, user_id, kind, index, token, None))
    }

    fn publish(
        &mut self,
        group_id: &str,
        sender_id: &str,
        kind: pb::event::Kind,
        message_index: u64,
        except: &str,
        gone: Option<String>,
    ) -> pb::Event {
        let group = self.groups.get_mut(group_id).unwrap();
        let event = pb::Event {
            conversation_id: format!("g:{group_id}"),
            seq: group.events.len() as u64 + 1,
            message_index,
            time_unix_ms: 1,
            sender_id: sender_id.to_owned(),
            kind: Some(kind),
        };
        group.events.push(event.clone());
        let members = group.windows.keys().cloned();
        let members: Vec<_> = members
            .filter(|id| group.is_member(id))
            .chain(gone)
            .collect();
        for user_id in members {
            let is_seen = self.groups[group_id].sees(&user_id, event.seq, self.fault);
            if is_seen {
                self.push(&user_id, Frame::Event(event.clone()), except);
            }
            self.row_changed(group_id, &user_id);
        }
        event
    }

    fn row_changed(&mut self, group_id: &str, user_id: &str) {
        let version = self.versions.entry(user_id.to_owned()).or_default();
        *version += 1;
        let version = *version;
        let group = self.groups.get_mut(group_id).unwrap();
        group.row_versions.insert(user_id.to_owned(), version);
        let update = pb::InboxUpdate {
            previous_version: version - 1,
            version,
            conversations: vec![group.row(group_id, user_id)],
        };
        self.push(user_id, Frame::InboxUpdate(update), "");
    }

    pub(super) fn read(&mut self, user_id: &str, conversation_id: &str, index: u64) {
        let group_id = conversation_id.strip_prefix("g:").unwrap();
        let group = self.groups.get_mut(group_id).unwrap();
        let read = group.reads.entry(user_id.to_owned()).or_default();
        *read = index.max(*read);
        self.row_changed(group_id, user_id);
    }

    fn push(&self, user_id: &str, frame: Frame, except: &str) {
        for (token, (_, session)) in self.sessions.iter().filter(|(_, (id, _))| id == user_id) {
            if token != except {
                let frame = pb::ServerFrame {
                    request_id: 0,
                    frame: Some(frame.clone()),
                };
                let _ = session.try_send(Ok(frame));
            }
        }
    }

    /// The rows of a user, by version.
    pub(super) fn rows(&self, user_id: &str) -> Vec<pb::Conversation> {
        let mut rows: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.row_versions.contains_key(user_id))
            .map(|(id, group)| group.row(id, user_id))
            .collect();
        rows.sort_by_key(|row| row.version);
        rows
    }

    pub(super) fn group(&self, group_id: &str) -> groups::Group {
        let group = &self.groups[group_id];
        groups::Group {
            group_id: group_id.to_owned(),
            conversation_id: format!("g:{group_id}"),
            version: group.version,
            name: group.name.clone(),
            ..groups::Group::default()
        }
    }
}

/// A change of some members.
pub(super) fn change(kind: Kind, user_ids: &[String], role: u32) -> pb::GroupChange {
    let members = user_ids.iter().map(|user_id| pb::ChangedMember {
        user_id: user_id.clone(),
        role,
    });
    pb::GroupChange {
        kind: kind.into(),
        members: members.collect(),
        ..pb::GroupChange::default()
    }
}
