//! The record of groups, ordered for questions.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::history::{
    Keeps, Mark, Micros, No, Record, Send, Way,
    groups::{Answer, Call, Change, GroupEvent, GroupRecord, Role, What},
};

/// Stretches of a history that a user may still read: of those who have left and joined more often, the
/// server forgets the oldest.
const WINDOWS_MAX: usize = 16;

/// A message that somebody meant to send, and what he heard of it.
#[derive(Debug)]
pub(super) struct GroupFate<'a> {
    pub(super) send: &'a Send,
    pub(super) user: No,
    /// When, where, and whether it was there before.
    pub(super) acks: Vec<(Micros, Mark, bool)>,
    pub(super) refused: bool,
    pub(super) unknown: bool,
    /// It was sent again: it may have overtaken others, and be taken after a refusal.
    pub(super) again: bool,
    /// Its place in the truth.
    pub(super) place: Option<Mark>,
}

/// A change, and the answers to it.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) call: &'a Call,
    pub(super) answers: Vec<(Micros, &'a Answer)>,
}

/// A device of the cast, and the run of its app that was not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceSeen {
    pub(super) user: No,
    pub(super) keeps: Keeps,
    pub(super) last_app: Option<u32>,
}

/// From the joining to the leaving; `None` while the user is a member.
pub(super) type Window = (u64, Option<u64>);

/// The version of a group, and who is what in it.
pub(super) type Listed<'a> = (u64, &'a [(No, Role)]);

/// Who is what in a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    pub(super) roles: BTreeMap<No, Role>,
    pub(super) announcement: bool,
}

/// Somebody said that he has read up to here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) t: (Micros, Micros),
    pub(super) up_to: Mark,
    /// It cannot get lost any more.
    pub(super) certain: bool,
}

