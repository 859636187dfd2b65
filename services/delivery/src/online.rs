//! Whether users have sessions, for those who decide something by it.

use futures_util::future;
use runtime::ids::UserId;

use crate::{
    Inner,
    lookup::{LOOKUP_USERS_MAX, Registry},
};

/// Whether a user has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Online {
    /// He has one, as far as his edge has noticed.
    Yes,
    /// He has none: the registry knows all edges' sessions. An edge that could not reach the registry
    /// for longer than the registry waits for it counts as gone, with its sessions.
    No,
    /// The registry does not know: it is away, was restarted a moment ago, or has lost an edge a moment
    /// ago. Nothing may be concluded; it is worth asking again after some seconds.
    Unknown,
}

/// The name under which these questions are asked. It watches nothing, so nothing is leased to it.
pub(crate) fn subscriber(subscriber: &str) -> String {
    format!("{subscriber}/online")
}

/// Asks all shards at the same time.
pub(crate) async fn of(inner: &Inner, users: &[UserId]) -> Vec<Online> {
    let mut by_shard: Vec<Vec<usize>> = vec![Vec::new(); inner.asking.len()];
    for (at, user) in users.iter().enumerate() {
        if let Some(asked) = by_shard.get_mut(inner.shards.owner(user.as_bytes())) {
            asked.push(at);
        }
    }
    let asking = inner.asking.iter().zip(by_shard);
    let answers = asking.map(|(registry, asked)| ask(registry, users, asked));
    let mut online = vec![Online::Unknown; users.len()];
    for (at, known) in future::join_all(answers).await.into_iter().flatten() {
        if let Some(answer) = online.get_mut(at) {
            *answer = known;
        }
    }
    online
}

/// Asks one shard for its users; those without an answer are left out.
async fn ask(registry: &Registry, users: &[UserId], asked: Vec<usize>) -> Vec<(usize, Online)> {
    let mut registry = registry.clone();
    let mut answers = Vec::with_capacity(asked.len());
    for some in asked.chunks(LOOKUP_USERS_MAX) {
        let named: Vec<UserId> = some
            .iter()
            .filter_map(|at| users.get(*at).copied())
            .collect();
        let response = match registry.routes_of(&named).await {
            Ok(response) => response,
            Err(status) => {
                tracing::debug!(code = ?status.code(), "not known who is online");
                break;
            }
        };
        let routes = response.routes.iter();
        let found: std::collections::HashSet<&[u8]> =
            routes.map(|route| &route.user_id[..]).collect();
        let absent = if response.complete {
            Online::No
        } else {
            Online::Unknown
        };
        answers.extend(some.iter().zip(named).map(|(at, user)| {
            let online = found.contains(&user.as_bytes()[..]);
            (*at, if online { Online::Yes } else { absent })
        }));
    }
    answers
}
