//! Frames on their way to live sessions: small groups at once, large ones in turns.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use delivery::{Broadcast, Users};
use runtime::ids::{GroupId, UserId};

use super::limits::{CHUNK_USERS, PUSH_USERS_MAX};

/// A frame for some users.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) members: Arc<Vec<UserId>>,
    /// Those who are no members any more.
    pub(super) removed: Vec<UserId>,
    pub(super) frame: Bytes,
    pub(super) except_session_id: u64,
}

impl Push {
    fn len(&self) -> usize {
        self.members.len() + self.removed.len()
    }

    /// At most a chunk, from this user on.
    fn chunk(&self, from: usize) -> Broadcast {
        let users = self.members.iter().chain(&self.removed);
        let users: Vec<UserId> = users.skip(from).take(CHUNK_USERS).copied().collect();
        Broadcast {
            users: Users::from(users),
            frame: self.frame.clone(),
            except_session_id: self.except_session_id,
            inbox_version: 0,
        }
    }
}

/// The pushes of a group that wait, and how many users have the first one.
#[derive(Default)]
struct Queue {
    pushes: VecDeque<Push>,
    done: usize,
}

/// What waits to be pushed.
#[derive(Default)]
pub(super) struct Pushes {
    ready: Vec<Broadcast>,
    large: HashMap<GroupId, Queue>,
    turns: VecDeque<GroupId>,
    /// In all of these.
    users: usize,
}

impl Pushes {
    pub(super) fn add(&mut self, group: GroupId, push: Push) {
        let users = push.len();
        if users == 0 {
            return;
        }
        self.users += users;
        if let Some(queue) = self.large.get_mut(&group) {
            // Behind what the group has already, however small this is.
            queue.pushes.push_back(push);
        } else if users <= CHUNK_USERS {
            self.ready.push(push.chunk(0));
        } else {
            let queue = self.large.entry(group).or_default();
            queue.pushes.push_back(push);
            self.turns.push_back(group);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.users < PUSH_USERS_MAX
    }

    /// Whether something waits for its turn.
    pub(super) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// What is to be pushed now: everything for small groups, and so many chunks of large ones.
    pub(super) fn take(&mut self, chunks: usize) -> Vec<Broadcast> {
        let mut taken = std::mem::take(&mut self.ready);
        for push in &taken {
            self.users -= push.users.len();
        }
        for _ in 0..chunks {
            let Some(group) = self.turns.pop_front() else {
                break;
            };
            let Some(queue) = self.large.get_mut(&group) else {
                continue;
            };
            if let Some(push) = queue.pushes.front() {
                let chunk = push.chunk(queue.done);
                queue.done += chunk.users.len();
                self.users -= chunk.users.len();
                if queue.done >= push.len() {
                    queue.done = 0;
                    queue.pushes.pop_front();
                }
                taken.push(chunk);
            }
            if queue.pushes.is_empty() {
                self.large.remove(&group);
            } else {
                self.turns.push_back(group);
            }
        }
        taken
    }
}
