//! Promises about addresses and digests.

use std::sync::Arc;

use super::*;
use crate::{
    limits::{CONFIRMATION_LIFE, CONFIRMATION_TRIES_MAX, CONFIRMATIONS_PER_DAY, SOFT_BOUNCES_MAX},
    model::{DigestMail, DueDigest, Email, EmailDisabled, FinishedDigest},
    store::{Confirmation, EmailGiven, EmailReport},
};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
const ADDRESS: &str = "Ann@example.org";

pub(crate) fn confirmation(
    user: UserId,
    address: &str,
    code: u8,
    now_unix_ms: i64,
) -> Confirmation {
    Confirmation {
        user,
        address: address.to_owned(),
        code_hash: [code; 32],
        now_unix_ms,
    }
}

/// As if the mail with the code was taken.
async fn give(store: &dyn Store, confirmation: Confirmation) -> EmailGiven {
    let given = store
        .count_confirmation(confirmation.clone())
        .await
        .unwrap();
    if given == EmailGiven::ToConfirm {
        store.give_email(confirmation).await.unwrap();
    }
    given
}

/// A digest is due every hour of the day that the user has chosen, on the day of [`NOW`].
pub(crate) fn at_hour() -> NextDigest {
    Arc::new(|preferences| match preferences.digest {
        DigestPeriod::Off => None,
        _ => Some(NOW + i64::from(preferences.digest_hour)),
    })
}

async fn confirm(store: &dyn Store, user: UserId, code: u8, now_unix_ms: i64) -> Option<Email> {
    let confirmed = store.confirm_email(user, [code; 32], now_unix_ms, at_hour());
    confirmed.await.unwrap()
}

/// A user with a confirmed address, whose digest is due 8 ms after [`NOW`].
pub(crate) async fn confirmed(store: &dyn Store, address: &str) -> UserId {
    let user = UserId::generate();
    let given = give(store, confirmation(user, address, 1, NOW)).await;
    assert_eq!(given, EmailGiven::ToConfirm);
    assert!(confirm(store, user, 1, NOW).await.is_some());
    user
}

fn email(address: &str, confirmed: bool) -> Option<Email> {
    Some(Email {
        address: address.to_owned(),
        confirmed,
        disabled: None,
    })
}

pub(crate) async fn an_address_is_confirmed_by_its_code_and_by_no_other(store: &dyn Store) {
    let user = UserId::generate();
    assert_eq!(store.email(user).await.unwrap(), None);
    assert!(confirm(store, user, 1, NOW).await.is_none());
    assert_eq!(
        give(store, confirmation(user, ADDRESS, 1, NOW)).await,
        EmailGiven::ToConfirm
    );
    assert_eq!(store.email(user).await.unwrap(), email(ADDRESS, false));
    assert!(confirm(store, user, 2, NOW).await.is_none());
    // Another user's code is none of his.
    assert!(confirm(store, UserId::generate(), 1, NOW).await.is_none());
    let life_ms = i64::try_from(CONFIRMATION_LIFE.as_millis()).unwrap();
    assert!(confirm(store, user, 1, NOW + life_ms + 1).await.is_none());
    assert_eq!(store.email(user).await.unwrap(), email(ADDRESS, false));
    // Again, because the answer was lost.
    for _ in 0..2 {
        let confirmed = confirm(store, user, 1, NOW + life_ms).await;
        assert_eq!(confirmed, email(ADDRESS, true));
        assert_eq!(store.email(user).await.unwrap(), email(ADDRESS, true));
    }
    // It counts no mail, and changes nothing.
    for _ in 0..=CONFIRMATIONS_PER_DAY {
        let again = give(store, confirmation(user, ADDRESS, 3, NOW)).await;
        assert_eq!(again, EmailGiven::AlreadyConfirmed);
    }
    assert!(confirm(store, user, 3, NOW).await.is_none());
    assert_eq!(store.email(user).await.unwrap(), email(ADDRESS, true));
    // Neither does a mail with a code that was on its way meanwhile.
    let late = store.give_email(confirmation(user, ADDRESS, 3, NOW));
    late.await.unwrap();
    assert_eq!(store.email(user).await.unwrap(), email(ADDRESS, true));
    // Before the mail was taken he has what he had.
    let other = confirmation(user, "bob@example.org", 3, NOW);
    let counted = store.count_confirmation(other).await.unwrap();
    assert_eq!(counted, EmailGiven::ToConfirm);
    assert_eq!(store.email(user).await.unwrap(), email(ADDRESS, true));
    assert_eq!(claim(store, NOW + 8, NOW + 9, 9).await.len(), 1);
    // So many wrong ones, and the right one is none any more.
    let guessed = UserId::generate();
    give(store, confirmation(guessed, ADDRESS, 1, NOW)).await;
    for _ in 0..CONFIRMATION_TRIES_MAX {
        assert!(confirm(store, guessed, 2, NOW).await.is_none());
    }
    assert!(confirm(store, guessed, 1, NOW).await.is_none());
    give(store, confirmation(guessed, ADDRESS, 1, NOW)).await;
    assert!(confirm(store, guessed, 1, NOW).await.is_some());
}

