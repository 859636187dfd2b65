//! Processes that come and go while people talk.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cluster::Cluster;
use harness::{eventually, within};
use messenger_client::{Client, Error, Event, NewAccount, Options, Session};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::cluster;

/// Pairs that talk all the time.
const PAIRS: usize = 6;
/// Pause between two messages of a sender.
const PAUSE: Duration = Duration::from_millis(20);

/// What a sender has seen: the texts in the order of their acks, with their places.
type Acked = Vec<(u64, String)>;

struct Pair {
    conversation: String,
    sending: JoinHandle<Acked>,
    receiving: JoinHandle<()>,
    received: Arc<Mutex<Acked>>,
    reading: JoinHandle<()>,
    receiver: Session,
}

async fn log_in(urls: &str, name: String) -> Client {
    let client = Client::builder(urls).build().unwrap();
    let account = NewAccount {
        username: name,
        password: "correct horse".to_owned(),
        display_name: String::new(),
        device_name: "test".to_owned(),
    };
    client.register(account).await.unwrap();
    client
}

async fn pair(urls: &str, number: usize, stop: &Arc<AtomicBool>) -> Pair {
    let sender = log_in(urls, format!("sender-{number}")).await;
    let receiver = log_in(urls, format!("receiver-{number}")).await;
    let receiver_id = receiver.credentials().await.unwrap().user_id;
    let conversation = sender
        .open_direct(&receiver_id)
        .await
        .unwrap()
        .conversation_id;
    let (from, mut of_sender) = sender.connect(Options::default()).await.unwrap();
    let (to, mut events) = receiver.connect(Options::default()).await.unwrap();
    tokio::spawn(async move { while of_sender.next().await.is_some() {} });
    let (stopped, to_conversation) = (stop.clone(), conversation.clone());
    let sending = tokio::spawn(async move {
        let mut acked = Acked::new();
        while !stopped.load(Ordering::Relaxed) {
            let text = format!("message {}", acked.len());
            let mut outgoing = from.send(&to_conversation, text.clone()).await.unwrap();
            let receipt = within("the ack", outgoing.sent()).await.unwrap();
            acked.push((receipt.seq, text));
            tokio::time::sleep(PAUSE).await;
        }
        from.close().await;
        acked
    });
    let received = Arc::new(Mutex::new(Acked::new()));
    let heard = received.clone();
    let receiving = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) => heard.lock().push((message.seq, message.text)),
                Event::Closed(error) => {
                    assert_eq!(error, Error::Closed);
                    break;
                }
                // A reconnect is all that a user may notice.
                _ => {}
            }
        }
    });
    let (stopped, in_conversation, reader) = (stop.clone(), conversation.clone(), receiver.clone());
    let reading = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            reader
                .conversation(&in_conversation)
                .await
                .expect("a read shows no error");
            reader.unread_total(0).await.expect("a read shows no error");
            tokio::time::sleep(PAUSE * 5).await;
        }
    });
    Pair {
        conversation,
        sending,
        receiving,
        received,
        reading,
        receiver: to,
    }
}

async fn restart_all(cluster: &Cluster) {
    for name in cluster.nodes() {
        if name.starts_with("kafka") || ["postgres", "s3"].contains(&name.as_str()) {
            continue;
        }
        let in_time = cluster.terminate(&name).await.unwrap();
        assert!(
            in_time,
            "{name} did not stop in time; its log:\n{}",
            cluster.log(&name)
        );
        cluster.start_again(&name).await.unwrap();
    }
}

/// Every process of every service, one after the other, under load: nothing is lost, and nobody sees
/// more of it than a reconnect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing_and_shows_no_error() {
    let cluster = cluster().await;
    let urls = cluster.urls().join(",");
    let stop = Arc::new(AtomicBool::new(false));
    let mut pairs = Vec::new();
    for number in 0..PAIRS {
        pairs.push(pair(&urls, number, &stop).await);
    }
    restart_all(&cluster).await;
    stop.store(true, Ordering::Relaxed);
    for pair in pairs {
        let acked = within("the sender's end", pair.sending)
            .await
            .expect("no error");
        within("the reader's end", pair.reading)
            .await
            .expect("no error");
        assert!(acked.len() > 10, "only {} messages", acked.len());
        let last = acked.last().map_or(0, |(seq, _)| *seq);
        // Whatever was missed live is fetched, within a heartbeat at the latest.
        let history = within("the history", all(&pair.receiver, &pair.conversation)).await;
        let in_history: BTreeMap<_, _> = history.iter().cloned().collect();
        assert_eq!(in_history.len() as u64, last, "dense, and nothing else");
        assert_eq!(
            acked, history,
            "in the order of sending, each once, at its acked seq"
        );
        let caught_up = async || (pair.received.lock().len() >= acked.len()).then_some(());
        eventually("the receiver has everything", caught_up).await;
        pair.receiver.close().await;
        within("the receiver's end", pair.receiving)
            .await
            .expect("no error");
        assert_eq!(*pair.received.lock(), acked, "in order, each once");
    }
}

/// The whole conversation, oldest first.
async fn all(session: &Session, conversation: &str) -> Vec<(u64, String)> {
    let mut messages = Vec::new();
    let mut before = 0;
    loop {
        let page = session.history(conversation, before, 200).await.unwrap();
        let Some(oldest) = page.last() else {
            break;
        };
        before = oldest.message_index;
        messages.extend(
            page.iter()
                .map(|message| (message.seq, message.text.clone())),
        );
        if before <= 1 {
            break;
        }
    }
    messages.reverse();
    messages
}
