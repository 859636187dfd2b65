//! What every store promises; each adapter runs it on stores that are empty.

use bytes::Bytes;
use runtime::ids::{ConversationId, DeviceId, UserId};

use super::{
    FORGOTTEN_LIFE_MS, LogIdentity, NextDigest, PositionAdvance, PreferencesChange, ReaderId,
    Settled, Store, StoreError, Updated,
};
use crate::limits::REGISTRATION_TOKEN_BYTES_MAX;
use crate::model::{
    DeviceSubject, DeviceTarget, DigestPeriod, Held, Preferences, PreviewDetail, ProviderKind,
    QuietHours, Subject, Target, Told,
};

pub(crate) mod mail;

/// When tests begin.
pub(crate) const NOW: i64 = 1_790_000_000_000;

pub(crate) fn fcm(user: UserId, device: DeviceId, token: &str) -> DeviceTarget {
    let registration_token = token.to_owned();
    let target = Target::Fcm { registration_token };
    DeviceTarget {
        user,
        device,
        target,
    }
}

fn ids() -> (UserId, DeviceId) {
    (UserId::generate(), DeviceId::generate())
}

pub(crate) fn subject() -> Subject {
    let [user, peer] = [(); 2].map(|()| UserId::generate());
    let conversation = ConversationId::direct(user, peer).unwrap();
    Subject { user, conversation }
}

/// Runs every check over a new store each. What `open` answers besides the store lives as long.
pub(crate) async fn run<S: Store, G>(open: impl AsyncFn() -> (S, G)) {
    macro_rules! each {
        ($($promise:path),* $(,)?) => {$(
            let (store, _guard) = open().await;
            $promise(&store).await;
        )*};
    }
    each!(
        a_device_has_one_target_and_a_token_one_device,
        a_target_that_is_gone_is_forgotten_unless_the_device_has_another_one,
        targets_of_many_users_are_those_of_one_provider,
        a_device_that_was_logged_out_takes_no_pushes_whatever_comes_later,
        what_is_remembered_of_devices_is_forgotten_days_later,
        what_is_given_changes_and_nobody_overwrites_what_he_has_not_seen,
        what_was_told_only_grows_and_is_forgotten_when_it_is_old,
        what_is_put_off_comes_at_its_time_until_it_is_forgotten,
        of_what_is_put_off_the_newest_record_stays_and_the_earliest_time,
        what_is_put_off_is_claimed_in_steps_the_earliest_first,
        a_position_only_grows_and_is_of_one_log,
        mail::an_address_is_confirmed_by_its_code_and_by_no_other,
        mail::another_address_replaces_the_one_before,
        mail::mails_of_a_day_are_counted_for_users_and_addresses,
        mail::what_mail_meets_disables_an_address,
        mail::digests_are_due_where_they_are_wanted_and_mail_is_sent,
        mail::a_digest_is_claimed_by_one_and_finished_once,
        mail::a_claim_ends_with_what_it_was_made_for,
        mail::a_change_of_preferences_moves_the_digest,
        mail::what_a_digest_has_told_of_is_remembered_with_its_address,
    );
}

async fn targets_of(store: &dyn Store, kind: ProviderKind, user: UserId) -> Vec<DeviceTarget> {
    store.targets(kind, vec![user]).await.unwrap()
}

