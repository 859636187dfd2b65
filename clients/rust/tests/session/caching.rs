//! An app that dies.

use messenger_client::GroupChange;

use super::*;

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

    async fn group_changes(
        &self,
        id: &str,
        before: u64,
        limit: usize,
    ) -> messenger_client::Result<Vec<GroupChange>> {
        self.cache.group_changes(id, before, limit).await
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
async fn what_was_missed_while_the_app_was_away_is_news_and_nothing_else_is() {
    let fake = Fake::start().await;
    let client = log_in(&fake).await;
    for number in 0..20 {
        fake.say(&format!("c{}", number % 2), "history");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let mut seq = 10;
    for life in 0..3 {
        let cache = SqliteCache::open(&path).await.unwrap();
        let options = quick(Options::default().cache(cache));
        let (session, mut events) = client.connect(options).await.unwrap();
        if life > 0 {
            let missed = soon(events.next_message()).await.unwrap();
            seq += 1;
            assert_eq!((missed.text.as_str(), missed.seq), ("missed", seq));
        }
        soon(session.live()).await.unwrap();
        fake.say("c0", "now");
        let now = soon(events.next_message()).await.unwrap();
        seq += 1;
        assert_eq!((now.text.as_str(), now.seq), ("now", seq));
        session.close().await;
        fake.say("c0", "missed");
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
    everything_is_there_once(&fake, &client, &cache, &queued).await;
}

/// What was queued has been sent once and in order, and the cache gets all there is.
async fn everything_is_there_once(
    fake: &Fake,
    client: &Client,
    cache: &SqliteCache,
    queued: &[String],
) {
    let options = quick(Options::from_beginning().cache(cache.clone()));
    let (session, _events) = client.connect(options).await.unwrap();
    for mut outgoing in session.unsent().await.unwrap() {
        soon(outgoing.sent()).await.unwrap();
    }
    let mine: Vec<_> = fake.texts("a");
    let mine: Vec<_> = mine.into_iter().filter(|t| t.starts_with("mine")).collect();
    // A message whose queueing was not confirmed may have been kept nevertheless, but once.
    let mut rest = mine.iter();
    for text in queued {
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
