//! Pushes, while processes that make them come and go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cluster::{Cluster, Pushes};
use harness::{Device, eventually, register};
use standins::{Delays, FcmStandIn};
use tempfile::TempDir;
use uuid::Uuid;

use super::cluster_that_pushes;
use crate::push::{AFTER, mark_read, phone, shows};

/// Those who write.
const FRIENDS: [&str; 3] = ["ada", "barbara", "katherine"];
/// Those who are away: so many that each notifier tells some of them, mostly.
const AWAY: usize = 6;
/// How long a provider takes for an answer here: pushes are under way all the time, and one that was under
/// way at a kill is delivered long before another process sends the next.
const ANSWERED_AFTER: Duration = Duration::from_millis(100);
/// One that is slow: longer than it takes to give a partition to another process, and not so long that a
/// process that stops gives up waiting for the answer.
const SLOW: Duration = Duration::from_secs(1);
/// Pause between two messages.
const PAUSE: Duration = Duration::from_millis(5);
/// The same where a message is to be under way alone: its conversation has no newer one for 3 s, with which it
/// could go out.
const LONG_PAUSE: Duration = Duration::from_millis(3_000 / (AWAY * FRIENDS.len()) as u64);
/// How long a send may be refused while a node is replaced.
const SENT_WITHIN: Duration = Duration::from_secs(30);
/// Longer than a notifier takes to read a record, to ask about it, and to keep a position above it.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Somebody whose phone shows what the provider brings, and whose other devices are off.
struct Away {
    phone: Device,
    laptop: Device,
    token: String,
}

/// Friends who write to users who are away.
struct Stage {
    google: FcmStandIn,
    cluster: Arc<Cluster>,
    friends: Vec<Device>,
    away: Vec<Away>,
    /// Messages of each friend to each user so far.
    written: [u64; FRIENDS.len()],
    pause: Duration,
    _folder: TempDir,
}

impl Stage {
    async fn start(answered_after: Duration) -> Self {
        let (google, folder) = (
            FcmStandIn::start().await.unwrap(),
            tempfile::tempdir().unwrap(),
        );
        google.delay(Delays {
            usual: answered_after,
            ..Delays::default()
        });
        let service_account_file = folder.path().join("account.json");
        std::fs::write(&service_account_file, google.service_account_json()).unwrap();
        let pushes = Pushes {
            url: google.url(),
            service_account_file,
            after: AFTER,
        };
        let cluster = cluster_that_pushes(Some(pushes)).await;
        // Not the node that is killed.
        let url = cluster.urls()[1].clone();
        let (mut friends, mut away) = (Vec::new(), Vec::new());
        for name in FRIENDS {
            friends.push(register(&url, name).await);
        }
        for number in 0..AWAY {
            let device = register(&url, &format!("grace-{number}")).await;
            let token = format!("phone-{number}");
            phone(&google, &device, &token).await;
            away.push(Away {
                laptop: device.second_device().await,
                phone: device,
                token,
            });
        }
        Self {
            google,
            cluster: Arc::new(cluster),
            friends,
            away,
            written: [0; FRIENDS.len()],
            pause: PAUSE,
            _folder: folder,
        }
    }

    /// Each of these friends writes so many more messages to everybody.
    async fn write(&mut self, friends: &[usize], count: u64) {
        for _ in 0..count {
            for &friend in friends {
                self.written[friend] += 1;
                let text = text(friend, self.written[friend]);
                for to in &self.away {
                    send(&self.friends[friend], &to.phone, &text).await;
                    tokio::time::sleep(self.pause).await;
                }
            }
        }
    }

    /// All of them see one notification of each of these friends, with so many messages.
    async fn all_see(&self, of: &[(usize, u64)]) {
        let texts: Vec<_> = of
            .iter()
            .map(|(friend, count)| (text(*friend, self.written[*friend]), *count))
            .collect();
        let shown: Vec<_> = texts
            .iter()
            .map(|(t, count)| (t.as_str(), *count))
            .collect();
        let badge = of.iter().map(|(_, count)| count).sum();
        for away in &self.away {
            shows(&self.google, &away.token, &shown, badge).await;
        }
    }

    /// They read all of a friend, each on another device; messaging knows.
    async fn all_read(&self, friend: usize) {
        for away in &self.away {
            let conversation = away.laptop.with(&self.friends[friend]);
            mark_read(&away.laptop, &conversation, self.written[friend]).await;
            eventually("it is read", async || {
                let conversation = away.laptop.conversation(&conversation).await;
                (conversation.unread_count == 0).then_some(())
            })
            .await;
        }
    }

