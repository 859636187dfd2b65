//! Who is online, and when the others were last seen.

use std::{collections::HashMap, time::Instant};

use runtime::ids::UserId;

use crate::{Shared, store::StoreError};

/// Whether a user has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Online {
    Yes,
    No,
    /// Whoever would know is away, or has not heard of all edges yet.
    Unknown,
}

/// What is shown of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserPresence {
    pub(crate) online: Online,
    /// 0 while online, or if never seen.
    pub(crate) last_seen_unix_ms: i64,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This replica only, by another one: whoever is asked must never ask on.
    Here,
    /// The owners of the users as well.
    Everywhere,
}

/// The presences of these users, in their order.
pub(crate) async fn presences(
    shared: &Shared,
    users: &[UserId],
    scope: Scope,
) -> Result<Vec<UserPresence>, StoreError> {
    let (here, warm): (Vec<bool>, bool) = {
        let registry = shared.registry.lock();
        let here = users.iter().map(|user| registry.is_online(*user));
        (here.collect(), registry.is_warm(Instant::now()))
    };
    // Who has a session here is online, whoever owns him.
    let absent = |owned: bool| {
        let absent = users.iter().zip(&here).filter(|(_, here)| !**here);
        absent
            .map(|(user, _)| *user)
            .filter(move |user| shared.peers.owns(*user) == owned)
    };
    let mut known: HashMap<UserId, UserPresence> = HashMap::new();
    let others: Vec<UserId> = absent(false).collect();
    if scope == Scope::Everywhere && !others.is_empty() {
        known = shared.peers.ask(&others).await;
    }
    let unasked = others.into_iter().filter(|user| !known.contains_key(user));
    let unasked: Vec<(UserId, Online)> = unasked
        .map(|user| (user, Online::Unknown))
        .chain(absent(true).map(|user| (user, if warm { Online::No } else { Online::Unknown })))
        .collect();
    let noted = unasked.iter().map(|(user, _)| *user).collect();
    let seen = shared.last_seen.get(noted).await?;
    known.extend(unasked.into_iter().map(|(user, online)| {
        let last_seen_unix_ms = seen.get(&user).copied().unwrap_or(0);
        let presence = UserPresence {
            online,
            last_seen_unix_ms,
        };
        (user, presence)
    }));
    let online = UserPresence {
        online: Online::Yes,
        last_seen_unix_ms: 0,
    };
    // Every user who is not in `known` has a session here.
    let all = users.iter();
    Ok(all
        .map(|user| known.get(user).copied().unwrap_or(online))
        .collect())
}
