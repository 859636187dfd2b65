//! Stores without room on their disk, while the log's own has some.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use harness::{Device, TestServer, eventually, message};
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{Send, client_frame::Frame as Said, event::Kind},
};
use tempfile::TempDir;
use uuid::Uuid;

/// The whole disk of the stores, in MiB: some more than they have at first.
const DISK_MIB: u32 = 8;
/// Sends under way at a time.
const TOGETHER: usize = 500;
/// Messages that must be acknowledged while no store can write.
const ACKED_MIN: usize = 2_000;
/// Messages that may be: what a partition holds in memory, and what it reads at a time beside it.
const ACKED_MAX: usize = 16_384 + 1_024;

/// A disk of its own, in memory; it goes when it is dropped.
struct Disk(TempDir);

impl Disk {
    /// Says so and answers none where nothing may be mounted: that is for the superuser.
    fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                // Past the capture of output: a test that did not run must not look as if it had.
                let why = "NOT RUN: the test of a full disk may not mount one";
                let _ = writeln!(std::io::stderr(), "\n{why}: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left; gives it back with the file's end.
    fn fill(&self) -> Filler {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        // Small at the end, so that not even a page is left.
        for block in [1 << 20, 4_096] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
        Filler(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Everything that was said in one conversation, in order, and how much of it was acknowledged.
struct Sent {
    ada: Device,
    grace: Device,
    conversation: String,
    sends: Vec<Send>,
    acked: usize,
}

impl Sent {
    /// Sends so much more, and all that has no ack; stops where one is not acknowledged.
    async fn send(&mut self, more: usize) -> Result<(), harness::Refusal> {
        for _ in 0..more {
            let text = (self.sends.len() + 1).to_string();
            self.sends
                .push(message(&self.conversation, Uuid::now_v7(), &text));
        }
        let mut session = self.ada.session().await;
        while self.acked < self.sends.len() {
            let waiting = self.sends[self.acked..].iter().take(TOGETHER);
            let mut asked = Vec::new();
            for send in waiting {
                asked.push(session.say(Said::Send(send.clone())).await);
            }
            for request_id in asked {
                let ack = session.answer(request_id).await?;
                self.acked += 1;
                assert_eq!(ack.seq, self.acked as u64);
            }
        }
        Ok(())
    }

    /// Everybody reads what was acknowledged.
    async fn is_there(&self) {
        let history = self.grace.history(&self.conversation, self.acked as u64);
        let history = history.await;
        assert!(history.len() >= self.acked, "{} lost", self.acked);
        for (n, event) in (1..).zip(&history) {
            let Some(Kind::Message(message)) = &event.kind else {
                panic!("no message: {event:?}");
            };
            assert_eq!((event.seq, &message.text), (n, &n.to_string()));
        }
    }

    async fn lists_are_exact(&self) {
        let all = self.acked as u64;
        eventually("exact lists", async || {
            let row = self.grace.conversation(&self.conversation).await;
            (row.last_seq == all && row.unread_count == all).then_some(())
        })
        .await;
    }
}

/// A server with its stores on the disk and its log beside it, in the folder.
async fn start(disk: &Disk) -> (TestServer, Sent, TempDir) {
    let log = tempfile::tempdir().unwrap();
    let data = disk.path().join("data");
    fs::create_dir(&data).unwrap();
    symlink(log.path().join("log.db"), data.join("log.db")).unwrap();
    let server = TestServer::builder()
        .config(move |config| {
            config.data.clone_from(&data);
            config.messaging.session_in_flight_max = 2 * TOGETHER;
        })
        .start()
        .await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let sent = Sent {
        conversation: ada.with(&grace),
        ada,
        grace,
        sends: Vec::new(),
        acked: 0,
    };
    (server, sent, log)
}

#[tokio::test]
async fn while_no_store_can_write_sends_go_on_up_to_a_bound_and_nothing_is_lost() {
    let Some(disk) = Disk::mount(DISK_MIB) else {
        return;
    };
    let (mut server, mut sent, _log) = start(&disk).await;
    sent.send(10).await.unwrap();
    sent.lists_are_exact().await;

    let filler = disk.fill();
    sent.send(ACKED_MIN).await.unwrap();
    sent.is_there().await;
    // An account needs its store at once.
    let refused = harness::try_register(&server.url(), "late").await;
    harness::refused(refused).is(R::Unavailable, "");
    // Nothing grows without end: at some time the answer is that there is none yet.
    let refusal = loop {
        match sent.send(TOGETHER).await {
            Ok(()) => assert!(sent.acked <= ACKED_MAX, "{} without a bound", sent.acked),
            Err(refusal) => break refusal,
        }
    };
    refusal.is(R::SendUnknown, "");
    println!("{} acknowledged without a store", sent.acked);
    assert!((ACKED_MIN..=ACKED_MAX).contains(&sent.acked));

    drop(filler);
    sent.send(0).await.unwrap();
    sent.send(10).await.unwrap();
    sent.is_there().await;
    sent.lists_are_exact().await;
    server.user("late").await;
    server.restart().await;
    sent.ada.reconnect();
    sent.grace.reconnect();
    sent.is_there().await;
    sent.lists_are_exact().await;
}

/// A process that dies while its stores are behind.
#[tokio::test]
async fn what_no_store_has_is_there_after_the_restart() {
    let Some(disk) = Disk::mount(DISK_MIB) else {
        return;
    };
    let (mut server, mut sent, _log) = start(&disk).await;
    sent.send(10).await.unwrap();
    let filler = disk.fill();
    sent.send(TOGETHER / 10).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), server.stop())
        .await
        .expect("it stops without its stores");
    drop(filler);
    server.restart().await;
    sent.ada.reconnect();
    sent.grace.reconnect();
    sent.is_there().await;
    sent.lists_are_exact().await;
}