pub(crate) async fn another_address_replaces_the_one_before(store: &dyn Store) {
    let user = confirmed(store, ADDRESS).await;
    let other = confirmed(store, ADDRESS).await;
    let mut users = vec![user, other];
    users.sort_unstable();
    let of = async |address: &str, limit| {
        let users = store.users_of_email(address.to_owned(), limit);
        users.await.unwrap()
    };
    assert_eq!(of(ADDRESS, 9).await, users);
    assert_eq!(of(ADDRESS, 1).await.len(), 1);
    give(store, confirmation(user, "ann@example.com", 2, NOW)).await;
    assert_eq!(of(ADDRESS, 9).await, [other]);
    assert_eq!(of("ann@example.com", 9).await, [user]);
    assert_eq!(
        store.email(user).await.unwrap(),
        email("ann@example.com", false)
    );
    // The code of the mail before, and no digest to an address that nobody has confirmed.
    assert!(confirm(store, user, 1, NOW).await.is_none());
    let due = store.claim_digests(NOW + 99, NOW + 100, 9).await.unwrap();
    assert_eq!(due.iter().map(|due| due.user).collect::<Vec<_>>(), [other]);
    for _ in 0..2 {
        store.remove_email(other).await.unwrap();
        assert_eq!(store.email(other).await.unwrap(), None);
        assert_eq!(of(ADDRESS, 9).await, []);
    }
    let due = store.claim_digests(NOW + 999, NOW + 1_000, 9).await;
    assert_eq!(due.unwrap(), []);
}

pub(crate) async fn mails_of_a_day_are_counted_for_users_and_addresses(store: &dyn Store) {
    let max = u8::try_from(CONFIRMATIONS_PER_DAY).unwrap();
    let user = UserId::generate();
    let address = |n: u8| format!("ann{n}@example.org");
    for n in 0..max {
        let given = confirmation(user, &address(n), n, NOW + i64::from(n));
        assert_eq!(give(store, given).await, EmailGiven::ToConfirm);
    }
    let late = |retry_after_ms| EmailGiven::TooMany { retry_after_ms };
    let day = u64::try_from(DAY_MS).unwrap();
    // Also after he has taken the address away.
    store.remove_email(user).await.unwrap();
    for address in [address(max), address(0)] {
        let sixth = confirmation(user, &address, 9, NOW + 10);
        assert_eq!(give(store, sixth).await, late(day - 10));
    }
    assert_eq!(store.email(user).await.unwrap(), None);
    // A day after the first one; then the second one is in the way.
    let after = confirmation(user, &address(9), 9, NOW + DAY_MS);
    assert_eq!(give(store, after.clone()).await, EmailGiven::ToConfirm);
    assert_eq!(give(store, after).await, late(1));
    // Whoever gives it, and however it is written.
    for n in 0..max {
        let capital = if n % 2 == 0 { "Bob" } else { "bob" };
        let address = format!("{capital}@example.org");
        let given = confirmation(UserId::generate(), &address, n, NOW);
        assert_eq!(give(store, given).await, EmailGiven::ToConfirm);
    }
    let sixth = confirmation(UserId::generate(), "BOB@example.org", 1, NOW + 1);
    assert_eq!(give(store, sixth).await, late(day - 1));
}

