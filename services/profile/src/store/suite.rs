//! What every store must hold, run over each adapter.

use std::time::Duration;

use runtime::ids::{DeviceId, UserId};

use super::{Created, LoggedIn, RelayId, Store, StoreError};
use crate::{
    model::{Account, Device, ProfileChange, RefreshState, User},
    search::normalise,
};

pub(crate) const NOW: i64 = 1_800_000_000_000;
const LIFE: i64 = 1_000;
/// Facts that may wait, where the bound is not what is tested.
pub(crate) const FACTS_MAX: usize = 1_000;

/// Runs every check over a new store each. What `open` answers besides the store lives as long.
pub(crate) async fn run<S: Store, G>(open: impl AsyncFn() -> (S, G)) -> Result<(), StoreError> {
    let (store, _guard) = open().await;
    accounts(&store).await?;
    let (store, _guard) = open().await;
    profiles(&store).await?;
    let (store, _guard) = open().await;
    searches(&store).await?;
    let (store, _guard) = open().await;
    devices(&store).await?;
    let (store, _guard) = open().await;
    refreshes(&store).await?;
    let (store, _guard) = open().await;
    outbox(&store).await?;
    let (store, _guard) = open().await;
    outbox_is_bounded(&store).await?;
    let (store, _guard) = open().await;
    one_relay_can_go_on_and_end(&store).await
}

pub(crate) fn account(username: &str, display_name: &str) -> Account {
    Account {
        user: User {
            user_id: UserId::generate(),
            username: username.to_owned(),
            display_name: display_name.to_owned(),
            status_text: String::new(),
            created_unix_ms: NOW,
            version: 1,
            picture: None,
        },
        password_hash: format!("hash of {username}"),
    }
}

pub(crate) fn device(user_id: UserId, created_unix_ms: i64) -> Device {
    Device {
        user_id,
        device_id: DeviceId::generate(),
        name: "phone".to_owned(),
        created_unix_ms,
        refresh: RefreshState {
            family: [1; 32],
            unused: vec![[2; 32]],
            used: None,
            used_unix_ms: 0,
            refreshed_unix_ms: created_unix_ms,
            expires_unix_ms: created_unix_ms + LIFE,
        },
        revision: 0,
    }
}

pub(crate) async fn create(
    store: &dyn Store,
    username: &str,
    name: &str,
) -> Result<Account, StoreError> {
    let account = account(username, name);
    let device = device(account.user.user_id, NOW);
    let created = store.create_account(account.clone(), device).await?;
    assert_eq!(created, Created::Yes);
    Ok(account)
}

async fn accounts(store: &dyn Store) -> Result<(), StoreError> {
    assert_eq!(store.account("ann").await?, None);
    let ann = account("ann", "Ann");
    let phone = device(ann.user.user_id, NOW);
    let created = store.create_account(ann.clone(), phone.clone()).await?;
    assert_eq!(created, Created::Yes);
    assert_eq!(store.account("ann").await?, Some(ann.clone()));
    let id = ann.user.user_id;
    assert_eq!(store.devices(id, NOW).await?, [phone]);

    // A name is given once, and a refused account leaves nothing behind.
    let other = account("ann", "Another");
    let other_id = other.user.user_id;
    let created = store.create_account(other, device(other_id, NOW)).await?;
    assert_eq!(created, Created::UsernameTaken);
    assert_eq!(store.account("ann").await?, Some(ann.clone()));
    assert_eq!(store.users(vec![other_id]).await?, []);
    assert_eq!(store.devices(other_id, NOW).await?, []);
    assert_eq!(store.search("another", "", 10).await?, []);

    let bob = create(store, "bob", "Bob").await?;
    let asked = vec![bob.user.user_id, UserId::generate(), id];
    assert_eq!(store.users(asked).await?, [bob.user, ann.user]);
    Ok(())
}

