//! Digests to a real mail server, of what stands in for the other services; on PostgreSQL, since two of three
//! promises are about several processes.

use std::collections::{BTreeSet, HashMap};

use mail_parser::MessageParser;
use proto::{
    groups::v1::directory_service_server::DirectoryServiceServer,
    messaging::v1::inbox_service_server::InboxServiceServer,
    profile::v1::profile_service_server::ProfileServiceServer,
};
use runtime::{
    auth::{Access, AuthLayer, KeyPair, ServiceIdentity, Verifier},
    channel,
    clock::ManualClock,
    postgres::PostgresConfig,
    server::{self, ServerConfig},
};
use servers::{
    postgres::{Postgres, PostgresOptions},
    smtp::{Mail, Smtp},
};
use sqlx::Connection;
use tonic::service::RoutesBuilder;

mod claims;

use super::*;
use crate::{
    fakes::Others,
    limits::SOFT_BOUNCES_MAX,
    model::{DigestPeriod, EmailDisabled},
    store::{Confirmation, NextDigest, PreferencesChange, postgres::PostgresStore},
};

/// A Friday at noon; digests come at 8 by UTC.
const NOON: i64 = 1_795_780_800_000;
const HOUR_MS: i64 = 60 * 60 * 1_000;
const DAY_MS: i64 = 24 * HOUR_MS;

pub(crate) struct World {
    pub(crate) smtp: Smtp,
    postgres: Postgres,
    others: Others,
    pub(crate) clock: ManualClock,
    tasks: Tasks,
    pub(crate) replicas: Vec<Digests>,
}

impl World {
    pub(crate) async fn start(replicas: usize) -> Self {
        Self::start_with(replicas, "mails_per_second = 1000").await
    }

    /// With these settings of mail.
    async fn start_with(replicas: usize, settings: &str) -> Self {
        let postgres = Postgres::start(PostgresOptions::fast()).unwrap();
        postgres.create_database("notifier").unwrap();
        let smtp = Smtp::start().unwrap();
        let clock = ManualClock::at(NOON);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let key = KeyPair::generate().unwrap();
        let verifier = Verifier::new(shared.clone(), key.public());
        let identity = ServiceIdentity::new("notifier", key, shared.clone());
        let (connector, incoming) = channel::pipe();
        let (tasks, others) = (Tasks::new(), Others::default());
        let mut routes = RoutesBuilder::default();
        routes
            .add_service(InboxServiceServer::new(others.clone()))
            .add_service(ProfileServiceServer::new(others.clone()))
            .add_service(DirectoryServiceServer::new(others.clone()));
        let auth = AuthLayer::new(verifier, |_: &str| Some(Access::Service));
        let config = ServerConfig::default();
        let stop = tasks.stop_token();
        tasks.spawn(async move {
            let served = server::serve_pipe(incoming, routes.routes(), auth, config, stop);
            served.await.unwrap();
        });
        let channel = || identity.on(connector.channel());
        let config = format!(
            "smtp.host = '127.0.0.1'\nsmtp.port = {}\nsmtp.tls = 'none'\nlisten = '127.0.0.1:0'\n\
             smtp.from = 'Messenger <no-reply@example.org>'\npublic_url = 'https://chat.example.org'\n\
             smtp.bounce_domain = 'bounces.example.org'\n{settings}",
            smtp.address().port()
        );
        let mut world = Self {
            smtp,
            others,
            clock,
            replicas: Vec::new(),
            tasks: tasks.clone(),
            postgres,
        };
        for _ in 0..replicas {
            let config: crate::post::Config = toml::from_str(&config).unwrap();
            let store = PostgresConfig::new(world.postgres.url("notifier"));
            world.replicas.push(Digests {
                store: Arc::new(PostgresStore::open(&store).await.unwrap()),
                messaging: InboxServiceClient::new(channel()),
                names: Arc::new(Names::new(channel(), channel())),
                post: Arc::new(Post::open(config, "Messenger", &[7; 32]).unwrap()),
                clock: shared.clone(),
            });
        }
        world
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.replicas[0].store.as_ref()
    }

