//! A messenger of one thread without faults, and what clients would see of it.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::history::{
    Content, Keeps, List, Mark, Micros, News, No, Page, Read, Reader, Record, Row, Send, Way,
};

const USERS: No = 3;
const CONVERSATIONS: [[No; 2]; 3] = [[0, 1], [1, 2], [0, 2]];
/// Two devices of each user.
const KEEPS: [Keeps; 6] = [
    Keeps::Cache,
    Keeps::Nothing,
    Keeps::Places,
    Keeps::NothingAll,
    Keeps::Cache,
    Keeps::Places,
];

#[derive(Default)]
struct Device {
    app: u32,
    /// Handed out, in this run and by what the app keeps.
    places: HashMap<No, u64>,
    told_rows: bool,
}

struct Made {
    random: StdRng,
    records: Vec<Record>,
    t: Micros,
    contents: u32,
    /// Contents and names, by conversation.
    logs: Vec<Vec<(u32, Uuid)>>,
    /// Sends that have a place.
    sent: Vec<(u32, No, Mark)>,
    sends: u32,
    devices: Vec<Device>,
    versions: [u64; USERS as usize],
    read: HashMap<(No, No), Mark>,
    /// By user and conversation.
    row_versions: HashMap<(No, No), u64>,
}

/// What clients see of so many random steps.
pub(super) fn history(seed: u64, steps: usize) -> Vec<Record> {
    let mut made = Made {
        random: StdRng::seed_from_u64(seed),
        records: Vec::new(),
        t: 0,
        contents: 0,
        logs: vec![Vec::new(); CONVERSATIONS.len()],
        sent: Vec::new(),
        sends: 0,
        devices: Vec::new(),
        versions: [0; USERS as usize],
        read: HashMap::new(),
        row_versions: HashMap::new(),
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

    fn begin(&mut self) {
        for user in 0..USERS {
            let id = format!("user-{user}");
            self.records.push(Record::User { user, id });
        }
        for (device, keeps) in (0..).zip(KEEPS) {
            let user = device / 2;
            self.records.push(Record::Device {
                device,
                user,
                keeps,
            });
        }
        for (conversation, members) in (0..).zip(CONVERSATIONS) {
            self.records.push(Record::Conversation {
                conversation,
                id: format!("d:{conversation}"),
                members,
            });
        }
        for device in 0..KEEPS.len() {
            self.devices.push(Device::default());
            self.start(device);
        }
    }

    fn start(&mut self, number: usize) {
        let t = self.now();
        let keeps = KEEPS[number];
        let device = &mut self.devices[number];
        let app = device.app;
        if matches!(keeps, Keeps::Nothing | Keeps::NothingAll) {
            device.places.clear();
        }
        let places = match keeps {
            Keeps::Places => device.places.iter().map(|(no, seq)| (*no, *seq)).collect(),
            _ => Vec::new(),
        };
        let device = number as No;
        self.records.push(Record::App {
            t,
            device,
            app,
            places,
        });
        let news = News::Connected;
        self.records.push(Record::Session {
            t,
            device,
            app,
            news,
        });
        self.tell_rows(number);
        if keeps == Keeps::Nothing {
            // It begins with the present.
            for conversation in own(number) {
                let head = self.head(conversation).0;
                self.devices[number].places.insert(conversation, head);
            }
        }
    }

    fn head(&self, conversation: No) -> Mark {
        let length = self.logs[usize::from(conversation)].len() as u64;
        Mark(length, length)
    }

    fn row(&self, user: No, conversation: No) -> Row {
        let head = self.head(conversation);
        let members = CONVERSATIONS[usize::from(conversation)];
        let peer = if members[0] == user {
            members[1]
        } else {
            members[0]
        };
        let read = self
            .read
            .get(&(user, conversation))
            .copied()
            .unwrap_or_default();
        let peer_read = self
            .read
            .get(&(peer, conversation))
            .copied()
            .unwrap_or_default();
        let last = self.logs[usize::from(conversation)].last();
        Row {
            conversation,
            version: self
                .row_versions
                .get(&(user, conversation))
                .copied()
                .unwrap_or(0),
            last: head,
            unread: head.1 - read.1,
            read,
            delivered: read,
            peer_read,
            peer_delivered: peer_read,
            preview: last.map(|(_, id)| (head.0, *id)),
        }
    }

    fn tell_rows(&mut self, number: usize) {
        let t = self.now();
        let app = self.devices[number].app;
        for conversation in own(number) {
            if self.head(conversation) == Mark::default() {
                continue;
            }
            let row = self.row(number as No / 2, conversation);
            self.records.push(Record::Row {
                t,
                device: number as No,
                app,
                row: row.clone(),
            });
            self.records.push(Record::Marks {
                t,
                device: number as No,
                app,
                conversation,
                member: number as No / 2,
                delivered: row.delivered,
                read: row.read,
            });
        }
        self.devices[number].told_rows = true;
    }

    fn changed(&mut self, conversation: No) {
        for user in CONVERSATIONS[usize::from(conversation)] {
            self.versions[usize::from(user)] += 1;
            let version = self.versions[usize::from(user)];
            self.row_versions.insert((user, conversation), version);
        }
    }

    fn step(&mut self) {
        let number = self.random.random_range(0..KEEPS.len());
        let own = own(number);
        let conversation = own[self.random.random_range(0..own.len())];
        match self.random.random_range(0..16) {
            0..5 => self.send(number, conversation),
            5..8 => self.deliver(number),
            8 => self.tell_rows(number),
            9 => self.read_page(number, conversation),
            10 => self.list(number as No / 2, false),
            11 => self.mark_read(number, conversation),
            12 => self.status(),
            13 => self.again(number),
            14 => self.refused(number, conversation),
            _ => self.restart(number),
        }
    }

    fn send(&mut self, number: usize, conversation: No) {
        let (send, id, t) = (
            self.sends,
            Uuid::from_u128(self.random.random()),
            self.now(),
        );
        self.sends += 1;
        let is_call = self.random.random_bool(0.2);
        let hash = self.random.random();
        let (device, app) = (number as No, self.devices[number].app);
        let group = match KEEPS[number] {
            Keeps::Cache => number as u64,
            _ => (number as u64) << 32 | u64::from(app),
        };
        self.records.push(Record::Send(Send {
            send,
            t,
            device,
            app,
            conversation,
            id,
            hash,
            way: if is_call { Way::Call } else { Way::Session },
            group: (!is_call).then_some(group),
        }));
        // Of some nobody ever knows, and of those some have arrived.
        let (has_ack, has_arrived) = match self.random.random_range(0..10) {
            0 => (false, false),
            1 => (false, true),
            _ => (true, true),
        };
        let t = self.now();
        if has_arrived {
            let user = number as No / 2;
            let log = &mut self.logs[usize::from(conversation)];
            let at = Mark(log.len() as u64 + 1, log.len() as u64 + 1);
            log.push((self.contents, id));
            self.contents += 1;
            self.records.push(Record::Content(Content {
                conversation,
                at,
                id,
                sender: Some(user),
                hash,
                time_unix_ms: i64::try_from(t / 50).unwrap_or_default(),
            }));
            self.read.insert((user, conversation), at);
            self.sent.push((send, conversation, at));
            self.changed(conversation);
            if has_ack {
                self.records.push(Record::Ack {
                    t,
                    send,
                    at,
                    duplicate: false,
                    way: Way::Session,
                });
            }
        }
        if !has_ack {
            let reason = "the app ended".to_owned();
            self.records.push(Record::Unknown { t, send, reason });
        }
    }

    fn deliver(&mut self, number: usize) {
        let (t, app) = (self.now(), self.devices[number].app);
        let mut contents = Vec::new();
        for conversation in own(number) {
            let place = self.devices[number].places.entry(conversation).or_default();
            let log = &self.logs[usize::from(conversation)];
            contents.extend(log[*place as usize..].iter().map(|(content, _)| *content));
            *place = log.len() as u64;
        }
        if !contents.is_empty() {
            self.records.push(Record::Got {
                t,
                device: number as No,
                app,
                contents,
            });
        }
    }

    fn read_page(&mut self, number: usize, conversation: No) {
        let head = self.head(conversation).0;
        let after = self.random.random_range(0..=head);
        let newest_first = self.random.random_bool(0.5);
        let size = self.random.random_range(1..8_usize);
        let log = &self.logs[usize::from(conversation)];
        let mut contents: Vec<u32> = log[after as usize..].iter().map(|entry| entry.0).collect();
        if newest_first {
            contents.reverse();
        }
        let more = contents.len() > size;
        contents.truncate(size);
        let count = contents.len() as u64;
        let covers = match (count, newest_first) {
            (0, _) => (0, 0),
            (_, true) => (head - count + 1, head),
            (_, false) => (after + 1, after + count),
        };
        let (from, to) = (self.now(), self.now());
        self.records.push(Record::Read(Read {
            t: (from, to),
            device: number as No,
            conversation,
            messages: self.random.random_bool(0.5),
            after,
            before: 0,
            min_seq: self.random.random_range(0..=head),
            as_of: 0,
            newest_first,
            page: Page {
                covers,
                head,
                more,
                contents,
            },
        }));
    }

    fn list(&mut self, user: No, is_final: bool) {
        let (from, to) = (self.now(), self.now());
        let rows: Vec<Row> = (0..)
            .zip(CONVERSATIONS)
            .filter(|(_, members)| members.contains(&user))
            .filter(|(conversation, _)| self.head(*conversation) != Mark::default())
            .map(|(conversation, _)| self.row(user, conversation))
            .collect();
        let version = self.versions[usize::from(user)];
        let total = rows.iter().map(|row| row.unread).sum();
        self.records.push(Record::List(List {
            t: (from, to),
            user,
            min_version: version,
            version,
            unread_total: total,
            rows,
            is_final,
        }));
        self.records.push(Record::UnreadTotal {
            t: (from, to),
            user,
            total,
            is_final,
        });
    }

    fn mark_read(&mut self, number: usize, conversation: No) {
        let user = number as No / 2;
        let up_to = self.head(conversation);
        if up_to == Mark::default() {
            return;
        }
        let (from, to) = (self.now(), self.now());
        self.records.push(Record::MarkRead {
            t: (from, to),
            device: number as No,
            app: self.devices[number].app,
            conversation,
            up_to,
            way: Way::Call,
            told: true,
        });
        self.read.insert((user, conversation), up_to);
        self.changed(conversation);
    }

    fn status(&mut self) {
        let Some((send, _, at)) = self.pick_sent() else {
            return;
        };
        let (from, to) = (self.now(), self.now());
        let found = Ok(at);
        self.records.push(Record::Status {
            t: (from, to),
            send,
            found,
        });
    }

    fn again(&mut self, number: usize) {
        let Some((send, _, at)) = self.pick_sent() else {
            return;
        };
        let t = self.now();
        let device = number as No;
        self.records.push(Record::Again { t, send, device });
        let t = self.now();
        self.records.push(Record::Ack {
            t,
            send,
            at,
            duplicate: true,
            way: Way::Retry,
        });
    }

    fn pick_sent(&mut self) -> Option<(u32, No, Mark)> {
        let place = self.random.random_range(0..self.sent.len().max(1));
        self.sent.get(place).copied()
    }

    fn refused(&mut self, number: usize, conversation: No) {
        let (send, t) = (self.sends, self.now());
        self.sends += 1;
        self.records.push(Record::Send(Send {
            send,
            t,
            device: number as No,
            app: 0,
            conversation,
            id: Uuid::from_u128(self.random.random()),
            hash: 0,
            way: Way::Call,
            group: None,
        }));
        let reason = "TEXT_TOO_LONG".to_owned();
        self.records.push(Record::Refused { t, send, reason });
    }

    fn restart(&mut self, number: usize) {
        let t = self.now();
        self.records.push(Record::AppEnded {
            t,
            device: number as No,
            app: self.devices[number].app,
            killed: true,
        });
        self.devices[number].app += 1;
        self.start(number);
    }

    fn end(&mut self) {
        let t = self.now();
        self.records.push(Record::Quiet { t });
        for number in 0..KEEPS.len() {
            self.deliver(number);
            self.tell_rows(number);
        }
        for (conversation, members) in (0..).zip(CONVERSATIONS) {
            let log = &self.logs[usize::from(conversation)];
            let contents: Vec<u32> = log.iter().map(|entry| entry.0).collect();
            let mut view = |reader, user, device| {
                let contents = contents.clone();
                self.records.push(Record::View {
                    reader,
                    user,
                    device,
                    conversation,
                    contents,
                });
            };
            for user in members {
                for reader in [Reader::Events, Reader::Messages, Reader::Session] {
                    view(reader, user, None);
                }
                for device in [user * 2, user * 2 + 1] {
                    if KEEPS[usize::from(device)] == Keeps::Cache {
                        view(Reader::Cache, user, Some(device));
                    }
                }
            }
        }
        for user in 0..USERS {
            self.list(user, true);
        }
        for number in (0..KEEPS.len()).filter(|number| KEEPS[*number] == Keeps::Cache) {
            let user = number as No / 2;
            let rows = own(number)
                .into_iter()
                .filter(|conversation| self.head(*conversation) != Mark::default())
                .map(|conversation| self.row(user, conversation))
                .collect();
            let t = self.now();
            let device = number as No;
            self.records.push(Record::CacheRows { t, device, rows });
        }
    }
}

/// Conversations of a device's user.
fn own(number: usize) -> Vec<No> {
    let user = number as No / 2;
    (0..)
        .zip(CONVERSATIONS)
        .filter(|(_, members)| members.contains(&user))
        .map(|(conversation, _)| conversation)
        .collect()
}
