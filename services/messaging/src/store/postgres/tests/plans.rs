//! How the server finds what is asked for: by index, and no more than that. On tables with enough
//! rows that a scan would cost more, with the planner's own settings.

use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use super::{
    super::{conversations, inboxes, offline, readers},
    *,
};

/// Events of the one large conversation.
const LARGE: u64 = 50_000;

/// 10,000 users and as many conversations with a few events, one with many, one user with many
/// rows. Statistics are taken once; the test waits for nothing else.
const FILL: &str = r"
    CREATE FUNCTION person(n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
        AS $$ SELECT md5(n::text)::uuid $$;
    CREATE FUNCTION talk(a bigint, b bigint) RETURNS bytea IMMUTABLE LANGUAGE sql AS $$
        SELECT '\x01'::bytea || uuid_send(least(person(a), person(b)))
            || uuid_send(greatest(person(a), person(b)))
    $$;
    INSERT INTO conversations
        SELECT talk(n, n + 1), 5, 5, 1000, 10 FROM generate_series(1, 10000) AS n;
    INSERT INTO members
        SELECT talk(n, n + 1), person(n + s), person(n), 5, 5, 5, 5
        FROM generate_series(1, 10000) AS n, generate_series(0, 1) AS s;
    INSERT INTO conversations VALUES ('\x02'::bytea || uuid_send(person(7)), 5, 5, 1000, 10);
    INSERT INTO members
        SELECT '\x02'::bytea || uuid_send(person(7)), person(n), person(n), 5, 5, 5, 5, 3, 1, ''
        FROM generate_series(1, 10000) AS n;
    INSERT INTO events
        SELECT talk(n, n + 1), seq, seq, n, 1000, 1, person(n),
            person(1000000 + 10 * n + seq), 'text'
        FROM generate_series(1, 10000) AS n, generate_series(1, 5) AS seq;
    INSERT INTO events
        SELECT talk(0, 1), seq, seq / 3, seq, 1000, 1, person(0), person(-seq), 'text'
        FROM generate_series(1, 50000) AS seq;
    INSERT INTO inbox_heads
        SELECT person(n), 10, 9, 0 FROM generate_series(0, 10000) AS n;
    INSERT INTO inbox
        SELECT person(n), talk(n, n + 1), 10, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5,
            person(n), person(n), 5, 1000 + n, 'text'
        FROM generate_series(1, 10000) AS n;
    INSERT INTO inbox
        SELECT person(0), talk(0, n), n, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5,
            person(n), person(n), 5, 1000 + n % 100, 'text'
        FROM generate_series(1, 20000) AS n;
    INSERT INTO offline_rows
        SELECT person(n), talk(n, n + 1), 5 FROM generate_series(1, 10000) AS n;
    INSERT INTO readers
        SELECT n::text, 'inbox', 'log', 'topic', 64 FROM generate_series(1, 2000) AS n;
    INSERT INTO reader_positions
        SELECT n::text, 'inbox', p, 0
        FROM generate_series(1, 500) AS n, generate_series(0, 63) AS p;
    ANALYZE;
";

async fn full() -> PostgresStore {
    let store = PostgresFixture::new().await.store;
    execute(&store, FILL).await;
    store
}

/// Every statement that searches, and the reads of those that write.
const SEARCHES: &[&str] = &[
    conversations::LOAD,
    conversations::LOAD_OF,
    conversations::FIND,
    conversations::EVENTS_UP,
    conversations::EVENTS_DOWN,
    conversations::SEQ_OF_INDEX,
    conversations::ENDS,
    conversations::ENDS_WITH_MESSAGES,
    conversations::PERSIST,
    inboxes::ROWS,
    inboxes::HEADS,
    inboxes::LIST,
    inboxes::LIST_BEFORE,
    inboxes::CHANGES,
    inboxes::DEFERRED_ROWS,
    inboxes::DEFERRED_CONVERSATIONS,
    inboxes::WRITE,
    offline::SEQS,
    offline::FORGET,
    readers::OPEN,
    readers::RAISE,
];

/// Of the statements that answer pages: they come in the order of an index.
const PAGES: &[&str] = &[
    conversations::EVENTS_UP,
    conversations::EVENTS_DOWN,
    conversations::SEQ_OF_INDEX,
    inboxes::LIST,
    inboxes::LIST_BEFORE,
    inboxes::CHANGES,
];

/// Scans and sorts that a plan may not have.
fn expect_no_scan(statement: &str, plan: &[String]) {
    assert!(!plan.is_empty());
    let text = plan.join("\n");
    assert!(!text.contains("Seq Scan"), "{statement}\n{text}");
    if PAGES.contains(&statement) {
        let sorts = plan.iter().any(|line| {
            let node = line.trim_start_matches([' ', '-', '>']);
            node.starts_with("Sort (") || node.starts_with("Sort  (") || node.starts_with("Incr")
        });
        assert!(!sorts, "{statement}\n{text}");
    }
}

/// A connection prepares each statement, and sooner or later keeps one plan for all parameters: also
/// one from when there was nothing in the tables, of which nobody knew how they would grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_is_kept_scans_no_table_however_it_grew() {
    for store in [PostgresFixture::new().await.store, full().await] {
        expect_kept_plans(&store).await;
    }
}