pub(crate) async fn a_device_has_one_target_and_a_token_one_device(store: &dyn Store) {
    let (user, device) = ids();
    let apns = DeviceTarget {
        target: Target::Apns {
            device_token: "ab".repeat(32),
            topic: "org.example.app".to_owned(),
            sandbox: true,
        },
        ..fcm(user, device, "")
    };
    let (_, browser) = ids();
    let web = DeviceTarget {
        target: Target::WebPush {
            endpoint: "https://push.example/1".to_owned(),
            p256dh: Box::new([7; 65]),
            auth: [9; 16],
        },
        ..fcm(user, browser, "")
    };
    for target in [&apns, &web] {
        // As often as an app starts.
        for _ in 0..2 {
            assert!(store.put_target(target.clone(), NOW).await.unwrap());
        }
        let kind = target.target.kind();
        let kept = targets_of(store, kind, user).await;
        assert_eq!(kept.iter().collect::<Vec<_>>(), [target]);
    }
    // The same device, by another provider; a token as long as it may be.
    let long = "t".repeat(REGISTRATION_TOKEN_BYTES_MAX);
    let replaced = fcm(user, device, &long);
    store.put_target(replaced.clone(), NOW).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::Apns, user).await, []);
    assert_eq!(targets_of(store, ProviderKind::Fcm, user).await, [replaced]);
    // The phone has another owner now.
    let (other, others) = ids();
    let moved = fcm(other, others, &long);
    store.put_target(moved.clone(), NOW).await.unwrap();
    let both = store.targets(ProviderKind::Fcm, vec![user, other]).await;
    assert_eq!(both.unwrap(), [moved]);
    // What one provider knows one device by, another may know another one by.
    let same = DeviceTarget {
        target: Target::Apns {
            device_token: long.clone(),
            topic: String::new(),
            sandbox: false,
        },
        ..fcm(user, device, "")
    };
    store.put_target(same.clone(), NOW).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::Fcm, other).await.len(), 1);
    assert_eq!(targets_of(store, ProviderKind::Apns, user).await, [same]);
    for _ in 0..2 {
        store.remove_target(user, browser).await.unwrap();
        assert_eq!(targets_of(store, ProviderKind::WebPush, user).await, []);
    }
}

pub(crate) async fn a_target_that_is_gone_is_forgotten_unless_the_device_has_another_one(
    store: &dyn Store,
) {
    let (user, device) = ids();
    let (one, two) = (fcm(user, device, "one"), fcm(user, device, "two"));
    let gone = |targets: &[&DeviceTarget]| Settled {
        gone: targets.iter().map(|target| (*target).clone()).collect(),
        ..Settled::default()
    };
    store.put_target(one.clone(), NOW).await.unwrap();
    store.put_target(two.clone(), NOW).await.unwrap();
    store.settle(gone(&[&one]), NOW).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::Fcm, user).await.len(), 1);
    // Another device has it now.
    let (other, others) = ids();
    let moved = fcm(other, others, "two");
    store.put_target(moved.clone(), NOW).await.unwrap();
    store.settle(gone(&[&two]), NOW).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::Fcm, other).await.len(), 1);
    // What others say of the same batch is kept.
    let third = fcm(user, device, "three");
    store.put_target(third.clone(), NOW).await.unwrap();
    let all = gone(&[&one, &moved, &third, &moved]);
    store.settle(all, NOW).await.unwrap();
    let left = store.targets(ProviderKind::Fcm, vec![user, other]).await;
    assert_eq!(left.unwrap(), []);
}

pub(crate) async fn targets_of_many_users_are_those_of_one_provider(store: &dyn Store) {
    let users: Vec<UserId> = (0..3).map(|_| UserId::generate()).collect();
    for (at, user) in users.iter().enumerate() {
        for place in 0..2 {
            let token = format!("{at} {place}");
            let put = fcm(*user, DeviceId::generate(), &token);
            store.put_target(put, NOW).await.unwrap();
        }
        let apns = DeviceTarget {
            target: Target::Apns {
                device_token: format!("{at:02x}"),
                topic: String::new(),
                sandbox: false,
            },
            ..fcm(*user, DeviceId::generate(), "")
        };
        store.put_target(apns, NOW).await.unwrap();
    }
    let asked = vec![users[0], UserId::generate(), users[2]];
    let found = store.targets(ProviderKind::Fcm, asked).await.unwrap();
    let mut tokens: Vec<&str> = found.iter().map(|found| found.target.token()).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, ["0 0", "0 1", "2 0", "2 1"]);
    assert!(found.iter().all(|found| found.user != users[1]));
    assert_eq!(store.targets(ProviderKind::Fcm, vec![]).await.unwrap(), []);
}

pub(crate) fn reader(topic: &'static str) -> (ReaderId, LogIdentity) {
    let reader = ReaderId {
        reader: "a reader",
        topic,
        partition: 3,
    };
    let identity = LogIdentity {
        log_id: "a log".to_owned(),
        topic_id: topic.to_owned(),
        partitions: 8,
    };
    (reader, identity)
}

