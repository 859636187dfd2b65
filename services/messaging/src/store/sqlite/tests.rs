use runtime::sqlite::SqliteError;
use rusqlite::{Connection, StatementStatus, ffi};

use super::*;
use crate::{
    model::{EventKind, Marks, MemberState, Membership, Preview, Role, Watermark, Window},
    store::{
        ConversationUpdate,
        suite::{self, Fixture},
    },
};

/// A store in a folder of its own.
struct SqliteFixture {
    folder: tempfile::TempDir,
    store: Option<SqliteStore>,
}

impl SqliteFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("messaging.db")).unwrap();
        Self {
            folder,
            store: Some(store),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("messaging.db")
    }

    /// Changes the file behind the store's back.
    async fn tamper(&mut self, sql: &str) {
        self.store = None;
        let connection = Connection::open(self.path()).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        self.reopen().await;
    }
}

#[async_trait]
impl Fixture for SqliteFixture {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    async fn reopen(&mut self) {
        // Closed first: it was the last one that held the file.
        self.store = None;
        self.store = Some(SqliteStore::open(&self.path()).unwrap());
    }
}

suite::run_suite!(SqliteFixture::new());

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

const fn advance(reader: ReaderId, from: u64, to: u64) -> PositionAdvance {
    PositionAdvance { reader, from, to }
}

