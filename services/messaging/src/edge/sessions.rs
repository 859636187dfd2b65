//! The sessions of this edge, by id and by user.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use runtime::ids::UserId;

use super::session::Session;

/// Parts with a lock each, so that pushes to different users rarely meet.
const SHARDS: usize = 64;

#[derive(Default)]
struct Shard {
    by_id: HashMap<u64, Arc<Session>>,
    by_user: HashMap<UserId, Vec<Arc<Session>>>,
}

/// All sessions that this node holds.
pub(super) struct Sessions {
    shards: Vec<Mutex<Shard>>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    fn of_id(&self, id: u64) -> &Mutex<Shard> {
        // The remainder is below the number of shards.
        &self.shards[(id % SHARDS as u64) as usize]
    }

    fn of_user(&self, user: UserId) -> &Mutex<Shard> {
        &self.shards[usize::from(user.as_bytes()[15]) % SHARDS]
    }

    /// A stream was opened; it has not said hello yet, and gets no pushes.
    pub(super) fn add(&self, session: Arc<Session>) {
        self.of_id(session.id)
            .lock()
            .by_id
            .insert(session.id, session);
    }

    /// The session gets pushes from now on. Answers the older session of the same device, if any.
    pub(super) fn open(&self, session: Arc<Session>) -> Option<Arc<Session>> {
        let mut shard = self.of_user(session.user).lock();
        let sessions = shard.by_user.entry(session.user).or_default();
        let older = sessions
            .iter()
            .position(|other| other.device == session.device);
        let older = older.map(|at| sessions.swap_remove(at));
        sessions.push(session);
        older
    }

    /// The session is over. Answers whether it was open.
    pub(super) fn remove(&self, session: &Session) -> bool {
        self.of_id(session.id).lock().by_id.remove(&session.id);
        let mut shard = self.of_user(session.user).lock();
        let Some(sessions) = shard.by_user.get_mut(&session.user) else {
            return false;
        };
        let before = sessions.len();
        sessions.retain(|other| other.id != session.id);
        let removed = sessions.len() < before;
        if sessions.is_empty() {
            shard.by_user.remove(&session.user);
        }
        removed
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Session>> {
        self.of_id(id).lock().by_id.get(&id).cloned()
    }

    /// Calls `each` with every open session of a user; answers whether there was one.
    pub(super) fn for_user(&self, user: UserId, mut each: impl FnMut(&Session)) -> bool {
        let shard = self.of_user(user).lock();
        let Some(sessions) = shard.by_user.get(&user) else {
            return false;
        };
        for session in sessions {
            each(session);
        }
        true
    }

    /// All sessions, shard by shard, so that no lock is held for long.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Session>> + '_ {
        self.shards.iter().flat_map(|shard| {
            let sessions: Vec<_> = shard.lock().by_id.values().cloned().collect();
            sessions
        })
    }
}
