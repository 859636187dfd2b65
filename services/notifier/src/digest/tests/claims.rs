//! What is claimed, how much of it, and what becomes of it when nothing can be sent, or may be sent any more.

use std::sync::atomic::Ordering;

use super::*;

/// More than a batch.
const MANY: usize = BATCH_MAX * 2 + 10;

impl World {
    /// Users with something unread.
    async fn users(&self, count: usize) -> Vec<UserId> {
        let mut users = Vec::with_capacity(count);
        for n in 0..count {
            let user = self.user(&format!("ann{n}@example.org")).await;
            self.unread(user, vec![direct(user, 1, "hello", NOON)]);
            users.push(user);
        }
        users
    }

    /// What is claimed by somebody now.
    async fn claimed(&self) -> i64 {
        let mut c = sqlx::PgConnection::connect(&self.postgres.url("notifier"))
            .await
            .unwrap();
        let claimed = "SELECT count(*) FROM emails WHERE claimed_until_unix_ms > $1";
        let claimed = sqlx::query_scalar(claimed).bind(self.clock.now_unix_ms());
        claimed.fetch_one(&mut c).await.unwrap()
    }

    async fn set(&self, user: UserId, change: PreferencesChange) {
        let now = self.clock.now_unix_ms();
        let next: NextDigest = Arc::new(move |wants| schedule::next_digest(wants, now));
        let updated = self.store().update_preferences(user, change, 0, next);
        updated.await.unwrap();
    }
}

/// Else a second without a mail server would put off everybody's digest.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_while_nothing_can_be_sent() {
    let mut world = World::start(1).await;
    world.users(MANY).await;
    world.next_morning();
    world.smtp.kill().unwrap();
    world.send(0).await;
    assert!(world.replicas[0].post.pause().is_some());
    // It was found out by some of the first batch.
    let batch = i64::try_from(BATCH_MAX).unwrap();
    assert_eq!(world.claimed().await, batch);
    world.send(0).await;
    assert_eq!(world.claimed().await, batch);
    world.smtp.start_again().unwrap();
    while world.replicas[0].post.pause().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.send(0).await;
    assert_eq!(world.mails().len(), MANY - BATCH_MAX);
    // A process that stops leaves all to others.
    world.next_morning();
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(!world.replicas[0].send_due(&stop).await);
    assert_eq!(world.claimed().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_wait_while_nobody_says_what_is_unread() {
    let world = World::start(1).await;
    world.users(MANY).await;
    world.next_morning();
    world.others.is_away.store(true, Ordering::SeqCst);
    // Each second some are tried, and not all.
    world.send(0).await;
    assert_eq!(world.others.asked.load(Ordering::SeqCst), BATCH_MAX);
    world.send(0).await;
    world.others.is_away.store(false, Ordering::SeqCst);
    world.send(0).await;
    assert_eq!(world.mails().len(), MANY - 2 * BATCH_MAX);
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    let to: BTreeSet<_> = world.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!((to.len(), world.mails().len()), (MANY, MANY));
}

/// Whatever a user says while his digest waits for its turn is heard.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_while_his_digest_is_claimed_gets_none() {
    let world = World::start(1).await;
    let users = world.users(6).await;
    world.next_morning();
    let now = world.clock.now_unix_ms();
    let lease = now + LEASE_MS;
    let due = world.store().claim_digests(now, lease, 9).await.unwrap();
    assert_eq!(due.len(), 6);
    let change = |digest, preview| PreferencesChange {
        digest,
        preview,
        ..PreferencesChange::default()
    };
    let store = world.store();
    world
        .set(users[0], change(Some(DigestPeriod::Off), None))
        .await;
    store.remove_email(users[1]).await.unwrap();
    let other = Confirmation {
        user: users[2],
        address: "bob@example.org".to_owned(),
        code_hash: [2; 32],
        now_unix_ms: now,
    };
    store.give_email(other).await.unwrap();
    let junk = (
        users[3],
        "ann3@example.org".to_owned(),
        crate::store::EmailReport::Complaint,
    );
    store.report_emails(vec![junk]).await.unwrap();
    world
        .set(users[4], change(None, Some(PreviewDetail::Nothing)))
        .await;
    let stop = CancellationToken::new();
    for due in due {
        world.replicas[0]
            .deal_with(due, lease, &stop)
            .await
            .unwrap();
    }
    let mails = world.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["ann5@example.org"]);
    // Less is to be said, and it is.
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    let [_, less] = &world.mails()[..] else {
        panic!("{} mails", world.mails().len());
    };
    assert_eq!(less.to, ["ann4@example.org"]);
    assert!(!text_of(less).contains("hello"));
}

/// Its claim would end while it is on its way, and then another process sends it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_not_begun_that_could_outlive_its_claim() {
    let world = World::start_with(2, "mails_per_second = 1\nsmtp.deadline_ms = 120000").await;
    world.users(2).await;
    world.next_morning();
    let claimed_at = world.clock.now_unix_ms();
    let lease = claimed_at + LEASE_MS;
    let store = world.store();
    let due = store.claim_digests(claimed_at, lease, 9).await.unwrap();
    let stop = CancellationToken::new();
    let deal_with = |at: usize| world.replicas[0].deal_with(due[at].clone(), lease, &stop);
    // In its last moment.
    world.clock.set(lease - 120_000 - LEASE_LEFT_MIN_MS);
    deal_with(0).await.unwrap();
    assert_eq!(world.mails().len(), 1);
    world.clock.advance(1);
    deal_with(1).await.unwrap();
    assert_eq!(world.mails().len(), 1);
    // It was so, when it began to wait for its turn.
    world.clock.advance(-1);
    let (dealt, ()) = tokio::join!(deal_with(1), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.clock.advance(60_000);
    });
    dealt.unwrap();
    assert_eq!(world.mails().len(), 1);
    // The other process has it by then; this one's clock is late.
    world.clock.set(lease);
    let again = store.claim_digests(lease, lease + LEASE_MS, 9).await;
    assert_eq!(again.unwrap().len(), 1);
    world.clock.set(claimed_at);
    deal_with(1).await.unwrap();
    assert_eq!(world.mails().len(), 1);
}

