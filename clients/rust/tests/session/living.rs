//! Connections, tokens, and the end.

use super::*;

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
async fn programs_that_share_a_token_file_share_its_refreshes() {
    let fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let tokens = || FileTokens::new(dir.path().join("tokens"));
    let client = || {
        Client::builder(fake.url())
            .tokens(tokens())
            .build()
            .unwrap()
    };
    let (one, other) = (client(), client());
    let credentials = log_in(&fake).await.credentials().await.unwrap();
    tokens().save(&credentials).await.unwrap();
    // Both have loaded the token that ends now.
    one.unread_total(0).await.unwrap();
    other.unread_total(0).await.unwrap();
    fake.state.lock().valid_tokens.clear();
    let answers = tokio::join!(one.unread_total(0), other.unread_total(0));
    assert!(answers.0.is_ok() && answers.1.is_ok());
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

/// How often the task wakes up in a fifth of a second.
async fn turns(session: &Session) -> u64 {
    let before = session.stats().turns;
    tokio::time::sleep(HEARTBEAT * 2).await;
    session.stats().turns - before
}

#[tokio::test]
async fn nothing_is_waited_for_busily() {
    // Heartbeats both ways, deliveries and tries to connect, with much room.
    let few = 40;
    let fake = Fake::start().await;
    let options = Options::from_beginning().events_max(2);
    let client = log_in(&fake).await;
    let wait = Duration::from_millis(50);
    let options = options.reconnect_wait(wait, wait);
    let (session, _events) = client.connect(options).await.unwrap();
    soon(session.live()).await.unwrap();
    assert!(turns(&session).await < few, "with nothing to do");

    fake.state
        .lock()
        .on_sends
        .push_back(OnSend::RateLimit(60_000));
    for _ in 0..20 {
        session.send("a", "hello").await.unwrap();
    }
    until(|| session.stats().sends_retried > 0).await;
    session
        .mark_read("b", pb::Watermark::default())
        .await
        .unwrap();
    tokio::time::sleep(HEARTBEAT).await;
    assert!(turns(&session).await < few, "with a rate limit");

    for number in 0..50 {
        fake.say("b", &number.to_string());
    }
    tokio::time::sleep(HEARTBEAT).await;
    assert!(
        turns(&session).await < few,
        "with an app that takes no events"
    );

    let going = pb::GoingAway {
        reconnect_after_ms: 0,
    };
    fake.state.lock().silent = true;
    fake.break_all();
    until(|| session.state() == SessionState::Connecting).await;
    assert!(
        turns(&session).await < few,
        "with a server that answers nothing"
    );
    fake.state.lock().silent = false;
    until(|| session.state() != SessionState::Connecting).await;
    session.send("c", "unanswered").await.unwrap();
    fake.state.lock().silent = true;
    fake.push_all(Frame::GoingAway(going));
    assert!(turns(&session).await < few, "with a server that goes away");
    drop(fake);
    tokio::time::sleep(HEARTBEAT).await;
    assert!(turns(&session).await < few, "without a server");
}

#[tokio::test]
async fn a_server_that_is_away_is_left_for_the_next_one() {
    let fake = Fake::start().await;
    // Nobody listens there any more.
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    // Which of them it begins at is a matter of chance.
    for _ in 0..8 {
        let urls = format!("http://{address}, http://{}", fake.address);
        let client = Client::builder(urls).build().unwrap();
        let log_in = LogIn {
            username: "me".to_owned(),
            password: "right".to_owned(),
            ..LogIn::default()
        };
        client.log_in(log_in).await.unwrap();
        client.unread_total(0).await.unwrap();
        let (session, _events) = client.connect(quick(Options::default())).await.unwrap();
        soon(session.live()).await.unwrap();
        let mut outgoing = session.send("a", "hello").await.unwrap();
        soon(outgoing.sent()).await.unwrap();
        session.close().await;
    }
}
