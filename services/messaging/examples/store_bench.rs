//! What it costs messaging's stores to keep messages.
//!
//! `cargo run --release -p messaging --example store_bench -- \
//!     [STORE] [batches|growth] [CONVERSATIONS SIZE]`
//! (SQLite, both, and all sizes, by default)
//!
//! `STORE`: `sqlite`, or `postgres` for a server of its own that syncs to the disk, or the URL of an
//! empty database, whose server's CPU is then not counted.
//!
//! `batches`: CPU for a message, in microseconds, of this process and of the server, where each
//! batch is one `persist` and one `apply_inbox` with one change of each touched inbox (direct
//! conversations between users who have one each, 200-byte texts), by number of conversations and
//! size of the batch.
//! `growth`: one conversation from 0 to 1,000,000 events, in slices; the figures must stay flat.
//!
//! SQLite, on two busy cores: with 100 conversations 82, 33, 13-15 and 4.6 us for batches of 1, 16,
//! 128 and 1,024; with 10,000 conversations 151, 120, 80-88 and 41. From 0 to 1,000,000 events 3.0-4.4 in every
//! slice, without a trend. What costs is the number of different pages that a batch writes: at 128 and
//! 100 conversations 131, of which 87 are leaves of `events_by_seq` (one a conversation); with 10,000
//! conversations 905. Larger batches are the remedy: the sequencer's answers do not wait for the store.
//!
//! Measured and left: events clustered by conversation, without that index, cost 40 % more (leaves of
//! full rows split all the time).

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use messaging::{
    model::{ConversationState, Event, EventKind, InboxChange, Marks, Preview},
    store::{
        ConversationUpdate, SeqRange, SequencedBatch, Store, postgres::PostgresStore,
        sqlite::SqliteStore,
    },
};
use runtime::{
    ids::{ConversationId, MessageId, UserId},
    postgres::PostgresConfig,
};
use servers::postgres::{Postgres, PostgresOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of a message's body: a text of 200 and what encodes it.
const BODY_BYTES: usize = 206;
/// Characters of a preview.
const PREVIEW_CHARS: usize = 100;
/// Messages that are made before they are kept.
const MADE_AHEAD: usize = 10_000;
/// Events of the conversation that grows.
const GROWTH_EVENTS: u64 = 1_000_000;
/// Events of one line of its table.
const GROWTH_SLICE: u64 = 100_000;

/// Where the messages are kept.
#[derive(Clone, Copy)]
enum Which<'a> {
    Sqlite,
    Postgres,
    PostgresAt(&'a str),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let which = match arguments.first() {
        Some(&"postgres") => Which::Postgres,
        Some(url) if url.starts_with("postgres://") => Which::PostgresAt(url),
        _ => Which::Sqlite,
    };
    if !matches!(which, Which::Sqlite) || arguments.first() == Some(&"sqlite") {
        arguments.remove(0);
    }
    let what = arguments.first().copied().unwrap_or_default();
    if what != "growth" {
        println!(
            "| conversations | batch | CPU us/message | of the server | messages/s | file MiB |"
        );
        println!("|---|---|---|---|---|---|");
        if let Some([conversations, size]) = arguments.get(1..3) {
            batches(which, conversations.parse()?, size.parse()?).await?;
        } else {
            for conversations in [100, 10_000] {
                for size in [1, 16, 128, 1_024] {
                    batches(which, conversations, size).await?;
                }
            }
        }
    }
    if what != "batches" {
        growth(which).await?;
    }
    Ok(())
}

async fn batches(which: Which<'_>, conversations: usize, size: usize) -> Result<()> {
    let messages = if size == 1 { 30_000 } else { 200_000 };
    let mut bench = Bench::open(which, conversations).await?;
    bench.warm_up().await?;
    let (mut done, mut cpu, mut seconds) = (0, Cpu::default(), 0.0);
    while done < messages {
        // What makes the batches is not the store's cost.
        let made: Vec<Batch> = (0..MADE_AHEAD.div_ceil(size))
            .map(|_| bench.batch(size))
            .collect();
        done += made.len() * size;
        let start = (Instant::now(), bench.home.cpu()?);
        for batch in made {
            bench.keep(batch).await?;
        }
        seconds += start.0.elapsed().as_secs_f64();
        cpu = cpu.plus(bench.home.cpu()?, start.1);
    }
    let [own, server] = [cpu.own, cpu.server].map(|seconds| seconds * 1e6 / done as f64);
    let rate = done as f64 / seconds;
    let mib = bench.home.file_mib()?;
    println!("| {conversations} | {size} | {own:.1} | {server:.1} | {rate:.0} | {mib} |");
    Ok(())
}