pub(crate) async fn a_device_that_was_logged_out_takes_no_pushes_whatever_comes_later(
    store: &dyn Store,
) {
    let (user, device) = ids();
    let (reader, identity) = reader("users");
    store.open_reader(reader.clone(), identity).await.unwrap();
    let target = fcm(user, device, "of one who left");
    assert!(store.put_target(target.clone(), NOW).await.unwrap());
    let advance = |from, to| PositionAdvance {
        reader: reader.clone(),
        from,
        to,
    };
    let devices = vec![(user, device)];
    for step in [advance(0, 4), advance(4, 4)] {
        let forgotten = store.forget_devices(devices.clone(), NOW, step).await;
        forgotten.unwrap();
    }
    assert_eq!(targets_of(store, ProviderKind::Fcm, user).await, []);
    assert!(!store.put_target(target, NOW + 1).await.unwrap());
    assert_eq!(targets_of(store, ProviderKind::Fcm, user).await, []);
    let (_, another) = ids();
    let again = fcm(user, another, "of one who left");
    assert!(store.put_target(again, NOW).await.unwrap());
    // Nothing was forgotten where the position is below what was saved.
    let behind = store.forget_devices(vec![(user, another)], NOW, advance(5, 6));
    let behind = behind.await;
    assert!(matches!(behind, Err(StoreError::PositionBelowSaved)));
    assert_eq!(targets_of(store, ProviderKind::Fcm, user).await.len(), 1);
}

pub(crate) async fn what_is_remembered_of_devices_is_forgotten_days_later(store: &dyn Store) {
    let (reader, identity) = reader("users");
    store.open_reader(reader.clone(), identity).await.unwrap();
    let forget = async |devices: Vec<(UserId, DeviceId)>, now_unix_ms: i64| {
        let advance = PositionAdvance {
            reader: reader.clone(),
            from: 0,
            to: 1,
        };
        store
            .forget_devices(devices, now_unix_ms, advance)
            .await
            .unwrap();
    };
    let (user, device) = ids();
    forget(vec![(user, device)], NOW).await;
    let put = async |now| store.put_target(fcm(user, device, "late"), now).await;
    // The next log-outs of others clean up: not within a day, and what an access token lives longer.
    forget(vec![ids()], NOW + FORGOTTEN_LIFE_MS).await;
    assert!(!put(NOW + FORGOTTEN_LIFE_MS).await.unwrap());
    forget(vec![], NOW + FORGOTTEN_LIFE_MS + 1).await;
    assert!(put(NOW + FORGOTTEN_LIFE_MS + 1).await.unwrap());
}

/// For tests in which no digest is due.
pub(crate) fn no_digest() -> NextDigest {
    std::sync::Arc::new(|_| None)
}

pub(crate) async fn what_is_given_changes_and_nobody_overwrites_what_he_has_not_seen(
    store: &dyn Store,
) {
    let (user, _) = ids();
    let (other, _) = ids();
    let default = Preferences::default();
    let read = store.preferences(vec![user, other]).await.unwrap();
    assert_eq!(read, [default.clone(), default.clone()]);
    let change = PreferencesChange {
        preview: Some(PreviewDetail::NameOnly),
        quiet_hours: Some(QuietHours {
            on: true,
            from_minute: 1_439,
            to_minute: 0,
        }),
        time_zone: Some("Europe/Berlin".to_owned()),
        digest: Some(DigestPeriod::Weekly),
        digest_hour: Some(23),
        ..PreferencesChange::default()
    };
    let expected = change.clone().applied_to(default.clone());
    assert_eq!((expected.version, expected.push), (1, true));
    let update = async |change: &PreferencesChange, if_version| {
        let change = change.clone();
        let updated = store.update_preferences(user, change, if_version, no_digest());
        updated.await.unwrap()
    };
    assert_eq!(update(&change, 0).await, Updated::Changed(expected.clone()));
    let quiet = PreferencesChange {
        push: Some(false),
        mentions_pierce_mute: Some(false),
        ..PreferencesChange::default()
    };
    assert_eq!(update(&quiet, 7).await, Updated::OtherVersion);
    let read = store.preferences(vec![other, user]).await.unwrap();
    assert_eq!(read, [default, expected.clone()]);
    let changed = update(&quiet, 1).await;
    let expected = quiet.applied_to(expected);
    assert_eq!(changed, Updated::Changed(expected.clone()));
    assert_eq!(store.preferences(vec![user]).await.unwrap(), [expected]);
}

