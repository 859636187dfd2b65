//! What the tests of all providers need.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use runtime::{
    clock::{Clock, SystemClock},
    ids::{ConversationId, UserId},
};

use super::{Config, apns};
use crate::{
    model::{Subject, Target},
    push::{Alert, CollapseId, Outcome, Push, PushProvider},
};

pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

pub(super) fn now_unix_ms() -> i64 {
    SystemClock.now_unix_ms()
}

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let user = UserId::generate();
    let conversation = ConversationId::direct(user, UserId::generate()).unwrap();
    Subject { user, conversation }
});

/// Tells of a message of one conversation, the same for all.
pub(super) fn alert(seq: u64) -> Push {
    Push {
        collapse_id: CollapseId::of(&SUBJECT),
        conversation: SUBJECT.conversation,
        alert: Some(Alert {
            title: "Ada".to_owned(),
            body: "Tea \u{1f375} at \"five\"?".to_owned(),
            count: seq,
            seq,
        }),
        badge: seq + 2,
        read_seq: 0,
        expires_unix_ms: now_unix_ms() + DAY_MS,
    }
}

/// Takes away what was shown of it.
pub(super) fn clear(read_seq: u64) -> Push {
    Push {
        alert: None,
        badge: 2,
        read_seq,
        ..alert(0)
    }
}

/// A file that lives as long as the test.
pub(super) struct File(tempfile::TempDir);

impl File {
    pub(super) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), text).unwrap();
        Self(folder)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("file")
    }
}

pub(super) fn unavailable(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unavailable { .. })
}

/// What all providers promise whose connection, or answer, is lost.
pub(super) async fn loses_nothing_and_shows_nothing_twice(
    stand_in: &standins::StandIn,
    provider: Arc<dyn PushProvider>,
    target: Target,
) {
    use standins::{Scope, Trouble};
    let device = || stand_in.devices().device(target.token()).unwrap();
    assert_eq!(provider.push(&target, &alert(1)).await, Outcome::Taken);
    let before = stand_in.connections();

    // Taken, but who sent it does not hear of it.
    for (seq, trouble) in [(2, Trouble::TakenUnanswered), (3, Trouble::Disconnect)] {
        stand_in.plan(Scope::Next(1), trouble);
        let outcome = provider.push(&target, &alert(seq)).await;
        assert!(unavailable(&outcome), "{outcome:?}");
        assert_eq!(provider.push(&target, &alert(seq)).await, Outcome::Taken);
        assert_eq!(
            device().screen.len(),
            1,
            "the repeat replaces the first one"
        );
        assert_eq!(device().screen.values().next().unwrap().seq, seq);
    }
    assert_eq!(device().pushes, 5);
    assert_eq!(stand_in.devices().totals().repeats, 2);
    assert_eq!(
        stand_in.connections(),
        before + 1,
        "for the one that was closed"
    );

    // The status was there before the connection was cut: nothing is repeated.
    stand_in.plan(Scope::Next(1), Trouble::CutOff);
    assert_eq!(provider.push(&target, &alert(4)).await, Outcome::Taken);

    // Nobody saw these: the connection says so, and they are sent again by themselves.
    stand_in.plan(Scope::Next(1), Trouble::RefusedStream);
    assert_eq!(provider.push(&target, &alert(5)).await, Outcome::Taken);
    assert_eq!(device().pushes, 7);

    // A connection that takes no more, in the middle of many pushes.
    stand_in.plan(Scope::Next(1), Trouble::GoAway);
    let taken_before = stand_in.devices().totals().taken;
    let pushes: Vec<Push> = (6..206).map(alert).collect();
    let outcomes = pushes.iter().map(|push| provider.push(&target, push));
    for outcome in futures_util::future::join_all(outcomes).await {
        assert_eq!(outcome, Outcome::Taken);
    }
    assert_eq!(stand_in.devices().totals().taken, taken_before + 200);
    assert!(stand_in.connections() <= before + 3);
}

/// An answer that does not come in time.
pub(super) async fn ends_at_the_deadline(
    stand_in: &standins::StandIn,
    provider: Arc<dyn PushProvider>,
    target: Target,
) {
    use standins::{Scope, Trouble};
    assert_eq!(provider.push(&target, &alert(1)).await, Outcome::Taken);
    let asked = stand_in.requests() + 1;
    stand_in.plan(Scope::Next(1), Trouble::Slow(Duration::from_secs(3_600)));
    let late = tokio::spawn(async move { provider.push(&target, &alert(2)).await });
    while stand_in.requests() < asked {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // From here on time jumps to whatever is waited for.
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    let outcome = late.await.unwrap();
    assert!(unavailable(&outcome), "{outcome:?}");
    assert!(begin.elapsed() <= crate::limits::PUSH_DEADLINE + Duration::from_secs(1));
}

#[test]
fn a_file_sets_what_it_names_and_nothing_else() {
    let text = r#"
        [apns]
        key_file = "key.p8"
        key_id = "ABCDE12345"
        team_id = "FGHIJ67890"
        topics = ["org.example.messenger"]
        guard.at_once_max = 8
        [fcm]
        service_account_file = "account.json"
        [web_push]
        key_file = "vapid.pem"
        contact = "mailto:push@example.org"
    "#;
    let config: Config = toml::from_str(text).unwrap();
    let apns = config.apns.unwrap();
    assert_eq!(apns.url, "https://api.push.apple.com");
    assert_eq!(apns.guard.at_once_max.get(), 8);
    assert_eq!(config.web_push.unwrap().allowed_hosts.len(), 7);
    for (bad, key) in [
        ("[apns]\nkey = 1", "key"),
        (
            "[fcm]\nservice_account_file = \"a\"\nguard.rate = 1",
            "rate",
        ),
        ("[smoke]", "smoke"),
    ] {
        let error = toml::from_str::<Config>(bad).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[tokio::test]
async fn by_tls_nothing_is_said_to_who_does_not_speak_it() {
    let apple = standins::ApnsStandIn::start().await.unwrap();
    let key = File::new(apple.key_pem());
    let text = format!(
        "key_file = {:?}\nkey_id = \"a\"\nteam_id = \"b\"\ntopics = [\"c\"]\nurl = {:?}",
        key.path(),
        apple.url().replace("http:", "https:")
    );
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let apns = apns::Apns::open(&toml::from_str(&text).unwrap(), clock).unwrap();
    let target = apns.target(&"a".repeat(64), "", false).unwrap();
    let outcome = apns.push(&target, &alert(1)).await;
    assert!(unavailable(&outcome), "{outcome:?}");
    assert_eq!((apple.requests(), apple.connections()), (0, 1));
}
