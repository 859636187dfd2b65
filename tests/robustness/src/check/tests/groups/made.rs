//! Groups of one thread without faults, and what clients would see of them.

use std::collections::{BTreeMap, HashMap};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::history::{
    Keeps, Mark, Micros, No, Record, Send, Way,
    groups::{
        Answer, Asked, Call, Change, GroupEvent, GroupList, GroupRead, GroupRecord, GroupRow, Kind,
        Role, What,
    },
};

mod decide;

/// The first of them owns the first group, the second the second.
const USERS: No = 4;
const GROUPS: No = 2;
/// User, and what the device keeps.
const DEVICES: [(No, Keeps); 6] = [
    (0, Keeps::Cache),
    (1, Keeps::Nothing),
    (1, Keeps::NothingAll),
    (2, Keeps::Places),
    (3, Keeps::NothingAll),
    (3, Keeps::Cache),
];
const DEVICES_FROM: No = 10_000;

#[derive(Default)]
struct Group {
    log: Vec<GroupEvent>,
    numbers: Vec<u32>,
    roles: BTreeMap<No, Role>,
    announcement: bool,
    version: u64,
    messages: u64,
}

#[derive(Default)]
struct Device {
    app: u32,
    places: HashMap<No, u64>,
}

struct Made {
    random: StdRng,
    records: Vec<Record>,
    t: Micros,
    events: u32,
    sends: u32,
    calls: u32,
    groups: Vec<Group>,
    devices: Vec<Device>,
    versions: [u64; USERS as usize],
    /// By group and user.
    said: HashMap<(No, No), Mark>,
    /// Messages that were acknowledged: the number, and where.
    acked: Vec<(u32, Mark)>,
}

/// What clients see of so many random steps.
pub(super) fn history(seed: u64, steps: usize) -> Vec<Record> {
    let mut made = Made {
        random: StdRng::seed_from_u64(seed),
        records: Vec::new(),
        t: 0,
        events: 0,
        sends: 0,
        calls: 0,
        groups: Vec::new(),
        devices: Vec::new(),
        versions: [0; USERS as usize],
        said: HashMap::new(),
        acked: Vec::new(),
    };
    made.begin();
    for _ in 0..steps {
        made.step();
    }
    made.end();
    made.records
}

impl Made {
    fn now(&mut self) -> Micros {
        self.t += self.random.random_range(1..100);
        self.t
    }

    fn add(&mut self, record: GroupRecord) {
        self.records.push(Record::Group(record));
    }

    fn begin(&mut self) {
        for user in 0..USERS {
            let id = format!("user-{user}");
            self.add(GroupRecord::User { user, id });
        }
        for (device, (user, keeps)) in (DEVICES_FROM..).zip(DEVICES) {
            self.add(GroupRecord::Device {
                device,
                user,
                keeps,
            });
        }
        for group in 0..GROUPS {
            self.groups.push(Group::default());
            self.add(GroupRecord::Group {
                group,
                id: format!("g:{group}"),
                owner: group,
                users: (0..USERS).collect(),
            });
            self.ask(group, group, Asked::Create(vec![(group + 1) % USERS]));
        }
        for number in 0..DEVICES.len() {
            self.devices.push(Device::default());
            self.start(number);
        }
    }

    fn start(&mut self, number: usize) {
        let t = self.now();
        let (user, keeps) = DEVICES[number];
        let device = &mut self.devices[number];
        let app = device.app;
        if matches!(keeps, Keeps::Nothing | Keeps::NothingAll) {
            device.places.clear();
        }
        let places = match keeps {
            Keeps::Places => device.places.iter().map(|(no, seq)| (*no, *seq)).collect(),
            _ => Vec::new(),
        };
        self.add(GroupRecord::App {
            t,
            device: DEVICES_FROM + number as No,
            app,
            places,
        });
        self.tell_rows(number);
        if keeps == Keeps::Nothing {
            // It begins with the present.
            for group in 0..GROUPS {
                if let Some(end) = self.end_of(group, user) {
                    self.devices[number].places.insert(group, end.0);
                }
            }
        }
    }

    // --- what users see ----------------------------------------------------------------------------

