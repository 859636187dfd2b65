//! To the registry.

use std::pin::pin;

use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::*;
use crate::{Announcer, AnnouncerConfig};

fn start(tasks: &Tasks) -> (Registry, Announcer) {
    start_with(patient(), tasks)
}

/// Sessions wait for longer than anything here takes, however busy the machine is.
fn patient() -> AnnouncerConfig {
    AnnouncerConfig {
        opened_max: Duration::from_secs(60),
        ..AnnouncerConfig::new(HERE, 5)
    }
}

fn start_with(config: AnnouncerConfig, tasks: &Tasks) -> (Registry, Announcer) {
    let (registry, channel) = Registry::start();
    let registries = Registries::one(channel);
    (registry, Announcer::start(config, &registries, tasks))
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
async fn a_session_that_opens_while_the_registry_is_away_does_not_wait_and_is_told_later() {
    let tasks = Tasks::new();
    let (registry, announcer) = start(&tasks);
    announcer.opened(UserId::generate(), 1).await;
    registry.0.state.lock().refuse_announcing = true;
    registry.restart_announcing();
    // Who opens before that is noticed goes on as soon as it is.
    announcer.opened(UserId::generate(), 2).await;
    eventually("it is noticed", || !announcer.all_answer()).await;
    let (gone, user) = (UserId::generate(), UserId::generate());
    assert!(announcer.opened(gone, 3).now_or_never().is_some());
    assert!(announcer.opened(user, 4).now_or_never().is_some());
    assert!(registry.0.state.lock().sessions.is_empty());
    announcer.closed(gone, 3);
    registry.0.state.lock().refuse_announcing = false;
    let known = || registry.0.state.lock().sessions.len() == 3;
    eventually("all but the closed one are known", known).await;
    assert_eq!(registry.0.state.lock().sessions.get(&4), Some(&user));
    // And the next one waits again, since it need not wait long.
    eventually("it is noticed", || announcer.all_answer()).await;
    announcer.opened(UserId::generate(), 5).await;
    assert!(registry.0.state.lock().sessions.contains_key(&5));
}

#[tokio::test]
async fn a_registry_that_lets_sessions_wait_in_vain_holds_up_no_more_of_them() {
    let tasks = Tasks::new();
    let (registry, announcer) = start_with(AnnouncerConfig::new(HERE, 5), &tasks);
    announcer.opened(UserId::generate(), 1).await;
    let gate = &registry.0.announce_gate;
    gate.forget_permits(Semaphore::MAX_PERMITS);
    let all = async {
        for session_id in 2..1_000 {
            announcer.opened(UserId::generate(), session_id).await;
        }
    };
    // Far less than all of them take that wait after each other.
    let in_time = tokio::time::timeout(Duration::from_secs(60), all).await;
    assert!(in_time.is_ok(), "every session waits");
    assert_eq!(registry.0.state.lock().announced.len(), 2);
    gate.add_permits(100);
    let known = || registry.0.state.lock().sessions.len() == 999;
    eventually("all are known", known).await;
}

#[tokio::test]
async fn a_stream_that_has_nothing_to_tell_finds_out_that_the_registry_is_gone() {
    let tasks = Tasks::new();
    let config = AnnouncerConfig {
        idle_max: Duration::from_millis(10),
        ..patient()
    };
    let (registry, announcer) = start_with(config, &tasks);
    announcer.opened(UserId::generate(), 1).await;
    let requests = || registry.0.state.lock().announced.len();
    eventually("it asks without a reason", || requests() > 3).await;
    // It takes requests and answers none, as one that is stopped or cut off.
    registry
        .0
        .announce_gate
        .forget_permits(Semaphore::MAX_PERMITS);
    let streams = || registry.0.state.lock().announce_streams;
    assert_eq!(streams(), 1);
    eventually("there is another stream", || streams() > 1).await;
}
