//! Files of the one-process form that were put back from another time, or from another server: it
//! mends them from the log, or it refuses to start and says why; nothing acknowledged is lost.

use std::{fs, path::Path};

use harness::{Device, TestServer, eventually};
use proto::messaging::v1::event::Kind;
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

/// Messages that are sent at a time.
const SOME: u64 = 10;

/// A server, and a conversation of which everything that was acknowledged is known.
struct Scene {
    server: TestServer,
    ada: Device,
    grace: Device,
    conversation: String,
    acked: u64,
}

impl Scene {
    async fn start() -> Self {
        let server = TestServer::start().await;
        let (ada, grace) = (server.user("ada").await, server.user("grace").await);
        let mut scene = Self {
            conversation: ada.with(&grace),
            server,
            ada,
            grace,
            acked: 0,
        };
        scene.send().await;
        scene
    }

    /// Sends some more, each with its number as its text.
    async fn send(&mut self) {
        let mut session = self.ada.session().await;
        for _ in 0..SOME {
            let text = (self.acked + 1).to_string();
            let ack = session.send_as(&self.conversation, Uuid::now_v7(), &text);
            assert_eq!(ack.await.seq, self.acked + 1);
            self.acked += 1;
        }
    }

    async fn restart(&mut self) {
        self.server.restart().await;
        self.ada.reconnect();
        self.grace.reconnect();
    }

    /// Does not start; the reason names what is wrong.
    async fn is_refused(&mut self, because: &str) {
        let refused = self.server.try_restart().await.unwrap_err();
        println!("{refused}");
        assert!(refused.contains(because), "{refused}");
    }

    /// Starts, with everything that was acknowledged in its place, and goes on.
    async fn starts_whole(&mut self) {
        self.restart().await;
        self.is_whole().await;
        self.send().await;
        self.is_whole().await;
    }

    async fn is_whole(&self) {
        let history = self.grace.history(&self.conversation, self.acked).await;
        let texts = history.iter().map(|event| match &event.kind {
            Some(Kind::Message(message)) => (event.seq, message.text.clone()),
            other => panic!("no message: {other:?}"),
        });
        assert!(texts.eq((1..=self.acked).map(|n| (n, n.to_string()))));
        eventually("exact lists", async || {
            let row = self.grace.conversation(&self.conversation).await;
            (row.last_seq == self.acked && row.unread_count == self.acked).then_some(())
        })
        .await;
    }

    /// A copy of a database, as a backup makes it. The server does not run.
    fn keep(&self, name: &str) -> TempDir {
        let kept = tempfile::tempdir().unwrap();
        copy(&self.server.data(), kept.path(), name);
        kept
    }

    /// Puts a copy in the place of what is there.
    fn put_back(&self, name: &str, kept: &TempDir) {
        copy(kept.path(), &self.server.data(), name);
    }

    fn open(&self, name: &str) -> Connection {
        Connection::open(self.server.data().join(name)).unwrap()
    }

    /// Makes the log keep what was read, as it does while another reader is behind.
    fn keep_the_whole_log(&self) {
        let log = self.open("log.db");
        for table in tables(&log, "main", "batches_%") {
            let trigger = format!(
                "CREATE TRIGGER keep_{table} BEFORE DELETE ON {table}
                 BEGIN SELECT RAISE(FAIL, 'kept'); END"
            );
            log.execute_batch(&trigger).unwrap();
        }
    }

    /// Where the reader of the conversation's partition has come to, and the first that the log has.
    fn position_and_first(&self) -> (i64, i64) {
        let position = "SELECT max(position) FROM reader_positions WHERE topic = 'messages'";
        let store = self.open("messaging.db");
        let position = store.query_row(position, [], |row| row.get(0)).unwrap();
        let log = self.open("log.db");
        let first = "SELECT max(next_offset) FROM partitions";
        let first: Option<i64> = log.query_row(first, [], |row| row.get(0)).unwrap();
        (position, first.unwrap_or(0))
    }
}