/// A store that holds one of everything.
async fn filled() -> SqliteFixture {
    let fixture = SqliteFixture::new();
    let store = fixture.store();
    let batch = SequencedBatch {
        events: vec![event(between(1, 2), 1)],
        conversations: vec![update(between(1, 2), 1, 0)],
    };
    store.persist(batch).await.unwrap();
    store.apply_inbox(vec![(5, change(1, 2, 1))]).await.unwrap();
    let (reader, log) = reader();
    store.open_reader(reader.clone(), log).await.unwrap();
    store.save_position(advance(reader, 0, 5)).await.unwrap();
    fixture
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

#[tokio::test]
async fn no_statement_scans_a_table_or_sorts_one() {
    let fixture = SqliteFixture::new();
    let connection = Connection::open(fixture.path()).unwrap();
    let all = [
        conversations::SEARCHES,
        conversations::PERSIST_SEARCHES,
        inboxes::SEARCHES,
        offline::SEARCHES,
        readers::SEARCHES,
    ];
    for statement in all.concat() {
        let plan = format!("EXPLAIN QUERY PLAN {statement}");
        let mut explain = connection.prepare(&plan).unwrap();
        let unbound = vec![rusqlite::types::Null; explain.parameter_count()];
        let steps: Vec<String> = explain
            .query_map(rusqlite::params_from_iter(unbound), |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(!steps.is_empty(), "{statement}");
        for step in steps {
            // SEARCH goes through an index; SCAN and TEMP B-TREE grow with the table.
            let is_lookup = step.starts_with("SEARCH") || step.starts_with("SCALAR SUBQUERY");
            assert!(is_lookup, "{step} of {statement}");
        }
    }
}

#[test]
fn finding_a_message_reads_a_logarithmic_number_of_rows() {
    let fixture = SqliteFixture::new();
    let connection = Connection::open(fixture.path()).unwrap();
    let with = between(1, 2);
    let mut batch = SequencedBatch {
        events: Vec::new(),
        conversations: vec![update(with, 4_096, 0)],
    };
    for seq in 1..=4_096 {
        // Every third event is a message.
        let mut event = event(with, seq);
        event.message_index = seq / 3;
        batch.events.push(event);
    }
    let tx = connection.unchecked_transaction().unwrap();
    conversations::persist(&tx, &batch).unwrap();
    tx.commit().unwrap();
    for message_index in 1..=1_365 {
        let seq = conversations::seq_of_message_index(&connection, with, message_index);
        assert_eq!(seq.unwrap(), Some(3 * message_index));
        let probe = connection.prepare_cached(conversations::NEXT_INDEX);
        let probes = probe.unwrap().reset_status(StatementStatus::Run);
        assert!(probes <= 13, "{probes} for {message_index}");
    }
}

#[tokio::test]
async fn a_batch_that_fails_leaves_nothing_behind() {
    let fixture = filled().await;
    let store = fixture.store();
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
    let again = SequencedBatch {
        events: vec![event(with, 1)],
        conversations: vec![update(with, 1, 0)],
    };
    [
        store.load_conversations(vec![with]).await.err(),
        store.find_events(vec![name]).await.err(),
        store.events(with, ALL, true, 9, 99).await.err(),
        store.seq_of_message_index(with, 1).await.err(),
        store.persist(again).await.err(),
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

#[tokio::test]
async fn what_cannot_be_read_is_corrupt() {
    let sound = filled().await;
    assert!(read_everything(sound.store()).await.is_empty());
    for damage in [
        "events SET kind = 99",
        "events SET kind = -1",
        "events SET kind = 257",
        "events SET log_offset = -1",
        "events SET sender = x'01'",
        "members SET message_id_max = zeroblob(16)",
        "members SET user_id = x''",
        "members SET read_seq = -1",
        "conversations SET head_seq = -1",
        "conversations SET applied_end = -9223372036854775808",
        "members SET membership_version = 1, role = 4, windows = x''",
        "members SET membership_version = 1, role = -1, windows = x''",
        "members SET membership_version = -1, role = 1, windows = x''",
        "members SET membership_version = 1, role = 1",
        "members SET membership_version = 1, role = 1, windows = x'00'",
        "members SET membership_version = 1, role = 1, windows = zeroblob(8)",
        "members SET membership_version = 1, role = 1, windows = zeroblob(272)",
        "members SET membership_version = 1, role = 1, windows = x'80000000000000008000000000000000'",
        "conversations SET group_version = -1",
        "conversations SET announcement = 2",
        "conversations SET history_all = -1",
        "inbox SET joined_seq = -1",
        "inbox SET left_seq = -1",
        "inbox SET preview_joined = 2",
        "inbox SET preview_attachment_count = -1",
        "inbox SET preview_video_count = 4294967296",
        "inbox SET conversation_id = zeroblob(33)",
        "inbox SET last_seq = -1",
        "inbox SET preview_sender = NULL",
        "inbox SET preview_message_id = x'00'",
        "inbox SET preview_text = CAST(x'ff' AS TEXT)",
        "inbox_heads SET version = -1",
        "inbox_heads SET unread_total = -1",
        // Less than the row's own.
        "inbox_heads SET unread_total = 0",
        "reader_positions SET position = -1",
    ] {
        let mut fixture = filled().await;
        fixture.tamper(&format!("UPDATE {damage}")).await;
        let errors = read_everything(fixture.store()).await;
        assert!(!errors.is_empty(), "{damage}");
        for error in errors {
            assert!(matches!(error, StoreError::Corrupt(_)), "{damage}: {error}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_store_of_ours_is_refused() {
    let mut fixture = filled().await;
    fixture.store = None;
    let connection = Connection::open(fixture.path()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let newer = SqliteStore::open(&fixture.path());
    assert!(matches!(newer.err(), Some(StoreError::Corrupt(_))));
    std::fs::write(fixture.path(), [7; 8_192]).unwrap();
    let damaged = SqliteStore::open(&fixture.path());
    assert!(matches!(damaged.err(), Some(StoreError::Corrupt(_))));
    let nowhere = SqliteStore::open(&fixture.path().join("messaging.db"));
    assert!(matches!(nowhere.err(), Some(StoreError::Unavailable(_))));
}

#[test]
fn what_may_pass_is_unavailable_and_what_lasts_is_corrupt() {
    let told = |code| StoreError::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    for code in [
        ffi::SQLITE_BUSY,
        ffi::SQLITE_LOCKED,
        ffi::SQLITE_FULL,
        ffi::SQLITE_IOERR,
        ffi::SQLITE_IOERR_FSYNC,
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_NOMEM,
        ffi::SQLITE_CANTOPEN,
        ffi::SQLITE_READONLY,
    ] {
        assert!(matches!(told(code), StoreError::Unavailable(_)), "{code}");
    }
    for code in [
        ffi::SQLITE_CORRUPT,
        ffi::SQLITE_NOTADB,
        ffi::SQLITE_CONSTRAINT,
        ffi::SQLITE_MISMATCH,
    ] {
        assert!(matches!(told(code), StoreError::Corrupt(_)), "{code}");
    }
    for error in [SqliteError::Busy, SqliteError::Closed] {
        assert!(matches!(error.into(), StoreError::Unavailable(_)));
    }
}

#[tokio::test]
async fn a_store_from_before_groups_is_read_as_it_was_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("messaging.db");
    let before = Connection::open(&path).unwrap();
    let initial = include_str!("../../../migrations/sqlite/0001_initial.sql");
    before.execute_batch(initial).unwrap();
    let (me, with) = (user(1), between(1, 2));
    // ?1 is the user, ?2 the conversation.
    for values in [
        "conversations SELECT 1, ?2, 1, 1, 1000, 1",
        "members SELECT 1, ?1, ?1, 1, 1, 1, 1",
        "events SELECT 1, 1, 1, 1, 1, 1000, 1, ?1, ?1, x'010203'",
        "inbox_heads SELECT 1, ?1, 5, 1",
        "inbox SELECT 1, 1, ?2, 5, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, ?1, ?1, 1, 1000, 'text'",
        "reader_positions SELECT 'inbox', 'inbox', 0, 5",
    ] {
        let insert = format!("INSERT INTO {values} WHERE ?1 <> ?2");
        let rows = before.execute(&insert, rusqlite::params![me.as_bytes(), with.as_bytes()]);
        assert_eq!(rows.unwrap(), 1);
    }
    before.pragma_update(None, "user_version", 1).unwrap();
    drop(before);

    let store = SqliteStore::open(&path).unwrap();
    let mut expected = update(with, 1, 0).state;
    (expected.last_message_index, expected.last_time_unix_ms) = (1, 1_000);
    expected.applied_end = 1;
    let at = Watermark {
        seq: 1,
        message_index: 1,
    };
    expected.members[0].marks = Marks {
        delivered: at,
        read: at,
    };
    expected.members[0].message_id_max = Some(MessageId::from_bytes([1; 16]));
    let states = store.load_conversations(vec![with]).await.unwrap();
    assert_eq!(states, [expected]);
    assert_eq!(
        store.events(with, ALL, false, 9, 99).await.unwrap().len(),
        1
    );
    let row = store.inbox_row(me, with).await.unwrap().unwrap();
    assert_eq!(
        (row.joined_seq, row.left_seq, row.has_left()),
        (0, 0, false)
    );
    let preview = row.preview.unwrap();
    let of_before = (
        preview.joined,
        preview.attachment_count,
        preview.video_count,
    );
    assert_eq!(of_before, (false, 0, 0));
    // It goes on from there.
    let batch = SequencedBatch {
        events: vec![event(with, 2)],
        conversations: vec![update(with, 2, 1)],
    };
    store.persist(batch).await.unwrap();
    let applied = store.apply_inbox(vec![(6, change(1, 2, 2))]).await.unwrap();
    assert_eq!(applied[0].previous_version, 5);
    store
        .save_position(advance(reader().0, 5, 6))
        .await
        .unwrap();
}

/// What it takes to persist a batch that changes two members of a group with so many: rows written, and
/// steps of the machine that runs SQLite's statements.
fn cost_of_two_changes(members: u32) -> (u64, i32) {
    let fixture = SqliteFixture::new();
    let connection = Connection::open(fixture.path()).unwrap();
    connection.set_prepared_statement_cache_capacity(64);
    let persist = |state: ConversationState, events: Vec<Event>, base_head_seq| {
        let conversations = vec![ConversationUpdate {
            state,
            base_head_seq,
        }];
        let tx = connection.unchecked_transaction().unwrap();
        let batch = SequencedBatch {
            events,
            conversations,
        };
        conversations::persist(&tx, &batch).unwrap();
        tx.commit().unwrap();
    };
    let steps = || {
        let steps = conversations::PERSIST_STATEMENTS.iter().map(|statement| {
            let statement = connection.prepare_cached(statement).unwrap();
            statement.reset_status(StatementStatus::VmStep)
        });
        steps.sum::<i32>()
    };
    let id = ConversationId::group(runtime::ids::GroupId::from_bytes([9; 16]));
    let mut state = ConversationState::new(id);
    for number in 1..=u128::from(members) {
        let mut member = MemberState::new(UserId::from_bytes(number.to_be_bytes()));
        member.membership = Some(Membership {
            version: 1,
            role: Some(Role::Member),
            windows: vec![Window {
                from_seq: 1,
                to_seq: None,
            }],
        });
        state.members.push(member);
    }
    persist(state.clone(), Vec::new(), 0);
    let (changes, _) = (connection.total_changes(), steps());
    let middle = members as usize / 2;
    state.members = state.members.drain(middle..middle + 2).collect();
    for member in &mut state.members {
        member.membership.as_mut().unwrap().version = 2;
    }
    state.head_seq = 1;
    let mut first = event(between(1, 2), 1);
    first.conversation = id;
    persist(state, vec![first], 0);
    (connection.total_changes() - changes, steps())
}

#[test]
fn a_change_of_members_costs_the_same_in_a_group_of_any_size() {
    let (rows, steps) = cost_of_two_changes(10);
    // The conversation, the members, the event.
    assert_eq!(rows, 4);
    assert!(steps > 0);
    assert_eq!(cost_of_two_changes(10_000), (rows, steps));
}