async fn profiles(store: &dyn Store) -> Result<(), StoreError> {
    let ann = create(store, "ann", "Ann").await?.user;
    let change = |display_name: Option<&str>, status_text: Option<&str>| ProfileChange {
        display_name: display_name.map(str::to_owned),
        status_text: status_text.map(str::to_owned),
        picture: None,
    };
    let nobody = store.update_user(UserId::generate(), change(Some("X"), None), 100);
    assert_eq!(nobody.await?, None);
    let named = store.update_user(ann.user_id, change(Some("Annabel Lee"), None), 100);
    let named = named.await?.unwrap();
    assert_eq!(
        (named.display_name.as_str(), named.version),
        ("Annabel Lee", 2)
    );
    let said = store.update_user(ann.user_id, change(None, Some("away")), 100);
    let said = said.await?.unwrap();
    assert_eq!((said.status_text.as_str(), said.version), ("away", 3));
    assert_eq!(said.display_name, "Annabel Lee");
    // What changes nothing is no change.
    for same in [
        change(None, None),
        change(Some("Annabel Lee"), Some("away")),
    ] {
        let user = store.update_user(ann.user_id, same, 100).await?;
        assert_eq!(user.as_ref(), Some(&said));
    }
    // Found by the new name, and by the old one no longer (but still by the username).
    assert_eq!(
        store.search("lee", "", 10).await?,
        std::slice::from_ref(&said)
    );
    let back = store
        .update_user(ann.user_id, change(Some("Someone"), None), 100)
        .await?
        .unwrap();
    assert_eq!(store.search("lee", "", 10).await?, []);
    assert_eq!(store.search("annabel", "", 10).await?, []);
    assert_eq!(
        store.search("ann", "", 10).await?,
        std::slice::from_ref(&back)
    );
    assert_eq!(store.users(vec![ann.user_id]).await?, [back]);
    Ok(())
}

async fn searches(store: &dyn Store) -> Result<(), StoreError> {
    for (username, name) in [
        ("zoe", "Alexandra Zeta"),
        ("alex", "Alexander the Great"),
        ("al_x", "100% Jean-Luc"),
        ("mia", "ÄRGER  Alexandria"),
        ("alexandros", "Ali"),
        ("bo", "学生 名前"),
    ] {
        create(store, username, name).await?;
    }
    let find = async |prefix: &str, after: &str, limit: usize| {
        let users = store.search(&normalise(prefix), after, limit).await;
        users.map(|users| users.into_iter().map(|u| u.username).collect::<Vec<_>>())
    };
    // By username, by the whole name, by a word of it, once each, in the order of usernames.
    let all = ["al_x", "alex", "alexandros", "mia", "zoe"];
    assert_eq!(find("a", "", 10).await?, all);
    assert_eq!(
        find("ALEXAND", "", 10).await?,
        ["alex", "alexandros", "mia", "zoe"]
    );
    assert_eq!(find("alexandros", "", 10).await?, ["alexandros"]);
    assert_eq!(find("alexander t", "", 10).await?, ["alex"]);
    assert_eq!(find("great", "", 10).await?, ["alex"]);
    assert_eq!(find("luc", "", 10).await?, ["al_x"]);
    assert_eq!(find("jean-l", "", 10).await?, ["al_x"]);
    assert_eq!(find("äRG", "", 10).await?, ["mia"]);
    assert_eq!(find("学", "", 10).await?, ["bo"]);
    assert_eq!(find("学生 名", "", 10).await?, ["bo"]);
    // What means something to databases means itself here.
    assert_eq!(find("100%", "", 10).await?, ["al_x"]);
    assert_eq!(find("al_", "", 10).await?, ["al_x"]);
    for nothing in ["%", "al%", "a_", "alexandrosx", "exander", "*", "'"] {
        assert_eq!(find(nothing, "", 10).await?, [""; 0], "{nothing}");
    }
    // In pages, whether the prefix is short or long.
    for (prefix, all) in [
        ("al", all.to_vec()),
        ("alexan", vec!["alex", "alexandros", "mia", "zoe"]),
    ] {
        for limit in 1..=all.len() {
            let mut found: Vec<String> = Vec::new();
            loop {
                let after = found.last().cloned().unwrap_or_default();
                let page = find(prefix, &after, limit).await?;
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                found.extend(page);
            }
            assert_eq!(found, all);
        }
    }
    Ok(())
}