async fn growth(which: Which<'_>) -> Result<()> {
    println!(
        "\n| events | CPU us/message | of the server | page of 100 us | seq_of_message_index us | \
         file MiB |"
    );
    println!("|---|---|---|---|---|---|");
    let mut bench = Bench::open(which, 1).await?;
    for slice in 1..=GROWTH_EVENTS / GROWTH_SLICE {
        let start = bench.home.cpu()?;
        let mut done = 0;
        while done < GROWTH_SLICE {
            let batch = bench.batch(128);
            bench.keep(batch).await?;
            done += 128;
        }
        let cpu = Cpu::default().plus(bench.home.cpu()?, start);
        let [own, server] = [cpu.own, cpu.server].map(|seconds| seconds * 1e6 / done as f64);
        let (page, index) = bench.read().await?;
        let mib = bench.home.file_mib()?;
        let events = slice * GROWTH_SLICE;
        println!("| {events} | {own:.1} | {server:.1} | {page:.0} | {index:.0} | {mib} |");
    }
    Ok(())
}

/// CPU time in seconds.
#[derive(Clone, Copy, Default)]
struct Cpu {
    own: f64,
    server: f64,
}

impl Cpu {
    fn plus(self, end: Self, start: Self) -> Self {
        Self {
            own: self.own + end.own - start.own,
            server: self.server + end.server - start.server,
        }
    }
}

/// What holds the store, and goes with it.
enum Home {
    Folder(tempfile::TempDir),
    Server(Postgres),
    Elsewhere,
}

impl Home {
    fn cpu(&self) -> Result<Cpu> {
        let server = match self {
            Self::Server(server) => server_cpu_seconds(server)?,
            Self::Folder(_) | Self::Elsewhere => 0.0,
        };
        let own = cpu_seconds("/proc/self/task")?;
        Ok(Cpu { own, server })
    }

    fn file_mib(&self) -> Result<String> {
        Ok(match self {
            Self::Folder(folder) => {
                let bytes = fs::metadata(folder.path().join("messaging.db"))?.len();
                (bytes / (1 << 20)).to_string()
            }
            Self::Server(_) | Self::Elsewhere => "-".to_owned(),
        })
    }
}

struct Bench {
    store: Arc<dyn Store>,
    home: Home,
    states: Vec<ConversationState>,
    body: Bytes,
    preview: String,
    offset: u64,
    random: u64,
}

struct Batch {
    sequenced: SequencedBatch,
    changes: Vec<(u64, InboxChange)>,
}

impl Bench {
    async fn open(which: Which<'_>, conversations: usize) -> Result<Self> {
        let (store, home) = open(which).await?;
        let mut states = Vec::with_capacity(conversations);
        for number in 0..conversations {
            // Random ids: as spread as those of real users are by the time that they meet.
            let [one, other] = [0, 1].map(|side| random_user(2 * number as u64 + side));
            states.push(ConversationState::new(ConversationId::direct(one, other)?));
        }
        Ok(Self {
            store,
            home,
            states,
            body: vec![7; BODY_BYTES].into(),
            preview: "x".repeat(PREVIEW_CHARS),
            offset: 0,
            random: 1,
        })
    }

    /// Gives every conversation its first messages.
    async fn warm_up(&mut self) -> Result<()> {
        for _ in 0..2 {
            for first in (0..self.states.len()).step_by(100) {
                let batch = self.batch_of(100, |at, count| (first + at) % count);
                self.keep(batch).await?;
            }
        }
        Ok(())
    }

    /// Messages of random conversations.
    fn batch(&mut self, size: usize) -> Batch {
        let mut random = self.random;
        let batch = self.batch_of(size, |_, count| {
            random = mix(random);
            (random % count as u64) as usize
        });
        self.random = random;
        batch
    }

