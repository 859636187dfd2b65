use std::time::Duration;

use proto::{
    error::v1::ErrorReason,
    profile::v1::{ListDevicesRequest, LogInRequest, RegisterRequest},
};
use runtime::auth::Caller;

use super::harness::*;
use crate::config::Config;

#[tokio::test]
async fn one_account_has_many_devices() {
    let server = Server::start().await;
    let phone = server.register("Ann.B").await;
    let profile = phone.profile.clone().unwrap();
    assert_eq!((profile.username.as_str(), profile.version), ("ann.b", 1));
    assert_eq!(profile.display_name, "ann.b");
    assert_eq!(profile.created_unix_ms, NOW);
    let tokens = phone.tokens.unwrap();
    let Caller::User(user) = server.verifier.verify(&tokens.access_token).unwrap() else {
        panic!("not a user's token");
    };
    assert_eq!(user.user_id.to_string(), profile.user_id);
    assert_eq!(user.device_id.to_string(), phone.device_id);
    assert_eq!(user.expires_unix_ms, tokens.access_expires_unix_ms);
    assert_eq!(user.expires_unix_ms - user.issued_unix_ms, 15 * 60_000);

    server.clock.advance(1_000);
    let laptop = LogInRequest {
        device_name: "laptop".to_owned(),
        ..credentials("aNN.b", PASSWORD)
    };
    let laptop = server.log_in(laptop).await.unwrap();
    assert_eq!(laptop.profile, phone.profile);
    let token = laptop.tokens.unwrap().access_token;
    let mut accounts = server.accounts();
    let devices = accounts.list_devices(with_token(&token, ListDevicesRequest {}));
    let devices = read(devices.await).unwrap().devices;
    let seen: Vec<_> = devices
        .iter()
        .map(|d| (&d.device_id, d.name.as_str(), d.current))
        .collect();
    assert_eq!(
        seen,
        [
            (&laptop.device_id, "laptop", true),
            (&phone.device_id, "device", false)
        ]
    );
}

