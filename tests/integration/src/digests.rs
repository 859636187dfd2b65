//! E-mail of what is unread, from the address that a user gives to the click that ends it: the mail server is a real
//! one, and the next morning is a clock that was moved.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use harness::{Device, ServerProcess, StandaloneOptions, TestServer, eventually, refused};
use mail_parser::MessageParser;
use proto::{
    error::v1::ErrorReason as R,
    notifier::v1::{
        ApnsTarget, ConfirmEmailAddressRequest, EmailAddress, GetPreferencesRequest,
        GetPushSetupRequest, RemoveEmailAddressRequest, SetEmailAddressRequest,
        UpdatePreferencesRequest, notifier_service_client::NotifierServiceClient,
        push_target::Provider,
    },
};
use runtime::clock::{Clock, SystemClock};
use servers::smtp::{Mail, Smtp};
use standins::{ApnsStandIn, FcmStandIn};
use tonic::Status;
use uuid::Uuid;

use crate::{
    blobs::http,
    push::{fcm_settings, mark_read, phone, register, shows},
};

/// The app, as Apple knows it.
const TOPIC: &str = "org.example.messenger";
/// A device, as Apple knows it.
static TABLET: LazyLock<String> = LazyLock::new(|| "ab".repeat(32));

const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The machine's clock, and what it was moved by.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicI64>);

impl Clock for Ahead {
    fn now_unix_ms(&self) -> i64 {
        SystemClock.now_unix_ms() + self.0.load(Ordering::SeqCst)
    }
}

impl Ahead {
    /// It is noon.
    fn noon() -> Self {
        let clock = Self::default();
        clock.next(12);
        clock
    }

    /// It is 8 o'clock of the next day.
    fn next_morning(&self) {
        self.next(8);
    }

    /// By UTC, and a second later: what is due then is due.
    fn next(&self, hour: i64) {
        let now = self.now_unix_ms();
        let today = now.div_euclid(DAY_MS) * DAY_MS + hour * HOUR_MS + 1_000;
        let next = if today > now { today } else { today + DAY_MS };
        self.0.fetch_add(next - now, Ordering::SeqCst);
    }
}

fn apns_settings(apple: &ApnsStandIn, folder: &tempfile::TempDir) -> String {
    let file = folder.path().join("key.p8");
    std::fs::write(&file, apple.key_pem()).unwrap();
    format!(
        "[providers.apns]\nkey_file = {file:?}\nkey_id = {:?}\nteam_id = {:?}\n\
         topics = [{TOPIC:?}]\nurl = {:?}\n",
        standins::apns::KEY_ID,
        standins::apns::TEAM_ID,
        apple.url()
    )
}

fn mail_settings(smtp: &Smtp) -> String {
    format!(
        "[mail]\nlisten = \"127.0.0.1:0\"\n\
         mails_per_second = 1000\n\
         smtp = {{ host = \"127.0.0.1\", port = {}, tls = \"none\", \
         from = \"Messenger <no-reply@example.org>\" }}\n",
        smtp.address().port()
    )
}

async fn server(settings: &str, clock: &Ahead) -> TestServer {
    let notifier: notifier::Config = toml::from_str(settings).unwrap();
    let clock = clock.clone();
    let builder = TestServer::builder().config(move |config| {
        config.notifier = notifier.clone();
        config.messaging.offline_after = Duration::from_millis(200);
        config.clock = Arc::new(clock.clone());
    });
    builder.start().await
}

macro_rules! notifier {
    ($device:expr) => {
        NotifierServiceClient::with_interceptor($device.channel(), $device.bearer())
    };
}

async fn set_email(device: &Device, address: &str) -> Result<EmailAddress, Status> {
    let address = address.to_owned();
    let answer = notifier!(device)
        .set_email_address(SetEmailAddressRequest { address })
        .await?;
    Ok(answer.into_inner().email.unwrap())
}

async fn confirm(device: &Device, code: &str) -> Result<EmailAddress, Status> {
    let code = code.to_owned();
    let answer = notifier!(device)
        .confirm_email_address(ConfirmEmailAddressRequest { code })
        .await?;
    Ok(answer.into_inner().email.unwrap())
}

