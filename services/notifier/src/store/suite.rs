//! What every store promises; each adapter runs it on stores that are empty.

use std::sync::Arc;

use bytes::Bytes;
use runtime::ids::{ConversationId, DeviceId, UserId};

use super::{
    LogIdentity, PositionAdvance, PreferencesChange, ReaderId, Settled, Store, StoreError, Updated,
};
use crate::model::{
    DeviceSubject, DeviceTarget, Held, Preferences, PreviewDetail, ProviderKind, QuietHours,
    Subject, Target, Told,
};

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

/// Runs all of it; `open` gives an empty store, and what must live as long as it.
pub(crate) async fn run<S: Store, G>(open: impl AsyncFn() -> (S, G)) {
    let (store, _guard) = open().await;
    let store: Arc<dyn Store> = Arc::new(store);
    targets(store.as_ref()).await;
    logged_out(store.as_ref()).await;
    preferences(store.as_ref()).await;
    told(store.as_ref()).await;
    held(store.as_ref()).await;
    positions(store.as_ref()).await;
}

async fn targets_of(store: &dyn Store, kind: ProviderKind, user: UserId) -> Vec<DeviceTarget> {
    store.targets(kind, vec![user]).await.unwrap()
}

/// A device has one target, a token one device, and each kind is kept as it was given.
async fn targets(store: &dyn Store) {
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
    // The same device, by another provider.
    let replaced = fcm(user, device, "one");
    store.put_target(replaced.clone(), NOW).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::Apns, user).await, []);
    assert_eq!(targets_of(store, ProviderKind::Fcm, user).await, [replaced]);
    // The phone has another owner now.
    let (other, others) = ids();
    let moved = fcm(other, others, "one");
    store.put_target(moved.clone(), NOW).await.unwrap();
    let both = store.targets(ProviderKind::Fcm, vec![user, other]).await;
    assert_eq!(both.unwrap(), std::slice::from_ref(&moved));
    // One that is gone is forgotten, unless the device has another one meanwhile.
    let gone = |target: DeviceTarget| Settled {
        gone: vec![target],
        ..Settled::default()
    };
    store
        .put_target(fcm(other, others, "two"), NOW)
        .await
        .unwrap();
    store.settle(gone(moved), NOW).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::Fcm, other).await.len(), 1);
    store
        .settle(gone(fcm(other, others, "two")), NOW)
        .await
        .unwrap();
    assert_eq!(targets_of(store, ProviderKind::Fcm, other).await, []);
    store.remove_target(user, browser).await.unwrap();
    store.remove_target(user, browser).await.unwrap();
    assert_eq!(targets_of(store, ProviderKind::WebPush, user).await, []);
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

/// A device that was logged out takes no pushes, whatever comes for it later.
async fn logged_out(store: &dyn Store) {
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
}

/// What is given changes, once, and nobody overwrites what he has not seen.
async fn preferences(store: &dyn Store) {
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
        ..PreferencesChange::default()
    };
    let expected = change.clone().applied_to(default.clone());
    assert_eq!((expected.version, expected.push), (1, true));
    let changed = store.update_preferences(user, change, 0).await.unwrap();
    assert_eq!(changed, Updated::Changed(expected.clone()));
    let quiet = PreferencesChange {
        push: Some(false),
        mentions_pierce_mute: Some(false),
        ..PreferencesChange::default()
    };
    let late = store.update_preferences(user, quiet.clone(), 7).await;
    assert_eq!(late.unwrap(), Updated::OtherVersion);
    let read = store.preferences(vec![other, user]).await.unwrap();
    assert_eq!(read, [default, expected.clone()]);
    let changed = store.update_preferences(user, quiet.clone(), 1).await;
    let expected = quiet.applied_to(expected);
    assert_eq!(changed.unwrap(), Updated::Changed(expected.clone()));
    assert_eq!(store.preferences(vec![user]).await.unwrap(), [expected]);
}

/// What was told only grows, in whatever order it comes, and is forgotten when it is old.
async fn told(store: &dyn Store) {
    let (subject, other) = (subject(), subject());
    let device = DeviceId::generate();
    let of = |subject| DeviceSubject { subject, device };
    let steps = [(5, 0), (3, 2), (4, 7), (5, 1)];
    for (seq, read_seq) in steps {
        let told = vec![(of(subject), Told { seq, read_seq })];
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
    assert_eq!(store.forget_told(NOW, 10).await.unwrap(), 0);
    assert_eq!(store.forget_told(NOW + 1, 10).await.unwrap(), 1);
    assert_eq!(store.told(asked).await.unwrap(), [Told::default(); 3]);
}

/// What is put off comes at its time, to one who asks, and is there until he says that it is in the log:
/// unless it was put off anew meanwhile.
async fn held(store: &dyn Store) {
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

/// A position only grows, and is of one log.
async fn positions(store: &dyn Store) {
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
