use std::time::Duration;

use runtime::{
    clock::{ManualClock, SystemClock},
    shutdown::CancellationToken,
};
use standins::{Scope, Trouble, WebPushStandIn};

use super::*;
use crate::{
    limits::{BODY_BYTES_MAX, TITLE_BYTES_MAX},
    providers::{
        guard::{Guard, Settled},
        tests::{
            DAY_MS, File, alert, clear, ends_at_the_deadline,
            loses_nothing_and_shows_nothing_twice, now_unix_ms,
        },
    },
};

mod browser;

fn config(service: &WebPushStandIn, folder: &File) -> Config {
    let text = format!(
        "key_file = {:?}\ncontact = \"mailto:push@example.org\"\nallowed_origins = [{:?}]",
        folder.path().with_file_name("vapid.pem"),
        service.url()
    );
    toml::from_str(&text).unwrap()
}

async fn browser_with(clock: Arc<dyn Clock>) -> (WebPushStandIn, Arc<WebPush>, Target) {
    let service = WebPushStandIn::start().await.unwrap();
    let folder = File::new("");
    let web_push = WebPush::open(&config(&service, &folder), clock).unwrap();
    let made = service.subscribe(web_push.public_key()).unwrap();
    let target = web_push.target(&made.endpoint, &made.p256dh, &made.auth);
    (service, Arc::new(web_push), target.unwrap())
}

async fn browser() -> (WebPushStandIn, Arc<WebPush>, Target) {
    browser_with(Arc::new(SystemClock)).await
}

