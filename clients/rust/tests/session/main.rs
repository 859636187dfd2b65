//! What a session promises, against a server that does everything wrong that a network and a server
//! can do.
#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use messenger_client::{
    Batch, Cache, Client, Error, ErrorKind, ErrorReason, Event, Events, Head, LogIn, Message,
    Options, OutgoingState, Session, SessionState, SqliteCache, Start, Stored, model::Conversation,
};
use proto::messaging::v1::{self as pb, server_frame::Frame};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::timeout;
use tonic::Code;

mod fake;

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

#[tokio::test]
async fn what_is_sent_arrives_once_and_in_order_whatever_the_server_does() {
    let fake = Fake::start().await;
    let mut random = StdRng::seed_from_u64(3);
    fake.state.lock().on_sends = (0..300).map(|_| random_send(&mut random)).collect();
    let (session, mut events) = connect(&fake, Options::default()).await;
    let mut outgoing = Vec::new();
    for number in 0..60 {
        for conversation in ["a", "b", "c"] {
            let text = format!("{conversation} {number}");
            outgoing.push(session.send(conversation, text).await.unwrap());
        }
    }
    let mut seqs: HashMap<String, u64> = HashMap::new();
    for outgoing in &mut outgoing {
        let receipt = soon(outgoing.sent()).await.unwrap();
        let seq = seqs
            .entry(outgoing.conversation_id().to_owned())
            .or_default();
        *seq += 1;
        assert_eq!(receipt.seq, *seq, "the ack has the place");
    }
    let told = messages(&mut events, 180).await;
    for conversation in ["a", "b", "c"] {
        let expected: Vec<_> = (0..60).map(|n| format!("{conversation} {n}")).collect();
        assert_eq!(fake.texts(conversation), expected);
        assert_eq!(told[conversation], expected, "own messages are events too");
    }
    let stats = session.stats();
    assert!(stats.acks_duplicate > 0 && stats.sends_retried > 0 && stats.connects > 1);
}

#[tokio::test]
async fn what_others_say_comes_once_and_in_order_whatever_happens_to_pushes() {
    let fake = Fake::start().await;
    fake.state.lock().on_push = OnPush {
        lost: 0.2,
        repeated: 0.2,
        late: 0.2,
    };
    let (session, mut events) = connect(&fake, Options::from_beginning()).await;
    let speaker = fake.clone();
    let speaking = tokio::spawn(async move {
        for number in 0..1_000 {
            speaker.say(&format!("c{}", number % 5), &number.to_string());
            if number % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            if number % 300 == 299 {
                speaker.break_all();
            }
        }
    });
    let told = messages(&mut events, 1_000).await;
    soon(speaking).await.unwrap();
    for (conversation, texts) in told {
        assert_eq!(texts, fake.texts(&conversation));
    }
    soon(session.live()).await.unwrap();
    assert!(session.stats().events_repeated > 0);
    // Nothing comes twice afterwards either.
    fake.say("c0", "last");
    let last = soon(events.next_message()).await.unwrap();
    assert_eq!((last.text.as_str(), last.seq), ("last", 201));
}