    /// A user with a confirmed address.
    pub(crate) async fn user(&self, address: &str) -> UserId {
        let user = UserId::generate();
        let now_unix_ms = self.clock.now_unix_ms();
        let given = self.store().give_email(Confirmation {
            user,
            address: address.to_owned(),
            code_hash: [1; 32],
            now_unix_ms,
        });
        given.await.unwrap();
        let next: NextDigest = Arc::new(move |wants| schedule::next_digest(wants, now_unix_ms));
        let confirmed = self.store().confirm_email(user, [1; 32], now_unix_ms, next);
        assert!(confirmed.await.unwrap().is_some());
        user
    }

    /// What is unread of a user: (conversation, messages, the newest).
    fn unread(&self, user: UserId, conversations: Vec<UnreadConversation>) {
        let mut all = self.others.unread.lock();
        all.insert(user.as_bytes().to_vec(), conversations);
    }

    /// All that is due now, sent by one replica.
    async fn send(&self, replica: usize) {
        let stop = self.tasks.stop_token();
        while self.replicas[replica].send_due(&stop).await {}
    }

    /// The next morning at 8, and a minute.
    pub(crate) fn next_morning(&self) {
        let now = self.clock.now_unix_ms();
        let day = now.div_euclid(DAY_MS) + i64::from(now.rem_euclid(DAY_MS) >= 8 * HOUR_MS);
        self.clock.set(day * DAY_MS + 8 * HOUR_MS + 60_000);
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.smtp.mails().unwrap()
    }

    pub(crate) async fn disabled(&self, user: UserId) -> Option<EmailDisabled> {
        self.store().email(user).await.unwrap().unwrap().disabled
    }
}

fn direct(user: UserId, unread_count: u64, text: &str, time_unix_ms: i64) -> UnreadConversation {
    let peer = UserId::generate();
    of(
        ConversationId::direct(user, peer).unwrap(),
        peer,
        unread_count,
        text,
        time_unix_ms,
    )
}

fn of(
    conversation: ConversationId,
    sender: UserId,
    unread_count: u64,
    text: &str,
    time_unix_ms: i64,
) -> UnreadConversation {
    UnreadConversation {
        conversation_id: conversation.as_bytes().to_vec(),
        unread_count,
        newest: Some(UnreadMessage {
            sender_id: sender.as_bytes().to_vec(),
            seq: unread_count,
            time_unix_ms,
            text: text.to_owned(),
            ..UnreadMessage::default()
        }),
        ..UnreadConversation::default()
    }
}

fn text_of(mail: &Mail) -> String {
    String::from_utf8_lossy(&mail.bytes).into_owned()
}

fn said_in(mail: &Mail) -> String {
    let message = MessageParser::default().parse(&mail.bytes).unwrap();
    message.body_text(0).unwrap().replace("\r\n", "\n")
}