/// The line of six digits.
fn code_in(mail: &Mail) -> String {
    let message = MessageParser::default().parse(&mail.bytes).unwrap();
    let text = message.body_text(0).unwrap();
    let digits = |line: &&str| line.len() == 6 && line.bytes().all(|byte| byte.is_ascii_digit());
    text.lines().map(str::trim).find(digits).unwrap().to_owned()
}

fn said_in(mail: &Mail) -> String {
    let message = MessageParser::default().parse(&mail.bytes).unwrap();
    message.body_text(0).unwrap().replace("\r\n", "\n")
}

pub(crate) fn is_digest(mail: &Mail) -> bool {
    String::from_utf8_lossy(&mail.bytes).contains("List-Unsubscribe-Post")
}

pub(crate) fn id_of(mail: &Mail) -> String {
    let message = MessageParser::default().parse(&mail.bytes).unwrap();
    message.message_id().unwrap().to_owned()
}

/// Gives an address and confirms it by the mail that came.
pub(crate) async fn with_email(smtp: &Smtp, device: &Device, address: &str) {
    let given = set_email(device, address).await.unwrap();
    assert!(!given.confirmed);
    let mails = smtp.mails().unwrap();
    let mail = mails.iter().rfind(|mail| mail.to == [address]).unwrap();
    assert!(confirm(device, &code_in(mail)).await.unwrap().confirmed);
}

async fn digests(smtp: &Smtp, count: usize) -> Vec<Mail> {
    eventually("digests", async || {
        let mut mails = smtp.mails().unwrap();
        mails.retain(is_digest);
        assert!(mails.len() <= count, "{mails:?}");
        (mails.len() == count).then_some(mails)
    })
    .await
}

