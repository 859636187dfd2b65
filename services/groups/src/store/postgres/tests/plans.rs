//! How the server finds what the statements name, once there is much of it.

use super::*;

/// Groups of three members each, of 3,000 users, with a row of everything.
const FILL: &str = "
    CREATE TEMP VIEW numbers AS SELECT n, lpad(n::text, 12, '0') AS digits,
            lpad((n % 3000)::text, 12, '0') AS user_digits
        FROM generate_series(1, 30000) AS n;
    INSERT INTO groups SELECT ('00000000-0000-7000-8000-' || digits)::uuid, 3, 'name', '', '', 0, 3, 0
        FROM numbers;
    INSERT INTO members SELECT ('00000000-0000-7000-8000-' || digits)::uuid,
        (place || '0000000-0000-7000-9000-' || user_digits)::uuid, 1, 0, 1
        FROM numbers, generate_series(1, 3) AS place;
    INSERT INTO stints SELECT group_id, user_id, 1, CASE WHEN random() < 0.5 THEN 2 END FROM members;
    INSERT INTO past_members SELECT user_id, group_id, 'name', '', 2, 0 FROM members;
    INSERT INTO invitations SELECT ('00000000-0000-7000-a000-' || digits)::uuid,
        ('00000000-0000-7000-8000-' || digits)::uuid, digits::bytea,
        ('10000000-0000-7000-9000-' || user_digits)::uuid, n, 0, 0, 0 FROM numbers;
    INSERT INTO join_requests SELECT group_id, user_id, 0 FROM members;
    INSERT INTO outbox SELECT ('00000000-0000-7000-8000-' || digits)::uuid, 3, '',
        ('10000000-0000-7000-9000-' || user_digits)::uuid,
        ('00000000-0000-7000-b000-' || digits)::uuid, n, 0 FROM numbers;
    INSERT INTO requests SELECT ('10000000-0000-7000-9000-' || user_digits)::uuid,
        ('00000000-0000-7000-b000-' || digits)::uuid, '',
        ('00000000-0000-7000-8000-' || digits)::uuid, 3, 0, '', n FROM numbers;
    ANALYZE";

const G: &str = "'00000000-0000-7000-8000-000000000077'";
const U: &str = "'10000000-0000-7000-9000-000000000077'";
const I: &str = "'00000000-0000-7000-a000-000000000077'";
const R: &str = "'00000000-0000-7000-b000-000000000077'";

/// Each statement, the types of its parameters, and values for them.
fn statements() -> Vec<(&'static str, &'static str, String)> {
    let groups: Vec<String> = (1..=64)
        .map(|n| format!("00000000-0000-7000-8000-{n:012}"))
        .collect();
    let gs = format!("'{{{}}}'", groups.join(","));
    let us = format!("'{{{}}}'", U.trim_matches('\''));
    let numbers: Vec<String> = (1..=64).map(|_| "3".to_owned()).collect();
    let ns = format!("'{{{}}}'", numbers.join(","));
    vec![
        (
            sql::CLAIM_REQUEST,
            "uuid, uuid, bytea, uuid, bigint",
            format!("{U}, {R}, '', {G}, 0"),
        ),
        (sql::REQUEST, "uuid, uuid", format!("{U}, {R}")),
        (
            sql::PUT_ANSWER,
            "uuid, uuid, uuid, bigint, bytea",
            format!("{U}, {R}, {G}, 1, ''"),
        ),
        (
            sql::INVITATION_BY_TOKEN,
            "bytea",
            "'000000000077'".to_owned(),
        ),
        (sql::LOCK_GROUP, "uuid", G.to_owned()),
        (sql::MEMBERS_OF, "uuid, uuid[]", format!("{G}, {us}")),
        (sql::FULL, "uuid[], bigint", format!("{us}, 9999")),
        (sql::SUCCESSOR, "uuid, uuid", format!("{G}, {U}")),
        (sql::INVITATIONS_GOOD, "uuid, bigint", format!("{G}, 5")),
        (sql::WAITING_OF, "uuid, uuid[]", format!("{G}, {us}")),
        (sql::WAITING_COUNT, "uuid", G.to_owned()),
        (sql::OUTSTANDING_COUNT, "uuid", G.to_owned()),
        (
            sql::REMOVE_MEMBER,
            "uuid, uuid, bigint, text, text, bigint",
            format!("{G}, {U}, 4, '', '', 0"),
        ),
        (sql::TRIM_PAST, "uuid, bigint", format!("{U}, 1000")),
        (
            sql::DELETE_ENDED_INVITATIONS,
            "uuid, bigint",
            format!("{G}, 5"),
        ),
        (sql::USE_INVITATION, "uuid", I.to_owned()),
        (sql::REVOKE_INVITATION, "uuid, uuid", format!("{I}, {G}")),
        (sql::END_WAITING, "uuid, uuid", format!("{G}, {U}")),
        (sql::END_GROUP, "uuid", G.to_owned()),
        (sql::SEQ, "uuid, uuid", format!("{U}, {R}")),
        (sql::GROUP, "uuid, uuid", format!("{G}, {U}")),
        (sql::GROUPS, "uuid, uuid, bigint", format!("{U}, {G}, 51")),
        (
            sql::MEMBERS,
            "uuid, uuid, uuid, bigint",
            format!("{G}, {U}, {U}, 101"),
        ),
        (sql::INVITATIONS, "uuid, bigint", format!("{G}, 5")),
        (
            sql::JOIN_REQUESTS,
            "uuid, uuid, bigint",
            format!("{G}, {U}, 101"),
        ),
        (sql::SNIPPETS, "uuid, uuid[]", format!("{U}, {gs}")),
        (sql::OUTSTANDING, "uuid", G.to_owned()),
        (
            sql::TAKE_DUE,
            "bigint, bigint, bigint, bigint",
            "50, 64, 2000, 300000".to_owned(),
        ),
        (
            sql::FORGET_REQUESTS,
            "bigint, bigint",
            "50, 1000".to_owned(),
        ),
        (sql::PUT_BACK, "uuid[], bigint", format!("{gs}, 5")),
        (sql::ROSTER, "uuid", G.to_owned()),
        (
            sql::NOTE_DEFERRED,
            "uuid[], bigint[]",
            format!("{gs}, {ns}"),
        ),
        (
            sql::NOTE_SEQUENCED,
            "uuid[], bigint[], bigint[]",
            format!("{gs}, {ns}, {ns}"),
        ),
        (
            sql::FORGET_STINTS,
            "uuid[], bigint[]",
            format!("{gs}, {ns}"),
        ),
        (
            sql::FORGET_GROUPS,
            "uuid[], bigint[]",
            format!("{gs}, {ns}"),
        ),
    ]
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = connection(&server).await;
    sqlx::raw_sql(FILL).execute(&mut c).await.unwrap();
    let statements = statements();
    // As it plans for given values, and as it does once it has settled on a plan for all.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for (statement, types, values) in &statements {
            let plan = explain(&mut c, mode, statement, types, values).await;
            let scans = plan.lines().filter(|line| line.contains("Seq Scan"));
            assert_eq!(scans.count(), 0, "{mode}, {statement}:\n{plan}");
        }
    }
    let (types, ids) = ("uuid, uuid", format!("{G}, {U}"));
    let plan = explain(&mut c, "force_generic_plan", sql::SUCCESSOR, types, &ids).await;
    assert!(!plan.contains("Sort"), "{plan}");
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
