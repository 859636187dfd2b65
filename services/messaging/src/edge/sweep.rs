//! The timers of all sessions in one task: heartbeats, deadlines, tokens that expire, silence.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::messaging::v1::{ServerHeartbeat, server_frame::Frame};
use runtime::{ids::UserId, shutdown::CancellationToken};
use tokio::task::JoinHandle;

use super::{
    Edge, deferred,
    session::{Session, Sweep, SweepRules},
};
use crate::{
    limits::{CALL_DEADLINE, HELLO_DEADLINE, SILENT_INTERVALS_MAX},
    store::StoreError,
    wire,
};

/// How often sessions are looked at, at most; a deadline is late by no more than this.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Users whose inbox versions are asked for in one query.
const HEARTBEATS_PER_QUERY: usize = 1_000;

/// Looks at all sessions again and again, until `stop`.
pub(super) async fn run(edge: Arc<Edge>, stop: CancellationToken) {
    let interval = (edge.config.heartbeat_interval / 4).min(SWEEP_INTERVAL_MAX);
    let mut beating: Option<JoinHandle<()>> = None;
    while stop
        .run_until_cancelled(tokio::time::sleep(interval))
        .await
        .is_some()
    {
        let rules = SweepRules {
            now: Instant::now(),
            now_unix_ms: edge.clock.now_unix_ms(),
            heartbeat_interval: edge.config.heartbeat_interval,
            silent_max: edge.config.heartbeat_interval * SILENT_INTERVALS_MAX,
            hello_deadline: HELLO_DEADLINE,
        };
        let mut due: Vec<Arc<Session>> = Vec::new();
        for session in edge.sessions.all() {
            match session.sweep(&rules) {
                Sweep::Leave => {}
                Sweep::Heartbeat => due.push(session),
                Sweep::Ended => edge.forget(&session),
            }
        }
        // Apart, so that a slow store delays heartbeats and no deadline; one round at a time.
        if !due.is_empty() && beating.as_ref().is_none_or(JoinHandle::is_finished) {
            let edge = edge.clone();
            beating = Some(tokio::spawn(async move {
                for sessions in due.chunks(HEARTBEATS_PER_QUERY) {
                    heartbeat(&edge, sessions).await;
                }
            }));
        }
        edge.calls.retain_recent();
    }
}

/// Tells sessions what their inboxes are at. If the store is away they hear nothing of it, which is
/// what a client of a half-open connection hears too: it reconnects in the end.
async fn heartbeat(edge: &Edge, sessions: &[Arc<Session>]) {
    let users: Vec<UserId> = sessions.iter().map(|session| session.user).collect();
    let read = async {
        let deferred = deferred::heads(edge.store.as_ref(), users.iter().copied()).await?;
        Ok::<_, StoreError>((edge.store.inbox_heads(users).await?, deferred))
    };
    let (heads, deferred) = match tokio::time::timeout(CALL_DEADLINE, read).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            tracing::warn!(%error, "no heartbeats without inbox versions");
            return;
        }
        Err(_) => {
            tracing::warn!("no heartbeats: the store did not answer in time");
            return;
        }
    };
    let server_time_unix_ms = edge.clock.now_unix_ms();
    for (session, head) in sessions.iter().zip(heads) {
        session.push(&wire::push(Frame::Heartbeat(ServerHeartbeat {
            inbox_version: head.version,
            server_time_unix_ms,
            deferred: deferred.get(&session.user).cloned().unwrap_or_default(),
        })));
    }
}