pub(crate) async fn what_mail_meets_disables_an_address(store: &dyn Store) {
    let report = async |user: UserId, address: &str, what: &[EmailReport]| {
        let reports = what.iter().map(|what| (user, address.to_owned(), *what));
        store.report_emails(reports.collect()).await.unwrap()
    };
    let disabled = async |user| store.email(user).await.unwrap().unwrap().disabled;
    for (what, why) in [
        (EmailReport::HardBounce, EmailDisabled::Bounced),
        (EmailReport::Complaint, EmailDisabled::Complained),
    ] {
        let address = format!("{why:?}@example.org");
        let user = confirmed(store, &address).await;
        // Another address, and another user's, are not meant.
        assert_eq!(report(user, "other@example.org", &[what]).await, 0);
        assert_eq!(report(UserId::generate(), &address, &[what]).await, 0);
        assert_eq!(disabled(user).await, None);
        assert_eq!(report(user, &address, &[what, what]).await, 1);
        assert_eq!(report(user, &address, &[what]).await, 0);
        assert_eq!(disabled(user).await, Some(why));
        let due = store.claim_digests(NOW + 99, NOW + 100, 9).await.unwrap();
        assert_eq!(due, []);
        // The code of then does not enable it; a new one does.
        assert!(confirm(store, user, 1, NOW).await.is_none());
        assert_eq!(disabled(user).await, Some(why));
        let again = confirmation(user, &address, 2, NOW);
        assert_eq!(give(store, again).await, EmailGiven::ToConfirm);
        assert!(confirm(store, user, 2, NOW).await.is_some());
        assert_eq!(disabled(user).await, None);
        store.remove_email(user).await.unwrap();
    }
    let user = confirmed(store, ADDRESS).await;
    // However often it is said of a mail, it counts once; and a mail of which nothing is heard has arrived.
    let soft = [EmailReport::SoftBounce; 9];
    let mut due_at = NOW + 8;
    let mut mail = async |mail| {
        let due = claim(store, due_at, due_at + 5, 9).await;
        let due = due.into_iter().find(|due| due.user == user).unwrap();
        due_at += 10;
        finish(store, &due, due_at, mail).await;
    };
    const TAKEN: DigestMail = DigestMail::Taken { told_unix_ms: NOW };
    for _ in 0..2 {
        for _ in 1..SOFT_BOUNCES_MAX {
            mail(TAKEN).await;
            assert_eq!(report(user, ADDRESS, &soft).await, 0);
        }
        mail(TAKEN).await;
        mail(TAKEN).await;
    }
    for _ in 1..SOFT_BOUNCES_MAX {
        mail(DigestMail::SoftBounce).await;
        assert_eq!(report(user, ADDRESS, &soft).await, 0);
    }
    assert_eq!(disabled(user).await, None);
    mail(DigestMail::SoftBounce).await;
    assert_eq!(disabled(user).await, Some(EmailDisabled::Bounced));
    // Of many users at once.
    let mut reports = Vec::new();
    for n in 0..3 {
        let address = format!("many{n}@example.org");
        let user = confirmed(store, &address).await;
        reports.push((user, address, EmailReport::HardBounce));
    }
    assert_eq!(store.report_emails(reports).await.unwrap(), 3);
    assert_eq!(store.report_emails(vec![]).await.unwrap(), 0);
}

async fn claim(store: &dyn Store, now: i64, lease: i64, limit: usize) -> Vec<DueDigest> {
    store.claim_digests(now, lease, limit).await.unwrap()
}

