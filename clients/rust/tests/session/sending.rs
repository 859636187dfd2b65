//! What is sent.

use super::*;

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
async fn a_text_that_this_server_never_takes_does_not_end_the_session() {
    let fake = Fake::start().await;
    fake.state.lock().limits.text_chars_max = 10;
    let unavailable = status(Code::Unavailable, ErrorReason::Unavailable);
    fake.state.lock().on_hello = vec![unavailable; 3].into();
    let (session, _events) = connect(&fake, Options::default()).await;
    // The limits of the server are not known yet.
    let mut long = session.send("a", "much too long").await.unwrap();
    let mut short = session.send("a", "short").await.unwrap();
    let error = soon(long.sent()).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::TextTooLong);
    soon(short.sent()).await.unwrap();
    assert_eq!(fake.texts("a"), ["short"]);
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
