//! Pushes, from a message that nobody receives to the screen of a phone: the phone and its provider stand
//! in, everything else is real.

use std::time::Duration;

use harness::{
    DEADLINE, Device, Refusal, ServerProcess, StandaloneOptions, TestServer, eventually, refused,
};
use proto::{
    error::v1::ErrorReason as R,
    messaging::v1::{MarkReadRequest, SendMessageResponse},
    notifier::v1::{
        FcmTarget, GetPushSetupRequest, PushTarget, RegisterPushTargetRequest,
        RemovePushTargetRequest, UpdatePreferencesRequest, WebPushTarget,
        notifier_service_client::NotifierServiceClient, push_target::Provider,
    },
};
use standins::{Delays, FcmStandIn, Scope, StandIn, Trouble, WebPushStandIn};
use tonic::Status;
use uuid::Uuid;

/// Long enough for what may come before a push, one after the other: the ten seconds of a user of whom it
/// is not known whether he is there, an answer of a provider that does not come, and the pause after it.
const SHOWN_WITHIN: Duration = DEADLINE.saturating_mul(3);
/// How long a message may be on its way in these tests.
pub(crate) const AFTER: Duration = Duration::from_millis(200);

/// Settings that push by what stands in for Google.
pub(crate) fn fcm_settings(google: &FcmStandIn, folder: &tempfile::TempDir) -> String {
    let file = folder.path().join("account.json");
    std::fs::write(&file, google.service_account_json()).unwrap();
    format!(
        "sender_burst = 1000\n[providers.fcm]\nservice_account_file = {file:?}\nurl = {:?}\n",
        google.url()
    )
}

async fn server(google: &FcmStandIn, folder: &tempfile::TempDir) -> TestServer {
    let toml = fcm_settings(google, folder);
    let notifier: notifier::Config = toml::from_str(&toml).unwrap();
    let builder = TestServer::builder().config(move |config| {
        config.notifier = notifier.clone();
        config.messaging.offline_after = AFTER;
    });
    builder.start().await
}

pub(crate) async fn register(device: &Device, provider: Provider) -> Result<(), Status> {
    let mut client = NotifierServiceClient::with_interceptor(device.channel(), device.bearer());
    let target = Some(PushTarget {
        provider: Some(provider),
    });
    let request = RegisterPushTargetRequest { target };
    client.register_push_target(request).await.map(drop)
}

fn fcm(token: &str) -> Provider {
    Provider::Fcm(FcmTarget {
        registration_token: token.to_owned(),
    })
}

/// A phone with the app, which is not running.
pub(crate) async fn phone(google: &FcmStandIn, device: &Device, token: &str) {
    google.devices().add(token, "");
    register(device, fcm(token)).await.unwrap();
}

async fn send(
    device: &Device,
    conversation_id: &str,
    text: &str,
) -> Result<SendMessageResponse, Status> {
    device.send(conversation_id, Uuid::now_v7(), text).await
}

/// What is on the screen, as (text, messages), sorted; and the badge.
fn screen(provider: &StandIn, token: &str) -> (Vec<(String, u64)>, u64) {
    let device = provider.devices().device(token).unwrap_or_default();
    let shown = device.screen.into_values();
    let mut shown: Vec<_> = shown.map(|shown| (shown.body, shown.count)).collect();
    shown.sort();
    (shown, device.badge)
}

