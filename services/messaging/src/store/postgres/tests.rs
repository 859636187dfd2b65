use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use runtime::postgres::PgConnection;
use servers::postgres::{Postgres as Server, PostgresOptions};

use super::*;
use crate::{
    model::{EventKind, Marks, MemberState, Preview, Watermark},
    store::{
        ConversationUpdate,
        suite::{self, Fixture},
    },
};

mod faults;
mod groups;
mod plans;
mod races;

/// Shared by the tests that leave it alone; its processes go with this one.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(PostgresOptions::fast()).unwrap());

/// How long a state may take to come.
const DEADLINE: Duration = Duration::from_secs(120);

/// The URL of a new database of the shared server.
fn fresh() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("messaging_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    SERVER.create_database(&name).unwrap();
    SERVER.url(&name)
}

/// As many connections as a test needs: all tests share the server's.
fn config(url: String) -> PostgresConfig {
    PostgresConfig {
        connections_max: 4,
        // Machines that run tests are busy; the bound itself has tests of its own.
        call_timeout_ms: 30_000,
        ..PostgresConfig::new(url)
    }
}

/// A store in a database of its own.
struct PostgresFixture {
    config: PostgresConfig,
    store: PostgresStore,
}

impl PostgresFixture {
    async fn new() -> Self {
        let config = config(fresh());
        let store = PostgresStore::open(&config).await.unwrap();
        Self { config, store }
    }
}

#[async_trait]
impl Fixture for PostgresFixture {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn reopen(&mut self) {
        self.store.database().close().await;
        self.store = PostgresStore::open(&self.config).await.unwrap();
    }
}

suite::run_suite!(PostgresFixture::new().await);

const ALL: SeqRange = SeqRange {
    after_seq: 0,
    before_seq: u64::MAX,
};

fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 16])
}

fn between(one: u8, other: u8) -> ConversationId {
    ConversationId::direct(user(one), user(other)).unwrap()
}

fn event(conversation: ConversationId, seq: u64) -> Event {
    Event {
        conversation,
        seq,
        message_index: seq,
        log_offset: seq,
        time_unix_ms: 1_000,
        kind: EventKind::Message,
        sender: conversation.direct_members().unwrap()[0],
        message_id: MessageId::from_bytes([7; 16]),
        body: vec![1, 2, 3].into(),
    }
}

fn update(conversation: ConversationId, head_seq: u64, base_head_seq: u64) -> ConversationUpdate {
    let mut state = ConversationState::new(conversation);
    state.head_seq = head_seq;
    state.members.push(MemberState {
        user: conversation.direct_members().unwrap()[0],
        message_id_max: Some(MessageId::from_bytes([7; 16])),
        marks: Marks::default(),
        membership: None,
    });
    ConversationUpdate {
        state,
        base_head_seq,
    }
}

fn change(me: u8, other: u8, seq: u64) -> InboxChange {
    InboxChange {
        user: user(me),
        conversation: between(me, other),
        last: Watermark {
            seq,
            message_index: seq,
        },
        preview: Some(Preview {
            sender: user(other),
            message_id: MessageId::from_bytes([7; 16]),
            seq,
            time_unix_ms: 1_000,
            text: "text".to_owned(),
            joined: false,
            attachment_count: 0,
            video_count: 0,
        }),
        own: Marks::default(),
        peer: Marks::default(),
        joined_seq: 0,
        left_seq: 0,
        deferred_seq: 0,
        mentioned_seq: 0,
    }
}

fn reader() -> (ReaderId, LogIdentity) {
    let reader = ReaderId {
        reader: "inbox",
        topic: "inbox",
        partition: 0,
    };
    let log = LogIdentity {
        log_id: "log".to_owned(),
        topic_id: "topic".to_owned(),
        partitions: 1,
    };
    (reader, log)
}

const fn advance(reader: ReaderId, from: u64, to: u64) -> PositionAdvance {
    PositionAdvance { reader, from, to }
}

/// A store that holds one of everything.
async fn filled() -> PostgresStore {
    let store = PostgresFixture::new().await.store;
    let batch = SequencedBatch {
        events: vec![event(between(1, 2), 1)],
        conversations: vec![update(between(1, 2), 1, 0)],
    };
    store.persist(batch).await.unwrap();
    store.apply_inbox(vec![(5, change(1, 2, 1))]).await.unwrap();
    let (reader, log) = reader();
    store.open_reader(reader.clone(), log).await.unwrap();
    store.save_position(advance(reader, 0, 5)).await.unwrap();
    store
}

