//! A log that may hold no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{DEADLINE, Device, Session, TestServer, message};
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{Send, client_frame::Frame as Said},
};
use uuid::Uuid;

/// More than the log may hold several times: the text of each has 1,200 bytes.
const SENDS: usize = 20_000;
/// Sends under way at a time: more than is kept for what is derived.
const TOGETHER: usize = 500;
/// How often it is filled.
const ROUNDS: usize = 5;

/// A server whose log is full, and what was sent to it.
struct Full {
    server: TestServer,
    bytes_max: Arc<AtomicU64>,
    ada: Device,
    grace: Device,
    conversation: String,
    sends: Vec<Send>,
    /// The first so many of them were taken.
    taken: usize,
}

impl Full {
    async fn start() -> Self {
        let bytes_max = Arc::new(AtomicU64::new(standalone::log_bytes_max_min()));
        let limit = bytes_max.clone();
        let server = TestServer::builder()
            .config(move |config| {
                config.log_bytes_max = Some(limit.load(Ordering::Relaxed));
                config.messaging.session_in_flight_max = 10_000;
            })
            .start()
            .await;
        let (ada, grace) = (server.user("ada").await, server.user("grace").await);
        let conversation = ada.with(&grace);
        let text = "\u{10348}".repeat(300);
        let sends = (0..SENDS)
            .map(|_| message(&conversation, Uuid::now_v7(), &text))
            .collect();
        let mut full = Self {
            server,
            bytes_max,
            ada,
            grace,
            conversation,
            sends,
            taken: 0,
        };
        full.fill().await;
        full
    }

    /// Sends on until it is refused.
    async fn fill(&mut self) {
        let mut session = self.ada.session().await;
        let mut refused = false;
        for window in self.sends[self.taken..].chunks(TOGETHER) {
            // All answers of a window: a refusal comes before the acks of those ahead of it.
            let mut asked = Vec::new();
            for send in window {
                asked.push(session.say(Said::Send(send.clone())).await);
            }
            for request_id in asked {
                match session.answer(request_id).await {
                    Ok(ack) => {
                        self.taken += 1;
                        assert_eq!(ack.seq, self.taken as u64);
                        assert!(!refused, "one overtook another");
                    }
                    Err(refusal) if refusal.reason == R::Overloaded => {
                        refusal.is(R::Overloaded, "");
                        assert!(refusal.retry_after.is_some());
                        refused = true;
                    }
                    Err(refusal) => {
                        refusal.is(R::PrecedingSendUnknown, "");
                    }
                }
            }
            if refused {
                return;
            }
        }
        panic!("the log was never full");
    }

    /// Sends the next one, again and again as told; the session keeps their order.
    async fn send_next(&mut self, session: &mut Session) {
        let started = Instant::now();
        loop {
            match session.try_send(self.sends[self.taken].clone()).await {
                Ok(ack) => {
                    self.taken += 1;
                    assert_eq!((ack.seq, ack.duplicate), (self.taken as u64, false));
                    return;
                }
                Err(refusal) => {
                    refusal.is(R::Overloaded, "");
                    assert!(started.elapsed() < DEADLINE, "full for ever");
                    let after = refusal.retry_after.unwrap();
                    tokio::time::sleep(after.min(Duration::from_secs(1))).await;
                }
            }
        }
    }

    async fn holds_what_it_took(&self) {
        let history = self
            .grace
            .history(&self.conversation, self.taken as u64)
            .await;
        assert_eq!(history.len(), self.taken);
    }
}

#[tokio::test]
async fn a_full_log_refuses_sends_and_nothing_is_half_there() {
    let mut full = Full::start().await;
    println!("full after {} messages", full.taken);
    full.holds_what_it_took().await;
    // Reading goes on, and calls are refused like frames.
    let send = &full.sends[full.taken];
    let refused = full
        .ada
        .send(&full.conversation, Uuid::now_v7(), &send.text)
        .await;
    if let Err(status) = &refused {
        harness::Refusal::from(status).is(R::Overloaded, "");
    }
    full.taken += usize::from(refused.is_ok());
    full.holds_what_it_took().await;

    // With more room it goes on where it was.
    full.bytes_max.fetch_add(128 << 20, Ordering::Relaxed);
    full.server.restart().await;
    full.ada.reconnect();
    full.grace.reconnect();
    full.holds_what_it_took().await;
    let mut session = full.ada.session().await;
    for _ in 0..20 {
        full.send_next(&mut session).await;
    }
    full.holds_what_it_took().await;
    harness::eventually("the exact unread count", async || {
        let row = full.grace.conversation(&full.conversation).await;
        (row.unread_count == full.taken as u64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_log_takes_sends_again_when_its_readers_have_made_room() {
    let mut full = Full::start().await;
    for round in 0..ROUNDS {
        println!("round {round}: full after {} messages", full.taken);
        let mut session = full.ada.session().await;
        for _ in 0..20 {
            full.send_next(&mut session).await;
        }
        drop(session);
        full.fill().await;
    }
    full.holds_what_it_took().await;
}

#[tokio::test]
async fn a_bound_at_which_the_log_could_stay_full_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let least = standalone::log_bytes_max_min();
    let mut config = standalone::Config::new(folder.path().join("data"));
    config.listen = ([127, 0, 0, 1], 0).into();
    config.listen_http = config.listen;
    config.log_bytes_max = Some(least - 1);
    let Err(error) = standalone::start(config.clone()).await else {
        panic!("started with {} bytes", least - 1);
    };
    let says = format!("{error:#}");
    assert!(says.contains(&least.to_string()), "{says}");
    config.log_bytes_max = Some(least);
    let server = standalone::start(config).await.unwrap();
    server.stop(DEADLINE).await;
}