    /// From where to where; the last one may be open.
    fn windows(&self, group: No, user: No) -> Vec<(u64, u64)> {
        let mut windows: Vec<(u64, u64)> = Vec::new();
        let mut is_in = false;
        for event in &self.groups[usize::from(group)].log {
            let What::Change(change) = &event.what else {
                continue;
            };
            let of_user = change.members.iter().find(|(one, _)| *one == Some(user));
            match of_user {
                Some((_, Role::Nobody)) => {
                    windows.last_mut().unwrap().1 = event.at.0;
                    is_in = false;
                }
                Some(_) if !is_in => {
                    windows.push((event.at.0, u64::MAX));
                    is_in = true;
                }
                _ => {}
            }
        }
        windows
    }

    fn seen(&self, group: No, user: No, after: u64) -> Vec<(u64, u32)> {
        let windows = self.windows(group, user);
        let group = &self.groups[usize::from(group)];
        let is_seen = |seq: u64| windows.iter().any(|one| (one.0..=one.1).contains(&seq));
        (1..)
            .zip(&group.numbers)
            .filter(|(seq, _)| *seq > after && is_seen(*seq))
            .map(|(seq, number)| (seq, *number))
            .collect()
    }

    fn end_of(&self, group: No, user: No) -> Option<Mark> {
        let (seq, _) = self.seen(group, user, 0).pop()?;
        Some(self.groups[usize::from(group)].log[seq as usize - 1].at)
    }

    fn row(&self, group: No, user: No) -> Option<GroupRow> {
        let end = self.end_of(group, user)?;
        let (from, to) = self.windows(group, user).pop()?;
        let log = &self.groups[usize::from(group)].log;
        let joined = log[from as usize - 1].at;
        let said = self.said.get(&(group, user)).copied().unwrap_or_default();
        let (mut read, mut preview) = (joined.max(said), (from, true));
        for event in &log[from as usize..end.0 as usize] {
            if matches!(event.what, What::Message(..)) {
                preview = (event.at.0, false);
                if event.sender == Some(user) {
                    read = read.max(event.at);
                }
            }
        }
        Some(GroupRow {
            group,
            version: self.versions[usize::from(user)],
            last: end,
            unread: end.1.saturating_sub(read.1),
            read,
            left: to != u64::MAX,
            preview: Some(preview),
        })
    }

    fn tell_rows(&mut self, number: usize) {
        let t = self.now();
        let app = self.devices[number].app;
        for group in 0..GROUPS {
            if let Some(row) = self.row(group, DEVICES[number].0) {
                self.add(GroupRecord::Row {
                    t,
                    device: DEVICES_FROM + number as No,
                    app,
                    row,
                });
            }
        }
    }

    // --- steps -------------------------------------------------------------------------------------

    fn step(&mut self) {
        let number = self.random.random_range(0..DEVICES.len());
        let user = DEVICES[number].0;
        let group = self.random.random_range(0..GROUPS);
        match self.random.random_range(0..20) {
            0..7 => self.send(number, group),
            7..10 => self.change(user, group),
            10..13 => self.deliver(number),
            13 => self.tell_rows(number),
            14 | 15 => self.read_page(user, group),
            16 => self.list(user, false),
            17 => self.mark_read(number, group),
            18 => self.again(),
            _ => self.restart(number),
        }
    }

    fn push(&mut self, group: No, sender: No, what: What) -> Mark {
        let time_unix_ms = i64::try_from(self.t / 50).unwrap_or_default();
        let of = &mut self.groups[usize::from(group)];
        of.messages += u64::from(matches!(what, What::Message(..)));
        let event = GroupEvent {
            group,
            at: Mark(of.log.len() as u64 + 1, of.messages),
            sender: Some(sender),
            time_unix_ms,
            what,
        };
        of.log.push(event.clone());
        of.numbers.push(self.events);
        self.events += 1;
        for version in &mut self.versions {
            *version += 1;
        }
        let at = event.at;
        self.add(GroupRecord::Event(event));
        at
    }