#[tokio::test]
async fn a_username_is_taken_once_also_in_other_letters_and_at_the_same_moment() {
    let server = Server::start().await;
    let calls = (0..8).map(|i| {
        let name = if i % 2 == 0 { "ann" } else { "ANN" };
        let mut accounts = server.accounts();
        async move { read(accounts.register(registration(name)).await) }
    });
    let answers = futures_util::future::join_all(calls).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for error in refused {
        let error = error.unwrap_err();
        assert_eq!(error.reason, ErrorReason::UsernameTaken);
        assert_eq!(error.field, "username");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_are_answered_alike() {
    let server = Server::start().await;
    server.register("ann").await;
    let wrong = server
        .log_in(credentials("ann", "wrong"))
        .await
        .unwrap_err();
    let unknown = server
        .log_in(credentials("bob", "wrong"))
        .await
        .unwrap_err();
    assert_eq!(wrong.reason, ErrorReason::CredentialsInvalid);
    assert_eq!(wrong, unknown);
    assert!(server.log_in(credentials("ann", PASSWORD)).await.is_ok());
}

#[tokio::test]
async fn guessing_is_slowed_down_also_when_it_is_done_at_once() {
    let server = Server::with(Config {
        failed_log_ins_burst: 5,
        failed_log_in_every: Duration::from_secs(30),
        ..Server::config()
    })
    .await;
    server.register("ann").await;
    // Of a name that exists and of one that does not.
    for name in ["ann", "nobody"] {
        let guesses = (0..40).map(|i| server.log_in(credentials(name, &format!("guess {i}"))));
        let mut judged = 0;
        for answer in futures_util::future::join_all(guesses).await {
            match answer.unwrap_err() {
                error if error.reason == ErrorReason::CredentialsInvalid => judged += 1,
                error => {
                    assert_eq!(error.reason, ErrorReason::TooManyAttempts);
                    assert_eq!(error.retry_after, Some(Duration::from_secs(30)));
                }
            }
        }
        assert_eq!(judged, 5, "{name}");
    }
    // Also the right one waits, and nobody else does.
    let locked = server.log_in(credentials("ann", PASSWORD)).await;
    assert_eq!(reason(locked), ErrorReason::TooManyAttempts);
    server.register("bob").await;
    assert!(server.log_in(credentials("bob", PASSWORD)).await.is_ok());
    server.clock.advance(30_000);
    assert!(server.log_in(credentials("ann", PASSWORD)).await.is_ok());
    // The right one clears the count.
    for _ in 0..5 {
        let wrong = server.log_in(credentials("ann", "wrong")).await;
        assert_eq!(reason(wrong), ErrorReason::CredentialsInvalid);
    }
}

#[tokio::test]
async fn new_accounts_are_made_at_a_bounded_rate() {
    let server = Server::with(Config {
        registrations_burst: 2,
        registration_every: Duration::from_secs(1),
        ..Server::config()
    })
    .await;
    server.register("ann").await;
    server.register("bob").await;
    let third = read(server.accounts().register(registration("cid")).await).unwrap_err();
    assert_eq!(third.reason, ErrorReason::RateLimited);
    assert_eq!(third.retry_after, Some(Duration::from_secs(1)));
    server.clock.advance(1_000);
    server.register("cid").await;
}

#[tokio::test]
async fn devices_are_bounded_and_one_that_comes_back_stays_itself() {
    let server = Server::with(Config {
        devices_per_user_max: 2,
        ..Server::config()
    })
    .await;
    let phone = server.register("ann").await;
    let stranger = server.register("eve").await;
    // An id of somebody else's is not taken over.
    let laptop = LogInRequest {
        device_id: stranger.device_id.clone(),
        ..credentials("ann", PASSWORD)
    };
    let laptop = server.log_in(laptop).await.unwrap();
    assert_ne!(laptop.device_id, stranger.device_id);
    let third = server.log_in(credentials("ann", PASSWORD)).await;
    assert_eq!(reason(third), ErrorReason::TooManyDevices);
    let again = LogInRequest {
        device_id: phone.device_id.clone(),
        ..credentials("ann", PASSWORD)
    };
    let again = server.log_in(again).await.unwrap();
    assert_eq!(again.device_id, phone.device_id);
    // What it held before is void.
    let before = phone.tokens.unwrap().refresh_token;
    assert_eq!(
        reason(server.refresh(&before).await),
        ErrorReason::TokenInvalid
    );
    assert!(
        server
            .refresh(&again.tokens.unwrap().refresh_token)
            .await
            .is_ok()
    );
    // Devices that were not used for 60 days make room.
    server.clock.advance(60 * 24 * 3_600_000);
    assert!(server.log_in(credentials("ann", PASSWORD)).await.is_ok());
}

#[tokio::test]
async fn passwords_are_kept_as_argon2id_with_their_parameters() {
    let server = Server::start().await;
    server.register("ann").await;
    server.register("bob").await;
    let hash = async |name: &str| {
        server
            .store
            .account(name)
            .await
            .unwrap()
            .unwrap()
            .password_hash
    };
    let (ann, bob) = (hash("ann").await, hash("bob").await);
    assert!(ann.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{ann}");
    // The same password, another salt.
    assert_ne!(ann, bob);
    let default = Config::default().argon2;
    assert_eq!(
        (default.memory_kib, default.passes, default.lanes),
        (19_456, 2, 1)
    );
}

#[tokio::test]
async fn each_bad_field_is_named_and_changes_nothing() {
    use ErrorReason as R;
    let server = Server::start().await;
    let cases = [
        (with(|r| r.username.clear()), R::FieldRequired, "username"),
        (
            with(|r| r.username = "a".into()),
            R::FieldMalformed,
            "username",
        ),
        (
            with(|r| r.username = "a".repeat(33)),
            R::FieldMalformed,
            "username",
        ),
        (
            with(|r| r.username = ".ann".into()),
            R::FieldMalformed,
            "username",
        ),
        (
            with(|r| r.username = "an n".into()),
            R::FieldMalformed,
            "username",
        ),
        (
            with(|r| r.username = "änn".into()),
            R::FieldMalformed,
            "username",
        ),
        (
            with(|r| r.username = "an\0n".into()),
            R::FieldMalformed,
            "username",
        ),
        (with(|r| r.password.clear()), R::FieldRequired, "password"),
        (
            with(|r| r.password = "ä".repeat(7)),
            R::FieldMalformed,
            "password",
        ),
        (
            with(|r| r.password = "ä".repeat(129)),
            R::FieldMalformed,
            "password",
        ),
        (
            with(|r| r.display_name = " ".into()),
            R::FieldRequired,
            "display_name",
        ),
        (
            with(|r| r.display_name = "x".repeat(65)),
            R::TextTooLong,
            "display_name",
        ),
        (
            with(|r| r.display_name = "a\nb".into()),
            R::FieldMalformed,
            "display_name",
        ),
        (
            with(|r| r.display_name = "a\0b".into()),
            R::FieldMalformed,
            "display_name",
        ),
        (
            with(|r| r.device_name = "x".repeat(65)),
            R::TextTooLong,
            "device_name",
        ),
        (
            with(|r| r.device_name = "a\u{7f}".into()),
            R::FieldMalformed,
            "device_name",
        ),
    ];
    for (request, reason, field) in cases {
        let error = read(server.accounts().register(request).await).unwrap_err();
        assert_eq!(
            (error.reason, error.field.as_str()),
            (reason, field),
            "{error:?}"
        );
    }
    assert_eq!(server.store.account("ann").await.unwrap(), None);
    // The largest of everything is fine.
    let largest = RegisterRequest {
        username: "a".repeat(32),
        password: "ä".repeat(128),
        display_name: "名".repeat(64),
        device_name: "名".repeat(64),
    };
    read(server.accounts().register(largest).await).unwrap();
    read(
        server
            .accounts()
            .register(with(|r| r.password = "ä".repeat(8)))
            .await,
    )
    .unwrap();

    let log_ins = [
        (credentials("", PASSWORD), R::FieldRequired, "username"),
        (credentials("a b", PASSWORD), R::FieldMalformed, "username"),
        (credentials("ann", ""), R::FieldRequired, "password"),
        (
            credentials("ann", &"x".repeat(129)),
            R::FieldMalformed,
            "password",
        ),
        (
            LogInRequest {
                device_id: "not-an-id".to_owned(),
                ..credentials("ann", PASSWORD)
            },
            R::FieldMalformed,
            "device_id",
        ),
    ];
    for (request, reason, field) in log_ins {
        let error = server.log_in(request).await.unwrap_err();
        assert_eq!((error.reason, error.field.as_str()), (reason, field));
    }
}

fn with(change: impl FnOnce(&mut RegisterRequest)) -> RegisterRequest {
    let mut request = registration("ann");
    change(&mut request);
    request
}