pub(crate) async fn finish(store: &dyn Store, due: &DueDigest, next: i64, mail: DigestMail) {
    let finished = FinishedDigest {
        due: due.clone(),
        next_unix_ms: Some(next),
        mail,
    };
    store.finish_digest(finished).await.unwrap();
}

/// A digest of this time.
pub(crate) fn of(user: UserId, due_unix_ms: i64) -> DueDigest {
    DueDigest {
        user,
        email: email(ADDRESS, true).unwrap(),
        preferences: Preferences::default(),
        due_unix_ms,
        told_unix_ms: 0,
    }
}

pub(crate) async fn what_a_digest_has_told_of_is_remembered_with_its_address(store: &dyn Store) {
    let user = confirmed(store, ADDRESS).await;
    let told = async |now| {
        let due = claim(store, now, now + 1, 9).await;
        due.into_iter().find(|due| due.user == user).unwrap()
    };
    let first = told(NOW + 8).await;
    assert_eq!(first.told_unix_ms, 0);
    let told_of = |told_unix_ms| DigestMail::Taken { told_unix_ms };
    finish(store, &first, NOW + 20, told_of(NOW)).await;
    let second = told(NOW + 20).await;
    assert_eq!(second.told_unix_ms, NOW);
    // Also of one whose period was moved meanwhile; and it never becomes less.
    finish(store, &first, NOW + 30, told_of(NOW + 5)).await;
    finish(store, &second, NOW + 40, told_of(NOW + 2)).await;
    let third = told(NOW + 40).await;
    assert_eq!(third.told_unix_ms, NOW + 5);
    // To another address nothing was told, and what comes late is not of it.
    give(store, confirmation(user, "bob@example.org", 2, NOW)).await;
    confirm(store, user, 2, NOW).await.unwrap();
    finish(store, &third, NOW + 50, told_of(NOW + 9)).await;
    let other = told(NOW + 50).await;
    assert_eq!((other.due_unix_ms, other.told_unix_ms), (NOW + 8, 0));
    finish(store, &third, NOW + 60, DigestMail::HardBounce).await;
    assert_eq!(
        store.email(user).await.unwrap(),
        email("bob@example.org", true)
    );
    let next = FinishedDigest {
        due: other,
        next_unix_ms: None,
        mail: DigestMail::HardBounce,
    };
    store.finish_digest(next).await.unwrap();
    let bounced = store.email(user).await.unwrap().unwrap();
    assert_eq!(bounced.disabled, Some(EmailDisabled::Bounced));
}

/// What is asked just before a mail is sent.
pub(crate) async fn a_claim_ends_with_what_it_was_made_for(store: &dyn Store) {
    let off = period(DigestPeriod::Off);
    let names = PreferencesChange {
        preview: Some(PreviewDetail::NameOnly),
        ..PreferencesChange::default()
    };
    // By the user's change of what he wants, first.
    for (n, change) in [off, hour(9), names].into_iter().enumerate() {
        let user = confirmed(store, &format!("ann{n}@example.org")).await;
        let due = only(claim(store, NOW + 8, NOW + 50, 9).await);
        let is_claimed = async |lease| store.is_claimed(due.clone(), lease).await.unwrap();
        assert!(is_claimed(NOW + 50).await && !is_claimed(NOW + 49).await);
        set(store, user, change).await;
        assert!(!is_claimed(NOW + 50).await, "{n}");
        store.remove_email(user).await.unwrap();
        assert!(!is_claimed(NOW + 50).await);
    }
    let user = confirmed(store, ADDRESS).await;
    let mut lease = NOW + 50;
    let mut claimed = async || {
        lease += 100;
        let due = only(claim(store, lease - 50, lease, 9).await);
        assert!(store.is_claimed(due.clone(), lease).await.unwrap());
        (due, lease)
    };
    let is_claimed = async |(due, lease)| store.is_claimed(due, lease).await.unwrap();
    // Another one has claimed it when the claim had ended, or has finished it.
    let (of_one, of_other) = (claimed().await, claimed().await);
    assert!(!is_claimed(of_one).await && is_claimed(of_other.clone()).await);
    let next = of_other.1;
    finish(store, &of_other.0, next, DigestMail::None).await;
    assert!(!is_claimed(of_other).await);
    // Nobody's mailbox any more, and another one's.
    let of_bounced = claimed().await;
    let bounced = (user, ADDRESS.to_owned(), EmailReport::HardBounce);
    store.report_emails(vec![bounced]).await.unwrap();
    assert!(!is_claimed(of_bounced).await);
    give(store, confirmation(user, ADDRESS, 2, NOW)).await;
    confirm(store, user, 2, NOW).await.unwrap();
    let of_address = claimed().await;
    give(store, confirmation(user, "bob@example.org", 3, NOW)).await;
    assert!(!is_claimed(of_address.clone()).await);
    confirm(store, user, 3, NOW).await.unwrap();
    let (_, lease) = claimed().await;
    assert!(!is_claimed((of_address.0, lease)).await);
}

