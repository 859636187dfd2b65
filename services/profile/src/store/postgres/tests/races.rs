//! What several processes do at the same moment.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn of_accounts_with_one_name_one_is_made_and_the_others_leave_nothing() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for round in 0..10 {
        let name = format!("ann{round}");
        let accounts: Vec<Account> = (0..12)
            .map(|n| account(&name, &format!("Name{n}")))
            .collect();
        let creates = accounts
            .iter()
            .zip(stores.iter().cycle())
            .map(|(account, store)| {
                let device = device(account.user.user_id, NOW);
                store.create_account(account.clone(), device)
            });
        let created = join_all(creates).await;
        let mut made = Vec::new();
        for (account, created) in accounts.iter().zip(created) {
            match created.unwrap() {
                Created::Yes => made.push(account.clone()),
                Created::UsernameTaken => {
                    let id = account.user.user_id;
                    assert_eq!(stores[0].users(vec![id]).await.unwrap(), []);
                    assert_eq!(stores[0].devices(id, NOW).await.unwrap(), []);
                }
            }
        }
        let [made] = made.as_slice() else {
            panic!("{} accounts with one name", made.len());
        };
        assert_eq!(stores[1].account(&name).await.unwrap().as_ref(), Some(made));
        terms_are_those_of(&server, &made.user).await;
    }
}

