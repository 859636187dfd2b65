use std::time::Duration;

use runtime::clock::{ManualClock, SystemClock};
use standins::{FcmStandIn, Scope, Trouble};

use super::*;
use crate::providers::tests::{
    File, alert, clear, ends_at_the_deadline, loses_nothing_and_shows_nothing_twice, now_unix_ms,
};

const TOKEN: &str = "fGw0qy4TQfmX:APA91bHun4MxP5egoKMwt2KZFBaFUH";

fn device(token: &str) -> Target {
    Fcm::target(token).unwrap()
}

fn config(google: &FcmStandIn, account: &File) -> Config {
    let text = format!(
        "service_account_file = {:?}\nurl = {:?}",
        account.path(),
        google.url()
    );
    toml::from_str(&text).unwrap()
}

async fn google_with(clock: Arc<dyn Clock>) -> (FcmStandIn, Arc<Fcm>) {
    let google = FcmStandIn::start().await.unwrap();
    let account = File::new(&google.service_account_json());
    let fcm = Fcm::open(&config(&google, &account), clock).unwrap();
    google.devices().add(TOKEN, "");
    (google, Arc::new(fcm))
}

async fn google() -> (FcmStandIn, Arc<Fcm>) {
    google_with(Arc::new(SystemClock)).await
}

#[tokio::test]
async fn an_alert_is_replaced_by_the_next_one_and_taken_away_when_it_was_read() {
    let (google, fcm) = google().await;
    let shown = || google.devices().device(TOKEN).unwrap();
    for seq in [1, 2] {
        assert_eq!(fcm.push(&device(TOKEN), &alert(seq)).await, Outcome::Taken);
    }
    let push = alert(2);
    let on_screen: Vec<_> = shown().screen.into_values().collect();
    assert_eq!(on_screen.len(), 1);
    let notification = &on_screen[0];
    assert_eq!(notification.title, "Ada");
    assert_eq!(notification.body, push.alert.as_ref().unwrap().body);
    assert_eq!((notification.count, notification.seq), (2, 2));
    assert_eq!(notification.tag, push.collapse_id.to_string());
    assert_eq!(notification.headers["priority"], "high");
    assert_eq!(shown().badge, 4);
    assert_eq!(fcm.push(&device(TOKEN), &clear(2)).await, Outcome::Taken);
    assert_eq!((shown().screen.len(), shown().badge), (0, 2));
    let kept = google.devices().kept();
    assert_eq!(kept.last().unwrap().1.headers["priority"], "normal");
    assert_eq!((google.connections(), google.tokens_given()), (1, 1));
}

#[tokio::test]
async fn each_answer_of_googles_table_is_told_apart() {
    let (google, fcm) = google().await;
    let refused = |why: &str| Outcome::Refused(why.to_owned());
    let away = |why: &str, after: Option<u64>| Outcome::Unavailable {
        after: after.map(Duration::from_secs),
        why: why.to_owned(),
    };
    let unauthorized = |why: &str| Outcome::Unauthorized(why.to_owned());
    for (status, code, after, expected) in [
        (404, "UNREGISTERED", None, Outcome::Gone),
        // The project, not the device.
        (404, "", None, unauthorized("404 NOT_FOUND")),
        (
            400,
            "INVALID_ARGUMENT",
            None,
            refused("400 INVALID_ARGUMENT"),
        ),
        (
            403,
            "SENDER_ID_MISMATCH",
            None,
            refused("403 SENDER_ID_MISMATCH"),
        ),
        (
            401,
            "THIRD_PARTY_AUTH_ERROR",
            None,
            refused("401 THIRD_PARTY_AUTH_ERROR"),
        ),
        (403, "", None, unauthorized("403 PERMISSION_DENIED")),
        (
            429,
            "QUOTA_EXCEEDED",
            Some(9),
            away("429 QUOTA_EXCEEDED", Some(9)),
        ),
        (
            429,
            "QUOTA_EXCEEDED",
            None,
            away("429 QUOTA_EXCEEDED", Some(60)),
        ),
        (
            429,
            "DEVICE_QUOTA",
            None,
            Outcome::TargetBusy { after: None },
        ),
        (500, "INTERNAL", None, away("500 INTERNAL", None)),
        (
            503,
            "UNAVAILABLE",
            Some(7),
            away("503 UNAVAILABLE", Some(7)),
        ),
    ] {
        // The 401 is tried twice, in case the access token is meant.
        let times = if status == 401 { 2 } else { 1 };
        google.plan(Scope::Next(times), Trouble::Status(status, code, after));
        let outcome = fcm.push(&device(TOKEN), &alert(1)).await;
        assert_eq!(outcome, expected, "{status} {code}");
    }
    // The real ones of the stand-in.
    google.devices().uninstall(TOKEN);
    google.devices().add("of-another-project", "another");
    for (token, expected) in [
        (TOKEN, Outcome::Gone),
        ("unknown", Outcome::Gone),
        ("of-another-project", refused("403 SENDER_ID_MISMATCH")),
    ] {
        assert_eq!(fcm.push(&device(token), &alert(1)).await, expected);
    }
    let mut long = alert(1);
    long.alert.as_mut().unwrap().body = "a".repeat(4_096);
    assert_eq!(fcm.push(&device(TOKEN), &long).await, Outcome::TooLarge);
}

