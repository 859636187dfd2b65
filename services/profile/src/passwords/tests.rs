use std::{sync::mpsc, task::Poll};

use super::*;
use crate::config::Argon2Config;

fn config(hashes_running_max: usize, hashes_waiting_max: usize) -> Config {
    Config {
        argon2: Argon2Config::CHEAPEST,
        hashes_running_max,
        hashes_waiting_max,
        ..Config::default()
    }
}

#[tokio::test]
async fn more_than_may_wait_are_refused_at_once() {
    let passwords = Arc::new(Passwords::new(&config(1, 1)).await.unwrap());
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (release, released) = mpsc::channel::<()>();
    let running = tokio::spawn({
        let passwords = passwords.clone();
        async move {
            let work = move || {
                let _ = begun.send(());
                let _ = released.recv();
                Ok(())
            };
            passwords.run(work).await
        }
    });
    has_begun.await.unwrap();
    // One waits, and its caller goes away: its place is free again.
    let mut waiting = Box::pin(passwords.hash("waiting"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let refused = futures_util::poll!(Box::pin(passwords.hash("refused")));
    assert!(matches!(refused, Poll::Ready(Err(Error::Overloaded))));
    drop(waiting);
    let mut waiting = Box::pin(passwords.hash("waiting"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    release.send(()).unwrap();
    assert!(waiting.await.is_ok());
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_has_a_hash_that_costs_what_a_users_does() {
    let passwords = Passwords::new(&config(1, 1)).await.unwrap();
    let users = passwords.hash("password").await.unwrap();
    let costs = |hash: &str| hash.split('$').take(4).collect::<Vec<_>>().join("$");
    assert_eq!(costs(&passwords.nobodys_hash), costs(&users));
    assert!(
        passwords
            .verify("password".to_owned(), Some(users.clone()))
            .await
            .unwrap()
    );
    assert!(
        !passwords
            .verify("passwort".to_owned(), Some(users))
            .await
            .unwrap()
    );
    assert!(!passwords.verify("password".to_owned(), None).await.unwrap());
}