pub(crate) async fn shows(provider: &StandIn, token: &str, shown: &[(&str, u64)], badge: u64) {
    let mut expected: Vec<_> = shown.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
    expected.sort();
    let started = std::time::Instant::now();
    loop {
        let there = screen(provider, token);
        if there == (expected.clone(), badge) {
            return;
        }
        assert!(
            started.elapsed() < SHOWN_WITHIN,
            "{there:?} instead of {expected:?} and {badge}; {:?}, answers 200: {}",
            provider.devices().totals(),
            provider.answers(200)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn mark_read(device: &Device, conversation_id: &str, seq: u64) {
    let request = MarkReadRequest {
        conversation_id: conversation_id.to_owned(),
        up_to: Some(proto::messaging::v1::Watermark {
            seq,
            message_index: seq,
        }),
    };
    device.messaging().mark_read(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_away_is_told_of_each_conversation_once_and_no_more_when_he_has_read_it() {
    let (google, folder) = (
        FcmStandIn::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let mut server = server(&google, &folder).await;
    let grace = server.user("grace").await;
    phone(&google, &grace, "phone").await;
    let mut conversations = Vec::new();
    for (name, count) in [("ada", 20), ("barbara", 20), ("katherine", 10)] {
        let friend = server.user(name).await;
        let conversation = friend.with(&grace);
        for number in 1..=count {
            let text = format!("{name} says {number}");
            send(&friend, &conversation, &text).await.unwrap();
        }
        conversations.push(conversation);
    }
    let three = [
        ("ada says 20", 20),
        ("barbara says 20", 20),
        ("katherine says 10", 10),
    ];
    shows(&google, "phone", &three, 50).await;
    let told = google.devices().totals();
    assert_eq!((told.repeats, told.disorders), (0, 0), "{told:?}");

    // Another start reads nothing again that was pushed.
    server.restart().await;
    let late = server.user("late").await;
    let conversation = late.with(&grace);
    send(&late, &conversation, "one more").await.unwrap();
    let four = [&three[..], &[("one more", 1)]].concat();
    shows(&google, "phone", &four, 51).await;
    let again = google.devices().totals();
    assert_eq!((again.repeats, again.disorders), (0, 0), "{again:?}");

    // Read on another device: gone from this one, and the badge is right.
    let laptop = grace.second_device().await;
    mark_read(&laptop, &conversations[0], 20).await;
    mark_read(&laptop, &conversations[1], 20).await;
    shows(&google, "phone", &four[2..], 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_received_it_is_not_told_and_who_is_half_open_is() {
    let (google, folder) = (
        FcmStandIn::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let server = server(&google, &folder).await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    phone(&google, &grace, "phone").await;
    let conversation = ada.with(&grace);
    let mut session = grace.session().await;
    let ack = send(&ada, &conversation, "received").await.unwrap();
    session.event(&conversation).await;
    session.delivered(&conversation, ack.seq).await;
    tokio::time::sleep(AFTER * 4).await;
    assert_eq!(google.devices().totals().taken, 0);
    // It came, and the device never says so.
    send(&ada, &conversation, "not received").await.unwrap();
    shows(&google, "phone", &[("not received", 2)], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_misbehaves_loses_nothing_and_what_is_gone_is_forgotten() {
    let (google, folder) = (
        FcmStandIn::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let server = server(&google, &folder).await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    phone(&google, &grace, "phone").await;
    let conversation = ada.with(&grace);
    google.delay(Delays {
        usual: Duration::from_millis(20),
        ..Delays::default()
    });
    for trouble in [
        Trouble::Status(503, "UNAVAILABLE", Some(1)),
        Trouble::TakenUnanswered,
        Trouble::GoAway,
        Trouble::Disconnect,
    ] {
        google.plan(Scope::Next(1), trouble.clone());
        let text = format!("{trouble:?}");
        let ack = send(&ada, &conversation, &text).await.unwrap();
        shows(&google, "phone", &[(&text, ack.seq)], ack.seq).await;
    }
    // Down for a while: the message waits.
    google.down();
    let ack = send(&ada, &conversation, "while it was down")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    google.up();
    shows(&google, "phone", &[("while it was down", ack.seq)], ack.seq).await;
    assert_eq!(google.devices().totals().disorders, 0);
    // The app was removed.
    google.devices().uninstall("phone");
    let before = google.requests();
    send(&ada, &conversation, "to nobody").await.unwrap();
    eventually("it is said to be gone", async || {
        (google.answers(404) > 0).then_some(())
    })
    .await;
    let gone = google.requests();
    assert!(gone > before);
    tokio::time::sleep(AFTER).await;
    send(&ada, &conversation, "to nobody again").await.unwrap();
    tokio::time::sleep(AFTER * 4).await;
    assert_eq!(
        google.requests(),
        gone,
        "a target that is gone is not pushed to"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_logged_out_or_wants_no_pushes_gets_none() {
    let (google, folder) = (
        FcmStandIn::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let server = server(&google, &folder).await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let tablet = grace.second_device().await;
    phone(&google, &grace, "phone").await;
    phone(&google, &tablet, "tablet").await;
    let conversation = ada.with(&grace);
    send(&ada, &conversation, "one").await.unwrap();
    for token in ["phone", "tablet"] {
        shows(&google, token, &[("one", 1)], 1).await;
    }
    tablet.log_out("").await;
    let mut client = NotifierServiceClient::with_interceptor(grace.channel(), grace.bearer());
    // Of all that is shown nothing but that it is there.
    let nothing = UpdatePreferencesRequest {
        preview: Some(3),
        ..UpdatePreferencesRequest::default()
    };
    client.update_preferences(nothing).await.unwrap();
    eventually("the log-out is known", async || {
        let status = register(&tablet, fcm("tablet")).await.err()?;
        (Refusal::from(&status).reason == R::DeviceRevoked).then_some(())
    })
    .await;
    send(&ada, &conversation, "two").await.unwrap();
    shows(&google, "phone", &[("2 new messages", 2)], 2).await;
    assert_eq!(screen(&google, "tablet"), (vec![("one".to_owned(), 1)], 1));
    client
        .remove_push_target(RemovePushTargetRequest {})
        .await
        .unwrap();
    let pushed = google.requests();
    send(&ada, &conversation, "three").await.unwrap();
    tokio::time::sleep(AFTER * 4).await;
    assert_eq!(google.requests(), pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_decrypts_what_it_is_told_and_servers_inside_are_no_push_services() {
    let service = WebPushStandIn::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vapid.key");
    let toml = format!(
        "[providers.web_push]\nkey_file = {file:?}\ncontact = \"mailto:push@example.org\"\n\
         allowed_origins = [{:?}]",
        service.url()
    );
    let notifier: notifier::Config = toml::from_str(&toml).unwrap();
    let builder = TestServer::builder().config(move |config| {
        config.notifier = notifier.clone();
        config.messaging.offline_after = AFTER;
    });
    let server = builder.start().await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let mut client = NotifierServiceClient::with_interceptor(grace.channel(), grace.bearer());
    let setup = client.get_push_setup(GetPushSetupRequest {}).await.unwrap();
    let setup = setup.into_inner();
    assert!(!setup.fcm && !setup.apns);
    let key = setup.web_push_key.try_into().unwrap();
    let made = service.subscribe(&key).unwrap();
    let web = |endpoint: &str| {
        Provider::WebPush(WebPushTarget {
            endpoint: endpoint.to_owned(),
            p256dh: made.p256dh.to_vec(),
            auth: made.auth.to_vec(),
        })
    };
    for inside in [
        "http://169.254.169.254/latest",
        "https://localhost/x",
        "http://127.0.0.1:1/x",
    ] {
        let status = refused(register(&grace, web(inside)).await);
        status.is(R::FieldMalformed, "target.web_push");
    }
    let status = refused(register(&grace, fcm("token")).await);
    status.is(R::PushProviderDisabled, "target");
    register(&grace, web(&made.endpoint)).await.unwrap();
    let conversation = ada.with(&grace);
    send(&ada, &conversation, "for a browser").await.unwrap();
    eventually("it was decrypted", async || {
        let kept = service.devices().kept();
        let said = kept.iter().any(|(_, shown)| shown.body == "for a browser");
        said.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_misses_a_message_when_the_server_is_killed_again_and_again() {
    let (google, folder) = (
        FcmStandIn::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let file = folder.path().join("notifier.toml");
    std::fs::write(&file, fcm_settings(&google, &folder)).unwrap();
    let mut options = StandaloneOptions::default();
    options.0.push(format!("--notifier={}", file.display()));
    let mut server = ServerProcess::start(options);
    let (mut ada, mut grace) = (
        harness::register(&server.url(), "ada").await,
        harness::register(&server.url(), "grace").await,
    );
    phone(&google, &grace, "phone").await;
    // Far less than another start takes: what the provider has from before a kill, it delivers before what
    // comes after. If it does not, the older one is shown; an app knows by its seq.
    google.delay(Delays {
        usual: Duration::from_millis(20),
        ..Delays::default()
    });
    let conversation = ada.with(&grace);
    let (mut sent, mut text) = (0, String::new());
    for kill in 0..8 {
        for _ in 0..10 {
            sent += 1;
            text = format!("message {sent}");
            send(&ada, &conversation, &text).await.unwrap();
        }
        // The moments are the fault: sometimes before it is pushed, sometimes while, sometimes after.
        tokio::time::sleep(Duration::from_millis(kill * 40)).await;
        server.start_again();
        ada.reconnect();
        grace.reconnect();
    }
    shows(&google, "phone", &[(&text, sent)], sent).await;
    let told = google.devices().totals();
    // Only what was under way at a kill may come twice, or be delivered after what the next start sends.
    assert!(told.repeats + told.disorders <= 8, "{told:?}");
    mark_read(&grace, &conversation, sent).await;
    shows(&google, "phone", &[], 0).await;
}