/// The rows that a user is found by are those of the user's names, and no others.
async fn terms_are_those_of(server: &Postgres, user: &User) {
    let rows = sqlx::query_as("SELECT whole, term FROM search_terms WHERE username = $1");
    let rows: Vec<(bool, Vec<u8>)> = rows
        .bind(&user.username)
        .fetch_all(&mut connection(server).await)
        .await
        .unwrap();
    let mut rows = rows;
    rows.sort();
    let Terms(mut terms) = Terms::of(&user.username, &user.display_name);
    terms.sort();
    assert_eq!(rows, terms);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_ins_at_once_make_no_more_devices_than_allowed() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for round in 0..10 {
        let name = format!("ann{round}");
        let ann = create(&stores[0], &name, "Ann").await.unwrap().user.user_id;
        let log_ins = (0..12)
            .zip(stores.iter().cycle())
            .map(|(n, store)| store.log_in_device(device(ann, NOW + n), 5, NOW + n));
        let logged_in = join_all(log_ins).await;
        let let_in = logged_in.into_iter().map(Result::unwrap);
        // The account's first one has a place already.
        assert_eq!(let_in.filter(|l| *l == LoggedIn::Yes).count(), 4);
        assert_eq!(stores[1].devices(ann, NOW).await.unwrap().len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_at_once_of_one_device_one_fits() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let ann = create(&stores[0], "ann", "Ann").await.unwrap().user.user_id;
    for _ in 0..20 {
        let device = stores[0].devices(ann, NOW).await.unwrap().remove(0);
        let refreshes = (0..12_u8).zip(stores.iter().cycle()).map(|(n, store)| {
            let refresh = RefreshState {
                unused: vec![[n; 32]],
                ..device.refresh.clone()
            };
            store.put_refresh(ann, device.device_id, device.revision, refresh)
        });
        let put: Vec<bool> = join_all(refreshes)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let [winner] = (0..12_u8)
            .zip(&put)
            .filter_map(|(n, put)| put.then_some(n))
            .collect::<Vec<_>>()[..]
        else {
            panic!("{put:?}");
        };
        let now = stores[1]
            .device(ann, device.device_id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(now.refresh.unused, [[winner; 32]]);
        assert_eq!(now.revision, device.revision + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_logged_out_by_many_at_once_is_one_fact() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    for round in 0..20 {
        let name = format!("ann{round}");
        let ann = create(&stores[0], &name, "Ann").await.unwrap().user.user_id;
        let device = stores[0].devices(ann, NOW).await.unwrap().remove(0);
        let id = device.device_id;
        let refresh = stores[1].put_refresh(ann, id, device.revision, device.refresh.clone());
        let outs = (0..8)
            .zip(stores.iter().cycle())
            .map(|(_, store)| store.log_out_device(ann, id, None, vec![1], FACTS_MAX));
        let (refreshed, outs) = tokio::join!(refresh, join_all(outs));
        refreshed.unwrap();
        assert_eq!(
            outs.into_iter()
                .filter(|out| *out.as_ref().unwrap())
                .count(),
            1
        );
        assert_eq!(stores[2].device(ann, id).await.unwrap(), None);
        let facts = stores[2].facts(100).await.unwrap();
        assert_eq!(facts.iter().filter(|fact| fact.user_id == ann).count(), 1);
    }
}

/// One process is in the middle of a log-out when another one does the next for the same user: the
/// later fact may not be seen before the earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_fact_of_a_user_is_never_seen_before_an_earlier_one() {
    let server = server();
    let [store] = replicas(&server).await;
    let ann = create(&store, "ann", "Ann").await.unwrap().user.user_id;
    let bob = create(&store, "bob", "Bob").await.unwrap().user.user_id;
    let first = store.devices(ann, NOW).await.unwrap().remove(0).device_id;
    let second = device(ann, NOW);
    let second_id = second.device_id;
    store.log_in_device(second, 9, NOW).await.unwrap();

    let mut slow = connection(&server).await;
    let mut transaction = slow.begin().await.unwrap();
    sqlx::query(sql::LOG_OUT_DEVICE)
        .bind(uuid(ann))
        .bind(device_uuid(first))
        .bind(None::<i64>)
        .bind(b"one".to_vec())
        .bind(1_000_i64)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (later, told) = (store.clone(), done.clone());
    let later = tokio::spawn(async move {
        let out = later.log_out_device(ann, second_id, None, b"two".to_vec(), FACTS_MAX);
        let out = out.await;
        told.store(true, Ordering::SeqCst);
        out
    });
    somebody_waits(&mut connection(&server).await, || {
        done.load(Ordering::SeqCst)
    })
    .await;
    assert_eq!(store.facts(10).await.unwrap(), []);
    // Another user's fact waits for nobody.
    let bobs = store.devices(bob, NOW).await.unwrap().remove(0).device_id;
    let out = store.log_out_device(bob, bobs, None, b"bob".to_vec(), FACTS_MAX);
    assert!(out.await.unwrap());
    transaction.commit().await.unwrap();
    assert!(later.await.unwrap().unwrap());
    let facts = store.facts(10).await.unwrap();
    let of_ann = facts.iter().filter(|fact| fact.user_id == ann);
    let of_ann: Vec<&[u8]> = of_ann.map(|fact| fact.payload.as_slice()).collect();
    assert_eq!(of_ann, [b"one".as_slice(), b"two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_of_one_profile_are_all_made() {
    let server = server();
    let stores: [PostgresStore; 3] = replicas(&server).await;
    let ann = create(&stores[0], "ann", "Ann").await.unwrap().user.user_id;
    let changes = (0..6).flat_map(|n| {
        let name = ProfileChange {
            display_name: Some(format!("Ann Name{n}")),
            status_text: None,
            picture: None,
        };
        let status = ProfileChange {
            display_name: None,
            status_text: Some(format!("status {n}")),
            picture: None,
        };
        [name, status]
    });
    let updates = changes
        .zip(stores.iter().cycle())
        .map(|(change, store)| store.update_user(ann, change, 100));
    let mut versions = Vec::new();
    let mut last = None;
    for updated in join_all(updates).await {
        let user = updated.unwrap().unwrap();
        versions.push(user.version);
        last = last.max(Some((user.version, user.display_name, user.status_text)));
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..14).collect::<Vec<u64>>());
    let user = stores[1].users(vec![ann]).await.unwrap().remove(0);
    let found = (
        user.version,
        user.display_name.clone(),
        user.status_text.clone(),
    );
    assert_eq!(Some(found), last);
    terms_are_those_of(&server, &user).await;
}
