use std::time::Duration;

use runtime::{
    clock::{ManualClock, SystemClock},
    shutdown::CancellationToken,
};
use standins::{ApnsStandIn, Scope, Trouble};

use super::*;
use crate::providers::{
    guard::{Guard, Settled},
    tests::{
        File, alert, clear, ends_at_the_deadline, loses_nothing_and_shows_nothing_twice,
        now_unix_ms,
    },
};

const TOPIC: &str = "org.example.messenger";

fn token(n: u64) -> String {
    format!("{n:064x}")
}

fn device(n: u64) -> Target {
    Target::Apns {
        device_token: token(n),
        topic: TOPIC.to_owned(),
        sandbox: false,
    }
}

fn config(apple: &ApnsStandIn, key: &File) -> Config {
    let text = format!(
        "key_file = {:?}\nkey_id = {:?}\nteam_id = {:?}\ntopics = [{TOPIC:?}]\nurl = {:?}",
        key.path(),
        standins::apns::KEY_ID,
        standins::apns::TEAM_ID,
        apple.url(),
    );
    toml::from_str(&text).unwrap()
}

async fn apple_with(clock: Arc<dyn Clock>) -> (ApnsStandIn, Arc<Apns>) {
    let apple = ApnsStandIn::start().await.unwrap();
    let key = File::new(apple.key_pem());
    let apns = Apns::open(&config(&apple, &key), clock).unwrap();
    apple.devices().add(&token(1), TOPIC);
    (apple, Arc::new(apns))
}

async fn apple() -> (ApnsStandIn, Arc<Apns>) {
    apple_with(Arc::new(SystemClock)).await
}

#[tokio::test]
async fn an_alert_is_replaced_by_the_next_one_and_taken_away_when_it_was_read() {
    let (apple, apns) = apple().await;
    let shown = || apple.devices().device(&token(1)).unwrap();
    for seq in [1, 2] {
        assert_eq!(apns.push(&device(1), &alert(seq)).await, Outcome::Taken);
    }
    let push = alert(2);
    let on_screen: Vec<_> = shown().screen.into_values().collect();
    assert_eq!(on_screen.len(), 1);
    let notification = &on_screen[0];
    assert_eq!(notification.title, "Ada");
    assert_eq!(notification.body, push.alert.as_ref().unwrap().body);
    assert_eq!((notification.count, notification.seq), (2, 2));
    assert_eq!(notification.conversation_id, push.conversation.to_string());
    assert_eq!(notification.headers["push-type"], "alert");
    assert_eq!(notification.headers["priority"], "10");
    assert_eq!(notification.headers["topic"], TOPIC);
    let expires_s = notification.headers["expiration"].parse::<i64>().unwrap();
    assert!((expires_s - push.expires_unix_ms / 1_000).abs() <= 2);
    assert_eq!(shown().badge, 4);

    // Late, after the alert of a message that was not read: that one stays.
    assert_eq!(apns.push(&device(1), &clear(1)).await, Outcome::Taken);
    assert_eq!((shown().screen.len(), shown().badge), (1, 2));
    assert_eq!(apns.push(&device(1), &clear(2)).await, Outcome::Taken);
    assert_eq!(shown().screen.len(), 0);
    let kept = apple.devices().kept();
    assert_eq!(kept.last().unwrap().1.headers["priority"], "5");
    assert_eq!(apple.connections(), 1);
}

