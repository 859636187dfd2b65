//! How the server finds what the statements name, once there is much of it.

use super::*;

/// A row of everything for each of 30,000 users, of which a third is claimed.
const FILL: &str = "
    CREATE TEMP VIEW numbers AS SELECT n,
        ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid AS user_id,
        ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid AS device_id,
        lpad(n::text, 12, '0')::bytea AS bytes,
        CASE WHEN n % 3 = 0 THEN 40000 ELSE 0 END AS claimed
        FROM generate_series(1, 30000) AS n;
    INSERT INTO targets SELECT user_id, device_id, 1 + n % 3, n, bytes, '', false, '', ''
        FROM numbers;
    INSERT INTO forgotten_devices SELECT user_id, device_id, n FROM numbers;
    INSERT INTO preferences SELECT user_id, true, 1, true, false, 0, 0, 'UTC', 1 FROM numbers;
    INSERT INTO told SELECT user_id, device_id, bytes, 1, 1, n FROM numbers;
    INSERT INTO held SELECT user_id, bytes, 1, n, claimed, 'payload' FROM numbers;
    INSERT INTO emails SELECT user_id, 'ann' || n || '@example.org', true, NULL, 0, false, NULL, NULL, NULL,
        CASE WHEN n % 7 > 0 THEN n END, claimed, n FROM numbers;
    INSERT INTO confirmation_mails (user_id, address_hash, sent_unix_ms)
        SELECT user_id, bytes, n FROM numbers;
    ANALYZE";

const U: &str = "'00000000-0000-7000-8000-000000000077'";
const D: &str = "'00000000-0000-7000-9000-000000000077'";

/// Each statement, the types of its parameters, and values for them.
fn statements() -> Vec<(&'static str, &'static str, String)> {
    let all = |of: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (1..=64).map(of).collect();
        format!("'{{{}}}'", all.join(","))
    };
    let us = all(&|n| format!("00000000-0000-7000-8000-{n:012}"));
    let ds = all(&|n| format!("00000000-0000-7000-9000-{n:012}"));
    let bs = all(&|n| format!("\"{n:012}\""));
    let ones = all(&|_| "1".to_owned());
    vec![
        (sql::IS_FORGOTTEN, "uuid, uuid", format!("{U}, {D}")),
        (
            sql::MOVE_TARGET,
            "bytea, uuid, uuid",
            format!("'000000000077', {U}, {D}"),
        ),
        (sql::REMOVE_TARGET, "uuid, uuid", format!("{U}, {D}")),
        (
            sql::FORGET_TARGETS,
            "bytea[], uuid[], uuid[]",
            format!("{bs}, {us}, {ds}"),
        ),
        (
            sql::TARGETS,
            "uuid[], smallint, bigint",
            format!("{us}, 2, 50"),
        ),
        (
            sql::FORGET_DEVICES,
            "uuid[], uuid[], bigint",
            format!("{us}, {ds}, 5"),
        ),
        (sql::REMOVE_TARGETS, "uuid[], uuid[]", format!("{us}, {ds}")),
        (sql::CLEAN_FORGOTTEN, "bigint, bigint", "5, 256".to_owned()),
        (sql::PREFERENCES, "uuid[]", us.clone()),
        (
            sql::TOLD,
            "uuid[], uuid[], bytea[]",
            format!("{us}, {ds}, {bs}"),
        ),
        (
            sql::TELL,
            "uuid[], uuid[], bytea[], bigint[], bigint[], bigint, bigint",
            format!("{us}, {ds}, {bs}, {ones}, {ones}, 5, 5"),
        ),
        (sql::FORGET_TOLD, "bigint, bigint", "50, 500".to_owned()),
        (
            sql::HOLD,
            "uuid[], bytea[], bigint[], bigint[], bytea[]",
            format!("{us}, {bs}, {ones}, {ones}, {bs}"),
        ),
        (
            sql::CLAIM_HELD,
            "bigint, bigint, bigint",
            "30000, 60000, 500".to_owned(),
        ),
        (
            sql::FORGET_HELD,
            "uuid[], bytea[], bigint",
            format!("{us}, {bs}, 40000"),
        ),
        (sql::EMAIL, "uuid", U.to_owned()),
        (sql::LOCK_EMAILS, "uuid[]", us.clone()),
        (sql::REMOVE_EMAIL, "uuid", U.to_owned()),
        (
            sql::MAILS_OF_USER,
            "uuid, bigint, bigint",
            format!("{U}, 5, 5"),
        ),
        (
            sql::MAILS_TO_ADDRESS,
            "bytea, bigint, bigint",
            "'000000000077', 5, 5".to_owned(),
        ),
        (sql::CLEAN_MAILS, "bigint, bigint", "50, 64".to_owned()),
        (
            sql::USERS_OF_EMAIL,
            "text, bigint",
            "'ann77@example.org', 50".to_owned(),
        ),
        (
            sql::CLAIM_DIGESTS,
            "bigint, bigint, bigint",
            "30000, 60000, 500".to_owned(),
        ),
    ]
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = connection(&server).await;
    sqlx::raw_sql(FILL).execute(&mut c).await.unwrap();
    // As it plans for given values, and as it does once it has settled on a plan for all.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for (statement, types, values) in &statements() {
            let plan = explain(&mut c, mode, statement, types, values).await;
            let scans = plan.lines().filter(|line| line.contains("Seq Scan"));
            assert_eq!(scans.count(), 0, "{mode}, {statement}:\n{plan}");
        }
    }
}

/// What is claimed, of which there may be much while the log or a mail server is away, is not looked at by
/// who looks for what is due.
#[tokio::test]
async fn a_claim_looks_at_no_more_than_it_answers() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = connection(&server).await;
    sqlx::raw_sql(FILL).execute(&mut c).await.unwrap();
    for (statement, index) in [
        (sql::CLAIM_HELD, "held_ready"),
        (sql::CLAIM_DIGESTS, "emails_ready"),
    ] {
        let types = "bigint, bigint, bigint";
        let plan = explain(&mut c, "auto", statement, types, "30000, 60000, 500").await;
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
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
    let lines = rows
        .iter()
        .map(|row| Columns(row).get::<String>(0).unwrap());
    lines.collect::<Vec<_>>().join("\n")
}