    fn batch_of(&mut self, size: usize, mut pick: impl FnMut(usize, usize) -> usize) -> Batch {
        let mut events = Vec::with_capacity(size);
        let mut touched = BTreeMap::new();
        let mut changes = BTreeMap::new();
        for at in 0..size {
            let picked = pick(at, self.states.len());
            let state = &mut self.states[picked];
            let (_, senders) = touched
                .entry(picked)
                .or_insert_with(|| (state.head_seq, BTreeSet::new()));
            self.offset += 1;
            state.head_seq += 1;
            state.last_message_index += 1;
            state.last_time_unix_ms = 1_700_000_000_000 + self.offset as i64;
            state.applied_end = self.offset + 1;
            let members = state.conversation.direct_members().expect("all are direct");
            let sender = members[(self.offset % 2) as usize];
            senders.insert(sender);
            let head = state.head();
            let message_id = MessageId::generate();
            let member = state.member_mut(sender);
            member.message_id_max = Some(message_id);
            member.marks.read = head;
            member.marks.delivered = head;
            let own = member.marks;
            let preview = Preview {
                sender,
                message_id,
                seq: head.seq,
                time_unix_ms: state.last_time_unix_ms,
                text: self.preview.clone(),
                joined: false,
                attachment_count: 0,
                video_count: 0,
            };
            events.push(Event {
                conversation: state.conversation,
                seq: head.seq,
                message_index: head.message_index,
                log_offset: self.offset,
                time_unix_ms: state.last_time_unix_ms,
                kind: EventKind::Message,
                sender,
                message_id,
                body: self.body.clone(),
            });
            for user in members {
                let is_sender = user == sender;
                let change = InboxChange {
                    user,
                    conversation: state.conversation,
                    last: head,
                    preview: Some(preview.clone()),
                    own: if is_sender { own } else { Marks::default() },
                    peer: if is_sender { Marks::default() } else { own },
                    joined_seq: 0,
                    left_seq: 0,
                    deferred_seq: 0,
                    mentioned_seq: 0,
                };
                // Coalesced: one change of a user's row in a batch, at its last offset.
                changes.insert(user, (self.offset, change));
            }
        }
        let updates = touched.into_iter().map(|(at, (base_head_seq, senders))| {
            let mut state = self.states[at].clone();
            // Those that the batch changed, as a sequencer does.
            state
                .members
                .retain(|member| senders.contains(&member.user));
            ConversationUpdate {
                state,
                base_head_seq,
            }
        });
        Batch {
            sequenced: SequencedBatch {
                events,
                conversations: updates.collect(),
            },
            changes: changes.into_values().collect(),
        }
    }

    async fn keep(&self, batch: Batch) -> Result<()> {
        self.store.persist(batch.sequenced).await?;
        self.store.apply_inbox(batch.changes).await?;
        Ok(())
    }

    /// Microseconds of a page of 100 events, and of finding a message, at random places.
    async fn read(&mut self) -> Result<(f64, f64)> {
        const READS: u32 = 200;
        let conversation = self.states[0].conversation;
        let head = self.states[0].head_seq;
        let mut took = [0.0; 2];
        for _ in 0..READS {
            self.random = mix(self.random);
            let after_seq = self.random % head;
            let range = SeqRange {
                after_seq,
                before_seq: u64::MAX,
            };
            let start = Instant::now();
            let page = self.store.events(conversation, range, false, 100, 1 << 20);
            page.await?;
            took[0] += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let seq = self.store.seq_of_message_index(conversation, after_seq + 1);
            assert_eq!(seq.await?, Some(after_seq + 1));
            took[1] += start.elapsed().as_secs_f64();
        }
        let [page, index] = took.map(|seconds| seconds * 1e6 / f64::from(READS));
        Ok((page, index))
    }
}

async fn open(which: Which<'_>) -> Result<(Arc<dyn Store>, Home)> {
    let (url, home) = match which {
        Which::Sqlite => {
            let folder = tempfile::tempdir()?;
            let store = SqliteStore::open(&folder.path().join("messaging.db"))?;
            return Ok((Arc::new(store), Home::Folder(folder)));
        }
        Which::Postgres => {
            let mut options = PostgresOptions::durable();
            // As a server that has a machine to itself: room for the data and few checkpoints.
            for (name, value) in [("shared_buffers", "1GB"), ("max_wal_size", "8GB")] {
                options.settings.push((name.to_owned(), value.to_owned()));
            }
            let server = Postgres::start(options)?;
            server.create_database("messaging")?;
            (server.url("messaging"), Home::Server(server))
        }
        Which::PostgresAt(url) => (url.to_owned(), Home::Elsewhere),
    };
    let store = PostgresStore::open(&PostgresConfig::new(url)).await?;
    Ok((Arc::new(store), home))
}

fn random_user(number: u64) -> UserId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(number ^ 0x5bd1_e995).to_be_bytes());
    bytes[8..].copy_from_slice(&mix(number).to_be_bytes());
    UserId::from_bytes(bytes)
}

/// A permutation of the numbers that looks random.
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// CPU time of a server's processes so far, as far as they are still there.
fn server_cpu_seconds(server: &Postgres) -> Result<f64> {
    let parent = server.pid().ok_or("the server is down")?;
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(status) = fs::read_to_string(path.join("status")) else {
            continue;
        };
        if status
            .lines()
            .any(|line| line == format!("PPid:\t{parent}"))
        {
            seconds += cpu_seconds(&path.join("task").to_string_lossy())?;
        }
    }
    Ok(seconds)
}

/// CPU time of a process so far, all threads, user and system.
fn cpu_seconds(tasks: &str) -> Result<f64> {
    let mut nanoseconds = 0_u64;
    for task in fs::read_dir(tasks)? {
        // A thread that has ended in the meantime is no error.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let ran = text.split_whitespace().next().unwrap_or_default();
        nanoseconds += ran.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}