/// A mail that waits for a connection is not given up by the deadline of those before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mail_server_gets_each_digest_once() {
    let settings = "smtp.connections_max = 1\nsmtp.deadline_ms = 5000";
    let world = World::start_with(1, settings).await;
    for n in 0..4 {
        let user = world.user(&format!("slow@example{n}.org")).await;
        world.unread(user, vec![direct(user, 1, "hello", NOON)]);
    }
    world.next_morning();
    world.send(0).await;
    assert!(world.replicas[0].post.pause().is_none());
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    assert_eq!(world.mails().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_was_given_up_does_not_take_the_next_one_with_it() {
    let mut world = World::start(1).await;
    let user = world.users(1).await[0];
    world.smtp.kill().unwrap();
    world.next_morning();
    world.send(0).await;
    // A day later it is away still, and then it is not.
    world.clock.advance(GIVE_UP_MS);
    while world.replicas[0].post.pause().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.send(0).await;
    world.smtp.start_again().unwrap();
    while world.replicas[0].post.pause().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    let mails = world.mails();
    assert_eq!(mails.len(), 1);
    // It is the one of the second day.
    let message = MessageParser::default().parse(&mails[0].bytes).unwrap();
    let second = NOON + 2 * DAY_MS - 4 * HOUR_MS;
    assert_eq!(message.date().unwrap().to_timestamp() * 1_000, second);
    // One, and then at his hour.
    world.unread(user, vec![direct(user, 1, "more", NOON + 2 * DAY_MS)]);
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    assert_eq!(world.mails().len(), 1);
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_counts_also_what_it_does_not_show() {
    let world = World::start(1).await;
    let user = world.user("ann@example.org").await;
    let of = |_| direct(user, 2, "hello", NOON);
    world.unread(user, (0..25).map(of).collect());
    world.next_morning();
    world.send(0).await;
    let said = said_in(&world.mails()[0]);
    assert!(
        said.starts_with("50 unread messages in 25 conversations\n"),
        "{said}"
    );
}

/// However many mornings it has missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_away_for_days_sends_one_digest() {
    let world = World::start(1).await;
    let user = world.users(1).await[0];
    world.clock.advance(3 * DAY_MS);
    world.send(0).await;
    assert_eq!(world.mails().len(), 1);
    world.unread(user, vec![direct(user, 1, "more", NOON + 3 * DAY_MS)]);
    world.clock.advance(LEASE_MS);
    world.send(0).await;
    assert_eq!(world.mails().len(), 1);
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_not_taken_now_is_tried_for_hours() {
    let world = World::start(1).await;
    for local in ["full", "policy"] {
        let user = world.user(&format!("{local}@example.org")).await;
        world.unread(user, vec![direct(user, 1, "hello", NOON)]);
    }
    world.next_morning();
    let due_at = world.clock.now_unix_ms() - 60_000;
    // What is left of the period when nobody has a claim.
    let left = async || {
        let now = world.clock.now_unix_ms();
        let due = world.store().claim_digests(now, now + 1, 9).await.unwrap();
        due.iter().filter(|due| due.due_unix_ms == due_at).count()
    };
    world.send(0).await;
    for at in [due_at + PATIENCE_MS - LEASE_MS - 2, due_at + PATIENCE_MS] {
        world.clock.set(at);
        assert_eq!(left().await, 2);
        world.clock.advance(1);
        world.send(0).await;
        world.clock.advance(LEASE_MS);
    }
    assert_eq!(left().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_comes_and_shows_times_by_its_users_clock() {
    let world = World::start(1).await;
    let user = world.users(1).await[0];
    let change = PreferencesChange {
        time_zone: Some("Asia/Kolkata".to_owned()),
        ..PreferencesChange::default()
    };
    world.set(user, change).await;
    // Half past two by UTC.
    let eight = NOON - 12 * HOUR_MS + DAY_MS + 2 * HOUR_MS + HOUR_MS / 2;
    world.clock.set(eight - 1);
    world.send(0).await;
    assert_eq!(world.mails().len(), 0);
    world.clock.advance(1);
    world.send(0).await;
    let said = said_in(&world.mails()[0]);
    assert!(said.contains("Fri 27 Nov, 17:30 Ada: hello"), "{said}");
}

/// Messages have the times of several machines.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_that_is_ahead_has_stamped_hides_nothing_that_comes_later() {
    let world = World::start(1).await;
    let user = world.user("ann@example.org").await;
    world.next_morning();
    let now = world.clock.now_unix_ms();
    let ahead = direct(user, 1, "ahead", now + 5 * 60_000);
    world.unread(user, vec![ahead.clone()]);
    world.send(0).await;
    assert_eq!(world.mails().len(), 1);
    let later = direct(user, 1, "later", now + 1);
    world.unread(user, vec![ahead, later]);
    world.next_morning();
    world.send(0).await;
    let mails = world.mails();
    assert_eq!(mails.len(), 2);
    assert!(said_in(&mails[1]).contains("later"));
    // Once more, and not for ever.
    world.next_morning();
    world.send(0).await;
    assert_eq!(world.mails().len(), 2);
}
