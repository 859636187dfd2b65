//! What a session promises, against a server that does everything wrong that a network and a server
//! can do.
#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use messenger_client::{
    Batch, Cache, Client, Error, ErrorKind, ErrorReason, Event, Events, FileTokens, Head, LogIn,
    Message, Options, OutgoingState, Session, SessionState, SqliteCache, Start, Stored, TokenStore,
    model::Conversation,
};
use proto::messaging::v1::{self as pb, server_frame::Frame};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::timeout;
use tonic::Code;

mod blobs;
mod caching;
mod fake;
mod grouping;
mod living;
mod receiving;
mod sending;

use fake::{Fake, HEARTBEAT, OnPush, OnSend, status};

/// No test needs so long, unless what it waits for never comes.
const DEADLINE: Duration = Duration::from_secs(60);

async fn log_in(fake: &Fake) -> Client {
    let client = Client::builder(fake.url()).build().unwrap();
    let log_in = LogIn {
        username: "me".to_owned(),
        password: "right".to_owned(),
        ..LogIn::default()
    };
    client.log_in(log_in).await.unwrap();
    client
}

/// Reconnects soon, so that tests are quick.
fn quick(options: Options) -> Options {
    options.reconnect_wait(Duration::from_millis(5), Duration::from_millis(20))
}

async fn connect(fake: &Fake, options: Options) -> (Session, Events) {
    let client = log_in(fake).await;
    client.connect(quick(options)).await.unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("in time")
}

/// Waits until something is so.
async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Takes events until there are so many messages; gives the texts by conversation. Fails when a
/// message is not the next one of its conversation.
async fn messages(events: &mut Events, count: usize) -> BTreeMap<String, Vec<String>> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..count {
        let message = soon(events.next_message()).await.expect("a message");
        let of_conversation = texts.entry(message.conversation_id).or_default();
        of_conversation.push(message.text);
        assert_eq!(of_conversation.len() as u64, message.seq);
    }
    texts
}

async fn event(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    soon(async {
        loop {
            let event = events.next().await.expect("another event");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

fn random_send(random: &mut StdRng) -> OnSend {
    match random.random_range(0..10) {
        0 => OnSend::AcceptAndBreak,
        1 => OnSend::Break,
        2 => OnSend::RateLimit(3),
        3 => OnSend::Unknown { taken: true },
        4 => OnSend::Unknown { taken: false },
        _ => OnSend::Accept,
    }
}