/// Long enough for a digest that should not come.
async fn no_digest_but(smtp: &Smtp, count: usize) {
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    digests(smtp, count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_morning_brings_what_is_still_unread_and_one_click_ends_it() {
    let (google, folder) = (
        FcmStandIn::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let (smtp, clock) = (Smtp::start().unwrap(), Ahead::default());
    let apple = ApnsStandIn::start().await.unwrap();
    let settings = [
        fcm_settings(&google, &folder),
        apns_settings(&apple, &folder),
        mail_settings(&smtp),
    ]
    .concat();
    let server = server(&settings, &clock).await;
    let mut grace = server.user("grace").await;
    phone(&google, &grace, "phone").await;
    let tablet = grace.second_device().await;
    apple.devices().add(&TABLET, TOPIC);
    let target = Provider::Apns(ApnsTarget {
        device_token: TABLET.clone(),
        topic: TOPIC.to_owned(),
        sandbox: false,
    });
    register(&tablet, target).await.unwrap();
    with_email(&smtp, &grace, "grace@example.org").await;
    // Half a day from now: providers look at the clock too, so it is not moved before they have pushed.
    let hour = (clock.now_unix_ms().rem_euclid(DAY_MS) / HOUR_MS + 12) % 24;
    let at_hour = UpdatePreferencesRequest {
        digest_hour: Some(hour.try_into().unwrap()),
        ..UpdatePreferencesRequest::default()
    };
    notifier!(grace).update_preferences(at_hour).await.unwrap();
    let mut conversations = Vec::new();
    for (name, count) in [("ada", 20), ("barbara", 20), ("katherine", 10)] {
        let friend = server.user(name).await;
        let conversation = friend.with(&grace);
        for number in 1..=count {
            let text = format!("{name} says {number}");
            friend
                .send(&conversation, Uuid::now_v7(), &text)
                .await
                .unwrap();
        }
        conversations.push(conversation);
    }
    // Three notifications, and the right badge.
    let three = [
        ("ada says 20", 20),
        ("barbara says 20", 20),
        ("katherine says 10", 10),
    ];
    shows(&google, "phone", &three, 50).await;
    shows(&apple, &TABLET, &three, 50).await;
    // He comes online and reads: they go, and the badge is right.
    let laptop = grace.second_device().await;
    mark_read(&laptop, &conversations[0], 20).await;
    mark_read(&laptop, &conversations[1], 20).await;
    shows(&google, "phone", &three[2..], 10).await;
    shows(&apple, &TABLET, &three[2..], 10).await;
    for told in [google.devices().totals(), apple.devices().totals()] {
        assert_eq!((told.repeats, told.disorders), (0, 0), "{told:?}");
    }

    clock.next(hour);
    let [first] = &digests(&smtp, 1).await[..] else {
        panic!("one digest");
    };
    assert_eq!(
        (first.to[0].as_str(), first.from.as_str()),
        ("grace@example.org", "no-reply@example.org")
    );
    let text = said_in(first);
    assert!(
        text.starts_with("10 unread messages in 1 conversation\n"),
        "{text}"
    );
    assert!(
        text.contains("katherine (10 unread messages)") && text.contains("katherine says 10"),
        "{text}"
    );
    assert!(!text.contains("ada") && !text.contains("barbara"), "{text}");
    // Nothing new: nothing to say.
    clock.next(hour);
    no_digest_but(&smtp, 1).await;

    // A mail server that looks where links lead changes nothing; a click does, and twice is once.
    let message = MessageParser::default().parse(&first.bytes).unwrap();
    let link = message.header_raw("List-Unsubscribe").unwrap().trim();
    let link = link
        .trim_start_matches('<')
        .trim_end_matches('>')
        .to_owned();
    let page = http::ask("GET", &link, &[]).await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    grace.refresh().await;
    let wants = async |device: &Device| {
        let wants = notifier!(device)
            .get_preferences(GetPreferencesRequest {})
            .await;
        wants.unwrap().into_inner().preferences.unwrap().digest
    };
    assert_eq!(wants(&grace).await, 3);
    let form = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-length", "0"),
    ];
    for _ in 0..2 {
        assert_eq!(http::ask("POST", &link, &form).await.status, 200);
        assert_eq!(wants(&grace).await, 1);
    }
    for (method, link, status) in [
        ("POST", format!("{link}a"), 404),
        ("GET", link.replace("/unsubscribe/", "/unsubscribe/a"), 404),
        ("GET", link.replace("/v1/", "/v2/"), 404),
        ("PUT", link.clone(), 405),
    ] {
        assert_eq!(
            http::ask(method, &link, &form).await.status,
            status,
            "{method} {link}"
        );
    }
    let late = server.user("late").await;
    let conversation = late.with(&grace);
    late.send(&conversation, Uuid::now_v7(), "one more")
        .await
        .unwrap();
    clock.next(hour);
    no_digest_but(&smtp, 1).await;
    // Wanted again: all that is unread.
    grace.refresh().await;
    let daily = UpdatePreferencesRequest {
        digest: Some(3),
        ..UpdatePreferencesRequest::default()
    };
    notifier!(grace).update_preferences(daily).await.unwrap();
    clock.next(hour);
    let second = &digests(&smtp, 2).await[1];
    assert!(
        said_in(second).starts_with("11 unread"),
        "{}",
        said_in(second)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_nobodys_before_its_owner_has_said_so() {
    let (smtp, clock) = (Smtp::start().unwrap(), Ahead::noon());
    let server = server(&mail_settings(&smtp), &clock).await;
    let (ada, grace) = (server.user("ada").await, server.user("grace").await);
    let setup = notifier!(grace)
        .get_push_setup(GetPushSetupRequest {})
        .await;
    assert!(setup.unwrap().into_inner().email);
    for wrong in [
        "",
        "grace",
        "grace@[127.0.0.1]",
        "grace@example.org\r\nBcc: eve@example.org",
    ] {
        refused(set_email(&grace, wrong).await).is(R::FieldMalformed, "address");
    }
    refused(set_email(&grace, "nobody@example.org").await).is(R::FieldMalformed, "address");
    assert_eq!(smtp.mails().unwrap(), []);
    refused(confirm(&grace, "000000").await).is(R::ConfirmationInvalid, "code");
    let given = set_email(&grace, "grace@Example.org").await.unwrap();
    assert_eq!(
        (given.address.as_str(), given.confirmed),
        ("grace@example.org", false)
    );
    let code = code_in(&smtp.mails().unwrap()[0]);
    // Of no use to others, and nothing is sent meanwhile.
    refused(confirm(&ada, &code).await).is(R::ConfirmationInvalid, "code");
    ada.send(&ada.with(&grace), Uuid::now_v7(), "hello")
        .await
        .unwrap();
    // The clock goes on, the code with it: it is good for a day.
    clock.next_morning();
    no_digest_but(&smtp, 0).await;
    let mut grace = grace;
    grace.refresh().await;
    // By those who copy it with what is around it, too; and twice.
    for _ in 0..2 {
        let confirmed = confirm(&grace, &format!(" {code} ")).await.unwrap();
        assert!(confirmed.confirmed);
    }
    assert!(
        set_email(&grace, "grace@example.org")
            .await
            .unwrap()
            .confirmed
    );
    for _ in 0..2 {
        notifier!(grace)
            .remove_email_address(RemoveEmailAddressRequest {})
            .await
            .unwrap();
    }
    clock.next_morning();
    no_digest_but(&smtp, 0).await;
    // Five mails a day are enough for everybody.
    grace.refresh().await;
    for number in 0..5 {
        set_email(&grace, &format!("grace{number}@example.org"))
            .await
            .unwrap();
    }
    let many = refused(set_email(&grace, "grace5@example.org").await);
    assert_eq!(many.reason, R::TooManyAttempts);
    assert!(many.retry_after.is_some());
    // Nobody who sends no mail takes addresses.
    let silent = TestServer::start().await;
    let hopper = silent.user("hopper").await;
    let refusal = refused(set_email(&hopper, "hopper@example.org").await);
    assert_eq!(refusal.reason, R::PushProviderDisabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_of_a_server_that_is_killed_again_and_again_come_all_and_once_or_under_one_id() {
    const USERS: usize = 40;
    let (smtp, folder) = (Smtp::start().unwrap(), tempfile::tempdir().unwrap());
    let file = folder.path().join("notifier.toml");
    std::fs::write(&file, mail_settings(&smtp)).unwrap();
    let mut options = StandaloneOptions::default();
    options.0.push(format!("--notifier={}", file.display()));
    let mut server = ServerProcess::start(options);
    let ada = harness::register(&server.url(), "ada").await;
    for number in 0..USERS {
        let user = harness::register(&server.url(), &format!("user{number}")).await;
        with_email(&smtp, &user, &format!("user{number}@example.org")).await;
        ada.send(&ada.with(&user), Uuid::now_v7(), "hello")
            .await
            .unwrap();
    }
    let database = server.data().join("notifier.db");
    let write = |statement: &str| {
        let database = rusqlite::Connection::open(&database).unwrap();
        database.execute(statement, []).unwrap();
    };
    // The hour has come while it was down.
    server.kill();
    write("UPDATE emails SET next_digest_unix_ms = 1000");
    let mut kills = 0;
    for _ in 0..6 {
        server.start_again();
        // The moments are the fault: it looks for what is due once a second.
        tokio::time::sleep(Duration::from_millis(970 + kills * 15)).await;
        server.kill();
        kills += 1;
        // The claims of who died have ended.
        write("UPDATE emails SET claimed_until_unix_ms = 0");
    }
    server.start_again();
    let mails = eventually("everybody has a digest", async || {
        let mut mails = smtp.mails().unwrap();
        mails.retain(is_digest);
        let to: BTreeSet<_> = mails.iter().map(|mail| &mail.to).collect();
        (to.len() == USERS).then_some(mails)
    })
    .await;
    let mut ids: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for mail in &mails {
        ids.entry(&mail.to[0]).or_default().insert(id_of(mail));
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    let kills = usize::try_from(kills).unwrap();
    // Those on their way at a kill.
    assert!(mails.len() <= USERS + 8 * kills, "{} mails", mails.len());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let database = rusqlite::Connection::open(&database).unwrap();
    let due = "SELECT count(*) FROM emails WHERE next_digest_unix_ms = 1000";
    let due: i64 = database.query_row(due, [], |row| row.get(0)).unwrap();
    assert_eq!(due, 0);
}