fn only(due: Vec<DueDigest>) -> DueDigest {
    let [only] = <[DueDigest; 1]>::try_from(due).unwrap();
    only
}

async fn set(store: &dyn Store, user: UserId, change: PreferencesChange) -> Preferences {
    let updated = store.update_preferences(user, change, 0, at_hour());
    match updated.await.unwrap() {
        Updated::Changed(preferences) => preferences,
        Updated::OtherVersion => unreachable!("no version was named"),
    }
}

fn hour(hour: u8) -> PreferencesChange {
    PreferencesChange {
        digest_hour: Some(hour),
        ..PreferencesChange::default()
    }
}

fn period(period: DigestPeriod) -> PreferencesChange {
    PreferencesChange {
        digest: Some(period),
        ..PreferencesChange::default()
    }
}

pub(crate) async fn digests_are_due_where_they_are_wanted_and_mail_is_sent(store: &dyn Store) {
    let user = confirmed(store, ADDRESS).await;
    // Wants none; said so before there was an address.
    let silent = UserId::generate();
    set(store, silent, period(DigestPeriod::Off)).await;
    give(store, confirmation(silent, ADDRESS, 1, NOW)).await;
    confirm(store, silent, 1, NOW).await.unwrap();
    // Has confirmed none.
    let unknown = UserId::generate();
    give(store, confirmation(unknown, ADDRESS, 1, NOW)).await;
    set(store, unknown, hour(2)).await;
    assert_eq!(claim(store, NOW + 7, NOW + 99, 9).await, []);
    let due = claim(store, NOW + 8, NOW + 99, 9).await;
    let expected = DueDigest {
        user,
        email: email(ADDRESS, true).unwrap(),
        preferences: Preferences::default(),
        due_unix_ms: NOW + 8,
        told_unix_ms: 0,
    };
    assert_eq!(due, [expected]);
    // With the preferences of now; the earliest first.
    let preferences = set(store, silent, period(DigestPeriod::Weekly)).await;
    confirm(store, unknown, 1, NOW).await.unwrap();
    let due = claim(store, NOW + 90, NOW + 99, 9).await;
    let expected = [(unknown, NOW + 2), (silent, NOW + 8)];
    let found: Vec<_> = due.iter().map(|due| (due.user, due.due_unix_ms)).collect();
    assert_eq!(found, expected);
    assert_eq!(due[1].preferences, preferences);
}