async fn expect_kept_plans(store: &PostgresStore) {
    for statement in SEARCHES {
        let parameters = (1..)
            .take_while(|n| statement.contains(&format!("${n}")))
            .count();
        let nulls = vec!["NULL"; parameters].join(", ");
        let plan: Vec<String> = with_connection(store, async |connection| {
            let prepare = format!(
                "SET plan_cache_mode = force_generic_plan; PREPARE looked_at AS {statement}"
            );
            sqlx::raw_sql(AssertSqlSafe(prepare))
                .execute(&mut *connection)
                .await?;
            let explain = format!("EXPLAIN EXECUTE looked_at({nulls})");
            let plan = sqlx::query_scalar(AssertSqlSafe(explain));
            let plan = plan.fetch_all(&mut *connection).await?;
            sqlx::raw_sql("DEALLOCATE looked_at")
                .execute(connection)
                .await?;
            Ok(plan)
        })
        .await;
        expect_no_scan(statement, &plan);
    }
}

type Bound<'q> = Query<'q, Postgres, PgArguments>;

/// Runs a statement and holds what it did to `rows_max`: how many rows it may read from tables.
async fn expect_rows(
    store: &PostgresStore,
    statement: &'static str,
    rows_max: f64,
    bind: impl Fn(Bound<'_>) -> Bound<'_>,
) {
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)";
    let explain = format!("{explain} {statement}");
    let plan: Vec<String> = with_connection(store, async |connection| {
        let query = bind(sqlx::query(AssertSqlSafe(explain)));
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(|row| sqlx::Row::try_get(row, 0)).collect()
    })
    .await;
    expect_no_scan(statement, &plan);
    let text = plan.join("\n");
    let mut read = 0.0;
    let mut of_table = false;
    for line in &plan {
        if line.contains("Scan") && line.contains(" on ") {
            // A bitmap's rows are counted where they are read from the table.
            let others = [
                "CTE Scan",
                "WorkTable Scan",
                "Function Scan",
                "Subquery Scan",
                "Bitmap Index Scan",
            ];
            of_table = !others.iter().any(|other| line.contains(other));
        }
        assert!(
            !of_table || !line.contains("Rows Removed"),
            "{statement}\n{text}"
        );
        if of_table
            && line.contains("Scan")
            && let Some((_, rows)) = line.split_once("actual rows=")
        {
            let (rows, rest) = rows.split_once(' ').unwrap();
            let loops = rest.trim_start_matches("loops=").trim_end_matches(')');
            read += rows.parse::<f64>().unwrap() * loops.parse::<f64>().unwrap();
        }
    }
    assert!(
        read > 0.0 && read <= rows_max,
        "{read} rows\n{statement}\n{text}"
    );
}

