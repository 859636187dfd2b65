use std::sync::{Arc, atomic::Ordering};

use runtime::ids::{GroupId, UserId};

use super::harness::*;
use crate::{Config, store::DUE_FIRST_MS};

#[tokio::test]
async fn a_change_that_the_log_did_not_take_comes_with_the_next_one_or_by_itself() {
    let (server, sequencer) = Server::start().await;
    let (ann, bob) = (UserId::generate(), UserId::generate());
    server.log.failing.store(true, Ordering::SeqCst);
    // Decided and durable: answered without a seq, after the time that the contract says.
    let made = server.create(ann, &[bob]).await;
    assert_eq!(made.seq, 0);
    let group = made.group.unwrap().group_id;
    assert_eq!(server.get(bob, &group).await.unwrap().version, 1);
    assert_eq!(sequencer.changes(&group), []);
    server.log.failing.store(false, Ordering::SeqCst);
    // The next change brings the one before it.
    assert_eq!(server.leave(bob, &group).await.unwrap().seq, 4);
    assert_eq!(sequencer.changes(&group).len(), 2);
    // And without one, the sweep does, of all groups.
    server.log.failing.store(true, Ordering::SeqCst);
    let (one, two) = tokio::join!(server.create(ann, &[]), server.leave(ann, &group));
    assert_eq!((one.seq, two.unwrap().seq), (0, 0));
    // However often it was tried meanwhile, it is not put off by that.
    for _ in 0..3 {
        let refused = server.log.refused.load(Ordering::SeqCst);
        server.clock.advance(DUE_FIRST_MS);
        until(|| server.log.refused.load(Ordering::SeqCst) > refused).await;
    }
    server.log.failing.store(false, Ordering::SeqCst);
    server.clock.advance(DUE_FIRST_MS);
    let other = one.group.unwrap().group_id;
    until(|| sequencer.changes(&group).len() == 3 && sequencer.changes(&other).len() == 1).await;
    // What was seen is not given to the log again.
    for group in [&group, &other] {
        let group = GroupId::parse(group).unwrap();
        let seen = async || server.store.outstanding(group).await.unwrap().is_empty();
        let wait = async {
            while !seen().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, wait).await.unwrap();
    }
    assert!(server.groups.is_healthy());
    assert!(server.tasks.stop(SOON).await);
}

/// The replica that made the change is not the one that sees its event.
#[tokio::test]
async fn a_change_is_answered_with_its_seq_also_when_another_replica_saw_it() {
    let server = Server::with(Config::default()).await;
    let (store, log) = (server.store.clone(), server.log.clone());
    let other = Server::on(&Config::default(), store, log, server.clock.clone()).await;
    let _sequencer = Sequencer::start(&server.log, other.heard());
    let made = server.create(UserId::generate(), &[]).await;
    assert_eq!(made.seq, 2);
}

/// Two replicas change one group at the same time, and both give the log what they find.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_several_replicas_reach_the_log_each_once_and_in_order() {
    let (server, sequencer) = Server::start().await;
    let (store, log) = (server.store.clone(), server.log.clone());
    let other = Server::on(&Config::default(), store, log, server.clock.clone()).await;
    let ann = UserId::generate();
    let group = server.create(ann, &[]).await.group.unwrap().group_id;
    let adds = (0..24).map(|n| {
        let server = if n % 2 == 0 { &server } else { &other };
        let group = group.clone();
        async move {
            server
                .add(ann, &group, &[UserId::generate()])
                .await
                .unwrap()
        }
    });
    let added = futures_util::future::join_all(adds).await;
    let mut seqs = Vec::new();
    for added in added {
        assert_eq!(added.seq, added.group.unwrap().version * 2);
        seqs.push(added.seq);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (2..=25).map(|v| v * 2).collect::<Vec<u64>>());
    let versions: Vec<u64> = sequencer
        .changes(&group)
        .iter()
        .map(|c| c.version)
        .collect();
    assert_eq!(versions, (1..=25).collect::<Vec<u64>>());
    // The service, its fan-out, and what the sequencer tells: nobody waits any more.
    assert_eq!(Arc::strong_count(&server.groups.service.waiting), 3);
}