#[tokio::test]
async fn a_break_between_send_and_ack_makes_no_second_event() {
    let fake = Fake::start().await;
    fake.state.lock().on_sends.push_back(OnSend::AcceptAndBreak);
    let (session, mut events) = connect(&fake, Options::default()).await;
    let mut outgoing = session.send("a", "hello").await.unwrap();
    let receipt = soon(outgoing.sent()).await.unwrap();
    assert!(receipt.duplicate);
    let sends = fake.seen().sends;
    assert_eq!(sends.len(), 2);
    assert!(
        sends
            .iter()
            .all(|(_, s)| s.message_id == outgoing.message_id())
    );
    assert_eq!(fake.texts("a"), ["hello"]);
    let message = soon(events.next_message()).await.unwrap();
    assert_eq!((message.seq, message.text.as_str()), (1, "hello"));
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_and_nothing_overtakes() {
    let fake = Fake::start().await;
    let wait = Duration::from_millis(150);
    fake.state.lock().on_sends.push_back(OnSend::RateLimit(150));
    let (session, _events) = connect(&fake, Options::default()).await;
    let mut outgoing = Vec::new();
    for number in 0..5 {
        outgoing.push(session.send("a", number.to_string()).await.unwrap());
    }
    for outgoing in &mut outgoing {
        soon(outgoing.sent()).await.unwrap();
    }
    assert_eq!(fake.texts("a"), ["0", "1", "2", "3", "4"]);
    let sends = fake.seen().sends;
    let first = &sends[0];
    let again = sends[1..]
        .iter()
        .find(|(_, send)| send.message_id == first.1.message_id)
        .unwrap();
    assert!(again.0 - first.0 >= wait);
}

#[tokio::test]
async fn a_refused_message_fails_and_those_behind_it_go_on() {
    let fake = Fake::start().await;
    let refuse = OnSend::Refuse(ErrorReason::NotAMember);
    fake.state.lock().on_sends.push_back(refuse);
    let (session, _events) = connect(&fake, Options::default()).await;
    let mut first = session.send("a", "first").await.unwrap();
    let mut second = session.send("a", "second").await.unwrap();
    let error = soon(first.sent()).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::NotAMember);
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert_eq!(first.state(), OutgoingState::Failed(error));
    assert_eq!(soon(second.sent()).await.unwrap().seq, 1);
}

#[tokio::test]
async fn bad_texts_are_refused_at_once_and_the_queue_is_bounded() {
    let fake = Fake::start().await;
    fake.state.lock().silent = true;
    let (session, mut events) = connect(&fake, Options::default().queue_max(2)).await;
    event(&mut events, |event| *event == Event::Connected).await;
    let reason = async |text: String| session.send("a", text).await.unwrap_err().reason();
    assert_eq!(reason(String::new()).await, ErrorReason::FieldRequired);
    assert_eq!(
        reason("a\0b".to_owned()).await,
        ErrorReason::TextNotStorable
    );
    assert_eq!(reason("é".repeat(701)).await, ErrorReason::TextTooLong);
    session.send("a", "é".repeat(700)).await.unwrap();
    session.send("a", "second").await.unwrap();
    let error = session.send("a", "third").await.unwrap_err();
    assert_eq!(error, Error::QueueFull);
    assert_eq!(session.unsent().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_lagging_session_misses_nothing() {
    let fake = Fake::start().await;
    fake.state.lock().quiet = true;
    let (session, mut events) = connect(&fake, Options::default()).await;
    soon(session.live()).await.unwrap();
    fake.state.lock().on_push.lost = 1.0;
    for number in 0..50 {
        fake.say("a", &number.to_string());
    }
    fake.push_all(Frame::Lagging(pb::Lagging { dropped: 100 }));
    let told = messages(&mut events, 50).await;
    assert_eq!(told["a"], fake.texts("a"));
    assert_eq!(session.stats().laggings, 1);
}

#[tokio::test]
async fn a_server_that_goes_away_is_left_when_it_says() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    soon(session.live()).await.unwrap();
    let going = pb::GoingAway {
        reconnect_after_ms: 120,
    };
    let started = std::time::Instant::now();
    fake.push_all(Frame::GoingAway(going));
    event(&mut events, |e| matches!(e, Event::Disconnected { .. })).await;
    assert!(started.elapsed() >= Duration::from_millis(120));
    event(&mut events, |event| *event == Event::Connected).await;
    let mut outgoing = session.send("a", "hello").await.unwrap();
    soon(outgoing.sent()).await.unwrap();
    assert_eq!(fake.seen().hellos.len(), 2);
}

#[tokio::test]
async fn a_half_open_connection_is_given_up_after_three_silent_heartbeats() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    soon(session.live()).await.unwrap();
    fake.state.lock().silent = true;
    let mut outgoing = session.send("a", "hello").await.unwrap();
    let event = event(&mut events, |e| matches!(e, Event::Disconnected { .. })).await;
    let Event::Disconnected { error, .. } = event else {
        unreachable!()
    };
    assert_eq!(error, Error::Timeout(HEARTBEAT * 3));
    fake.state.lock().silent = false;
    soon(outgoing.sent()).await.unwrap();
    assert_eq!(fake.texts("a"), ["hello"]);
}