pub(crate) async fn what_was_told_only_grows_and_is_forgotten_when_it_is_old(store: &dyn Store) {
    let (subject, other) = (subject(), subject());
    let device = DeviceId::generate();
    let of = |subject| DeviceSubject { subject, device };
    let steps = [(5, 0), (3, 2), (4, 7), (5, 1)];
    for (seq, read_seq) in steps {
        // Twice in one batch, the smaller one last.
        let told = [(seq, read_seq), (seq - 1, 0)];
        let told = told.map(|(seq, read_seq)| (of(subject), Told { seq, read_seq }));
        let told = told.to_vec();
        let settled = Settled {
            told,
            ..Settled::default()
        };
        store.settle(settled, NOW).await.unwrap();
    }
    let second = DeviceSubject {
        subject,
        device: DeviceId::generate(),
    };
    let asked = vec![of(other), of(subject), second];
    let read = store.told(asked.clone()).await.unwrap();
    let most = Told {
        seq: 5,
        read_seq: 7,
    };
    assert_eq!(read, [Told::default(), most, Told::default()]);
    let forget = async |before, limit| store.forget_told(before, limit).await.unwrap();
    assert_eq!(forget(NOW, 10).await, 0);
    assert_eq!(forget(NOW + 1, 10).await, 1);
    assert_eq!(store.told(asked).await.unwrap(), [Told::default(); 3]);
    // In steps, the oldest first; who is told again is not forgotten, though nothing new was said.
    let subjects: Vec<DeviceSubject> = (0..4).map(|_| of(self::subject())).collect();
    let tell = async |subjects: &[DeviceSubject], now_unix_ms| {
        let told = Told {
            seq: 9,
            read_seq: 9,
        };
        let settled = Settled {
            told: subjects.iter().map(|subject| (*subject, told)).collect(),
            ..Settled::default()
        };
        store.settle(settled, now_unix_ms).await.unwrap();
    };
    for (at, subject) in (1..).zip(&subjects) {
        tell(&[*subject], NOW + at).await;
    }
    tell(&subjects[..1], NOW + 9).await;
    assert_eq!(forget(NOW + 5, 2).await, 2);
    let is_told = async || {
        let told = store.told(subjects.clone()).await.unwrap();
        told.iter().map(|told| told.seq > 0).collect::<Vec<_>>()
    };
    assert_eq!(is_told().await, [true, false, false, true]);
    assert_eq!(forget(NOW + 5, 2).await, 1);
    assert_eq!(is_told().await, [true, false, false, false]);
    // An hour late at most.
    assert_eq!(forget(NOW + 10 + 60 * 60 * 1_000, 2).await, 1);
    assert_eq!(is_told().await, [false; 4]);
}

pub(crate) async fn what_is_put_off_comes_at_its_time_until_it_is_forgotten(store: &dyn Store) {
    let one = subject();
    let hold = async |seq: u64, due_unix_ms: i64| {
        let held = Held {
            subject: one,
            seq,
            due_unix_ms,
            payload: Bytes::from(format!("record {seq}")),
        };
        let settled = Settled {
            held: vec![held.clone()],
            ..Settled::default()
        };
        store.settle(settled, NOW).await.unwrap();
        held
    };
    hold(4, NOW + 100).await;
    let newest = hold(6, NOW + 200).await;
    hold(5, NOW + 300).await;
    let claim = async |now, lease| store.claim_held(now, lease, 10).await.unwrap();
    assert_eq!(claim(NOW + 99, NOW + 1_000).await, []);
    let claimed = claim(NOW + 100, NOW + 1_000).await;
    let expected = Held {
        due_unix_ms: NOW + 100,
        ..newest
    };
    assert_eq!(claimed, std::slice::from_ref(&expected));
    assert_eq!(claim(NOW + 999, NOW + 9_000).await, []);
    // Its claimer died.
    assert_eq!(claim(NOW + 1_000, NOW + 2_000).await, [expected]);
    // The claimer of before is late: it is not his any more.
    store.forget_held(vec![one], NOW + 1_000).await.unwrap();
    // Its record was read and put off anew before its claimer came to forget it.
    let again = hold(6, NOW + 5_000).await;
    store.forget_held(vec![one], NOW + 2_000).await.unwrap();
    assert_eq!(claim(NOW + 4_999, NOW + 6_000).await, []);
    assert_eq!(claim(NOW + 5_000, NOW + 6_000).await, [again]);
    store.forget_held(vec![one], NOW + 6_000).await.unwrap();
    assert_eq!(claim(NOW + 90_000, NOW + 99_000).await, []);
}

