//! How long a conversation waits for its next ack when its sequencer is killed with -9.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use cluster::{Cluster, ClusterOptions};
use messenger_client::{Client, NewAccount, Options, Session};

/// Conversations that are talked in: enough that each partition has some.
const CONVERSATIONS: usize = 24;
/// Pause between the ack of a message and the next message: what is measured is not finer.
const PAUSE: Duration = Duration::from_millis(20);
/// How long everything is left alone between two kills, so that partitions are shared again.
const QUIET: Duration = Duration::from_secs(6);
/// How long to wait for acks after a kill.
const DEADLINE: Duration = Duration::from_secs(60);

/// One sender and what it has seen.
struct Talk {
    session: Session,
    conversation: String,
    /// When the last ack came, in microseconds after the start.
    acked_us: AtomicU64,
}

/// Kills the node that does not hold the senders' sessions, again and again.
pub(crate) async fn run(mut options: ClusterOptions, kills: usize) -> Result<()> {
    options.messaging = options.messaging.max(2);
    options.relaxed = true;
    let cluster = Cluster::start(options).await?;
    let urls = cluster.urls();
    let url = urls.first().context("no url")?;
    let start = Instant::now();
    let talks = talks(url).await?;
    for talk in &talks {
        tokio::spawn(keep_talking(talk.clone(), start));
    }
    let mut waits_ms = Vec::new();
    for kill in 1..=kills {
        tokio::time::sleep(QUIET).await;
        let killed_us = since_us(start);
        cluster.kill("messaging-1")?;
        let wait = all_acked_after(&talks, killed_us).await?;
        println!("kill {kill}: next ack of all conversations after {wait} ms");
        waits_ms.push(wait);
        cluster.start_again("messaging-1").await?;
    }
    waits_ms.sort_unstable();
    let (p50, max) = (waits_ms.get(waits_ms.len() / 2), waits_ms.last());
    println!(
        "{}",
        serde_json::json!({ "kills": kills, "wait_ms_p50": p50, "wait_ms_max": max })
    );
    Ok(())
}

fn since_us(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn talks(url: &str) -> Result<Vec<Arc<Talk>>> {
    let mut talks = Vec::new();
    for n in 0..CONVERSATIONS {
        let sender = register(url, format!("sender-{n}")).await?;
        let receiver = register(url, format!("receiver-{n}")).await?;
        let receiver_id = receiver.credentials().await?.user_id;
        let conversation = sender.open_direct(&receiver_id).await?.conversation_id;
        let (session, mut events) = sender.connect(Options::default()).await?;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        session.live().await?;
        talks.push(Arc::new(Talk {
            session,
            conversation,
            acked_us: AtomicU64::new(0),
        }));
    }
    Ok(talks)
}

async fn register(url: &str, username: String) -> Result<Client> {
    let client = Client::builder(url).build()?;
    let account = NewAccount {
        username,
        password: "correct horse".to_owned(),
        display_name: String::new(),
        device_name: "failover".to_owned(),
    };
    client.register(account).await?;
    Ok(client)
}

async fn keep_talking(talk: Arc<Talk>, start: Instant) {
    loop {
        let Ok(mut outgoing) = talk.session.send(&talk.conversation, "still there?").await else {
            return;
        };
        if outgoing.sent().await.is_err() {
            return;
        }
        talk.acked_us.store(since_us(start), Ordering::SeqCst);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until each conversation has an ack that came after the kill; answers how long after it the
/// last one did, in milliseconds.
async fn all_acked_after(talks: &[Arc<Talk>], killed_us: u64) -> Result<u64> {
    let mut last_us = 0;
    for talk in talks {
        // An ack may have been on its way when the node died: one that comes later than that needed a
        // sequencer.
        let acked = async {
            loop {
                let acked_us = talk.acked_us.load(Ordering::SeqCst);
                let grace_us = u64::try_from(PAUSE.as_micros()).unwrap_or(0);
                if acked_us > killed_us + grace_us {
                    return acked_us;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let acked_us = tokio::time::timeout(DEADLINE, acked)
            .await
            .with_context(|| format!("no ack within {DEADLINE:?}"))?;
        last_us = last_us.max(acked_us.saturating_sub(killed_us));
    }
    Ok(last_us / 1_000)
}