#[tokio::test]
async fn a_quiet_client_says_that_it_is_there() {
    let fake = Fake::start().await;
    let (session, _events) = connect(&fake, Options::default()).await;
    until(|| fake.seen().heartbeats >= 3).await;
    assert_eq!(session.state(), SessionState::Live);
    assert_eq!(fake.seen().hellos.len(), 1);
}

#[tokio::test]
async fn an_expired_token_is_refreshed_once_for_everybody() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    fake.state.lock().valid_tokens.clear();
    let calls = (0..30).map(|_| client.unread_total(0));
    let (answers, session) = tokio::join!(
        futures_util::future::join_all(calls),
        client.connect(quick(Options::default()))
    );
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    soon(session.unwrap().0.live()).await.unwrap();
    assert_eq!(fake.seen().refreshes, 1);
}

#[tokio::test]
async fn a_session_is_told_about_a_new_token_and_survives_the_end_of_the_old_one() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let (session, _events) = client.connect(quick(Options::default())).await.unwrap();
    soon(session.live()).await.unwrap();
    fake.state.lock().valid_tokens.clear();
    client.unread_total(0).await.unwrap();
    until(|| !fake.seen().renewals.is_empty()).await;
    assert_eq!(fake.seen().renewals, [client.access_token().await.unwrap()]);
    // The server ends it all the same: it comes back with a new token.
    fake.state.lock().valid_tokens.clear();
    fake.end_all(&status(Code::Unauthenticated, ErrorReason::TokenExpired));
    until(|| fake.seen().hellos.len() == 2).await;
    soon(session.live()).await.unwrap();
    assert_eq!(fake.seen().refreshes, 2);
}

#[tokio::test]
async fn a_session_ends_for_good_only_when_trying_again_is_useless() {
    let fake = Fake::start().await;
    for reason in [ErrorReason::Unavailable, ErrorReason::SessionSilent] {
        let status = status(Code::Unavailable, reason);
        fake.state.lock().on_hello.push_back(status);
    }
    let (session, mut events) = connect(&fake, Options::default()).await;
    soon(session.live()).await.unwrap();
    let mut outgoing = session.send("a", "hello").await.unwrap();
    soon(outgoing.sent()).await.unwrap();
    fake.state.lock().silent = true;
    let mut unanswered = session.send("a", "unanswered").await.unwrap();
    fake.end_all(&status(Code::Unauthenticated, ErrorReason::DeviceRevoked));
    let last = event(&mut events, |event| matches!(event, Event::Closed(_))).await;
    let Event::Closed(error) = last else {
        unreachable!()
    };
    assert_eq!(error.reason(), ErrorReason::DeviceRevoked);
    assert_eq!(soon(events.next()).await, None);
    assert_eq!(soon(unanswered.sent()).await, Err(Error::Closed));
    assert!(session.send("a", "too late").await.is_err());
    assert_eq!(session.state(), SessionState::Closed(error));
}

#[tokio::test]
async fn two_sessions_of_one_device_do_not_take_turns_for_ever() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    for _ in 0..2 {
        soon(session.live()).await.unwrap();
        fake.end_all(&status(Code::Aborted, ErrorReason::SessionReplaced));
        event(&mut events, |event| {
            matches!(event, Event::Disconnected { .. } | Event::Closed(_))
        })
        .await;
        until(|| session.state() != SessionState::Live).await;
    }
    until(|| matches!(session.state(), SessionState::Closed(_))).await;
}

