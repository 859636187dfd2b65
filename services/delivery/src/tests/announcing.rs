//! To the registry.

use std::pin::pin;

use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::*;
use crate::{Announcer, AnnouncerConfig};

fn start(tasks: &Tasks) -> (Registry, Announcer) {
    let (registry, channel) = Registry::start();
    let config = AnnouncerConfig {
        edge: HERE.to_owned(),
        epoch: 5,
    };
    (registry, Announcer::start(config, channel, tasks))
}

#[tokio::test]
async fn an_opened_session_waits_until_it_is_known_even_if_the_registry_restarts() {
    let tasks = Tasks::new();
    let (registry, announcer) = start(&tasks);
    announcer.opened(UserId::generate(), 1).await;
    let gate = &registry.0.announce_gate;
    gate.forget_permits(Semaphore::MAX_PERMITS);
    let user = UserId::generate();
    let mut opened = pin!(announcer.opened(user, 2));
    let told = || registry.0.state.lock().sessions.get(&2) == Some(&user);
    eventually("the registry is told", told).await;
    assert!(opened.as_mut().now_or_never().is_none());
    // It restarts before it has answered, and is told again.
    registry.restart_announcing();
    assert!(!told());
    eventually("the registry is told again", told).await;
    assert!(opened.as_mut().now_or_never().is_none());
    gate.add_permits(100);
    opened.await;
}

#[tokio::test]
async fn a_closed_session_is_forgotten() {
    let tasks = Tasks::new();
    let (registry, announcer) = start(&tasks);
    for session_id in 1..=20 {
        let user = UserId::generate();
        announcer.opened(user, session_id).await;
        if session_id % 2 == 0 {
            announcer.closed(user, session_id);
        }
    }
    eventually("closed ones are gone", || {
        registry.0.state.lock().sessions.len() == 10
    })
    .await;
    assert_eq!(announcer.sessions(), 10);
    let state = registry.0.state.lock();
    assert!(
        state
            .announced
            .iter()
            .all(|r| r.edge == HERE && r.epoch == 5)
    );
}

#[tokio::test]
async fn what_waits_together_is_announced_together() {
    let tasks = Tasks::new();
    let (registry, announcer) = start(&tasks);
    drop(announcer.opened(UserId::generate(), 1));
    eventually("it is connected", || {
        registry.0.state.lock().sessions.len() == 1
    })
    .await;
    let before = registry.0.state.lock().announced.len();
    let waiting: Vec<_> = (2..=1_001)
        .map(|session_id| announcer.opened(UserId::generate(), session_id))
        .collect();
    let user = UserId::generate();
    drop(announcer.opened(user, 2_000));
    announcer.closed(user, 2_000);
    for opened in waiting {
        opened.await;
    }
    assert_eq!(registry.0.state.lock().sessions.len(), 1_001);
    assert_eq!(registry.0.state.lock().announced.len(), before + 1);
}

#[tokio::test]
async fn a_registry_that_lost_the_sessions_is_told_all_of_them() {
    let tasks = Tasks::new();
    let (registry, announcer) = start(&tasks);
    // More than one request holds.
    let sessions: HashMap<u64, UserId> = (1..=40_000).map(|id| (id, UserId::generate())).collect();
    for (session_id, user) in &sessions {
        drop(announcer.opened(*user, *session_id));
    }
    let known = || registry.0.state.lock().sessions.len();
    eventually("all are known", || known() == sessions.len()).await;

    registry.0.state.lock().announced.clear();
    registry.restart_announcing();
    eventually("all are known again", || known() == sessions.len()).await;
    assert_eq!(registry.0.state.lock().sessions, sessions);
    let parts: Vec<(bool, bool)> = {
        let state = registry.0.state.lock();
        let part = |r: &proto::presence::v1::AnnounceRequest| (r.snapshot, r.snapshot_continues);
        state.announced.iter().map(part).collect()
    };
    assert_eq!(parts, [(true, true), (true, true), (true, false)]);
    // And it goes on from there.
    drop(announcer.opened(UserId::generate(), 50_000));
    eventually("one more is known", || known() == sessions.len() + 1).await;
}

#[tokio::test]
async fn a_session_that_opens_while_the_registry_is_away_waits_for_it_but_not_for_ever() {
    let tasks = Tasks::new();
    let (registry, announcer) = start(&tasks);
    announcer.opened(UserId::generate(), 1).await;
    registry.0.state.lock().refuse_announcing = true;
    registry.restart_announcing();
    let gone = UserId::generate();
    let given_up = announcer.opened(gone, 2);
    given_up.await;
    assert!(registry.0.state.lock().sessions.is_empty());
    announcer.closed(gone, 2);
    let user = UserId::generate();
    let waits = announcer.opened(user, 3);
    registry.0.state.lock().refuse_announcing = false;
    waits.await;
    let both = || registry.0.state.lock().sessions.len() == 2;
    eventually("both are known and the closed one is not", both).await;
    assert_eq!(registry.0.state.lock().sessions.get(&3), Some(&user));
}