    /// Notifications of a friend that were delivered so far.
    fn alerts_of(&self, friend: usize) -> usize {
        let conversations: Vec<_> = self
            .away
            .iter()
            .map(|away| away.phone.with(&self.friends[friend]))
            .collect();
        let kept = self.google.devices().kept();
        let alerts = kept.iter().filter(|(_, push)| push.shows);
        alerts
            .filter(|(_, push)| conversations.contains(&push.conversation_id))
            .count()
    }
}

fn text(friend: usize, number: u64) -> String {
    format!("{} says {number}", FRIENDS[friend])
}

/// Sends, with one id, until it is acknowledged.
async fn send(from: &Device, to: &Device, text: &str) {
    let (id, started) = (Uuid::now_v7(), Instant::now());
    while let Err(status) = from.send(&from.with(to), id, text).await {
        assert!(started.elapsed() < SENT_WITHIN, "{status}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Everything is on the screens in the end, one notification of each conversation with the exact count, and
/// nothing comes that was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_away_is_told_of_every_message_though_a_notifier_and_messaging_are_killed() {
    let mut stage = Stage::start(ANSWERED_AFTER).await;
    let [ada, barbara, katherine] = [0, 1, 2];
    stage.write(&[ada, barbara, katherine], 5).await;
    stage.cluster.kill("notifier-0").unwrap();
    stage.write(&[ada, barbara, katherine], 5).await;
    stage.cluster.start_again("notifier-0").await.unwrap();
    let all = [(ada, 10), (barbara, 10), (katherine, 10)];
    stage.all_see(&all).await;
    // What the killed one had under way came once more, and nothing else.
    let told = stage.google.devices().totals();
    let under_way = (AWAY * FRIENDS.len()) as u64;
    assert!(told.repeats + told.disorders <= under_way, "{told:?}");

    stage.all_read(ada).await;
    stage.all_see(&all[1..]).await;
    let of_ada = stage.alerts_of(ada);

    // Both notifiers have pushes under way that nobody takes when one of them is killed.
    stage.google.down();
    let connections = stage.google.connections();
    stage.write(&[barbara], 5).await;
    eventually("pushes are under way", async || {
        (stage.google.connections() > connections).then_some(())
    })
    .await;
    tokio::time::sleep(UNDER_WAY).await;
    stage.cluster.kill("notifier-1").unwrap();
    stage.cluster.kill("messaging-0").unwrap();
    stage.google.up();
    stage.write(&[katherine], 5).await;
    stage.cluster.start_again("messaging-0").await.unwrap();
    stage.cluster.start_again("notifier-1").await.unwrap();
    stage.all_see(&[(barbara, 15), (katherine, 15)]).await;

    assert_eq!(stage.alerts_of(ada), of_ada, "they have read that");
    stage.write(&[ada], 1).await;
    let last = [(ada, 1), (barbara, 15), (katherine, 15)];
    stage.all_see(&last).await;
    assert_eq!(stage.cluster.died(), Vec::<String>::new());
}

/// A partition is handed on when what is under way is over, and known to all. And what was read while
/// nobody was there to push is not news any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_push_comes_twice_or_of_what_was_read_when_notifiers_stop_and_start_in_order() {
    let mut stage = Stage::start(SLOW).await;
    stage.pause = LONG_PAUSE;
    let cluster = stage.cluster.clone();
    for name in ["notifier-0", "notifier-1"] {
        let (stopped, ()) = tokio::join!(cluster.terminate(name), stage.write(&[0, 1, 2], 1));
        assert!(stopped.unwrap(), "{name} did not stop in time");
        // Partitions come back to it meanwhile.
        let (started, ()) = tokio::join!(cluster.start_again(name), stage.write(&[0, 1, 2], 3));
        started.unwrap();
    }
    let count = stage.written[0];
    stage.all_see(&[(0, count), (1, count), (2, count)]).await;
    let told = stage.google.devices().totals();
    assert_eq!((told.repeats, told.disorders), (0, 0), "{told:?}");

    for name in ["notifier-0", "notifier-1"] {
        assert!(cluster.terminate(name).await.unwrap());
    }
    let of_ada = stage.alerts_of(0);
    stage.pause = PAUSE;
    stage.write(&[0, 1], 5).await;
    // Longer than messages are waited for: all of it is in the log.
    tokio::time::sleep(UNDER_WAY).await;
    stage.all_read(0).await;
    for name in ["notifier-0", "notifier-1"] {
        cluster.start_again(name).await.unwrap();
    }
    stage.all_see(&[(1, count + 5), (2, count)]).await;
    assert_eq!(stage.alerts_of(0), of_ada, "they have read that");
    let told = stage.google.devices().totals();
    assert_eq!((told.repeats, told.disorders), (0, 0), "{told:?}");
}