#[tokio::test]
async fn a_slow_app_gets_everything_later_and_its_sends_are_answered_meanwhile() {
    let fake = Fake::start().await;
    fake.state.lock().quiet = true;
    let options = Options::from_beginning().events_max(8);
    let (session, mut events) = connect(&fake, options).await;
    soon(session.live()).await.unwrap();
    for number in 0..3_000 {
        fake.say(&format!("c{}", number % 3), &number.to_string());
        if number % 500 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Nobody takes events, and yet this is answered.
    let mut outgoing = session.send("d", "hello").await.unwrap();
    soon(outgoing.sent()).await.unwrap();
    let told = messages(&mut events, 3_001).await;
    for (conversation, texts) in told {
        assert_eq!(texts, fake.texts(&conversation));
    }
    assert!(session.stats().events_shed > 0);
}

#[tokio::test]
async fn a_session_without_a_past_shows_the_rows_and_then_what_happens() {
    let fake = Fake::start().await;
    for number in 0..20 {
        fake.say(&format!("c{}", number % 2), "old");
    }
    let (_session, mut events) = connect(&fake, Options::default()).await;
    let mut rows = Vec::new();
    loop {
        match soon(events.next()).await.unwrap() {
            Event::Conversation(row) => rows.push((row.conversation_id, row.last_seq)),
            Event::CaughtUp { inbox_version } => {
                assert_eq!(inbox_version, 20);
                break;
            }
            Event::Connected => {}
            other => panic!("{other:?}"),
        }
    }
    rows.sort();
    assert_eq!(rows, [("c0".to_owned(), 10), ("c1".to_owned(), 10)]);
    fake.say("c1", "new");
    fake.say("c2", "first");
    let mut news = Vec::new();
    for _ in 0..2 {
        let message = soon(events.next_message()).await.unwrap();
        news.push((message.conversation_id, message.seq));
    }
    assert_eq!(news, [("c1".to_owned(), 11), ("c2".to_owned(), 1)]);
}

#[tokio::test]
async fn a_known_state_is_gone_on_from() {
    let fake = Fake::start().await;
    for number in 0..20 {
        fake.say(&format!("c{}", number % 2), "old");
    }
    let start = Start::Known {
        inbox_version: 16,
        seqs: vec![("c0".to_owned(), 8), ("c1".to_owned(), 9)],
    };
    let (_session, mut events) = connect(&fake, Options::default().start(start)).await;
    let mut seqs = Vec::new();
    for _ in 0..3 {
        let message = soon(events.next_message()).await.unwrap();
        seqs.push((message.conversation_id, message.seq));
    }
    seqs.sort();
    let expected = [("c0", 9), ("c0", 10), ("c1", 10)].map(|(c, s)| (c.to_owned(), s));
    assert_eq!(seqs, expected);
    assert_eq!(fake.seen().hellos, [16]);
}

#[tokio::test]
async fn a_resume_costs_by_what_changed_and_not_by_what_there_is() {
    let fake = Fake::start().await;
    for conversation in 0..2_000 {
        fake.say(&format!("c{conversation}"), "old");
    }
    let start = Start::Known {
        inbox_version: 2_000,
        seqs: (0..2_000).map(|c| (format!("c{c}"), 1)).collect(),
    };
    for conversation in 0..500 {
        fake.say(&format!("c{conversation}"), "one");
        fake.say(&format!("c{conversation}"), "two");
    }
    let (session, mut events) = connect(&fake, Options::default().start(start)).await;
    for _ in 0..1_000 {
        soon(events.next_message()).await.unwrap();
    }
    soon(session.live()).await.unwrap();
    let seen = fake.seen();
    assert_eq!((seen.changes_calls, seen.events_calls), (1, 1));
}

#[tokio::test]
async fn delivery_is_acknowledged_for_the_newest_event_and_again_after_a_break() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::from_beginning()).await;
    soon(session.live()).await.unwrap();
    for number in 0..100 {
        fake.say("a", &number.to_string());
    }
    messages(&mut events, 100).await;
    let told = |fake: &Fake| fake.seen().delivered.last().map(|d| d.up_to.unwrap().seq);
    until(|| told(&fake) == Some(100)).await;
    assert!(fake.seen().delivered.len() < 50);
    // It may have been lost on the way.
    fake.state.lock().seen.delivered.clear();
    fake.break_all();
    until(|| told(&fake) == Some(100)).await;
}