pub(crate) async fn of_what_is_put_off_the_newest_record_stays_and_the_earliest_time(
    store: &dyn Store,
) {
    let one = subject();
    let held = |seq: u64, due_unix_ms: i64, payload: &'static str| Held {
        subject: one,
        seq,
        due_unix_ms,
        payload: Bytes::from_static(payload.as_bytes()),
    };
    // All in one batch, and each by itself: the same comes out.
    let said = [
        held(4, NOW + 9, "a"),
        held(6, NOW + 8, "b"),
        held(6, NOW + 7, "c"),
        held(5, NOW + 5, "d"),
        held(3, NOW + 6, "e"),
    ];
    let expected = held(6, NOW + 5, "c");
    for size in [1, 2, 5] {
        for held in said.chunks(size) {
            let settled = Settled {
                held: held.to_vec(),
                ..Settled::default()
            };
            store.settle(settled, NOW).await.unwrap();
        }
        let lease = NOW + 100;
        let claimed = store.claim_held(NOW + 50, lease, 10).await.unwrap();
        assert_eq!(claimed, std::slice::from_ref(&expected), "{size}");
        store.forget_held(vec![one], lease).await.unwrap();
    }
}

pub(crate) async fn what_is_put_off_is_claimed_in_steps_the_earliest_first(store: &dyn Store) {
    let held = |at: i64| Held {
        subject: subject(),
        seq: 1,
        due_unix_ms: NOW + at,
        payload: Bytes::new(),
    };
    let settled = Settled {
        held: [5, 3, 1, 4, 2].map(held).to_vec(),
        ..Settled::default()
    };
    store.settle(settled, NOW).await.unwrap();
    let claim = async |now, lease| {
        let claimed = store.claim_held(now, lease, 2).await.unwrap();
        let due = claimed.iter().map(|held| held.due_unix_ms - NOW);
        due.collect::<Vec<_>>()
    };
    assert_eq!(claim(NOW + 4, NOW + 100).await, [1, 2]);
    assert_eq!(claim(NOW + 4, NOW + 200).await, [3, 4]);
    assert_eq!(claim(NOW + 4, NOW + 300).await, [0_i64; 0]);
    assert_eq!(claim(NOW + 99, NOW + 300).await, [5]);
    // What was claimed first is free first.
    assert_eq!(claim(NOW + 100, NOW + 400).await, [1, 2]);
    assert_eq!(claim(NOW + 199, NOW + 400).await, [0_i64; 0]);
    assert_eq!(claim(NOW + 500, NOW + 600).await, [3, 4]);
    // What is not there, or nobody's claim, is not forgotten by mistake.
    let others = vec![subject(), subject()];
    store.forget_held(others, NOW + 600).await.unwrap();
    assert!(claim(NOW + 500, NOW + 600).await.contains(&5));
}

pub(crate) async fn a_position_only_grows_and_is_of_one_log(store: &dyn Store) {
    let (reader, identity) = reader("offline");
    let open = async |identity: &LogIdentity| {
        let opened = store.open_reader(reader.clone(), identity.clone());
        opened.await
    };
    assert_eq!(open(&identity).await.unwrap(), 0);
    let save = async |from, to| {
        let reader = reader.clone();
        let advance = PositionAdvance { reader, from, to };
        store.save_position(advance).await
    };
    save(0, 9).await.unwrap();
    save(0, 5).await.unwrap();
    assert_eq!(open(&identity).await.unwrap(), 9);
    let ahead = save(10, 11).await;
    assert!(matches!(ahead, Err(StoreError::PositionBelowSaved)));
    let other = LogIdentity {
        log_id: "another log".to_owned(),
        ..identity
    };
    let refused = open(&other).await;
    assert!(matches!(refused, Err(StoreError::OtherLog { .. })));
    store.sync().await.unwrap();
}
