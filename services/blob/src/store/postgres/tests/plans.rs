//! How the server finds what the statements name, once there is much of it.

use super::*;

/// Blobs of which each is of an event, and every third a poster or a picture; a row of everything.
const FILL: &str = "
    CREATE TEMP VIEW numbers AS SELECT n, lpad(n::text, 12, '0') AS digits
        FROM generate_series(1, 30000) AS n;
    INSERT INTO uploads SELECT ('00000000-0000-7000-9000-' || lpad((n % 3000)::text, 12, '0'))::uuid,
        ('00000000-0000-7000-a000-' || digits)::uuid, 1, 5, '',
        ('00000000-0000-7000-8000-' || digits)::uuid, n, n % 2 = 0 FROM numbers;
    INSERT INTO leftovers SELECT owner_id, upload_id, blob_id, begun_unix_ms FROM uploads;
    INSERT INTO blobs (blob_id, owner_id, purpose, media_type, size_bytes, sha256, source_sha256,
        poster_id, created_unix_ms, kept_until_unix_ms, going, to_check)
    SELECT ('00000000-0000-7000-8000-' || digits)::uuid,
        ('00000000-0000-7000-9000-' || lpad((n % 3000)::text, 12, '0'))::uuid, 1 + n % 2, 'video/mp4',
        5, '', digits::bytea,
        CASE WHEN n % 3 = 0 THEN ('00000000-0000-7000-8000-' || lpad((n - 1)::text, 12, '0'))::uuid END,
        n, n, n % 100 = 0, n % 100 <> 0 FROM numbers;
    INSERT INTO event_references SELECT digits::bytea || place::text::bytea, blob_id, n % 2 = 0
        FROM numbers, generate_series(1, 3) AS place,
            LATERAL (SELECT ('00000000-0000-7000-8000-' || digits)::uuid AS blob_id) AS b;
    INSERT INTO pictures SELECT 1, ('00000000-0000-7000-b000-' || digits)::uuid, 1,
        ('00000000-0000-7000-8000-' || digits)::uuid FROM numbers;
    INSERT INTO reference_barriers SELECT n, n FROM numbers;
    ANALYZE";

const B: &str = "'00000000-0000-7000-8000-000000000077'";
const O: &str = "'00000000-0000-7000-9000-000000000077'";
const U: &str = "'00000000-0000-7000-a000-000000000077'";

/// Each statement, the types of its parameters, and values for them.
fn statements() -> Vec<(&'static str, &'static str, String)> {
    let all = |of: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (1..=64).map(of).collect();
        format!("'{{{}}}'", all.join(","))
    };
    let bs = all(&|n| format!("00000000-0000-7000-8000-{n:012}"));
    let ps = all(&|n| format!("00000000-0000-7000-b000-{n:012}"));
    let ones = all(&|_| "1".to_owned());
    let refs = all(&|n| format!("\"{n:012}\""));
    let trues = all(&|_| "t".to_owned());
    vec![
        (sql::UPLOAD, "uuid, uuid", format!("{O}, {U}")),
        (sql::LOCK_UPLOAD, "uuid, uuid", format!("{O}, {U}")),
        (sql::UNFINISHED, "uuid, bigint", format!("{O}, 32")),
        (sql::BLOBS, "uuid[]", bs.clone()),
        (sql::KEEP, "uuid, bigint", format!("{B}, 5")),
        (
            sql::KEEP_TWIN,
            "uuid, smallint, bytea, bigint",
            format!("{O}, 1, '000000000077', 5"),
        ),
        (sql::LOCK_BLOBS, "uuid[]", bs.clone()),
        (
            sql::GIVE_UP,
            "uuid, uuid, uuid, bigint",
            format!("{O}, {O}, {B}, 5"),
        ),
        (
            sql::END_UPLOADS,
            "bigint, bigint, bigint",
            "50, 5, 100".to_owned(),
        ),
        (sql::LEFTOVERS, "bigint, bigint", "50, 100".to_owned()),
        (
            sql::FORGET_LEFTOVER,
            "uuid, uuid, uuid",
            format!("{O}, {U}, {B}"),
        ),
        (
            sql::LOCK_PICTURES,
            "smallint[], uuid[]",
            format!("{ones}, {ps}"),
        ),
        (
            sql::PUT_EVENTS,
            "bytea[], uuid[], boolean[]",
            format!("{refs}, {bs}, {trues}"),
        ),
        (sql::TO_CHECK, "uuid[]", bs.clone()),
        (sql::BARRIER, "bigint", "64".to_owned()),
        (
            sql::LOCK_CANDIDATES,
            "smallint, bigint, bigint",
            "1, 50, 1000".to_owned(),
        ),
        (sql::UNREFERENCED, "uuid[]", bs.clone()),
        (sql::CHECKED, "uuid[], boolean", format!("{bs}, true")),
        (sql::GOING, "bigint", "1000".to_owned()),
        (sql::FORGET_REFERENCES, "uuid, bigint", format!("{B}, 1000")),
        (sql::FORGET_BLOB, "uuid", B.to_owned()),
    ]
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let server = server();
    let [_store] = replicas(&server).await;
    let mut c = PgConnection::connect(&server.url("blob")).await.unwrap();
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