/// The record of groups, ordered for questions.
#[derive(Debug, Default)]
pub(crate) struct GroupWorld<'a> {
    pub(super) devices: BTreeMap<No, DeviceSeen>,
    /// The owner, and all who may ever be in it.
    pub(super) groups: BTreeMap<No, (No, &'a [No])>,
    pub(super) events: Vec<&'a GroupEvent>,
    pub(super) fates: BTreeMap<u32, GroupFate<'a>>,
    pub(super) calls: BTreeMap<u32, Asking<'a>>,
    /// Numbers of events, as the owner of each group reads it at the end.
    pub(super) truth: BTreeMap<No, &'a [u32]>,
    /// By group and user.
    pub(super) views: BTreeMap<(No, No), &'a [u32]>,
    /// Of each group: its version, and who is what.
    pub(super) listed: BTreeMap<No, Listed<'a>>,
    /// Who read which group's messages alone, and what he read.
    pub(super) messages: Vec<((No, No), &'a [u32])>,
    /// By group and user.
    pub(super) windows: HashMap<(No, No), Vec<Window>>,
    /// By group and user.
    pub(super) said: HashMap<(No, No), Vec<Said>>,
    /// Traffic has ended, and what was under way was waited for.
    pub(super) came_to_rest: bool,
    by_name: HashMap<(No, No, Uuid), u32>,
}

impl Members {
    pub(super) fn role(&self, user: No) -> Role {
        self.roles.get(&user).copied().unwrap_or(Role::Nobody)
    }

    pub(super) fn may_send(&self, user: No) -> bool {
        let least = match self.announcement {
            true => Role::Admin,
            false => Role::Member,
        };
        self.role(user) >= least
    }

    pub(super) fn apply(&mut self, change: &Change) {
        self.announcement = change.announcement;
        for (user, role) in &change.members {
            let Some(user) = user else { continue };
            match role {
                Role::Nobody => self.roles.remove(user),
                role => self.roles.insert(*user, *role),
            };
        }
    }
}

impl<'a> GroupWorld<'a> {
    pub(crate) fn new(records: &'a [Record]) -> Self {
        let mut world = Self::default();
        for record in records {
            match record {
                Record::Group(record) => world.take(record),
                Record::AppEnded { device, .. } => {
                    if let Some(seen) = world.devices.get_mut(device) {
                        seen.last_app = None;
                    }
                }
                Record::Quiet { .. } => world.came_to_rest = true,
                _ => {}
            }
        }
        world.take_marks(records);
        world.find_places();
        world.find_windows();
        world
    }

    fn take(&mut self, record: &'a GroupRecord) {
        match record {
            GroupRecord::Device {
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
            GroupRecord::App { device, app, .. } => {
                if let Some(seen) = self.devices.get_mut(device) {
                    seen.last_app = Some(*app);
                }
            }
            GroupRecord::Group {
                group,
                owner,
                users,
                ..
            } => {
                self.groups.insert(*group, (*owner, users));
            }
            GroupRecord::Event(event) => self.events.push(event),
            GroupRecord::Call(call) => {
                let answers = Vec::new();
                self.calls.insert(call.call, Asking { call, answers });
            }
            GroupRecord::Answer { t, call, answer } => {
                if let Some(asking) = self.calls.get_mut(call) {
                    asking.answers.push((*t, answer));
                }
            }
            GroupRecord::View {
                user,
                group,
                events,
            } => {
                if self.groups.get(group).is_some_and(|seen| seen.0 == *user) {
                    self.truth.insert(*group, events);
                }
                self.views.insert((*group, *user), events);
            }
            GroupRecord::Messages {
                user,
                group,
                events,
            } => self.messages.push(((*group, *user), events)),
            GroupRecord::Members {
                group,
                version,
                members,
            } => {
                self.listed.insert(*group, (*version, members));
            }
            record => self.take_message(record),
        }
    }

    fn take_message(&mut self, record: &'a GroupRecord) {
        if let GroupRecord::Send(send) = record {
            let Some(device) = self.devices.get(&send.device) else {
                return;
            };
            let fate = GroupFate {
                send,
                user: device.user,
                acks: Vec::new(),
                refused: false,
                unknown: false,
                again: false,
                place: None,
            };
            let name = (send.conversation, device.user, send.id);
            self.by_name.insert(name, send.send);
            self.fates.insert(send.send, fate);
            return;
        }
        let (GroupRecord::Again { send, .. }
        | GroupRecord::Ack { send, .. }
        | GroupRecord::Refused { send, .. }
        | GroupRecord::Unknown { send, .. }) = record
        else {
            return;
        };
        let Some(fate) = self.fates.get_mut(send) else {
            return;
        };
        match record {
            GroupRecord::Again { .. } => fate.again = true,
            GroupRecord::Refused { .. } => fate.refused = true,
            GroupRecord::Unknown { .. } => fate.unknown = true,
            GroupRecord::Ack {
                t, at, duplicate, ..
            } => fate.acks.push((*t, *at, *duplicate)),
            _ => {}
        }
    }

    fn take_marks(&mut self, records: &[Record]) {
        for record in records {
            if let Record::Group(GroupRecord::MarkRead {
                t,
                device,
                app,
                group,
                up_to,
                way,
                told,
            }) = record
                && let Some(seen) = self.devices.get(device)
            {
                let is_kept = seen.keeps == Keeps::Cache || seen.last_app == Some(*app);
                let said = Said {
                    t: *t,
                    up_to: *up_to,
                    certain: *told && (*way == Way::Call || is_kept),
                };
                let key = (*group, seen.user);
                self.said.entry(key).or_default().push(said);
            }
        }
    }

    fn find_places(&mut self) {
        for number in self.truth.values().copied().flatten() {
            let Some(event) = self.events.get(*number as usize) else {
                continue;
            };
            let (What::Message(id, _), Some(sender)) = (&event.what, event.sender) else {
                continue;
            };
            let send = self.by_name.get(&(event.group, sender, *id));
            if let Some(fate) = send.and_then(|send| self.fates.get_mut(send)) {
                fate.place.get_or_insert(event.at);
            }
        }
    }

    fn find_windows(&mut self) {
        let mut windows: HashMap<(No, No), Vec<Window>> = HashMap::new();
        for group in self.truth.keys() {
            for event in self.story(*group) {
                let What::Change(change) = &event.what else {
                    continue;
                };
                for (user, role) in &change.members {
                    let Some(user) = user else { continue };
                    let of_user = windows.entry((*group, *user)).or_default();
                    let open = of_user.last_mut().filter(|window| window.1.is_none());
                    match (open, role) {
                        (Some(window), Role::Nobody) => window.1 = Some(event.at.0),
                        (None, role) if *role != Role::Nobody => of_user.push((event.at.0, None)),
                        _ => {}
                    }
                }
            }
        }
        self.windows = windows;
    }

    pub(super) fn event(&self, number: u32) -> Option<&'a GroupEvent> {
        self.events.get(number as usize).copied()
    }

    /// The truth.
    pub(super) fn story(&self, group: No) -> impl Iterator<Item = &'a GroupEvent> {
        let numbers = self.truth.get(&group).copied().unwrap_or_default();
        numbers.iter().filter_map(|number| self.event(*number))
    }

    /// What the truth has at a seq.
    pub(super) fn at(&self, group: No, seq: u64) -> Option<&'a GroupEvent> {
        let numbers = self.truth.get(&group)?;
        let place = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.event(*numbers.get(place)?)
    }

    /// The end of the truth.
    pub(super) fn head(&self, group: No) -> Mark {
        let numbers = self.truth.get(&group);
        let last = numbers.and_then(|numbers| self.event(*numbers.last()?));
        last.map_or(Mark::default(), |event| event.at)
    }

    /// The message with this name.
    pub(super) fn fate_of(&self, event: &GroupEvent) -> Option<&GroupFate<'a>> {
        let What::Message(id, _) = &event.what else {
            return None;
        };
        let name = (event.group, event.sender?, *id);
        self.fates.get(self.by_name.get(&name)?)
    }

    fn windows(&self, group: No, user: No) -> &[Window] {
        self.windows.get(&(group, user)).map_or(&[], Vec::as_slice)
    }

    /// The last stretch of the group that a user saw; `None` if he never was a member.
    pub(super) fn last_window(&self, group: No, user: No) -> Option<Window> {
        self.windows(group, user).last().copied()
    }

    /// The last event that a user sees; `None` if he never was a member.
    pub(crate) fn end(&self, group: No, user: No) -> Option<Mark> {
        match self.last_window(group, user)?.1 {
            Some(seq) => self.at(group, seq).map(|event| event.at),
            None => Some(self.head(group)),
        }
    }

    /// Whether a user may ever have seen this.
    pub(super) fn may_see(&self, group: No, user: No, seq: u64) -> bool {
        is_in(self.windows(group, user), seq)
    }

    /// Whether a user sees this to the end.
    pub(super) fn sees(&self, group: No, user: No, seq: u64) -> bool {
        let windows = self.windows(group, user);
        is_in(&windows[windows.len().saturating_sub(WINDOWS_MAX)..], seq)
    }

    /// The first event that a user sees between two others, both exclusive.
    pub(super) fn first_between(&self, group: No, user: No, after: u64, to: u64) -> Option<u64> {
        (after + 1..to).find(|seq| self.sees(group, user, *seq))
    }
}

