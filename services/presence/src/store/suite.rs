//! What every store must keep, to be run over each adapter. Panics where one does not.

use runtime::ids::UserId;

use super::{Store, StoreError};

/// Runs everything. `open` opens the same store each time that it is called.
pub async fn run<S: Store>(open: impl AsyncFn() -> S) {
    let outcome = async {
        the_latest_time_stays(&open().await).await?;
        who_was_never_seen_is_left_out(&open().await).await?;
        many_are_noted_at_once(&open().await).await?;
        times_survive_closing(&open).await
    };
    let outcome: Result<(), StoreError> = outcome.await;
    assert!(outcome.is_ok(), "the store failed: {outcome:?}");
}

async fn the_latest_time_stays(store: &impl Store) -> Result<(), StoreError> {
    let user = UserId::generate();
    store.note_seen(vec![(user, 20)]).await?;
    store.note_seen(vec![(user, 10)]).await?;
    assert_eq!(store.last_seen(vec![user]).await?.get(&user), Some(&20));
    store.note_seen(vec![(user, 40), (user, 30)]).await?;
    assert_eq!(store.last_seen(vec![user]).await?.get(&user), Some(&40));
    Ok(())
}

async fn who_was_never_seen_is_left_out(store: &impl Store) -> Result<(), StoreError> {
    let (seen, never) = (UserId::generate(), UserId::generate());
    store.note_seen(vec![(seen, 1)]).await?;
    let found = store.last_seen(vec![never, seen, seen]).await?;
    assert_eq!(found.into_iter().collect::<Vec<_>>(), vec![(seen, 1)]);
    assert!(store.last_seen(Vec::new()).await?.is_empty());
    store.note_seen(Vec::new()).await
}

async fn many_are_noted_at_once(store: &impl Store) -> Result<(), StoreError> {
    let seen: Vec<(UserId, i64)> = (1..=1_000).map(|ms| (UserId::generate(), ms)).collect();
    store.note_seen(seen.clone()).await?;
    let found = store
        .last_seen(seen.iter().map(|(user, _)| *user).collect())
        .await?;
    assert!(seen.iter().all(|(user, ms)| found.get(user) == Some(ms)));
    Ok(())
}

async fn times_survive_closing<S: Store>(open: &impl AsyncFn() -> S) -> Result<(), StoreError> {
    let user = UserId::generate();
    let store = open().await;
    store.note_seen(vec![(user, 7)]).await?;
    drop(store);
    assert_eq!(
        open().await.last_seen(vec![user]).await?.get(&user),
        Some(&7)
    );
    Ok(())
}