async fn devices(store: &dyn Store) -> Result<(), StoreError> {
    let ann = create(store, "ann", "Ann").await?.user.user_id;
    let bob = create(store, "bob", "Bob").await?.user.user_id;
    let first = store.devices(ann, NOW).await?.remove(0);
    let second = device(ann, NOW + 1);
    let logged_in = store.log_in_device(second.clone(), 2, NOW + 1).await?;
    assert_eq!(logged_in, LoggedIn::Yes);
    // The newest first; another user's are not among them.
    assert_eq!(
        store.devices(ann, NOW).await?,
        [second.clone(), first.clone()]
    );
    assert_eq!(store.devices(bob, NOW).await?.len(), 1);
    assert_eq!(store.device(bob, first.device_id).await?, None);

    // The bound counts the others: one that logs in again has its place already.
    let third = device(ann, NOW + 2);
    let logged_in = store.log_in_device(third.clone(), 2, NOW + 2).await?;
    assert_eq!(logged_in, LoggedIn::TooManyDevices);
    assert_eq!(store.device(ann, third.device_id).await?, None);
    let mut again = device(ann, NOW + 5);
    again.device_id = first.device_id;
    again.name = "renamed".to_owned();
    again.refresh.family = [9; 32];
    let logged_in = store.log_in_device(again.clone(), 2, NOW + 5).await?;
    assert_eq!(logged_in, LoggedIn::Yes);
    let now = store.device(ann, first.device_id).await?.unwrap();
    assert_eq!(now.created_unix_ms, first.created_unix_ms);
    assert_eq!((now.name, now.refresh), (again.name, again.refresh));
    assert!(now.revision > first.revision);

    // Those that have expired are not shown and make room.
    let later = NOW + 1 + LIFE;
    assert_eq!(store.devices(ann, later).await?.len(), 1);
    let fourth = device(ann, later);
    let logged_in = store.log_in_device(fourth.clone(), 2, later).await?;
    assert_eq!(logged_in, LoggedIn::Yes);
    assert_eq!(store.device(ann, second.device_id).await?, None);
    assert_eq!(store.devices(bob, NOW).await?.len(), 1);

    // One that comes back after it has expired is new.
    let again = device(ann, later + LIFE);
    let again = Device {
        device_id: fourth.device_id,
        ..again
    };
    let logged_in = store.log_in_device(again.clone(), 1, later + LIFE).await?;
    assert_eq!(logged_in, LoggedIn::Yes);
    let now = store.device(ann, fourth.device_id).await?.unwrap();
    assert_eq!(now.created_unix_ms, later + LIFE);
    assert_eq!(now.refresh, again.refresh);
    Ok(())
}

async fn refreshes(store: &dyn Store) -> Result<(), StoreError> {
    let ann = create(store, "ann", "Ann").await?.user.user_id;
    let before = store.devices(ann, NOW).await?.remove(0);
    let id = before.device_id;
    let refresh = RefreshState {
        unused: vec![[3; 32], [4; 32], [5; 32]],
        used: Some([2; 32]),
        used_unix_ms: NOW + 7,
        refreshed_unix_ms: NOW + 8,
        expires_unix_ms: NOW + 9,
        ..before.refresh.clone()
    };
    assert!(
        store
            .put_refresh(ann, id, before.revision, refresh.clone())
            .await?
    );
    let after = store.device(ann, id).await?.unwrap();
    assert_eq!(after.refresh, refresh);
    // Who has not seen that change changes nothing, in whichever way.
    let stale = before.revision;
    assert!(
        !store
            .put_refresh(ann, id, stale, before.refresh.clone())
            .await?
    );
    assert!(
        !store
            .log_out_device(ann, id, Some(stale), vec![1], FACTS_MAX)
            .await?
    );
    assert_eq!(store.device(ann, id).await?, Some(after.clone()));
    assert_eq!(store.facts(10).await?, []);
    // A device that is not there is not made by a refresh.
    let nobody = UserId::generate();
    assert!(!store.put_refresh(nobody, id, 0, before.refresh).await?);
    assert!(
        store
            .log_out_device(ann, id, Some(after.revision), vec![1], FACTS_MAX)
            .await?
    );
    assert!(!store.put_refresh(ann, id, after.revision, refresh).await?);
    Ok(())
}

