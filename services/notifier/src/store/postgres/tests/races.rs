//! What several processes do at the same moment.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::join_all;
use runtime::ids::ConversationId;

use super::*;
use crate::{
    limits::{CONFIRMATION_TRIES_MAX, CONFIRMATIONS_PER_DAY},
    model::{DigestMail, DigestPeriod},
    store::suite::{
        NOW, fcm,
        mail::{at_hour, confirmation, confirmed, finish, of},
        no_digest, reader, subject,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_many_devices_register_at_once_ends_with_one() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for round in 0..16 {
        let devices: Vec<_> = (0..9)
            .map(|_| (UserId::generate(), DeviceId::generate()))
            .collect();
        // All want one of two tokens, and swap them then, each against the others.
        for turn in 0..2 {
            let puts = devices.iter().zip(stores.iter().cycle()).enumerate();
            let puts = puts.map(|(at, ((user, device), store))| {
                let token = format!("{round} {}", (at + turn) % 2);
                store.put_target(fcm(*user, *device, &token), NOW)
            });
            assert!(join_all(puts).await.into_iter().all(|put| put.unwrap()));
            let users = devices.iter().map(|(user, _)| *user).collect();
            let left = stores[0].targets(ProviderKind::Fcm, users).await.unwrap();
            let tokens: BTreeSet<&str> = left.iter().map(|left| left.target.token()).collect();
            assert_eq!((left.len(), tokens.len()), (2, 2), "{left:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_registers_while_it_is_logged_out_takes_no_pushes() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let (users_reader, identity) = reader("users");
    let opened = stores[0].open_reader(users_reader.clone(), identity);
    opened.await.unwrap();
    for round in 0..24 {
        let devices: Vec<_> = (0..6)
            .map(|_| (UserId::generate(), DeviceId::generate()))
            .collect();
        let puts = devices.iter().zip(stores.iter().cycle()).enumerate();
        let puts = puts.map(|(at, ((user, device), store))| {
            store.put_target(fcm(*user, *device, &format!("{round} {at}")), NOW)
        });
        let forgets = devices.chunks(3).zip(&stores).map(|(devices, store)| {
            let advance = PositionAdvance {
                reader: users_reader.clone(),
                from: 0,
                to: 1,
            };
            store.forget_devices(devices.to_vec(), NOW, advance)
        });
        let (puts, forgets) = tokio::join!(join_all(puts), join_all(forgets));
        assert!(puts.iter().all(Result::is_ok) && forgets.iter().all(Result::is_ok));
        let users = devices.iter().map(|(user, _)| *user).collect();
        let left = stores[1].targets(ProviderKind::Fcm, users).await.unwrap();
        assert_eq!(left, []);
    }
}

/// Readers of three providers, and one that is repeated: each says what it has done in its own order.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_never_goes_back_whoever_settles() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let all: Vec<DeviceSubject> = (0..8)
        .map(|_| DeviceSubject {
            subject: subject(),
            device: DeviceId::generate(),
        })
        .collect();
    let settles = (0..6_u64).zip(stores.iter().cycle()).map(|(who, store)| {
        let all = all.clone();
        async move {
            for step in 0..20_u64 {
                let told = all.iter().zip(0..).map(|(of, at)| {
                    // Each goes forth and back.
                    let seq = (step * 7 + who * 3 + at) % 61;
                    let told = Told {
                        seq,
                        read_seq: 60 - seq,
                    };
                    (*of, told)
                });
                let mut told: Vec<_> = told.collect();
                if who % 2 == 0 {
                    told.reverse();
                }
                let settled = Settled {
                    told,
                    ..Settled::default()
                };
                store.settle(settled, NOW).await.unwrap();
            }
        }
    });
    let watch = async {
        let mut before = vec![Told::default(); all.len()];
        for _ in 0..60 {
            let now = stores[0].told(all.clone()).await.unwrap();
            for (before, now) in before.iter().zip(&now) {
                assert!(now.seq >= before.seq && now.read_seq >= before.read_seq);
            }
            before = now;
        }
    };
    tokio::join!(join_all(settles), watch);
    let told = stores[1].told(all.clone()).await.unwrap();
    for (told, at) in told.iter().zip(0..) {
        let said = (0..6_u64).flat_map(|who| (0..20_u64).map(move |step| (who, step)));
        let said: Vec<u64> = said
            .map(|(who, step)| (step * 7 + who * 3 + at) % 61)
            .collect();
        let most = Told {
            seq: *said.iter().max().unwrap(),
            read_seq: 60 - said.iter().min().unwrap(),
        };
        assert_eq!(*told, most);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_off_is_claimed_by_one_and_never_lost() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let held = |subject: Subject, seq, due_unix_ms| Held {
        subject,
        seq,
        due_unix_ms,
        payload: Bytes::new(),
    };
    for round in 1..9 {
        let subjects: Vec<Subject> = (0..40).map(|_| subject()).collect();
        let all = subjects.iter().map(|of| held(*of, 1, NOW)).collect();
        let settled = Settled {
            held: all,
            ..Settled::default()
        };
        stores[0].settle(settled, NOW).await.unwrap();
        let lease = NOW + round * 100;
        let claims = stores.iter().cycle().take(9);
        let claims = claims.map(|store| store.claim_held(NOW, lease, 7));
        let mut claimed = Vec::new();
        for mut of_one in join_all(claims).await.into_iter().map(Result::unwrap) {
            claimed.append(&mut of_one);
        }
        // What others had locked is there for the next ones.
        loop {
            let mut rest = stores[1].claim_held(NOW, lease, 7).await.unwrap();
            if rest.is_empty() {
                break;
            }
            claimed.append(&mut rest);
        }
        let mut keys: Vec<ConversationId> = claimed
            .iter()
            .map(|held| held.subject.conversation)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!((claimed.len(), keys.len()), (40, 40));
        // While they are forgotten, every second one is put off anew, and stays.
        let again = subjects.iter().step_by(2);
        let again = again.map(|of| held(*of, 1, NOW + 50)).collect();
        let settled = Settled {
            held: again,
            ..Settled::default()
        };
        let forgets = subjects.chunks(8).zip(stores.iter().cycle());
        let forgets = forgets.map(|(of, store)| store.forget_held(of.to_vec(), lease));
        let (forgotten, settled) = tokio::join!(join_all(forgets), stores[2].settle(settled, NOW));
        assert!(forgotten.iter().all(Result::is_ok));
        settled.unwrap();
        let left = stores[0].claim_held(NOW + 50, lease, 99).await.unwrap();
        assert_eq!(left.len(), 20);
        let left = left.iter().map(|held| held.subject).collect();
        stores[0].forget_held(left, lease).await.unwrap();
    }
}

/// Of two that claim at the same moment, the first one has not committed yet.
#[tokio::test]
async fn a_claim_does_not_wait_for_another_one_and_takes_nothing_of_it() {
    let server = server();
    let [store] = replicas(&server).await;
    let held = |n| Held {
        subject: subject(),
        seq: 1,
        due_unix_ms: NOW + n,
        payload: Bytes::new(),
    };
    let settled = Settled {
        held: (0..3).map(held).collect(),
        ..Settled::default()
    };
    store.settle(settled, NOW).await.unwrap();
    for n in 0..3 {
        confirmed(&store, &format!("ann{n}@example.org")).await;
    }
    let mut c = connection(&server).await;
    let mut first = c.begin().await.unwrap();
    let mut claimed = Vec::new();
    for statement in [sql::CLAIM_HELD, sql::CLAIM_DIGESTS] {
        let claim = sqlx::query(statement)
            .bind(NOW + 9)
            .bind(NOW + 100)
            .bind(2_i64);
        let rows = claim.fetch_all(&mut *first).await.unwrap();
        claimed.push(read_all(&rows, |columns| columns.user(0)).unwrap());
    }
    let held = store.claim_held(NOW + 9, NOW + 100, 9).await.unwrap();
    let digests = store.claim_digests(NOW + 9, NOW + 100, 9).await.unwrap();
    first.commit().await.unwrap();
    assert_eq!((held.len(), digests.len()), (1, 1));
    assert!(!claimed[0].contains(&held[0].subject.user));
    assert!(!claimed[1].contains(&digests[0].user));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_claimed_by_one_of_many() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let mut users = BTreeSet::new();
    for n in 0..20 {
        users.insert(confirmed(&stores[0], &format!("ann{n}@example.org")).await);
    }
    for round in 0..6 {
        let due = NOW + 8 + round;
        let claims = stores.iter().cycle().take(9);
        let claims = claims.map(|store| store.claim_digests(due, due + 1_000, 4));
        let mut claimed = Vec::new();
        for mut of_one in join_all(claims).await.into_iter().map(Result::unwrap) {
            claimed.append(&mut of_one);
        }
        let mut rest = stores[1].claim_digests(due, due + 1_000, 99).await.unwrap();
        claimed.append(&mut rest);
        let found: BTreeSet<UserId> = claimed.iter().map(|due| due.user).collect();
        assert_eq!((claimed.len(), &found), (20, &users));
        // Finished by two at once: of a claim that had ended, and of the one after it.
        let finishes = users.iter().flat_map(|user| {
            [0, 2].map(|store: usize| {
                let (store, digest) = (&stores[store], of(*user, due));
                async move { finish(store, &digest, due + 1, DigestMail::None).await }
            })
        });
        join_all(finishes).await;
    }
}

/// Whatever comes first: who wants no digest is due none.
#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_digest_while_he_confirms_is_due_none() {
    let server = server();
    let stores: [PostgresStore; 2] = replicas(&server).await;
    for _ in 0..24 {
        let user = UserId::generate();
        let address = format!("{user}@example.org");
        let given = stores[0].give_email(confirmation(user, &address, 1, NOW));
        given.await.unwrap();
        let off = PreferencesChange {
            digest: Some(DigestPeriod::Off),
            ..PreferencesChange::default()
        };
        let (confirmed, updated) = tokio::join!(
            stores[0].confirm_email(user, [1; 32], NOW, at_hour()),
            stores[1].update_preferences(user, off, 0, at_hour()),
        );
        assert!(confirmed.unwrap().is_some() && updated.is_ok());
        let due = stores[0].claim_digests(NOW + 99, NOW + 100, 9).await;
        assert_eq!(due.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_and_tries_at_once_are_counted_one_after_the_other() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let max = usize::try_from(CONFIRMATIONS_PER_DAY).unwrap();
    let sent = |given: Vec<Result<EmailGiven, StoreError>>| {
        let given = given.into_iter().map(Result::unwrap);
        given
            .filter(|given| *given == EmailGiven::ToConfirm)
            .count()
    };
    // Of one user to many addresses, and of many users to one.
    let user = UserId::generate();
    let gives = (0..12).zip(stores.iter().cycle()).map(|(n, store)| {
        let address = format!("ann{n}@example.org");
        store.count_confirmation(confirmation(user, &address, n, NOW))
    });
    assert_eq!(sent(join_all(gives).await), max);
    let gives = (0..12).zip(stores.iter().cycle()).map(|(n, store)| {
        store.count_confirmation(confirmation(UserId::generate(), "bob@example.org", n, NOW))
    });
    assert_eq!(sent(join_all(gives).await), max);
    let user = UserId::generate();
    let given = stores[0].give_email(confirmation(user, "cid@example.org", 1, NOW));
    given.await.unwrap();
    let tries = usize::try_from(CONFIRMATION_TRIES_MAX).unwrap();
    let guesses = stores.iter().cycle().take(tries);
    let guesses = guesses.map(|store| store.confirm_email(user, [2; 32], NOW, no_digest()));
    assert!(
        join_all(guesses)
            .await
            .into_iter()
            .all(|it| it.unwrap().is_none())
    );
    let late = stores[0].confirm_email(user, [1; 32], NOW, no_digest());
    assert_eq!(late.await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_that_two_change_from_one_version_are_changed_by_one() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let user = UserId::generate();
    let update = async |if_version| {
        let updates = stores.iter().map(|store| {
            let change = PreferencesChange {
                push: Some(false),
                ..PreferencesChange::default()
            };
            store.update_preferences(user, change, if_version, no_digest())
        });
        let updated = join_all(updates).await.into_iter().map(Result::unwrap);
        let changed = updated.filter(|updated| matches!(updated, Updated::Changed(_)));
        changed.count()
    };
    // Whoever names no version changes what is there, one after the other.
    assert_eq!(update(0).await, 3);
    for version in 3..12 {
        assert_eq!(update(version).await, 1);
        let now = stores[0].preferences(vec![user]).await.unwrap();
        assert_eq!(now[0].version, version + 1);
    }
}
