//! Takes down what is seen, in memory for the judge and in a file for people.

use std::{
    collections::HashMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use messenger_client::{Message, model::Conversation};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::history::{Content, Mark, Micros, No, Record, Row, groups::GroupEvent};

mod groups;

/// The file of the history in its folder: a record a line.
pub const HISTORY_FILE: &str = "history.jsonl";
/// Bytes of that file: above it, a run is judged all the same and its file is incomplete.
const FILE_BYTES_MAX: u64 = 8 << 30;

/// Takes down what is seen.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: Vec<Record>,
    contents: HashMap<Content, u32>,
    users: HashMap<String, No>,
    conversations: HashMap<String, No>,
    sends: u32,
    group_users: HashMap<String, No>,
    groups: HashMap<String, No>,
    group_events: HashMap<GroupEvent, u32>,
    group_calls: u32,
    file: BufWriter<File>,
    bytes: u64,
}

impl Recorder {
    /// Writes to a file in this folder, which must exist.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(HISTORY_FILE);
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self {
            started: Instant::now(),
            state: Mutex::new(State {
                records: Vec::new(),
                contents: HashMap::new(),
                users: HashMap::new(),
                conversations: HashMap::new(),
                sends: 0,
                group_users: HashMap::new(),
                groups: HashMap::new(),
                group_events: HashMap::new(),
                group_calls: 0,
                file: BufWriter::with_capacity(1 << 20, file),
                bytes: 0,
            }),
        })
    }

    /// Microseconds since the run began.
    pub fn now(&self) -> Micros {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Takes one down.
    pub fn add(&self, record: Record) {
        self.state.lock().add(record);
    }

    /// The number that the next message gets.
    pub fn next_send(&self) -> u32 {
        let mut state = self.state.lock();
        state.sends += 1;
        state.sends - 1
    }

    /// The number of what a message shows; `None` if it is of no known conversation.
    pub fn content(&self, message: &Message) -> u32 {
        let mut state = self.state.lock();
        let content = Content {
            conversation: state
                .conversations
                .get(&message.conversation_id)
                .copied()
                .unwrap_or(No::MAX),
            at: Mark(message.seq, message.message_index),
            id: Uuid::parse_str(&message.message_id).unwrap_or_default(),
            sender: state.users.get(&message.sender_id).copied(),
            hash: hash(&message.text),
            time_unix_ms: message.time_unix_ms,
        };
        if let Some(number) = state.contents.get(&content) {
            return *number;
        }
        let number = u32::try_from(state.contents.len()).unwrap_or(u32::MAX);
        state.contents.insert(content.clone(), number);
        state.add(Record::Content(content));
        number
    }

    /// The number of a conversation.
    pub fn conversation(&self, id: &str) -> No {
        let state = self.state.lock();
        state.conversations.get(id).copied().unwrap_or(No::MAX)
    }

    /// The number of a user.
    pub fn user(&self, id: &str) -> No {
        self.state.lock().users.get(id).copied().unwrap_or(No::MAX)
    }

    /// A row of a list.
    pub fn row(&self, row: &Conversation) -> Row {
        let mark = |mark: &Option<messenger_client::model::Watermark>| {
            mark.as_ref()
                .map_or(Mark::default(), |mark| Mark(mark.seq, mark.message_index))
        };
        let marks = |marks: &Option<messenger_client::model::MemberMarks>| {
            marks.as_ref().map_or(Default::default(), |marks| {
                (mark(&marks.delivered), mark(&marks.read))
            })
        };
        let (delivered, read) = marks(&row.own_marks);
        let (peer_delivered, peer_read) = marks(&row.peer_marks);
        Row {
            conversation: self.conversation(&row.conversation_id),
            version: row.version,
            last: Mark(row.last_seq, row.last_message_index),
            unread: row.unread_count,
            read,
            delivered,
            peer_read,
            peer_delivered,
            preview: row.preview.as_ref().map(|preview| {
                let id = Uuid::parse_str(&preview.message_id).unwrap_or_default();
                (preview.seq, id)
            }),
        }
    }

    /// A look at what was taken down so far.
    pub fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.state.lock().records)
    }

    /// Ends the file and gives all records.
    pub fn finish(&self) -> anyhow::Result<Vec<Record>> {
        let mut state = self.state.lock();
        state.file.flush().context("the history")?;
        Ok(std::mem::take(&mut state.records))
    }
}

impl State {
    fn add(&mut self, record: Record) {
        match &record {
            Record::User { user, id } => {
                self.users.insert(id.clone(), *user);
            }
            Record::Conversation {
                conversation, id, ..
            } => {
                self.conversations.insert(id.clone(), *conversation);
            }
            Record::Group(record) => self.name_groups(record),
            _ => {}
        }
        if self.bytes < FILE_BYTES_MAX
            && let Ok(line) = serde_json::to_string(&record)
        {
            self.bytes += line.len() as u64 + 1;
            // A full disk of the judge is not a fault of the judged: memory has it all.
            let _ = writeln!(self.file, "{line}");
        }
        self.records.push(record);
    }
}

/// Of a text. The same in every run of one build.
pub fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Reads a kept history.
pub fn read(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let path: PathBuf = match fs::metadata(folder)?.is_dir() {
        true => folder.join(HISTORY_FILE),
        false => folder.to_owned(),
    };
    let shown = || format!("{}", path.display());
    let lines = BufReader::new(File::open(&path).with_context(shown)?).lines();
    lines
        .map(|line| serde_json::from_str(&line?).with_context(shown))
        .collect()
}