fn is_in(windows: &[Window], seq: u64) -> bool {
    windows
        .iter()
        .any(|(from, to)| *from <= seq && to.is_none_or(|to| seq <= to))
}

impl GroupFate<'_> {
    /// Whether somebody waits for an answer that never came.
    pub(super) fn is_open(&self) -> bool {
        self.acks.is_empty() && !self.refused && !self.unknown
    }

    pub(super) fn shown(&self) -> String {
        let send = self.send;
        let way = match send.way {
            Way::Session => "session",
            Way::Call | Way::Retry => "call",
        };
        format!(
            "send {} ({}, group {}, user {}, device {}, app {}, by {way} at {} us)",
            send.send, send.id, send.conversation, self.user, send.device, send.app, send.t
        )
    }
}

impl Asking<'_> {
    pub(super) fn was_refused(&self) -> bool {
        let is_refusal = |(_, answer): &(Micros, &Answer)| matches!(answer, Answer::Refused(_));
        self.answers.iter().any(is_refusal)
    }

    pub(super) fn shown(&self) -> String {
        let call = self.call;
        format!(
            "change {} ({}, {:?} of group {} by user {} at {} us, answered {:?})",
            call.call, call.request_id, call.asked, call.group, call.user, call.t, self.answers
        )
    }
}
