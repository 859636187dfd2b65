//! A server that dies, comes back, or stops where it is.

use super::*;

/// A bound that a test can wait for.
const CALL_TIMEOUT: Duration = Duration::from_millis(800);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(10);

/// As its callers do: the same call until the store is there.
async fn until_it_works<T>(attempt: impl AsyncFn() -> Result<T, StoreError>) -> (T, u64) {
    let deadline = Instant::now() + DEADLINE;
    let mut failures = 0;
    loop {
        match attempt().await {
            Ok(answer) => return (answer, failures),
            Err(StoreError::Unavailable(why)) => {
                assert!(Instant::now() < deadline, "still not there: {why}");
                failures += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn faulty_config(server: &Server) -> PostgresConfig {
    PostgresConfig {
        call_timeout_ms: CALL_TIMEOUT.as_millis() as u64,
        ..config(server.url("messaging"))
    }
}

/// Ten conversations, each one event further.
fn batch(step: u64) -> SequencedBatch {
    let ids = (1..=10).map(|number| between(100, number));
    SequencedBatch {
        events: ids.clone().map(|id| event(id, step)).collect(),
        conversations: ids.map(|id| update(id, step, step - 1)).collect(),
    }
}

fn changes(step: u64) -> Vec<(u64, InboxChange)> {
    let change = |number: u8| (10 * step + u64::from(number), change(number, 100, step));
    (1..=10).map(change).collect()
}

/// Everything that one writer alone would have stored, and nothing else.
async fn expect_steps(store: &PostgresStore, steps: u64) {
    for number in 1..=10 {
        let id = between(100, number);
        let events = store.events(id, ALL, false, usize::MAX, usize::MAX).await;
        let expected: Vec<_> = (1..=steps).map(|seq| event(id, seq)).collect();
        assert_eq!(events.unwrap(), expected);
        let states = store.load_conversations(vec![id]).await.unwrap();
        assert_eq!(states, [update(id, steps, 0).state]);
        let (head, rows) = store.list_inbox(user(number), None, 10).await.unwrap();
        let version = 10 * steps + u64::from(number);
        assert_eq!((head.version, head.unread_total), (version, steps));
        assert_eq!((rows.len(), rows[0].version), (1, version));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_that_is_killed_again_and_again_ends_with_the_same_rows() {
    const KILLS: u64 = 5;
    let mut server = Server::start(PostgresOptions::durable()).unwrap();
    server.create_database("messaging").unwrap();
    let store = PostgresStore::open(&faulty_config(&server)).await.unwrap();
    let killed = std::sync::Arc::new(AtomicU64::new(0));
    let counted = killed.clone();
    let killer = tokio::task::spawn_blocking(move || {
        for kill in 0..KILLS {
            std::thread::sleep(Duration::from_millis(300 + 130 * kill));
            server.kill().unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            server.start_again().unwrap();
        }
        server
    });
    let (mut steps, mut failures) = (0, 0);
    // Some steps after the last kill, too.
    let mut after = 0;
    while after < 5 {
        after += u64::from(killer.is_finished());
        steps += 1;
        failures += until_it_works(async || store.persist(batch(steps)).await)
            .await
            .1;
        failures += until_it_works(async || store.apply_inbox(changes(steps)).await)
            .await
            .1;
    }
    assert_eq!(killed.load(Ordering::SeqCst), KILLS);
    assert!(
        failures >= KILLS,
        "{failures} calls of {steps} steps failed"
    );
    expect_steps(&store, steps).await;
    drop(killer.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_is_unavailable_in_time_and_what_it_does_late_changes_nothing() {
    let server = Server::start(PostgresOptions::fast()).unwrap();
    server.create_database("messaging").unwrap();
    let store = PostgresStore::open(&faulty_config(&server)).await.unwrap();
    let mut steps = 0;
    for _ in 0..3 {
        steps += 1;
        until_it_works(async || store.persist(batch(steps)).await).await;
        until_it_works(async || store.apply_inbox(changes(steps)).await).await;
        steps += 1;
        server.pause().unwrap();
        // Sent to connections that will still be read when the server goes on.
        for _ in 0..3 {
            let start = Instant::now();
            let (persisted, applied, read) = tokio::join!(
                store.persist(batch(steps)),
                store.apply_inbox(changes(steps)),
                store.inbox_heads(vec![user(1)]),
            );
            assert!(start.elapsed() < CALL_TIMEOUT + SLACK);
            let errors = [persisted.err(), applied.err(), read.err()];
            for error in errors {
                assert!(
                    matches!(error, Some(StoreError::Unavailable(_))),
                    "{error:?}"
                );
            }
        }
        server.resume().unwrap();
        until_it_works(async || store.persist(batch(steps)).await).await;
        until_it_works(async || store.apply_inbox(changes(steps)).await).await;
    }
    expect_steps(&store, steps).await;
}
