//! What groups came with: a schema that old rows must fit, and conversations with many members.

use runtime::ids::GroupId;

use super::*;
use crate::model::{Membership, Role, Window};

/// A user, its conversation, and everything that was kept of them.
const BEFORE: &str = r"
    INSERT INTO conversations SELECT id, 1, 1, 1000, 1 FROM given;
    INSERT INTO members SELECT id, me, me, 1, 1, 1, 1 FROM given;
    INSERT INTO events SELECT id, 1, 1, 1, 1000, 1, me, me, 'text' FROM given;
    INSERT INTO inbox_heads SELECT me, 5, 0, 1 FROM given;
    INSERT INTO inbox
        SELECT me, id, 5, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, me, me, 1, 1000, 'text' FROM given;
    INSERT INTO reader_positions VALUES ('inbox', 'inbox', 0, 5);
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_from_before_groups_is_read_as_it_was_and_goes_on() {
    let config = config(fresh());
    let database = Database::connect(&config).await.unwrap();
    let initial = MIGRATOR.iter().take(1).cloned().collect();
    database
        .migrate(&Migrator::with_migrations(initial))
        .await
        .unwrap();
    let before = PostgresStore { database };
    let (me, with) = (user(1), between(1, 2));
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (me_hex, with_hex) = (hex(me.as_bytes()), hex(with.as_bytes()));
    let given = format!(
        "CREATE TABLE given AS SELECT '{me_hex}'::uuid AS me, '\\x{with_hex}'::bytea AS id;"
    );
    execute(&before, &format!("{given}{BEFORE}")).await;
    before.database().close().await;

    let store = PostgresStore::open(&config).await.unwrap();
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

/// The transaction that wrote members last, and how many of them.
async fn written_last(store: &PostgresStore) -> (i64, i64) {
    with_connection(store, async |connection| {
        let last = "SELECT xmin::text::bigint, count(*) FROM members GROUP BY 1
            ORDER BY 1 DESC LIMIT 1";
        sqlx::query_as(last).fetch_one(connection).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_one_member_writes_one_row_of_a_group_with_many() {
    let store = PostgresFixture::new().await.store;
    let id = ConversationId::group(GroupId::from_bytes([9; 16]));
    let mut state = ConversationState::new(id);
    for number in 1..=10_000_u128 {
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
    let persist = async |state: &ConversationState| {
        let batch = SequencedBatch {
            events: Vec::new(),
            conversations: vec![ConversationUpdate {
                state: state.clone(),
                base_head_seq: 0,
            }],
        };
        store.persist(batch).await.unwrap();
        written_last(&store).await
    };
    let first = persist(&state).await;
    assert_eq!(first.1, 10_000);
    // What is there already is not written again.
    assert_eq!(persist(&state).await, first);
    let mut member = state.members[5_000].clone();
    member.membership.as_mut().unwrap().version = 2;
    let mut changed = state.clone();
    changed.members = vec![member.clone()];
    assert_eq!(persist(&changed).await.1, 1);
    state.members[5_000] = member.clone();
    let stored = store.load_conversations(vec![id]).await.unwrap();
    assert_eq!(stored, [state]);
    let of = store.load_conversation_of(id, member.user).await.unwrap();
    assert_eq!(of, Some(changed));
}
