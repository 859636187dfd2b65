//! How the server finds what the statements name, once there is much of it.

use super::*;

const USERS: i64 = 30_000;

/// Users u00000 to u29999 with display names, a device and a fact each, some with many devices.
const FILL: &str = "
    CREATE TEMP VIEW numbers AS SELECT n, lpad(n::text, 12, '0') AS digits
        FROM generate_series(0, 29999) AS n;
    INSERT INTO users SELECT ('00000000-0000-7000-8000-' || digits)::uuid, 'u' || right(digits, 5),
        'Maria ' || n, '', 0, 1, 'hash' FROM numbers;
    INSERT INTO search_terms SELECT t.whole, t.term::bytea, 'u' || right(digits, 5)
        FROM numbers, LATERAL (VALUES
            (true, 'u' || right(digits, 5)), (true, 'maria'), (true, n::text), (true, 'maria ' || n),
            (false, 'u'), (false, 'ma'), (false, 'mar')) AS t (whole, term);
    INSERT INTO devices SELECT ('00000000-0000-7000-8000-' || digits)::uuid,
        ('00000000-0000-7000-9000-' || digits)::uuid, 'phone', 0, 0, '', '', NULL, 0, 10, 0
        FROM numbers;
    INSERT INTO outbox (user_id, payload)
        SELECT ('00000000-0000-7000-8000-' || digits)::uuid, '' FROM numbers;
    INSERT INTO failed_log_ins SELECT n, now() FROM numbers;
    ANALYZE";

/// Each statement that looks something up, the types of its parameters, and values for them.
const STATEMENTS: [(&str, &str, &str, &str); 13] = [
    ("account", sql::ACCOUNT, "text", "'u00077'"),
    (
        "account to log in",
        sql::ACCOUNT_TO_LOG_IN,
        "text, int",
        "'u00077', 77",
    ),
    (
        "note",
        sql::NOTE_FAILED_LOG_IN,
        "int, bigint, bigint",
        "77, 1, 1",
    ),
    ("clear", sql::CLEAR_FAILED_LOG_INS, "int", "77"),
    (
        "update user",
        sql::UPDATE_USER,
        "uuid, bigint, text, text, boolean[], bytea[], boolean[], bytea[], uuid, bytea, bigint",
        "'00000000-0000-7000-8000-000000000077', 1, 'x', '', '{t,t}', '{a,b}', '{t}', '{c}',
         '00000000-0000-7000-a000-000000000077', 'f', 1000000",
    ),
    (
        "short",
        sql::SEARCH_SHORT,
        "bytea, text, bigint",
        "'mar', 'u00077', 51",
    ),
    (
        "long",
        sql::SEARCH_LONG,
        "bytea, bytea, text, bigint",
        "'maria 77', 'maria 77\\377', 'u00077', 51",
    ),
    (
        "lock user",
        sql::LOCK_USER,
        "uuid",
        "'00000000-0000-7000-8000-000000000077'",
    ),
    (
        "log in",
        sql::LOG_IN_DEVICE,
        "uuid, uuid, text, bigint, bigint, bytea, bytea, bytea, bigint, bigint, bigint, bigint, bigint",
        "'00000000-0000-7000-8000-000000000077', '00000000-0000-7000-9000-000000000078', 'x',
         0, 0, '', '', NULL, 0, 10, 0, 50, 5",
    ),
    (
        "device",
        sql::DEVICE,
        "uuid, uuid",
        "'00000000-0000-7000-8000-000000000077', '00000000-0000-7000-9000-000000000077'",
    ),
    (
        "devices",
        sql::DEVICES,
        "uuid, bigint",
        "'00000000-0000-7000-8000-000000000077', 5",
    ),
    (
        "put refresh",
        sql::PUT_REFRESH,
        "uuid, uuid, bigint, bytea, bytea, bytea, bigint, bigint, bigint",
        "'00000000-0000-7000-8000-000000000077', '00000000-0000-7000-9000-000000000077',
         0, '', '', NULL, 0, 0, 0",
    ),
    (
        "log out",
        sql::LOG_OUT_DEVICE,
        "uuid, uuid, bigint, bytea, bigint",
        "'00000000-0000-7000-8000-000000000077', '00000000-0000-7000-9000-000000000077',
         NULL, '', 1000000",
    ),
];

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = connection(&server).await;
    sqlx::raw_sql(FILL).execute(&mut c).await.unwrap();
    let mut statements = STATEMENTS.to_vec();
    // As many as the largest batches have.
    let ids: Vec<String> = (0..500)
        .map(|n| format!("00000000-0000-7000-8000-{n:012}"))
        .collect();
    let ids = format!("'{{{}}}'", ids.join(","));
    statements.push(("users", sql::USERS, "uuid[]", &ids));
    let facts: Vec<String> = (1..=256).map(|n| n.to_string()).collect();
    let facts = format!("'{{{}}}'", facts.join(","));
    statements.push(("remove facts", sql::REMOVE_FACTS, "bigint[]", &facts));
    statements.push(("facts", sql::FACTS, "bigint", "256"));
    // As it plans for given values, and as it does once it has settled on a plan for all.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for (name, statement, types, values) in &statements {
            let plan = explain(&mut c, mode, statement, types, values).await;
            let scans = plan.lines().filter(|line| line.contains("Seq Scan"));
            assert_eq!(scans.count(), 0, "{name}, {mode}:\n{plan}");
            if *name == "short" {
                let condition = "(whole = false) AND (term = ";
                assert!(plan.contains(condition), "{plan}");
                assert!(plan.contains("(username > "), "{plan}");
                assert!(plan.contains("Limit"), "{plan}");
                // The entries come in the order that is wanted: only the answer is sorted.
                assert!(plan.matches("Sort Key").count() <= 1, "{plan}");
            }
            if *name == "long" {
                let condition = "(whole = true) AND (term >= ";
                assert!(plan.contains(condition), "{plan}");
            }
        }
    }
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users")
        .fetch_one(&mut c)
        .await
        .unwrap();
    assert_eq!(users, USERS);
}

async fn explain(
    c: &mut PgConnection,
    mode: &str,
    statement: &str,
    types: &str,
    values: &str,
) -> String {
    let sql = format!(
        "SET plan_cache_mode = {mode}; DEALLOCATE ALL;
         PREPARE it ({types}) AS {statement}"
    );
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::raw_sql(sql).execute(&mut *c).await.unwrap();
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE it ({values})"));
    let rows = sqlx::raw_sql(explain).fetch_all(&mut *c).await.unwrap();
    let lines = rows.iter().map(|row| get::<String>(row, 0).unwrap());
    lines.collect::<Vec<_>>().join("\n")
}
