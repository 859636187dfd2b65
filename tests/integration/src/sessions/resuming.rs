//! Coming back, and staying current.

use std::{collections::HashMap, time::Duration};

use harness::{Device, Session, SessionOptions, TestServer, eventually};
use proto::messaging::v1::{
    Conversation, EventRange, ListEventsRequest, client_frame::Frame as Said, event::Kind,
    server_frame::Frame as Heard,
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// What a device holds, built from the bare protocol as its comments say.
#[derive(Default)]
struct Replica {
    version: u64,
    rows: HashMap<String, Conversation>,
    texts: HashMap<String, Vec<String>>,
}

impl Replica {
    fn seq(&self, conversation_id: &str) -> u64 {
        self.texts
            .get(conversation_id)
            .map_or(0, |texts| texts.len() as u64)
    }

    /// Resumes; answers how many calls that took.
    async fn resume(&mut self, device: &Device, to: u64) -> usize {
        if to == self.version {
            return 0;
        }
        let (changed, version, mut calls) = device.changes(self.version).await;
        assert!(
            changed.is_sorted_by_key(|row| row.version),
            "changes in order"
        );
        let mut lacking = Vec::new();
        for row in changed {
            if row.last_seq > self.seq(&row.conversation_id) {
                lacking.push(row.conversation_id.clone());
            }
            self.rows.insert(row.conversation_id.clone(), row);
        }
        while !lacking.is_empty() {
            let ranges = lacking.iter().take(500).map(|id| EventRange {
                conversation_id: id.clone(),
                after_seq: self.seq(id),
                min_seq: self.rows[id].last_seq,
                page_size: 200,
                ..EventRange::default()
            });
            let request = ListEventsRequest {
                ranges: ranges.collect(),
            };
            let answer = device.messaging().list_events(request).await.unwrap();
            calls += 1;
            for page in answer.into_inner().pages {
                let texts = self.texts.entry(page.conversation_id.clone()).or_default();
                for event in page.events {
                    assert_eq!(event.seq, texts.len() as u64 + 1, "dense");
                    let Some(Kind::Message(message)) = event.kind else {
                        panic!("no message");
                    };
                    texts.push(message.text);
                }
                if !page.more {
                    lacking.retain(|id| *id != page.conversation_id);
                }
            }
        }
        self.version = version;
        calls
    }
}

/// Users who have written to `to`.
async fn writers(server: &TestServer, to: &Device, count: usize) -> Vec<Device> {
    let url = server.url();
    let mut registering = JoinSet::new();
    let mut users = Vec::with_capacity(count);
    for n in 0..count {
        let (url, to) = (url.clone(), to.clone());
        registering.spawn(async move {
            let user = harness::register(&url, &format!("writer{n}")).await;
            let sent = user.send(&user.with(&to), Uuid::now_v7(), "first").await;
            sent.unwrap();
            user
        });
        // Some at a time.
        if registering.len() >= 32 {
            users.push(registering.join_next().await.unwrap().unwrap());
        }
    }
    users.extend(registering.join_all().await);
    users
}

#[tokio::test]
async fn a_resume_costs_what_changed_and_not_what_the_user_has() {
    const ALL: usize = 520;
    const CHANGED: usize = 500;
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let writers = writers(&server, &ada, ALL).await;
    eventually("all first messages are counted", async || {
        (ada.unread_total().await.unread_total == ALL as u64).then_some(())
    })
    .await;
    let mut replica = Replica::default();
    let session = ada.session().await;
    let calls = replica.resume(&ada, session.welcome.inbox_version).await;
    assert_eq!(replica.rows.len(), ALL);
    println!("the first synchronisation of {ALL} conversations: hello and {calls} calls");
    session.close().await;

    // While the device is away, nearly everybody writes twice.
    for text in ["second", "third"] {
        let mut sending = JoinSet::new();
        for writer in &writers[..CHANGED] {
            let (writer, conversation) = (writer.clone(), writer.with(&ada));
            sending.spawn(async move {
                writer
                    .send(&conversation, Uuid::now_v7(), text)
                    .await
                    .unwrap();
            });
        }
        sending.join_all().await;
    }
    eventually("all are counted", async || {
        let total = ada.unread_total().await.unread_total;
        (total == (ALL + 2 * CHANGED) as u64).then_some(())
    })
    .await;

    let options = SessionOptions {
        inbox_version: replica.version,
        ..SessionOptions::default()
    };
    let session = ada.session_with(options).await;
    let before = replica.version;
    let calls = replica.resume(&ada, session.welcome.inbox_version).await;
    let exchanges = 1 + calls;
    println!("{CHANGED} of {ALL} conversations changed: {exchanges} exchanges");
    assert_eq!(exchanges, 3, "hello, changes, events");
    assert_eq!(replica.version, session.welcome.inbox_version);
    for (n, writer) in writers.iter().enumerate() {
        let id = writer.with(&ada);
        let wanted: &[&str] = match n < CHANGED {
            true => &["first", "second", "third"],
            false => &["first"],
        };
        assert_eq!(replica.texts[&id], wanted);
        assert_eq!(replica.rows[&id].unread_count, wanted.len() as u64);
        assert_eq!(replica.rows[&id].version > before, n < CHANGED);
    }
    // Nothing has changed since: no exchange but hello.
    session.close().await;
    let session = ada.session().await;
    assert_eq!(replica.resume(&ada, session.welcome.inbox_version).await, 0);
}

/// Follows the updates of the inbox until they come to a version.
async fn follow(session: &mut Session, mut at: u64, to: u64) -> HashMap<String, Conversation> {
    let mut rows = HashMap::new();
    while at < to {
        let update = session.wait("an inbox update", |frame| match &frame.frame {
            Some(Heard::InboxUpdate(update)) => Some(update.clone()),
            Some(Heard::Lagging(_)) => panic!("a device that reads is not lagging"),
            _ => None,
        });
        let update = update.await;
        assert_eq!(
            update.previous_version, at,
            "a gap before {}",
            update.version
        );
        assert!(update.version > at);
        at = update.version;
        for row in update.conversations {
            assert!(row.version > update.previous_version && row.version <= at);
            rows.insert(row.conversation_id.clone(), row);
        }
    }
    assert_eq!(at, to, "an update went beyond");
    rows
}

#[tokio::test]
async fn the_updates_of_a_live_session_are_a_chain_and_heartbeats_name_its_end() {
    const MESSAGES: u64 = 60;
    let server = TestServer::builder()
        .config(|config| config.messaging.heartbeat_interval = Duration::from_millis(300))
        .start()
        .await;
    let ada = server.user("ada").await;
    let peers = [server.user("grace").await, server.user("linus").await];
    let sent = peers[0]
        .send(&ada.with(&peers[0]), Uuid::now_v7(), "before")
        .await;
    sent.unwrap();
    eventually("the first is counted", async || {
        (ada.unread_total().await.unread_total == 1).then_some(())
    })
    .await;
    let mut session = ada.session().await;
    let mut sessions = [peers[0].session().await, peers[1].session().await];
    for n in 1..=MESSAGES {
        for (peer, session) in peers.iter().zip(&mut sessions) {
            session.send(&ada.with(peer), &n.to_string()).await;
        }
        if n % 10 == 0 {
            session.read(&ada.with(&peers[1]), n).await;
        }
    }
    let unread = MESSAGES + 1;
    let end = eventually("all are counted", async || {
        let total = ada.unread_total().await;
        (total.unread_total == unread).then_some(total.inbox_version)
    })
    .await;
    // The last marks may still be on their way and change nothing but ticks: until it is quiet.
    let start = session.welcome.inbox_version;
    let rows = follow(&mut session, start, end).await;
    assert_eq!(rows[&ada.with(&peers[0])].unread_count, unread);
    assert_eq!(rows[&ada.with(&peers[1])].unread_count, 0);
    let beat = session.wait("a heartbeat at the end", |frame| match &frame.frame {
        Some(Heard::Heartbeat(beat)) => (beat.inbox_version >= end).then(|| beat.clone()),
        _ => None,
    });
    let beat = beat.await;
    let total = ada.unread_total().await;
    assert!(beat.inbox_version <= total.inbox_version);
    assert!(beat.server_time_unix_ms > 0);
}

#[tokio::test]
async fn a_device_that_was_away_holds_the_same_as_one_that_was_there() {
    let mut server = TestServer::start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let linus = server.user("linus").await;
    let tablet = ada.second_device().await;
    let mut phone = ada.session().await;
    let mut away = Replica::default();
    for n in 1..=40 {
        phone.send(&ada.with(&grace), &format!("mine {n}")).await;
        let id = ada.with(&linus);
        linus
            .send(&id, Uuid::now_v7(), &format!("his {n}"))
            .await
            .unwrap();
        assert_eq!(phone.event(&id).await.seq, n);
        if n == 20 {
            // The tablet is there for a moment, and then for days it is not.
            let session = tablet.session().await;
            away.resume(&tablet, session.welcome.inbox_version).await;
            session.close().await;
            phone.say(Said::Heartbeat(Default::default())).await;
        }
    }
    eventually("all are counted", async || {
        let row = ada.conversation(&ada.with(&grace)).await;
        (row.last_seq == 40 && ada.unread_total().await.unread_total == 40).then_some(())
    })
    .await;
    drop(phone);
    server.restart().await;
    let (mut ada, mut tablet) = (ada, tablet);
    ada.reconnect();
    tablet.reconnect();
    let session = tablet.session().await;
    away.resume(&tablet, session.welcome.inbox_version).await;
    let mut anew = Replica::default();
    anew.resume(&ada, session.welcome.inbox_version).await;
    assert_eq!(away.version, anew.version);
    assert_eq!(away.rows, anew.rows);
    assert_eq!(away.texts, anew.texts);
    assert_eq!(away.texts[&ada.with(&grace)].len(), 40);
}