async fn column<T>(store: &PostgresStore, sql: &'static str) -> Vec<T>
where
    T: Send + Unpin + sqlx::Type<Postgres> + for<'r> sqlx::Decode<'r, Postgres>,
{
    with_connection(store, async |connection| {
        sqlx::query_scalar(sql).fetch_all(connection).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_costs_what_it_answers() {
    let store = full().await;
    let talks: Vec<Vec<u8>> = column(
        &store,
        "SELECT talk(n, n + 1) FROM generate_series(1, 20) n",
    )
    .await;
    let people: Vec<Uuid> = column(&store, "SELECT person(n) FROM generate_series(1, 20) n").await;
    let names: Vec<Uuid> = column(
        &store,
        "SELECT person(1000000 + 10 * n + 3) FROM generate_series(1, 20) n",
    )
    .await;
    let large: Vec<Vec<u8>> = column(&store, "SELECT talk(0, 1)").await;
    let (large, someone) = (
        &large[0],
        column::<Uuid>(&store, "SELECT person(0)").await[0],
    );
    expect_rows(&store, conversations::LOAD, 60.0, |query| {
        query.bind(&talks)
    })
    .await;
    // A group with 10,000 members, of which one is asked for.
    let group: Vec<Vec<u8>> = column(&store, "SELECT '\\x02'::bytea || uuid_send(person(7))").await;
    expect_rows(&store, conversations::LOAD_OF, 2.0, |query| {
        query.bind(&group[0]).bind(people[0])
    })
    .await;
    expect_rows(&store, conversations::FIND, 20.0, |query| {
        query.bind(&talks).bind(&people).bind(&names)
    })
    .await;
    for statement in [conversations::EVENTS_UP, conversations::EVENTS_DOWN] {
        // A page in the middle, and a short one.
        for (first, last, rows_max) in [(20_000, i64::MAX, 50.0), (30_000, 30_009, 10.0)] {
            expect_rows(&store, statement, rows_max, |query| {
                query.bind(large).bind(first).bind(last).bind(50_i64)
            })
            .await;
        }
    }
    expect_rows(&store, inboxes::ROWS, 40.0, |query| {
        query.bind(&people).bind(&talks)
    })
    .await;
    expect_rows(&store, inboxes::HEADS, 20.0, |query| query.bind(&people)).await;
    expect_rows(&store, inboxes::LIST, 51.0, |query| {
        query.bind(someone).bind(50_i64)
    })
    .await;
    expect_rows(&store, inboxes::LIST_BEFORE, 51.0, |query| {
        let query = query.bind(someone).bind(50_i64);
        query.bind(1_050_i64).bind(large)
    })
    .await;
    expect_rows(&store, inboxes::CHANGES, 51.0, |query| {
        query.bind(someone).bind(50_i64).bind(10_000_i64)
    })
    .await;
    expect_rows(&store, conversations::ENDS, 20.0, |query| {
        query.bind(&talks)
    })
    .await;
    // The conversation, what is halved to find its newest message, and the message.
    expect_rows(
        &store,
        conversations::ENDS_WITH_MESSAGES,
        20.0 * (2.0 + 5.0_f64.log2().ceil() + 1.0),
        |query| query.bind(&talks),
    )
    .await;
    // A user with 20,000 rows, of which ten are deferred.
    execute(
        &store,
        "UPDATE inbox SET deferred_seq = 1 WHERE user_id = person(0) AND version <= 10",
    )
    .await;
    expect_rows(&store, inboxes::DEFERRED_ROWS, 11.0, |query| {
        query.bind(someone).bind(200_i64)
    })
    .await;
    let asked = vec![someone];
    expect_rows(&store, inboxes::DEFERRED_CONVERSATIONS, 10.0, |query| {
        query.bind(&asked).bind(200_i64)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finding_a_message_reads_a_logarithmic_number_of_rows() {
    let store = full().await;
    let large: Vec<Vec<u8>> = column(&store, "SELECT talk(0, 1)").await;
    // One to find the end, then one each time that what is left is halved.
    let rows_max = 2.0 + (LARGE as f64).log2().ceil();
    for message_index in [0, 1, 7, 1_000, 12_345, 16_666, 20_000_i64] {
        expect_rows(&store, conversations::SEQ_OF_INDEX, rows_max, |query| {
            query.bind(&large[0]).bind(message_index)
        })
        .await;
    }
}