    fn send(&mut self, number: usize, group: No) {
        let (send, t) = (self.sends, self.now());
        self.sends += 1;
        let (id, hash) = (Uuid::from_u128(self.random.random()), self.random.random());
        let user = DEVICES[number].0;
        let app = self.devices[number].app;
        let order = (number as u64) << 32 | u64::from(app);
        self.add(GroupRecord::Send(Send {
            send,
            t,
            device: DEVICES_FROM + number as No,
            app,
            conversation: group,
            id,
            hash,
            way: Way::Session,
            group: Some(order),
        }));
        let of = &self.groups[usize::from(group)];
        let role = of.roles.get(&user).copied().unwrap_or(Role::Nobody);
        let least = if of.announcement {
            Role::Admin
        } else {
            Role::Member
        };
        let t = self.now();
        if role < least {
            let reason = "NOT_A_MEMBER".to_owned();
            return self.add(GroupRecord::Refused { t, send, reason });
        }
        let at = self.push(group, user, What::Message(id, hash));
        if self.random.random_bool(0.1) {
            let reason = "the app ended".to_owned();
            return self.add(GroupRecord::Unknown { t, send, reason });
        }
        self.acked.push((send, at));
        self.add(GroupRecord::Ack {
            t,
            send,
            at,
            duplicate: false,
            way: Way::Session,
        });
    }

    fn again(&mut self) {
        let place = self.random.random_range(0..self.acked.len().max(1));
        let Some((send, at)) = self.acked.get(place).copied() else {
            return;
        };
        let t = self.now();
        self.add(GroupRecord::Again { t, send });
        let t = self.now();
        self.add(GroupRecord::Ack {
            t,
            send,
            at,
            duplicate: true,
            way: Way::Retry,
        });
    }

    fn change(&mut self, user: No, group: No) {
        // Mostly the owner, who may do everything.
        let user = if self.random.random_bool(0.6) {
            group
        } else {
            user
        };
        let other = self.random.random_range(0..USERS);
        let role = [Role::Admin, Role::Member][self.random.random_range(0..2)];
        let asked = match self.random.random_range(0..7) {
            0 | 1 => Asked::Add(other),
            2 => Asked::Remove(other),
            3 if user != group => Asked::Leave,
            4 => Asked::Join,
            5 => Asked::SetRole(other, role),
            6 if self.random.random_bool(0.5) => Asked::Announcement(self.random.random_bool(0.3)),
            _ => Asked::Rename(format!("name {}", self.calls)),
        };
        self.ask(user, group, asked);
    }

    fn ask(&mut self, user: No, group: No, asked: Asked) {
        let (call, t) = (self.calls, self.now());
        self.calls += 1;
        let request_id = Uuid::from_u128(self.random.random());
        self.add(GroupRecord::Call(Call {
            call,
            t,
            user,
            group,
            asked: asked.clone(),
            request_id,
        }));
        let decided = self.decide(user, group, &asked);
        let t = self.now();
        let answer = match decided {
            Err(why) => Answer::Refused(why.to_owned()),
            Ok(None) => Answer::Done {
                seq: 0,
                version: self.groups[usize::from(group)].version,
            },
            Ok(Some(change)) => {
                let named = if asked == Asked::Leave {
                    0
                } else {
                    change.version
                };
                let at = self.apply(group, user, change);
                match self.random.random_range(0..8) {
                    0 => Answer::Unknown("TIMEOUT".to_owned()),
                    1 => Answer::Done {
                        seq: 0,
                        version: named,
                    },
                    _ => Answer::Done {
                        seq: at.0,
                        version: named,
                    },
                }
            }
        };
        let is_repeated = matches!(answer, Answer::Done { .. }) && self.random.random_bool(0.3);
        for _ in 0..=u8::from(is_repeated) {
            let answer = answer.clone();
            self.add(GroupRecord::Answer { t, call, answer });
        }
    }

    fn apply(&mut self, group: No, user: No, change: Change) -> Mark {
        let of = &mut self.groups[usize::from(group)];
        of.version = change.version;
        of.announcement = change.announcement;
        for (member, role) in &change.members {
            match role {
                Role::Nobody => of.roles.remove(&member.unwrap()),
                role => of.roles.insert(member.unwrap(), *role),
            };
        }
        self.push(group, user, What::Change(change))
    }