/// Works on the database behind the store's back.
async fn with_connection<T>(
    store: &PostgresStore,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> T {
    store.database().call("test", work).await.unwrap()
}

async fn execute(store: &PostgresStore, sql: &str) {
    with_connection(store, async |connection| {
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(connection).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_fails_leaves_nothing_behind() {
    let store = filled().await;
    let (good, bad) = (between(3, 4), between(1, 2));
    let mut differs = event(bad, 1);
    differs.body = vec![9].into();
    let mut too_large = event(bad, 2);
    too_large.log_offset = u64::MAX;
    let failing = [
        (differs, update(bad, 1, 0)),
        (too_large, update(bad, 2, 1)),
        (event(bad, 9), update(bad, 9, 8)),
        // Its state is not in the batch.
        (event(between(8, 9), 1), update(bad, 1, 0)),
    ];
    for (event_of_bad, update_of_bad) in failing {
        let batch = SequencedBatch {
            events: vec![event(good, 1), event_of_bad],
            conversations: vec![update(good, 1, 0), update_of_bad],
        };
        assert!(store.persist(batch).await.is_err());
        let states = store.load_conversations(vec![good, bad]).await.unwrap();
        assert_eq!(states, [update(bad, 1, 0).state]);
        let events = store.events(good, ALL, false, 9, 99).await.unwrap();
        assert!(events.is_empty());
    }
    let too_large = vec![(6, change(3, 4, 1)), (u64::MAX, change(1, 2, 2))];
    assert!(store.apply_inbox(too_large).await.is_err());
    let heads = store.inbox_heads(vec![user(3)]).await.unwrap();
    assert_eq!(heads, [InboxHead::default()]);
    let (reader, log) = reader();
    let too_large = advance(reader.clone(), 5, u64::MAX);
    assert!(store.save_position(too_large).await.is_err());
    assert_eq!(store.open_reader(reader, log).await.unwrap(), 5);
}

/// Calls everything that reads and answers what failed.
async fn read_everything(store: &dyn Store) -> Vec<StoreError> {
    let (me, with) = (user(1), between(1, 2));
    let name = (with, user(1), MessageId::from_bytes([7; 16]));
    let (reader, log) = reader();
    [
        store.load_conversations(vec![with]).await.err(),
        store.find_events(vec![name]).await.err(),
        store.events(with, ALL, true, 9, 99).await.err(),
        store.seq_of_message_index(with, 1).await.err(),
        store.inbox_heads(vec![me]).await.err(),
        store.list_inbox(me, None, 9).await.err(),
        store.inbox_changes(me, 0, 9).await.err(),
        store.inbox_row(me, with).await.err(),
        store.apply_inbox(vec![(9, change(1, 2, 2))]).await.err(),
        store.open_reader(reader, log).await.err(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_corrupt() {
    let sound = filled().await;
    assert!(read_everything(&sound).await.is_empty());
    for damage in [
        "UPDATE events SET kind = 99",
        "UPDATE events SET kind = -1",
        "UPDATE events SET kind = 257",
        "UPDATE events SET log_offset = -1",
        "UPDATE events SET message_id = '00000000-0000-0000-0000-000000000000'",
        "UPDATE members SET user_id = '00000000-0000-0000-0000-000000000000'",
        "UPDATE members SET read_seq = -1",
        "UPDATE conversations SET head_seq = -1",
        "UPDATE conversations SET applied_end = -9223372036854775808",
        "UPDATE members SET membership_version = 1, role = 4, windows = ''",
        "UPDATE members SET membership_version = 1, role = -1, windows = ''",
        "UPDATE members SET membership_version = -1, role = 1, windows = ''",
        "UPDATE members SET membership_version = 1, role = 1",
        "UPDATE members SET membership_version = 1, role = 1, windows = '\\x00'",
        "UPDATE members SET membership_version = 1, role = 1, windows = decode(repeat('00', 8), 'hex')",
        "UPDATE members SET membership_version = 1, role = 1, windows = decode(repeat('00', 272), 'hex')",
        "UPDATE members SET membership_version = 1, role = 1, windows = decode(repeat('80', 16), 'hex')",
        "UPDATE conversations SET group_version = -1",
        "UPDATE inbox SET joined_seq = -1",
        "UPDATE inbox SET left_seq = -1",
        "UPDATE inbox SET conversation_id = '\\x00'",
        "UPDATE inbox SET last_seq = -1",
        "UPDATE inbox SET preview_attachment_count = -1",
        "UPDATE inbox SET preview_video_count = -1",
        "UPDATE inbox SET preview_sender = NULL",
        "UPDATE inbox SET preview_text = '\\xff'",
        "UPDATE inbox_heads SET version = -1",
        "UPDATE inbox_heads SET unread_total = -1",
        // Less than the row's own.
        "UPDATE inbox_heads SET unread_total = 0",
        "UPDATE reader_positions SET position = -1",
        "UPDATE readers SET partitions = -1",
        "DROP TABLE members",
    ] {
        let store = filled().await;
        execute(&store, damage).await;
        let errors = read_everything(&store).await;
        assert!(!errors.is_empty(), "{damage}");
        for error in errors {
            assert!(matches!(error, StoreError::Corrupt(_)), "{damage}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_together_make_one_schema() {
    let config = config(fresh());
    let replicas = futures_util::future::join_all((0..4).map(|_| PostgresStore::open(&config)));
    for (store, number) in replicas.await.into_iter().zip(1..) {
        let batch = SequencedBatch {
            events: vec![event(between(1, 2), number)],
            conversations: vec![update(between(1, 2), number, number - 1)],
        };
        store.unwrap().persist(batch).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused_with_both_versions() {
    let fixture = PostgresFixture::new().await;
    let newer = "INSERT INTO _sqlx_migrations
        SELECT version + 1, description, installed_on, success, checksum, execution_time
        FROM _sqlx_migrations ORDER BY version DESC LIMIT 1";
    execute(&fixture.store, newer).await;
    let known = MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap();
    match PostgresStore::open(&fixture.config).await.err() {
        Some(OpenError::NewerSchema {
            stored,
            known: ours,
        }) => {
            assert_eq!((stored, ours), (known + 1, known));
        }
        other => panic!("{other:?}"),
    }
}