fn id_of(mail: &Mail) -> String {
    let message = MessageParser::default().parse(&mail.bytes).unwrap();
    message.message_id().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_morning_brings_what_is_unread_and_no_mail_says_nothing_new() {
    let world = World::start(1).await;
    let user = world.user("ann@example.org").await;
    let crew = ConversationId::group(GroupId::generate());
    let from_ada = direct(user, 2, "See you at noon.", NOON);
    let mut picture = of(crew, UserId::generate(), 1, "", NOON + 1);
    picture.newest.as_mut().unwrap().attachment_count = 1;
    let hidden = [
        UnreadConversation {
            muted: true,
            ..direct(user, 1, "muted", NOON + 2)
        },
        UnreadConversation {
            gone: true,
            ..direct(user, 1, "gone", NOON + 2)
        },
    ];
    world.unread(
        user,
        [vec![picture, from_ada.clone()], hidden.to_vec()].concat(),
    );
    // Not before its time.
    world.send(0).await;
    assert_eq!(world.mails(), []);
    world.next_morning();
    world.send(0).await;
    world.send(0).await;
    let [first] = &world.mails()[..] else {
        panic!("{:?}", world.mails());
    };
    assert_eq!(first.to, ["ann@example.org"]);
    assert!(first.from.starts_with("bounce+") && first.from.ends_with("@bounces.example.org"));
    let text = said_in(first);
    assert!(
        text.starts_with("3 unread messages in 2 conversations\n"),
        "{text}"
    );
    assert!(
        text.contains("Crew (1 unread message)\n  Fri 27 Nov, 12:00 Ada: Picture\n"),
        "{text}"
    );
    assert!(
        text.contains("Ada (2 unread messages)\n  Fri 27 Nov, 12:00 Ada: See you at noon.\n"),
        "{text}"
    );
    assert!(!text.contains("muted") && !text.contains("gone"), "{text}");
    assert!(
        text.contains("https://chat.example.org/v1/unsubscribe/"),
        "{text}"
    );

    // Nothing new: no mail, however much is unread. Then something is: all of it.
    world.unread(user, vec![from_ada.clone()]);
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.mails().len(), 1);
    world.unread(
        user,
        vec![direct(user, 1, "Hello?", NOON + DAY_MS), from_ada],
    );
    world.next_morning();
    world.send(0).await;
    let mails = world.mails();
    assert_eq!(mails.len(), 2);
    assert!(
        said_in(&mails[1]).starts_with("3 unread"),
        "{}",
        said_in(&mails[1])
    );
    assert_ne!(id_of(&mails[0]), id_of(&mails[1]));
    // All was read.
    world.unread(user, vec![]);
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_says_as_much_as_its_user_lets_it_say() {
    let world = World::start(1).await;
    let user = world.user("ann@example.org").await;
    for (at, preview) in [PreviewDetail::NameOnly, PreviewDetail::Nothing]
        .into_iter()
        .enumerate()
    {
        let change = PreferencesChange {
            preview: Some(preview),
            ..PreferencesChange::default()
        };
        let next: NextDigest = Arc::new(|_| None);
        world
            .store()
            .update_preferences(user, change, 0, next)
            .await
            .unwrap();
        let time = NOON + i64::try_from(at).unwrap();
        world.unread(user, vec![direct(user, 2, "a secret", time)]);
        world.next_morning();
        world.send(0).await;
        let mails = world.mails();
        assert_eq!(mails.len(), at + 1);
        let mail = &mails[at];
        assert!(!text_of(mail).contains("secret"), "{}", text_of(mail));
        assert_eq!(
            text_of(mail).contains("Ada"),
            preview == PreviewDetail::NameOnly,
            "{}",
            text_of(mail)
        );
        assert!(said_in(mail).starts_with("2 unread messages"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_send_one_digest_to_each() {
    let world = World::start(2).await;
    let mut users = Vec::new();
    for n in 0..150 {
        let user = world.user(&format!("ann{n}@example.org")).await;
        world.unread(user, vec![direct(user, 1, "hello", NOON)]);
        users.push(user);
    }
    for morning in 1..=2 {
        world.next_morning();
        tokio::join!(world.send(0), world.send(1), world.send(0));
        let mails = world.mails();
        let ids: BTreeSet<_> = mails.iter().map(id_of).collect();
        let to: BTreeSet<_> = mails.iter().map(|mail| &mail.to).collect();
        assert_eq!(
            (mails.len(), ids.len(), to.len()),
            (150 * morning, 150 * morning, 150)
        );
        for user in &users {
            let time = NOON + DAY_MS * i64::try_from(morning).unwrap();
            world.unread(*user, vec![direct(*user, 1, "more", time)]);
        }
    }
}

/// The window: the mail server has answered, and the store does not know it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_mail_servers_answer_and_the_stores_repeats_a_mail_under_its_id() {
    let world = World::start(2).await;
    let user = world.user("ann@example.org").await;
    world.unread(user, vec![direct(user, 1, "hello", NOON)]);
    world.next_morning();
    let now = world.clock.now_unix_ms();
    let due = world
        .store()
        .claim_digests(now, now + LEASE_MS, 9)
        .await
        .unwrap();
    let [due] = <[DueDigest; 1]>::try_from(due).unwrap();
    // Nobody writes meanwhile.
    let mut c = sqlx::PgConnection::connect(&world.postgres.url("notifier"))
        .await
        .unwrap();
    let mut lock = c.begin().await.unwrap();
    sqlx::query("LOCK TABLE emails IN EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let stop = CancellationToken::new();
    {
        let dying = world.replicas[0].deal_with(due, now + LEASE_MS, &stop);
        let taken = async {
            while world.mails().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = dying => panic!("it kept what nobody could write"),
            () = taken => {}
        }
    }
    lock.rollback().await.unwrap();
    // Its claim protects it until it ends.
    world.clock.advance(LEASE_MS - 1);
    world.send(1).await;
    assert_eq!(world.mails().len(), 1);
    world.clock.advance(1);
    world.send(1).await;
    world.send(0).await;
    let [first, again] = &world.mails()[..] else {
        panic!("{} mails", world.mails().len());
    };
    assert_eq!(id_of(first), id_of(again));
    world.next_morning();
    world.send(1).await;
    assert_eq!(world.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mail_meets_is_no_more_than_it_is() {
    let world = World::start(1).await;
    let mut users = HashMap::new();
    for local in ["nobody", "full", "policy", "good"] {
        users.insert(local, world.user(&format!("{local}@example.org")).await);
    }
    for morning in 1..=SOFT_BOUNCES_MAX {
        for user in users.values() {
            let time = NOON + DAY_MS * i64::from(morning);
            world.unread(*user, vec![direct(*user, 1, "hello", time)]);
        }
        assert_eq!(world.disabled(users["full"]).await, None, "{morning}");
        world.next_morning();
        // Again and again, until it is too late.
        for _ in 0..=PATIENCE_MS / HOUR_MS {
            world.send(0).await;
            world.clock.advance(HOUR_MS);
        }
        let to_good = world.mails();
        assert_eq!(to_good.len(), usize::try_from(morning).unwrap());
        assert!(to_good.iter().all(|mail| mail.to == ["good@example.org"]));
        let nobody = world.disabled(users["nobody"]).await;
        assert_eq!(nobody, Some(EmailDisabled::Bounced));
    }
    assert_eq!(
        world.disabled(users["full"]).await,
        Some(EmailDisabled::Bounced)
    );
    assert_eq!(world.disabled(users["policy"]).await, None);
    assert_eq!(world.disabled(users["good"]).await, None);
}

/// One that is set wrongly says it of everybody. (Who says 5.1.1 means it.)
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_has_taken_nothing_yet_disables_nobody() {
    let world = World::start(1).await;
    let user = world.user("unknown@example.org").await;
    let other = world.user("good@example.org").await;
    world.unread(user, vec![direct(user, 1, "hello", NOON)]);
    world.next_morning();
    for _ in 0..3 {
        world.send(0).await;
        world.clock.advance(LEASE_MS);
        assert_eq!(world.disabled(user).await, None);
    }
    world.unread(other, vec![direct(other, 1, "hello", NOON + DAY_MS)]);
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.disabled(user).await, None);
    // Now it has taken one.
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.disabled(user).await, Some(EmailDisabled::Bounced));
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_wait_for_a_mail_server_that_is_away() {
    let mut world = World::start(1).await;
    let mut users = Vec::new();
    for n in 0..20 {
        let user = world.user(&format!("ann{n}@example.org")).await;
        world.unread(user, vec![direct(user, 1, "hello", NOON)]);
        users.push(user);
    }
    world.smtp.kill().unwrap();
    world.next_morning();
    world.send(0).await;
    // Whoever gives an address is told so, and it does not count.
    assert!(world.replicas[0].post.check_up().is_err());
    world.smtp.start_again().unwrap();
    while world.replicas[0].post.pause().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    let to: BTreeSet<_> = world.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!((to.len(), world.mails().len()), (20, 20));
    for user in users {
        assert_eq!(world.disabled(user).await, None);
        let wants = world.store().preferences(vec![user]).await.unwrap();
        assert_eq!(wants[0].digest, DigestPeriod::Daily);
    }
}