#[tokio::test]
async fn each_answer_of_apples_table_is_told_apart() {
    let (apple, apns) = apple().await;
    let refused = |why: &str| Outcome::Refused(why.to_owned());
    let away = |why: &str, after: Option<u64>| Outcome::Unavailable {
        after: after.map(Duration::from_secs),
        why: why.to_owned(),
    };
    let unauthorized = |why: &str| Outcome::Unauthorized(why.to_owned());
    // Once it has taken one, what it says of a device is about the device.
    assert_eq!(apns.push(&device(1), &alert(1)).await, Outcome::Taken);
    for (status, reason, after, expected) in [
        (410, "Unregistered", None, Outcome::Gone),
        (410, "ExpiredToken", None, Outcome::Gone),
        (400, "BadDeviceToken", None, Outcome::Gone),
        (400, "DeviceTokenNotForTopic", None, Outcome::Gone),
        (400, "BadTopic", None, refused("400 BadTopic")),
        (400, "TopicDisallowed", None, refused("400 TopicDisallowed")),
        (
            405,
            "MethodNotAllowed",
            None,
            refused("405 MethodNotAllowed"),
        ),
        (413, "PayloadTooLarge", None, Outcome::TooLarge),
        (
            403,
            "InvalidProviderToken",
            None,
            unauthorized("403 InvalidProviderToken"),
        ),
        (403, "Forbidden", None, unauthorized("403 Forbidden")),
        // Young: a new one would not help.
        (
            403,
            "ExpiredProviderToken",
            None,
            unauthorized("403 ExpiredProviderToken"),
        ),
        (
            429,
            "TooManyRequests",
            Some(9),
            Outcome::TargetBusy {
                after: Some(Duration::from_secs(9)),
            },
        ),
        (
            429,
            "TooManyProviderTokenUpdates",
            None,
            away("429 TooManyProviderTokenUpdates", None),
        ),
        (
            500,
            "InternalServerError",
            None,
            away("500 InternalServerError", None),
        ),
        (
            503,
            "ServiceUnavailable",
            Some(7),
            away("503 ServiceUnavailable", Some(7)),
        ),
        (503, "Shutdown", None, away("503 Shutdown", None)),
        (302, "", None, away("302 ", None)),
    ] {
        apple.plan(Scope::Next(1), Trouble::Status(status, reason, after));
        let outcome = apns.push(&device(1), &alert(2)).await;
        assert_eq!(outcome, expected, "{status} {reason}");
    }
    assert_eq!(apple.connections(), 1);
    // The real ones of the stand-in.
    apple.devices().uninstall(&token(1));
    assert_eq!(apns.push(&device(1), &alert(2)).await, Outcome::Gone);
    let mut long = alert(1);
    long.alert.as_mut().unwrap().body = "\u{1}".repeat(1_024);
    assert_eq!(apns.push(&device(1), &long).await, Outcome::TooLarge);
}