pub(crate) async fn a_digest_is_claimed_by_one_and_finished_once(store: &dyn Store) {
    let mut users = Vec::new();
    for hour_of in 0..5 {
        let user = confirmed(store, &format!("ann{hour_of}@example.org")).await;
        set(store, user, hour(hour_of)).await;
        users.push(user);
    }
    let claimed = async |now, lease, limit| {
        let due = claim(store, now, lease, limit).await;
        due.iter().map(|due| due.user).collect::<Vec<_>>()
    };
    assert_eq!(claimed(NOW + 3, NOW + 100, 2).await, users[..2]);
    assert_eq!(claimed(NOW + 3, NOW + 200, 9).await, users[2..4]);
    assert_eq!(claimed(NOW + 3, NOW + 200, 9).await, []);
    finish(store, &of(users[0], NOW), NOW + 1_000, DigestMail::None).await;
    // Its claimer died: the other one is free at the end of the lease.
    assert_eq!(claimed(NOW + 100, NOW + 200, 9).await, [users[1], users[4]]);
    // Finished twice, or of another period: nothing moves.
    finish(store, &of(users[0], NOW), NOW + 2_000, DigestMail::None).await;
    finish(store, &of(users[0], NOW + 5), NOW + 2_000, DigestMail::None).await;
    assert_eq!(claimed(NOW + 199, NOW + 9_999, 9).await, []);
    assert_eq!(claimed(NOW + 999, NOW + 9_999, 9).await, users[1..]);
    let again = claim(store, NOW + 1_000, NOW + 9_999, 9).await;
    assert_eq!((again.len(), again[0].due_unix_ms), (1, NOW + 1_000));
    // The next one is due at its time, however long the claim of the one before was.
    finish(
        store,
        &of(users[0], NOW + 1_000),
        NOW + 1_100,
        DigestMail::None,
    )
    .await;
    // Neither does the code move it, which was shown once more.
    assert!(confirm(store, users[0], 1, NOW).await.is_some());
    assert_eq!(claimed(NOW + 1_099, NOW + 9_999, 9).await, []);
    assert_eq!(claimed(NOW + 1_100, NOW + 9_999, 9).await, users[..1]);
    // Nobody who has no address is given a digest.
    store.remove_email(users[0]).await.unwrap();
    finish(
        store,
        &of(users[0], NOW + 1_100),
        NOW + 3_000,
        DigestMail::None,
    )
    .await;
    assert_eq!(claimed(NOW + 9_998, NOW + 9_999, 9).await, []);
}

pub(crate) async fn a_change_of_preferences_moves_the_digest(store: &dyn Store) {
    let user = confirmed(store, ADDRESS).await;
    let due = async |now| {
        let due = claim(store, now, now + 5, 9).await;
        due.first().map(|due| due.due_unix_ms - NOW)
    };
    set(store, user, hour(20)).await;
    assert_eq!(due(NOW + 19).await, None);
    assert_eq!(due(NOW + 20).await, Some(20));
    // One that is claimed is not moved by what has nothing to do with it: nobody else gets it.
    let other = PreferencesChange {
        push: Some(false),
        ..PreferencesChange::default()
    };
    set(store, user, other).await;
    set(store, user, hour(20)).await;
    assert_eq!(due(NOW + 21).await, None);
    assert_eq!(due(NOW + 25).await, Some(20));
    // Moved while it was sent: the one that was sent is over.
    set(store, user, hour(22)).await;
    finish(store, &of(user, NOW + 20), NOW + 99, DigestMail::None).await;
    assert_eq!(due(NOW + 30).await, Some(22));
    // However long the claim is: the new one is nobody's. One that is due as before stays claimed.
    assert_eq!(claim(store, NOW + 40, NOW + 9_999, 9).await.len(), 1);
    let zone = PreferencesChange {
        time_zone: Some("Europe/Berlin".to_owned()),
        ..PreferencesChange::default()
    };
    set(store, user, zone).await;
    assert_eq!(due(NOW + 41).await, None);
    set(store, user, hour(21)).await;
    assert_eq!(due(NOW + 42).await, Some(21));
    set(store, user, hour(22)).await;
    set(store, user, period(DigestPeriod::Off)).await;
    finish(store, &of(user, NOW + 22), NOW + 99, DigestMail::None).await;
    assert_eq!(due(NOW + 999).await, None);
    set(store, user, period(DigestPeriod::Hourly)).await;
    assert_eq!(due(NOW + 999).await, Some(22));
}