#[tokio::test]
async fn lost_connections_and_answers_lose_no_push_and_show_none_twice() {
    let (google, fcm) = google().await;
    loses_nothing_and_shows_nothing_twice(&google, fcm, device(TOKEN)).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_at_the_deadline() {
    let (google, fcm) = google().await;
    ends_at_the_deadline(&google, fcm, device(TOKEN)).await;
}

#[tokio::test]
async fn an_access_token_is_asked_for_once_by_all_and_renewed_before_its_end() {
    let clock = ManualClock::at(now_unix_ms());
    let (google, fcm) = google_with(Arc::new(clock.clone())).await;
    let many = async || {
        let pushes: Vec<_> = (1..=50).map(alert).collect();
        let device = device(TOKEN);
        let outcomes = pushes.iter().map(|push| fcm.push(&device, push));
        for outcome in futures_util::future::join_all(outcomes).await {
            assert_eq!(outcome, Outcome::Taken);
        }
    };
    many().await;
    assert_eq!(google.tokens_given(), 1);
    // All are told 401 at the same time.
    google.expire_tokens();
    many().await;
    assert_eq!(google.tokens_given(), 2);
    // A minute before its end it is not used any more.
    clock.advance(58 * 60 * 1_000 + 50 * 1_000);
    let complaints = google.answers(401);
    many().await;
    assert_eq!(
        (google.tokens_given(), google.answers(401)),
        (2, complaints)
    );
    clock.advance(20 * 1_000);
    many().await;
    assert_eq!(
        (google.tokens_given(), google.answers(401)),
        (3, complaints)
    );
}

#[tokio::test]
async fn without_an_access_token_it_is_told_whether_waiting_helps() {
    let (google, fcm) = google().await;
    for (trouble, expected) in [
        (
            (400, "invalid_grant"),
            "Unauthorized(\"access token: 400 invalid_grant\")",
        ),
        (
            (503, "busy"),
            "Unavailable { after: None, why: \"access token: 503 busy\" }",
        ),
        (
            (200, "x"),
            "Unavailable { after: None, why: \"access token: not what RFC 6749 says\" }",
        ),
    ] {
        google.refuse_tokens(Some(trouble));
        let outcome = fcm.push(&device(TOKEN), &alert(1)).await;
        assert_eq!(format!("{outcome:?}"), expected);
    }
    google.refuse_tokens(None);
    assert_eq!(fcm.push(&device(TOKEN), &alert(1)).await, Outcome::Taken);
}

#[tokio::test]
async fn neither_keys_nor_tokens_are_shown() {
    let (google, fcm) = google().await;
    let json = google.service_account_json();
    let account: ServiceAccount = serde_json::from_str(&json).unwrap();
    let secret = account.private_key.lines().nth(3).unwrap().to_owned();
    let file = File::new(&json);
    let shown = format!("{fcm:?} {:?} {:?}", config(&google, &file), device(TOKEN));
    assert!(
        !shown.contains(&secret) && !shown.contains(TOKEN),
        "{shown}"
    );
    for damaged in [
        json.replace("client_email", "x"),
        json.replace("BEGIN", "B"),
    ] {
        let file = File::new(&damaged);
        let error = Fcm::open(&config(&google, &file), Arc::new(SystemClock)).unwrap_err();
        assert!(!error.to_string().contains(&secret), "{error}");
    }
}

#[test]
fn what_a_device_gives_is_checked_when_it_is_registered() {
    for bad in ["", "a b", "a\n", "\u{e4}", &"a".repeat(4_097)] {
        assert!(Fcm::target(bad).is_err(), "{bad}");
    }
}