#[tokio::test]
async fn lost_connections_and_answers_lose_no_push_and_show_none_twice() {
    let (apple, apns) = apple().await;
    loses_nothing_and_shows_nothing_twice(&apple, apns, device(1)).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_at_the_deadline() {
    let (apple, apns) = apple().await;
    ends_at_the_deadline(&apple, apns, device(1)).await;
}

#[tokio::test]
async fn a_token_is_used_for_a_while_and_replaced_once_when_apple_calls_it_too_old() {
    let begin = now_unix_ms() - 50 * 60 * 1_000;
    let clock = ManualClock::at(begin);
    let (apple, apns) = apple_with(Arc::new(clock.clone())).await;
    assert_eq!(apns.push(&device(1), &alert(1)).await, Outcome::Taken);
    clock.advance(30 * 60 * 1_000);
    assert_eq!(apns.push(&device(1), &alert(1)).await, Outcome::Taken);
    assert_eq!(
        apple.newest_token_s(),
        begin / 1_000,
        "the same for half an hour"
    );
    apple.expire_tokens(begin / 1_000 + 60);
    let pushes: Vec<_> = (1..50).map(alert).collect();
    let (device, before) = (device(1), apple.requests());
    let outcomes = pushes.iter().map(|push| apns.push(&device, push));
    for outcome in futures_util::future::join_all(outcomes).await {
        assert_eq!(outcome, Outcome::Taken);
    }
    assert_eq!(apple.newest_token_s(), clock.now_unix_ms() / 1_000);
    assert!(apple.requests() <= before + 2 * 49);
    // And after 40 minutes before anybody complains; also if our clock was put back.
    let token = apns.token().unwrap();
    clock.advance(39 * 60 * 1_000);
    assert!(apns.token().unwrap() == token);
    clock.advance(2 * 60 * 1_000);
    assert!(apns.token().unwrap() != token);
    clock.set(begin);
    assert!(apns.token().unwrap() != token);
}

#[tokio::test]
async fn the_wrong_environment_makes_no_device_be_forgotten() {
    let (apple, apns) = apple().await;
    for n in 1_000..1_150 {
        let outcome = apns.push(&device(n), &alert(1)).await;
        match outcome {
            Outcome::Refused(_) => assert!(n < 1_100),
            Outcome::Unauthorized(_) => assert!(n >= 1_100),
            outcome => panic!("{outcome:?}"),
        }
    }
    // One that is known: the environment is right, and the others were wrong.
    assert_eq!(apns.push(&device(1), &alert(1)).await, Outcome::Taken);
    assert_eq!(apns.push(&device(1_000), &alert(1)).await, Outcome::Gone);
    assert_eq!(apple.answers(400), 151);
    // Of one environment nothing follows for the other.
    let sandbox = Target::Apns {
        device_token: token(1),
        topic: TOPIC.to_owned(),
        sandbox: true,
    };
    assert_eq!(apns.origin(&sandbox).name, "sandbox");
}

#[tokio::test]
async fn what_waited_while_apple_was_away_arrives_in_order_when_it_is_back() {
    let (apple, apns) = apple().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let guard = Arc::new(Guard::new(apns, &guard::Config::default(), clock));
    let stop = CancellationToken::new();
    assert_eq!(
        guard.settle(&device(1), &alert(1), &stop).await,
        Settled::Taken
    );
    for n in 1..20 {
        apple.devices().add(&token(n), TOPIC);
    }
    apple.down();
    let users = (1..20).map(|n| {
        let (guard, stop) = (&guard, &stop);
        async move {
            for seq in 2..6 {
                let settled = guard.settle(&device(n), &alert(seq), stop).await;
                assert_eq!(settled, Settled::Taken);
            }
        }
    });
    let back = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(!guard.is_healthy());
        apple.up();
    };
    tokio::join!(futures_util::future::join_all(users), back);
    assert!(guard.is_healthy());
    let totals = apple.devices().totals();
    assert_eq!((totals.taken, totals.repeats, totals.disorders), (77, 0, 0));
}

#[tokio::test]
async fn neither_keys_nor_tokens_are_shown() {
    let (apple, apns) = apple().await;
    let secret = apple.key_pem().lines().nth(1).unwrap().to_owned();
    let key = File::new(apple.key_pem());
    let shown = format!("{apns:?} {:?} {:?}", config(&apple, &key), device(1));
    assert!(
        !shown.contains(&secret) && !shown.contains(&token(1)),
        "{shown}"
    );
    apple.down();
    let outcome = format!("{:?}", apns.push(&device(1), &alert(1)).await);
    assert!(outcome.starts_with("Unavailable"), "{outcome}");
    assert!(
        !outcome.contains(&token(1)) && !outcome.contains("127.0.0.1"),
        "{outcome}"
    );
    let damaged = File::new(&apple.key_pem().replace("MI", "XX"));
    let error = Apns::open(&config(&apple, &damaged), Arc::new(SystemClock)).unwrap_err();
    assert!(!error.to_string().contains(&secret[2..]), "{error}");
}

#[tokio::test]
async fn what_a_device_gives_is_checked_when_it_is_registered() {
    let (_apple, apns) = apple().await;
    let upper = "ABCDEF0123456789".repeat(4);
    let target = apns.target(&upper, "", true).unwrap();
    let expected = Target::Apns {
        device_token: upper.to_ascii_lowercase(),
        topic: TOPIC.to_owned(),
        sandbox: true,
    };
    assert!(target == expected);
    for (bad, topic) in [
        ("", TOPIC),
        ("abc", TOPIC),
        (&"g".repeat(64), TOPIC),
        (&"a".repeat(63), TOPIC),
        (&"a".repeat(402), TOPIC),
        ("../../../3/device/00000000000000000", TOPIC),
        (&token(1), "org.example.other"),
    ] {
        assert!(apns.target(bad, topic, false).is_err(), "{bad} {topic}");
    }
}
