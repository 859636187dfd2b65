//! What is heard.

use super::*;

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
