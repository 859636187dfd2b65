//! The real program, killed again and again while clients send.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use harness::{Device, ServerProcess, Session, SessionOptions, StandaloneOptions, eventually};
use proto::messaging::v1::{
    SendAck, client_frame::Frame as Said, event::Kind, server_frame::Frame as Heard,
};
use rand::RngExt;
use uuid::Uuid;

/// Times that the program is killed.
const KILLS: u64 = 12;
/// Messages that a sender has under way.
const IN_FLIGHT: usize = 8;
/// Pause before a client tries to reconnect.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);

/// What one sender sends to one conversation, and what it was told.
struct Sender {
    device: Device,
    conversation: String,
    /// In the order of sending.
    sent: Vec<Uuid>,
    acks: HashMap<Uuid, SendAck>,
    acked: Arc<AtomicU64>,
}

impl Sender {
    /// Sends until told to stop, and then until everything has its ack.
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !self.is_done(&stop) {
            let session = self.device.try_session(SessionOptions::default()).await;
            match session {
                Ok(session) => self.talk(session, &stop).await,
                Err(_) => tokio::time::sleep(RECONNECT_AFTER).await,
            }
        }
        self
    }

    fn is_done(&self, stop: &AtomicBool) -> bool {
        stop.load(Ordering::Relaxed) && self.acks.len() == self.sent.len()
    }

    /// Says again what has no ack, in order, and goes on, until the session breaks.
    async fn talk(&mut self, mut session: Session, stop: &AtomicBool) {
        let acked = |id: &Uuid| self.acks.contains_key(id);
        let again: Vec<_> = self.sent.iter().copied().filter(|id| !acked(id)).collect();
        let mut waiting = again.len();
        for id in again {
            self.say(&mut session, id).await;
        }
        while !self.is_done(stop) {
            while waiting < IN_FLIGHT && !stop.load(Ordering::Relaxed) {
                let id = Uuid::now_v7();
                self.sent.push(id);
                self.say(&mut session, id).await;
                waiting += 1;
            }
            let Ok(frame) = session.next().await else {
                return;
            };
            match frame.frame {
                Some(Heard::SendAck(ack)) => {
                    let id = Uuid::parse_str(&ack.message_id).unwrap();
                    let before = self.acks.insert(id, ack);
                    assert!(before.is_none(), "two acks of one send");
                    self.acked.fetch_add(1, Ordering::Relaxed);
                    waiting -= 1;
                }
                Some(Heard::Error(error)) => panic!("not sent: {error:?}"),
                _ => {}
            }
        }
    }

    async fn say(&self, session: &mut Session, id: Uuid) {
        let send = harness::message(&self.conversation, id, &id.to_string());
        session.say(Said::Send(send)).await;
    }
}

#[tokio::test]
async fn no_acknowledged_message_is_lost_doubled_or_moved_by_kill_nine() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let url = server.url();
    let ada = harness::register(&url, "ada").await;
    let grace = harness::register(&url, "grace").await;
    let linus = harness::register(&url, "linus").await;
    let acked = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    // Two write to each other, and one of them to a third.
    let pairs = [(&ada, &grace), (&grace, &ada), (&linus, &ada)];
    let running: Vec<_> = pairs
        .into_iter()
        .map(|(from, to)| {
            let sender = Sender {
                device: from.clone(),
                conversation: from.with(to),
                sent: Vec::new(),
                acks: HashMap::new(),
                acked: acked.clone(),
            };
            tokio::spawn(sender.run(stop.clone()))
        })
        .collect();
    for _ in 0..KILLS {
        // At some moment, but not before it has done something.
        let more = rand::rng().random_range(20..200);
        let from = acked.load(Ordering::Relaxed);
        eventually("some acks", async || {
            (acked.load(Ordering::Relaxed) >= from + more).then_some(())
        })
        .await;
        server.kill();
        server.start_again();
    }
    stop.store(true, Ordering::Relaxed);
    let mut senders = Vec::new();
    for sender in running {
        senders.push(harness::within("all acks", sender).await.unwrap());
    }
    let all: usize = senders.iter().map(|sender| sender.sent.len()).sum();
    println!("{all} messages over {KILLS} kills");

    // Once more, so that what is read comes from the disk.
    server.kill();
    server.start_again();
    for (mine, sender) in senders.iter().enumerate() {
        let mut device = sender.device.clone();
        device.reconnect();
        let id = &sender.conversation;
        let last = sender.acks.values().map(|ack| ack.seq).max().unwrap();
        let history = device.history(id, last).await;
        let seqs = history.iter().map(|event| event.seq);
        assert!(seqs.eq(1..=history.len() as u64), "not dense");
        // Those of this sender: each once, in the order of sending, at the place of its ack.
        let own: Vec<_> = history
            .iter()
            .filter(|event| event.sender_id == device.user_id)
            .collect();
        assert_eq!(own.len(), sender.sent.len(), "lost or doubled");
        for (event, sent) in own.iter().zip(&sender.sent) {
            let ack = &sender.acks[sent];
            assert_eq!(event.seq, ack.seq);
            assert_eq!(event.message_index, ack.message_index);
            assert_eq!(event.time_unix_ms, ack.time_unix_ms);
            let Some(Kind::Message(message)) = &event.kind else {
                panic!("no message: {event:?}");
            };
            assert_eq!(message.message_id, sent.to_string());
            assert_eq!(message.text, sent.to_string());
        }
        // Everything after the own last message is unread, and nothing else.
        let own_last = own.last().map_or(0, |event| event.seq);
        let unread = history.len() as u64 - own_last;
        eventually("the exact unread count", async || {
            let row = device.conversation(id).await;
            let is = row.last_seq == history.len() as u64 && row.unread_count == unread;
            is.then_some(())
        })
        .await;
        // Nothing was sent by anybody else.
        let others = senders
            .iter()
            .enumerate()
            .filter(|(other, sender)| *other != mine && sender.conversation == *id);
        let by_others: usize = others.map(|(_, sender)| sender.sent.len()).sum();
        assert_eq!(history.len(), own.len() + by_others);
    }
    // And it still stops as it should, with its readers at rest, and starts.
    assert_eq!(server.terminate().await.code(), Some(0), "{}", server.log());
}

#[tokio::test]
async fn a_stop_under_load_is_clean_and_loses_nothing() {
    let mut server = ServerProcess::start(StandaloneOptions::default());
    let url = server.url();
    let ada = harness::register(&url, "ada").await;
    let grace = harness::register(&url, "grace").await;
    let acked = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = Sender {
        device: ada.clone(),
        conversation: ada.with(&grace),
        sent: Vec::new(),
        acks: HashMap::new(),
        acked: acked.clone(),
    };
    let running = tokio::spawn(sender.run(stop.clone()));
    eventually("some acks", async || {
        (acked.load(Ordering::Relaxed) >= 50).then_some(())
    })
    .await;
    // Within the deadline of the harness, which is above the server's own.
    assert_eq!(server.terminate().await.code(), Some(0), "{}", server.log());
    server.start_again();
    let from = acked.load(Ordering::Relaxed);
    eventually("more acks", async || {
        (acked.load(Ordering::Relaxed) >= from + 50).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let sender = harness::within("all acks", running).await.unwrap();
    let mut grace = grace;
    grace.reconnect();
    let count = sender.sent.len() as u64;
    let history = grace.history(&sender.conversation, count).await;
    assert_eq!(history.len() as u64, count);
    for (event, sent) in history.iter().zip(&sender.sent) {
        assert_eq!(event.seq, sender.acks[sent].seq);
    }
}