#[tokio::test]
async fn a_read_mark_is_told_until_the_server_shows_that_it_knows() {
    let fake = Fake::start().await;
    let (session, _events) = connect(&fake, Options::from_beginning()).await;
    fake.say("a", "one");
    let mark = |seq| pb::Watermark {
        seq,
        message_index: seq,
    };
    let told = |fake: &Fake| -> Vec<u64> {
        let reads = fake.seen().reads;
        reads.iter().map(|read| read.up_to.unwrap().seq).collect()
    };
    session.mark_read("a", mark(1)).await.unwrap();
    until(|| told(&fake) == [1]).await;
    fake.break_all();
    until(|| told(&fake) == [1, 1]).await;
    let marks = pb::Marks {
        conversation_id: "a".to_owned(),
        members: vec![pb::MemberMarks {
            user_id: "me".to_owned(),
            delivered: None,
            read: Some(mark(1)),
        }],
    };
    fake.push_all(Frame::Marks(marks));
    session.mark_read("b", mark(3)).await.unwrap();
    until(|| told(&fake) == [1, 1, 3]).await;
    fake.break_all();
    until(|| told(&fake) == [1, 1, 3, 3]).await;
}

#[tokio::test]
async fn sends_keep_within_the_frames_a_second_that_are_allowed() {
    let fake = Fake::start().await;
    fake.state.lock().limits.frames_per_second = 200;
    fake.state.lock().limits.frames_burst = 20;
    let (session, _events) = connect(&fake, Options::default()).await;
    let mut outgoing = Vec::new();
    for number in 0..100 {
        outgoing.push(session.send("a", number.to_string()).await.unwrap());
    }
    for outgoing in &mut outgoing {
        soon(outgoing.sent()).await.unwrap();
    }
    let sends = fake.seen().sends;
    let spread = sends[99].0 - sends[0].0;
    assert!(spread >= Duration::from_millis(400), "{spread:?}");
}

#[tokio::test]
async fn closing_waits_for_answers_and_ends_everything() {
    let fake = Fake::start().await;
    let (session, mut events) = connect(&fake, Options::default()).await;
    soon(session.live()).await.unwrap();
    let mut outgoing = session.send("a", "last words").await.unwrap();
    until(|| session.stats().sends == 1).await;
    soon(session.close()).await;
    assert!(matches!(outgoing.state(), OutgoingState::Sent(_)));
    soon(outgoing.sent()).await.unwrap();
    while soon(events.next()).await.is_some() {}
    assert_eq!(session.send("a", "more").await.unwrap_err(), Error::Closed);
}

#[tokio::test]
async fn https_without_the_feature_is_a_clear_error() {
    let error = Client::builder("https://127.0.0.1:1").build().map(drop);
    if cfg!(feature = "tls") {
        assert_eq!(error, Ok(()));
    } else {
        let error = error.unwrap_err();
        assert!(
            matches!(&error, Error::Config(text) if text.contains("tls")),
            "{error}"
        );
    }
}

/// A cache of a program that dies: after so many changes, none is made any more.
struct Dying {
    cache: SqliteCache,
    left: AtomicUsize,
}

#[async_trait]
impl Cache for Dying {
    async fn load(&self, user_id: &str, heads_max: usize) -> messenger_client::Result<Stored> {
        self.cache.load(user_id, heads_max).await
    }

    async fn heads(&self, ids: &[String]) -> messenger_client::Result<Vec<Head>> {
        self.cache.heads(ids).await
    }

    async fn apply(&self, batch: Batch) -> messenger_client::Result<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(Error::Storage("the program is dead".to_owned()));
        }
        self.left.store(left - 1, Ordering::SeqCst);
        self.cache.apply(batch).await
    }

    async fn messages(
        &self,
        id: &str,
        before: u64,
        limit: usize,
    ) -> messenger_client::Result<Vec<Message>> {
        self.cache.messages(id, before, limit).await
    }

    async fn conversations(&self, limit: usize) -> messenger_client::Result<Vec<Conversation>> {
        self.cache.conversations(limit).await
    }
}

