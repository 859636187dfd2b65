//! Addresses that are given, on a real mail server and a real store.

use governor::{Quota, RateLimiter, clock::MonotonicClock, state::keyed::DashMapStateStore};

use super::*;
use crate::{
    digest::tests::World,
    model::{DigestPeriod, EmailDisabled},
    providers::Providers,
    store::PreferencesChange,
    unsubscribe::Ended,
};

fn service(world: &World) -> Service {
    let quota = Quota::per_second(std::num::NonZeroU32::MAX);
    Service {
        store: world.replicas[0].store.clone(),
        clock: std::sync::Arc::new(world.clock.clone()),
        providers: Providers::default(),
        mail: Some(world.replicas[0].post.clone()),
        calls: RateLimiter::new(quota, DashMapStateStore::default(), MonotonicClock),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_an_address_that_takes_no_mail_keeps_the_one_that_he_has() {
    let mut world = World::start(1).await;
    let service = service(&world);
    let user = world.user("ann@example.org").await;
    let before = world.store().email(user).await.unwrap();
    for (address, reason) in [
        ("nobody@example.org", ErrorReason::FieldMalformed),
        ("full@example.org", ErrorReason::Unavailable),
        ("policy@example.org", ErrorReason::Unavailable),
    ] {
        let error = service.set_email(user, address).await.unwrap_err();
        assert_eq!(error.reason, reason, "{address}");
        assert_eq!(world.store().email(user).await.unwrap(), before);
    }
    world.smtp.kill().unwrap();
    assert!(service.set_email(user, "bob@example.org").await.is_err());
    assert_eq!(world.store().email(user).await.unwrap(), before);
    world.smtp.start_again().unwrap();
    while world.replicas[0].post.pause().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let given = service.set_email(user, "bob@example.org").await.unwrap();
    assert_eq!(
        (given.address.as_str(), given.confirmed),
        ("bob@example.org", false)
    );
    // Those that nobody took have counted too.
    let many = service.set_email(user, "cid@example.org").await;
    assert_eq!(many.unwrap_err().reason, ErrorReason::TooManyAttempts);
    assert_eq!(world.mails().len(), 1);
}

fn by_address(address: &str) -> Option<pb::email_report::About> {
    Some(pb::email_report::About::Address(address.to_owned()))
}

fn by_sender(sender: &str) -> Option<pb::email_report::About> {
    Some(pb::email_report::About::EnvelopeSender(sender.to_owned()))
}

/// Of the mail that went to an address.
fn sender_of(world: &World, address: &str) -> String {
    let mails = world.mails();
    let mail = mails.into_iter().rfind(|mail| mail.to == [address]);
    mail.unwrap().from
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_disables_the_address_that_it_was_sent_to_and_no_other() {
    let world = World::start(1).await;
    let service = service(&world);
    let report = async |kind: pb::EmailReportKind, about| {
        let kind = kind.into();
        let reports = vec![pb::EmailReport { kind, about }];
        service.report_emails(reports).await.unwrap()
    };
    use pb::EmailReportKind::{Complaint, HardBounce};
    let (ann, bob) = (
        world.user("ann@example.org").await,
        world.user("ann@example.org").await,
    );
    let post = &world.replicas[0].post;
    post.send_code(ann, "ann@example.org", "123456", 0).await;
    let sender = sender_of(&world, "ann@example.org");
    // Nobody makes one, and nothing that is no such sender is taken for one.
    let token = sender.trim_start_matches("bounce+");
    let other = if token.starts_with('a') { 'b' } else { 'a' };
    for forged in [
        "",
        "bounce+",
        "bouncé+",
        "no-reply@example.org",
        &format!("bounce+{other}{}", &token[1..]),
        &format!("bounces+{token}"),
    ] {
        assert_eq!(report(HardBounce, by_sender(forged)).await, 0, "{forged}");
    }
    // Nor is a mail to an address that he has no more about the one that he has.
    post.send_code(ann, "old@example.org", "123456", 0).await;
    let old = sender_of(&world, "old@example.org");
    assert_eq!(report(HardBounce, by_sender(&old)).await, 0);
    assert_eq!(world.disabled(ann).await, None);
    // As servers write it.
    let sender = sender.to_ascii_uppercase();
    assert_eq!(report(HardBounce, by_sender(&sender)).await, 1);
    assert_eq!(world.disabled(ann).await, Some(EmailDisabled::Bounced));
    assert_eq!(world.disabled(bob).await, None);
    for unknown in ["", "ann", "cid@example.org"] {
        assert_eq!(report(Complaint, by_address(unknown)).await, 0);
    }
    assert_eq!(report(Complaint, by_address("ann@Example.org")).await, 1);
    assert_eq!(world.disabled(bob).await, Some(EmailDisabled::Complained));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_which_one_is_wrong_change_nothing() {
    let world = World::start(1).await;
    let service = service(&world);
    let user = world.user("ann@example.org").await;
    let good = pb::EmailReport {
        kind: pb::EmailReportKind::HardBounce.into(),
        about: by_address("ann@example.org"),
    };
    let kind = pb::EmailReport {
        kind: 0,
        ..good.clone()
    };
    let about = pb::EmailReport {
        about: None,
        ..good.clone()
    };
    for (reports, field) in [
        (vec![], "reports"),
        (vec![good.clone(); REPORTS_MAX + 1], "reports"),
        (vec![good.clone(), kind], "reports[1].kind"),
        (vec![good, about], "reports[1].about"),
    ] {
        let error = service.report_emails(reports).await.unwrap_err();
        assert_eq!(error.field, field);
        assert_eq!(world.disabled(user).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_the_digests_to_the_address_that_it_was_sent_to() {
    let world = World::start(1).await;
    let service = service(&world);
    let user = world.user("ann@example.org").await;
    let other = world.user("ann@example.org").await;
    let period = async |user| world.store().preferences(vec![user]).await.unwrap()[0].digest;
    let tokens = &world.replicas[0].post.tokens;
    let old = tokens.make(user, "old@example.org");
    let token = tokens.make(user, "ann@example.org");
    let unknown = format!("{token}a");
    assert_eq!(service.unsubscribe(&unknown).await.unwrap(), Ended::Unknown);
    assert!(!service.may_unsubscribe(&unknown));
    assert_eq!(service.unsubscribe(&old).await.unwrap(), Ended::Yes);
    // To look where it leads changes nothing.
    assert!(service.may_unsubscribe(&token) && service.may_unsubscribe(&old));
    assert_eq!(period(user).await, DigestPeriod::Daily);
    for _ in 0..2 {
        assert_eq!(service.unsubscribe(&token).await.unwrap(), Ended::Yes);
        assert_eq!(period(user).await, DigestPeriod::Off);
    }
    assert_eq!(period(other).await, DigestPeriod::Daily);
    // Whatever else he wants stays, and no digest is due to him.
    world.next_morning();
    let now = service.clock.now_unix_ms();
    let due = world.store().claim_digests(now, now + 1, 9).await.unwrap();
    assert_eq!(due.iter().map(|due| due.user).collect::<Vec<_>>(), [other]);
    let weekly = PreferencesChange {
        digest: Some(DigestPeriod::Weekly),
        ..PreferencesChange::default()
    };
    let updated = world
        .store()
        .update_preferences(user, weekly, 0, service.next_digest());
    updated.await.unwrap();
    assert_eq!(service.unsubscribe(&token).await.unwrap(), Ended::Yes);
    assert_eq!(period(user).await, DigestPeriod::Off);
}