async fn outbox(store: &dyn Store) -> Result<(), StoreError> {
    let ann = create(store, "ann", "Ann").await?.user.user_id;
    let bob = create(store, "bob", "Bob").await?.user.user_id;
    for (user, fact) in [(ann, b"one"), (bob, b"two")] {
        let device = store.devices(user, NOW).await?.remove(0).device_id;
        assert!(
            store
                .log_out_device(user, device, None, fact.to_vec(), FACTS_MAX)
                .await?
        );
        // Twice is once.
        assert!(
            !store
                .log_out_device(user, device, None, fact.to_vec(), FACTS_MAX)
                .await?
        );
        assert_eq!(store.device(user, device).await?, None);
    }
    let facts = store.facts(10).await?;
    let read: Vec<_> = facts
        .iter()
        .map(|f| (f.user_id, f.payload.as_slice()))
        .collect();
    assert_eq!(read, [(ann, b"one".as_slice()), (bob, b"two")]);
    assert!(facts.is_sorted_by_key(|fact| fact.id));
    assert_eq!(store.facts(1).await?, facts.get(..1).unwrap());
    store.remove_facts(vec![facts[0].id]).await?;
    assert_eq!(store.facts(10).await?, facts.get(1..).unwrap());
    store.remove_facts(vec![facts[0].id, facts[1].id]).await?;
    assert_eq!(store.facts(10).await?, []);
    // Ids are not used again: a late removal of an old fact removes no new one.
    let device = device(ann, NOW);
    let id = device.device_id;
    store.log_in_device(device, 9, NOW).await?;
    assert!(
        store
            .log_out_device(ann, id, None, b"three".to_vec(), FACTS_MAX)
            .await?
    );
    assert!(store.facts(10).await?[0].id > facts[1].id);
    Ok(())
}

async fn outbox_is_bounded(store: &dyn Store) -> Result<(), StoreError> {
    let ann = create(store, "ann", "Ann").await?.user.user_id;
    let mut ids = Vec::new();
    for n in 0..3 {
        let device = device(ann, NOW + n);
        ids.push(device.device_id);
        store.log_in_device(device, 9, NOW + n).await?;
    }
    for id in &ids[..2] {
        assert!(store.log_out_device(ann, *id, None, vec![1], 2).await?);
    }
    let refused = store.log_out_device(ann, ids[2], None, vec![1], 2).await;
    assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
    assert!(store.device(ann, ids[2]).await?.is_some());
    assert_eq!(store.facts(10).await?.len(), 2);
    // There is room again when the log has been told.
    let told = store.facts(1).await?.remove(0).id;
    store.remove_facts(vec![told]).await?;
    assert!(store.log_out_device(ann, ids[2], None, vec![1], 2).await?);
    Ok(())
}

async fn one_relay_can_go_on_and_end(store: &dyn Store) -> Result<(), StoreError> {
    let (one, other) = (RelayId::generate(), RelayId::generate());
    let life = Duration::from_secs(60);
    assert!(store.hold_relay(one, life).await?);
    assert!(store.hold_relay(one, life).await?);
    store.release_relay(one).await?;
    assert!(store.hold_relay(other, life).await?);
    // What ended long ago ends nothing of another's.
    store.release_relay(one).await?;
    assert!(store.hold_relay(other, life).await?);
    Ok(())
}