#[tokio::test]
async fn an_app_that_dies_while_it_catches_up_has_the_whole_history_later() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    for number in 0..450 {
        fake.say(&format!("c{}", number % 3), &number.to_string());
    }
    let dir = tempfile::tempdir().unwrap();
    for left in 0..8 {
        let path = dir.path().join(left.to_string());
        let cache = SqliteCache::open(path).await.unwrap();
        let dying = Dying {
            cache: cache.clone(),
            left: AtomicUsize::new(left),
        };
        let options = quick(Options::from_beginning().cache(dying));
        let (session, mut events) = client.connect(options).await.unwrap();
        fake.say("d", "from now");
        while let Ok(Some(_)) = timeout(Duration::from_millis(150), events.next()).await {}
        drop((session, events));

        let options = quick(Options::from_beginning().cache(cache.clone()));
        let (session, mut events) = client.connect(options).await.unwrap();
        event(&mut events, |e| matches!(e, Event::CaughtUp { .. })).await;
        for conversation in ["c0", "c1", "c2", "d"] {
            let mut kept = cache.messages(conversation, 0, 1_000).await.unwrap();
            kept.reverse();
            let kept: Vec<_> = kept.into_iter().map(|message| message.text).collect();
            assert_eq!(
                kept,
                fake.texts(conversation),
                "{conversation} after {left}"
            );
        }
        session.close().await;
    }
}

#[tokio::test]
async fn an_app_that_dies_at_any_moment_sends_and_keeps_everything_once() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    let dir = tempfile::tempdir().unwrap();
    let cache = SqliteCache::open(dir.path().join("cache")).await.unwrap();
    let mut random = StdRng::seed_from_u64(5);
    fake.state.lock().on_push.lost = 0.1;
    let mut queued: Vec<String> = Vec::new();
    let mut events_seen: HashMap<String, u64> = HashMap::new();
    for life in 0..40 {
        for _ in 0..10 {
            let what = random_send(&mut random);
            fake.state.lock().on_sends.push_back(what);
        }
        let dying = Dying {
            cache: cache.clone(),
            left: AtomicUsize::new(random.random_range(0..12)),
        };
        let options = quick(Options::from_beginning().cache(dying));
        let (session, mut events) = client.connect(options).await.unwrap();
        for number in 0..4 {
            fake.say("a", &format!("theirs {life} {number}"));
            fake.say("b", &format!("theirs {life} {number}"));
            let text = format!("mine {life} {number}");
            // What was not confirmed as queued is the app's to say again.
            if session.send("a", &text).await.is_ok() {
                queued.push(text);
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..4))).await;
        }
        // Its death ends the session.
        let mut dead = false;
        while !dead {
            match timeout(Duration::from_millis(30), events.next()).await {
                Ok(Some(Event::Message(message))) => {
                    let seen = events_seen.entry(message.conversation_id).or_default();
                    assert!(message.seq > *seen, "an event came twice");
                    *seen = message.seq;
                }
                Ok(Some(_)) => {}
                Ok(None) => dead = true,
                // It lives; something must happen for it to die.
                Err(_) => fake.say("a", "die"),
            }
        }
    }
    fake.state.lock().on_sends.clear();
    let options = quick(Options::from_beginning().cache(cache.clone()));
    let (session, _events) = client.connect(options).await.unwrap();
    for mut outgoing in session.unsent().await.unwrap() {
        soon(outgoing.sent()).await.unwrap();
    }
    let mine: Vec<_> = fake.texts("a");
    let mine: Vec<_> = mine.into_iter().filter(|t| t.starts_with("mine")).collect();
    // A message whose queueing was not confirmed may have been kept nevertheless, but once.
    let mut rest = mine.iter();
    for text in &queued {
        assert!(rest.any(|sent| sent == text), "{text} is lost or late");
    }
    let distinct: std::collections::HashSet<_> = mine.iter().collect();
    assert_eq!(distinct.len(), mine.len(), "something was sent twice");
    let heads = async || {
        let stored = cache.load("me", 10).await.unwrap();
        let heads = stored.heads.into_iter();
        heads
            .map(|h| (h.conversation_id, h.seq))
            .collect::<HashMap<_, _>>()
    };
    let ends: HashMap<_, _> = ["a", "b"]
        .map(|c| (c.to_owned(), fake.texts(c).len() as u64))
        .into();
    soon(async {
        while heads().await != ends {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for conversation in ["a", "b"] {
        let mut kept = cache.messages(conversation, 0, 10_000).await.unwrap();
        kept.reverse();
        let kept: Vec<_> = kept.into_iter().map(|message| message.text).collect();
        assert_eq!(kept, fake.texts(conversation), "the history is whole");
    }
    assert_eq!(session.history("b", 3, 10).await.unwrap().len(), 2);
}