fn copy(from: &Path, to: &Path, name: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{name}{suffix}");
        let _ = fs::remove_file(to.join(&file));
        if from.join(&file).exists() {
            fs::copy(from.join(&file), to.join(&file)).unwrap();
        }
    }
}

fn tables(database: &Connection, schema: &str, like: &str) -> Vec<String> {
    let names = format!(
        "SELECT name FROM {schema}.sqlite_schema
         WHERE type = 'table' AND name LIKE ? AND name NOT LIKE 'sqlite_%'"
    );
    let mut names = database.prepare(&names).unwrap();
    let names = names.query_map([like], |row| row.get(0)).unwrap();
    names.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_store_that_follows_another_log_is_refused() {
    let (mut one, mut other) = (Scene::start().await, Scene::start().await);
    one.server.stop().await;
    other.server.stop().await;
    let (of_one, of_other) = (one.keep("messaging.db"), other.keep("messaging.db"));
    one.put_back("messaging.db", &of_other);
    one.is_refused("another log").await;
    // Nothing was changed by trying.
    one.put_back("messaging.db", &of_one);
    one.starts_whole().await;
    other.starts_whole().await;
}

#[tokio::test]
async fn a_log_that_ends_before_its_readers_is_refused() {
    let mut scene = Scene::start().await;
    scene.server.stop().await;
    let older = scene.keep("log.db");
    scene.restart().await;
    scene.send().await;
    scene.server.stop().await;
    let newer = scene.keep("log.db");
    scene.put_back("log.db", &older);
    scene.is_refused("not of one time").await;
    scene.put_back("log.db", &newer);
    scene.starts_whole().await;
}

#[tokio::test]
async fn a_store_from_before_is_filled_again_from_the_log() {
    let mut scene = Scene::start().await;
    scene.server.stop().await;
    let older = scene.keep("messaging.db");
    scene.keep_the_whole_log();
    scene.restart().await;
    scene.send().await;
    scene.is_whole().await;
    scene.server.stop().await;
    scene.put_back("messaging.db", &older);
    scene.starts_whole().await;
}

#[tokio::test]
async fn a_store_from_before_what_the_log_still_has_is_refused() {
    let mut scene = Scene::start().await;
    scene.server.stop().await;
    let older = scene.keep("messaging.db");
    let (position, _) = scene.position_and_first();
    scene.restart().await;
    scene.send().await;
    eventually("the log deletes what was read", async || {
        (scene.position_and_first().1 > position).then_some(())
    })
    .await;
    scene.server.stop().await;
    let newer = scene.keep("messaging.db");
    scene.put_back("messaging.db", &older);
    scene.is_refused("not of one time").await;
    scene.put_back("messaging.db", &newer);
    scene.starts_whole().await;
}

/// As when a node finds that its database was replaced by an older copy of it: the sequencer sees a
/// head below its own.
#[tokio::test]
async fn a_store_that_goes_back_under_a_running_server_is_filled_again_from_the_log() {
    let mut scene = Scene::start().await;
    scene.server.stop().await;
    let older = scene.keep("messaging.db");
    scene.keep_the_whole_log();
    scene.restart().await;
    scene.send().await;
    // All of it is stored, with the position; so nothing is written when the store goes back.
    eventually("the position", async || {
        (scene.position_and_first().0 == scene.acked as i64).then_some(())
    })
    .await;
    scene.is_whole().await;
    go_back(&scene.open("messaging.db"), older.path());
    scene.send().await;
    scene.is_whole().await;
    scene.starts_whole().await;
}

fn go_back(store: &Connection, older: &Path) {
    let older = older.join("messaging.db").display().to_string();
    store.execute("ATTACH ? AS older", [older]).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    for table in tables(store, "main", "%") {
        let replace = format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM older.{table}"
        );
        store.execute_batch(&replace).unwrap();
    }
    store.execute_batch("COMMIT").unwrap();
}