    fn deliver(&mut self, number: usize) {
        let (t, app) = (self.now(), self.devices[number].app);
        let mut events = Vec::new();
        for group in 0..GROUPS {
            let place = self.devices[number].places.get(&group).copied();
            let new = self.seen(group, DEVICES[number].0, place.unwrap_or_default());
            if let Some((last, _)) = new.last() {
                self.devices[number].places.insert(group, *last);
            }
            events.extend(new.into_iter().map(|(_, event)| event));
        }
        if !events.is_empty() {
            self.add(GroupRecord::Got {
                t,
                device: DEVICES_FROM + number as No,
                app,
                events,
            });
        }
    }

    fn read_page(&mut self, user: No, group: No) {
        let t = (self.now(), self.now());
        let Some(head) = self.end_of(group, user) else {
            return;
        };
        let head = head.0;
        let after = self.random.random_range(0..head);
        let newest_first = self.random.random_bool(0.5);
        let size = self.random.random_range(1..8_usize);
        let mut seen = self.seen(group, user, after);
        if newest_first {
            seen.reverse();
        }
        let more = seen.len() > size;
        seen.truncate(size);
        let last = seen.last().map_or(0, |(seq, _)| *seq);
        let covers = match (more, newest_first) {
            (true, true) => (last, head),
            (true, false) => (after + 1, last),
            (false, _) => (after + 1, head),
        };
        self.add(GroupRecord::Read(GroupRead {
            t,
            user,
            group,
            after,
            before: 0,
            min_seq: head,
            newest_first,
            covers,
            head,
            more,
            events: seen.into_iter().map(|(_, event)| event).collect(),
        }));
    }

    fn list(&mut self, user: No, is_final: bool) {
        let t = (self.now(), self.now());
        let rows: Vec<GroupRow> = (0..GROUPS)
            .filter_map(|group| self.row(group, user))
            .collect();
        let version = self.versions[usize::from(user)];
        self.add(GroupRecord::List(GroupList {
            t,
            user,
            min_version: version,
            version,
            unread_total: rows.iter().map(|row| row.unread).sum(),
            rows,
            is_final,
        }));
    }

    fn mark_read(&mut self, number: usize, group: No) {
        let user = DEVICES[number].0;
        let Some(up_to) = self.end_of(group, user) else {
            return;
        };
        let t = (self.now(), self.now());
        self.add(GroupRecord::MarkRead {
            t,
            device: DEVICES_FROM + number as No,
            app: self.devices[number].app,
            group,
            up_to,
            way: Way::Call,
            told: true,
        });
        self.said.insert((group, user), up_to);
        self.versions[usize::from(user)] += 1;
    }

    fn restart(&mut self, number: usize) {
        let t = self.now();
        self.records.push(Record::AppEnded {
            t,
            device: DEVICES_FROM + number as No,
            app: self.devices[number].app,
            killed: true,
        });
        self.devices[number].app += 1;
        self.start(number);
    }

    fn end(&mut self) {
        let t = self.now();
        self.records.push(Record::Quiet { t });
        for number in 0..DEVICES.len() {
            self.deliver(number);
            self.tell_rows(number);
        }
        for group in 0..GROUPS {
            for user in 0..USERS {
                let seen = self.seen(group, user, 0);
                let log = &self.groups[usize::from(group)].log;
                let is_message = |seq: u64| matches!(log[seq as usize - 1].what, What::Message(..));
                let messages = seen.iter().filter(|(seq, _)| is_message(*seq));
                let messages = messages.map(|(_, event)| *event).collect();
                self.add(GroupRecord::View {
                    user,
                    group,
                    events: seen.into_iter().map(|(_, event)| event).collect(),
                });
                self.add(GroupRecord::Messages {
                    user,
                    group,
                    events: messages,
                });
            }
        }
        for group in 0..GROUPS {
            let of = &self.groups[usize::from(group)];
            let members = of.roles.iter().map(|(user, role)| (*user, *role)).collect();
            let version = of.version;
            self.add(GroupRecord::Members {
                group,
                version,
                members,
            });
        }
        for user in 0..USERS {
            self.list(user, true);
        }
    }
}