#[tokio::test]
async fn a_browser_reads_what_it_is_told_and_shows_the_newest_of_a_conversation() {
    let (service, web_push, target) = browser().await;
    let shown = || service.devices().device(target.token()).unwrap();
    for seq in [1, 2] {
        assert_eq!(web_push.push(&target, &alert(seq)).await, Outcome::Taken);
    }
    let push = alert(2);
    let on_screen: Vec<_> = shown().screen.into_values().collect();
    assert_eq!(on_screen.len(), 1);
    let notification = &on_screen[0];
    assert_eq!(notification.title, "Ada");
    assert_eq!(notification.body, push.alert.as_ref().unwrap().body);
    assert_eq!((notification.count, notification.seq), (2, 2));
    assert_eq!(notification.headers["urgency"], "high");
    assert_eq!(notification.headers["topic"], push.collapse_id.to_string());
    let ttl_s = notification.headers["ttl"].parse::<i64>().unwrap();
    assert!(
        (DAY_MS / 1_000 - 5..=DAY_MS / 1_000).contains(&ttl_s),
        "{ttl_s}"
    );
    assert_eq!(shown().badge, 4);
    assert_eq!(web_push.push(&target, &clear(2)).await, Outcome::Taken);
    assert_eq!((shown().screen.len(), shown().badge), (0, 2));
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn each_answer_of_a_push_service_is_told_apart() {
    let (service, web_push, target) = browser().await;
    let away = |why: &str, after: Option<u64>| Outcome::Unavailable {
        after: after.map(Duration::from_secs),
        why: why.to_owned(),
    };
    for (status, after, expected) in [
        (404, None, Outcome::Gone),
        (410, None, Outcome::Gone),
        (413, None, Outcome::TooLarge),
        (400, None, Outcome::Refused("400".to_owned())),
        (401, None, Outcome::Refused("401".to_owned())),
        (
            429,
            Some(9),
            Outcome::TargetBusy {
                after: Some(Duration::from_secs(9)),
            },
        ),
        (500, None, away("500", None)),
        (503, Some(7), away("503", Some(7))),
        (301, None, away("301", None)),
    ] {
        service.plan(Scope::Next(1), Trouble::Status(status, "", after));
        let outcome = web_push.push(&target, &alert(1)).await;
        assert_eq!(outcome, expected, "{status}");
    }
    service.devices().uninstall(target.token());
    assert_eq!(web_push.push(&target, &alert(1)).await, Outcome::Gone);
}

#[tokio::test]
async fn lost_connections_and_answers_lose_no_push_and_show_none_twice() {
    let (service, web_push, target) = browser().await;
    loses_nothing_and_shows_nothing_twice(&service, web_push, target).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_at_the_deadline() {
    let (service, web_push, target) = browser().await;
    ends_at_the_deadline(&service, web_push, target).await;
}

#[tokio::test]
async fn a_browser_that_subscribed_to_another_key_is_not_taken_for_a_wrong_setting() {
    let (service, web_push, target) = browser().await;
    let other = File::new("");
    let other = WebPush::open(&config(&service, &other), Arc::new(SystemClock)).unwrap();
    assert_eq!(
        other.push(&target, &alert(1)).await,
        Outcome::Refused("403".to_owned())
    );
    // But if all did, our key is the wrong one.
    for _ in 0..100 {
        other.push(&target, &alert(1)).await;
    }
    assert!(matches!(
        other.push(&target, &alert(1)).await,
        Outcome::Unauthorized(_)
    ));
    assert_eq!(web_push.push(&target, &alert(1)).await, Outcome::Taken);
}

#[tokio::test]
async fn the_longest_texts_are_taken_and_worse_ones_lose_their_body() {
    let (service, web_push, target) = browser().await;
    let mut push = alert(1);
    let text = push.alert.as_mut().unwrap();
    text.title = "\"".repeat(TITLE_BYTES_MAX);
    text.body = "\\".repeat(BODY_BYTES_MAX);
    assert_eq!(web_push.push(&target, &push).await, Outcome::Taken);
    // Six bytes for each.
    push.alert.as_mut().unwrap().body = "\u{1}".repeat(BODY_BYTES_MAX);
    assert_eq!(web_push.push(&target, &push).await, Outcome::TooLarge);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let guard = Guard::new(web_push, &guard::Config::default(), clock);
    let settled = guard
        .settle(&target, &push, &CancellationToken::new())
        .await;
    assert_eq!(settled, Settled::Taken);
    let kept = service.devices().kept();
    assert_eq!(kept.last().unwrap().1.title.len(), TITLE_BYTES_MAX);
    assert_eq!(kept.last().unwrap().1.body, "");
}

#[tokio::test]
async fn tokens_are_made_anew_before_their_end_and_for_each_service() {
    let clock = ManualClock::at(now_unix_ms() - 13 * 60 * 60 * 1_000);
    let (service, web_push, target) = browser_with(Arc::new(clock.clone())).await;
    // Our clock is so wrong that its tokens are over.
    assert_eq!(
        web_push.push(&target, &alert(1)).await,
        Outcome::Refused("403".to_owned())
    );
    clock.set(now_unix_ms());
    for _ in 0..3 {
        assert_eq!(web_push.push(&target, &alert(1)).await, Outcome::Taken);
    }
    let (one, _) = web_push.vapid(&service.url()).unwrap();
    let (same, _) = web_push.vapid(&service.url()).unwrap();
    let (other, _) = web_push.vapid("https://fcm.googleapis.com").unwrap();
    assert!(one == same && one != other);
    for n in 0..1_000 {
        web_push.vapid(&format!("https://{n}.notify.windows.com"));
    }
    assert!(web_push.services.lock().len() <= SERVICES_MAX + 2);
    assert!(web_push.vapid(&service.url()).unwrap().0 == one);
}

#[tokio::test]
async fn nothing_is_sent_to_what_is_not_allowed_any_more_and_safari_is_not_pushed_in_silence() {
    let (service, web_push, target) = browser().await;
    let Target::WebPush { p256dh, auth, .. } = &target else {
        panic!("a browser");
    };
    for bad in [
        "http://127.0.0.1:1/s",
        "https://evil.example/",
        "http://169.254.169.254/",
    ] {
        assert!(web_push.target(bad, &**p256dh, auth).is_err());
        let target = Target::WebPush {
            endpoint: bad.to_owned(),
            p256dh: p256dh.clone(),
            auth: *auth,
        };
        let outcome = web_push.push(&target, &alert(1)).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
    let good = target.token();
    assert!(web_push.target(good, &p256dh[..64], auth).is_err());
    assert!(web_push.target(good, &[4; 65], auth).is_err());
    assert!(web_push.target(good, &**p256dh, &auth[..15]).is_err());
    assert_eq!(service.requests(), 0);
    let safari = web_push.target("https://web.push.apple.com/QGv", &**p256dh, auth);
    assert_eq!(
        web_push.push(&safari.unwrap(), &clear(1)).await,
        Outcome::Taken
    );
}

#[tokio::test]
async fn neither_keys_nor_endpoints_are_shown() {
    let (service, web_push, target) = browser().await;
    let shown = format!("{web_push:?} {target:?}");
    assert!(!shown.contains(target.token()), "{shown}");
    service.down();
    let outcome = format!("{:?}", web_push.push(&target, &alert(1)).await);
    assert!(outcome.starts_with("Unavailable"), "{outcome}");
    assert!(
        !outcome.contains("/s/") && !outcome.contains("127.0.0.1"),
        "{outcome}"
    );
}
