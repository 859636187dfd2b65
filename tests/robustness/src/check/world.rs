//! The record, ordered for questions.

use std::collections::HashMap;

use uuid::Uuid;

use crate::history::{Content, Keeps, Mark, Micros, No, Reader, Record, Send, Way};

/// An answer to a send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AckSeen {
    pub(crate) t: Micros,
    pub(crate) at: Mark,
    pub(crate) duplicate: bool,
}

/// A message that somebody meant to send, and what he heard of it.
#[derive(Debug)]
pub(crate) struct Fate<'a> {
    pub(crate) send: &'a Send,
    pub(crate) acks: Vec<AckSeen>,
    pub(crate) refused: bool,
    pub(crate) unknown: bool,
    /// It was sent again while it had no ack, so that it may have overtaken others.
    pub(crate) raced: bool,
    /// Its place in the truth.
    pub(crate) place: Option<Mark>,
}

/// A device of the cast, and the run of its app that was not ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceSeen {
    pub(crate) user: No,
    pub(crate) keeps: Keeps,
    pub(crate) last_app: Option<u32>,
}

/// The record, ordered for questions.
#[derive(Debug)]
pub(crate) struct World<'a> {
    pub(crate) devices: HashMap<No, DeviceSeen>,
    /// Members of each conversation.
    pub(crate) conversations: HashMap<No, [No; 2]>,
    pub(crate) contents: Vec<&'a Content>,
    pub(crate) fates: HashMap<u32, Fate<'a>>,
    /// The numbers of contents, in order, by conversation; absent if it was not read at the end.
    pub(crate) truth: HashMap<No, &'a [u32]>,
    /// Traffic has ended, and what was under way was waited for.
    pub(crate) came_to_rest: bool,
    by_name: HashMap<(No, No, Uuid), u32>,
}

impl<'a> World<'a> {
    pub(crate) fn new(records: &'a [Record]) -> Self {
        let mut world = Self {
            devices: HashMap::new(),
            conversations: HashMap::new(),
            contents: Vec::new(),
            fates: HashMap::new(),
            truth: HashMap::new(),
            came_to_rest: false,
            by_name: HashMap::new(),
        };
        for record in records {
            world.take(record);
        }
        world.find_places();
        world
    }

    fn take(&mut self, record: &'a Record) {
        match record {
            Record::Device {
                device,
                user,
                keeps,
            } => {
                let seen = DeviceSeen {
                    user: *user,
                    keeps: *keeps,
                    last_app: None,
                };
                self.devices.insert(*device, seen);
            }
            Record::App { device, app, .. } => {
                if let Some(seen) = self.devices.get_mut(device) {
                    seen.last_app = Some(*app);
                }
            }
            Record::AppEnded { device, .. } => {
                if let Some(seen) = self.devices.get_mut(device) {
                    seen.last_app = None;
                }
            }
            Record::Conversation {
                conversation,
                members,
                ..
            } => {
                self.conversations.insert(*conversation, *members);
            }
            Record::Content(content) => self.contents.push(content),
            Record::Send(send) => {
                let fate = Fate {
                    send,
                    acks: Vec::new(),
                    refused: false,
                    unknown: false,
                    raced: false,
                    place: None,
                };
                self.fates.insert(send.send, fate);
                if let Some(device) = self.devices.get(&send.device) {
                    let name = (send.conversation, device.user, send.id);
                    self.by_name.insert(name, send.send);
                }
            }
            Record::Again { send, .. } => {
                if let Some(fate) = self.fates.get_mut(send) {
                    fate.raced |= fate.acks.is_empty();
                }
            }
            Record::Ack {
                t,
                send,
                at,
                duplicate,
                ..
            } => {
                if let Some(fate) = self.fates.get_mut(send) {
                    fate.acks.push(AckSeen {
                        t: *t,
                        at: *at,
                        duplicate: *duplicate,
                    });
                }
            }
            Record::Refused { send, .. } => {
                if let Some(fate) = self.fates.get_mut(send) {
                    fate.refused = true;
                }
            }
            Record::Unknown { send, .. } => {
                if let Some(fate) = self.fates.get_mut(send) {
                    fate.unknown = true;
                }
            }
            Record::View {
                reader: Reader::Events,
                conversation,
                contents,
                ..
            } => {
                self.truth.entry(*conversation).or_insert(contents);
            }
            Record::Quiet { .. } => self.came_to_rest = true,
            _ => {}
        }
    }

    fn find_places(&mut self) {
        for contents in self.truth.values() {
            for number in *contents {
                let Some(content) = self.contents.get(*number as usize) else {
                    continue;
                };
                let Some(sender) = content.sender else {
                    continue;
                };
                let name = (content.conversation, sender, content.id);
                let fate = self
                    .by_name
                    .get(&name)
                    .and_then(|send| self.fates.get_mut(send));
                if let Some(fate) = fate {
                    fate.place.get_or_insert(content.at);
                }
            }
        }
    }

    pub(crate) fn content(&self, number: u32) -> Option<&'a Content> {
        self.contents.get(number as usize).copied()
    }

    /// The message with this name.
    pub(crate) fn fate_of(&self, content: &Content) -> Option<&Fate<'a>> {
        let name = (content.conversation, content.sender?, content.id);
        self.fates.get(self.by_name.get(&name)?)
    }

    /// The end of a conversation: the place of its last message.
    pub(crate) fn head(&self, conversation: No) -> Mark {
        self.truth
            .get(&conversation)
            .and_then(|contents| self.content(*contents.last()?))
            .map_or(Mark::default(), |content| content.at)
    }

    /// What the truth has at a seq.
    pub(crate) fn at(&self, conversation: No, seq: u64) -> Option<&'a Content> {
        let contents = self.truth.get(&conversation)?;
        let place = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.content(*contents.get(place)?)
    }

    /// Whether a mark is a place of the truth, or nothing yet.
    pub(crate) fn is_place(&self, conversation: No, mark: Mark) -> bool {
        let is_nothing = mark == Mark::default();
        is_nothing
            || self
                .at(conversation, mark.0)
                .is_some_and(|content| content.at == mark)
    }

    pub(crate) fn of_user(&self, user: No) -> impl Iterator<Item = No> {
        self.conversations
            .iter()
            .filter(move |(_, members)| members.contains(&user))
            .map(|(conversation, _)| *conversation)
    }

    /// The user whose device it is.
    pub(crate) fn user_of(&self, device: No) -> Option<No> {
        self.devices.get(&device).map(|device| device.user)
    }
}

impl Fate<'_> {
    /// Whether somebody waits for an answer that never came.
    pub(crate) fn is_open(&self) -> bool {
        self.acks.is_empty() && !self.refused && !self.unknown
    }

    pub(crate) fn shown(&self) -> String {
        let send = self.send;
        let way = match send.way {
            Way::Session => "session",
            Way::Call | Way::Retry => "call",
        };
        format!(
            "send {} ({}, conversation {}, device {}, app {}, by {way} at {} us)",
            send.send, send.id, send.conversation, send.device, send.app, send.t
        )
    }
}
