use super::*;

fn migrations() -> Migrations<'static> {
    Migrations::new(vec![M::up(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",
    )])
}

async fn count(database: &Database) -> i64 {
    let read = |c: &Connection| Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?);
    database.read::<_, SqliteError, _>(read).await.unwrap()
}

#[tokio::test]
async fn a_write_that_fails_takes_back_its_own_changes_only() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&folder.path().join("t.db"), &migrations()).unwrap();
    let put = |k: i64, fail: bool| {
        database.write::<_, SqliteError, _>(move |tx| {
            tx.execute("INSERT INTO t VALUES (?, 'a')", [k])?;
            if fail { Err(SqliteError::Busy) } else { Ok(()) }
        })
    };
    let (one, two, three) = tokio::join!(put(1, false), put(2, true), put(3, false));
    assert!(one.is_ok() && three.is_ok());
    assert!(matches!(two, Err(SqliteError::Busy)));
    assert_eq!(count(&database).await, 2);
    database.sync().await.unwrap();
    drop(database);
    let database = Database::open(&folder.path().join("t.db"), &migrations()).unwrap();
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let newer = Migrations::new(vec![
        M::up("CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)"),
        M::up("ALTER TABLE t ADD COLUMN w TEXT"),
    ]);
    drop(Database::open(&path, &newer).unwrap());
    assert!(matches!(
        Database::open(&path, &migrations()),
        Err(SqliteError::Migration { .. })
    ));
}
