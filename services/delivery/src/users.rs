//! A list of users that needs no allocation for the usual one or two.

use std::ops::Deref;

use runtime::ids::UserId;

/// Some users, in order. Up to two are held in place: the members of a direct conversation.
#[derive(Clone)]
pub struct Users(Repr);

#[derive(Clone)]
enum Repr {
    /// The first `1` of them count.
    Few([UserId; 2], u8),
    Many(Vec<UserId>),
}

const NOBODY: UserId = UserId::from_bytes([0; 16]);

impl Users {
    /// Nobody yet.
    pub const fn new() -> Self {
        Self(Repr::Few([NOBODY; 2], 0))
    }

    /// Adds a user at the end.
    pub fn push(&mut self, user: UserId) {
        match &mut self.0 {
            Repr::Few(users, len) => match users.get_mut(usize::from(*len)) {
                Some(free) => {
                    *free = user;
                    *len += 1;
                }
                None => {
                    let mut many = users.to_vec();
                    many.push(user);
                    self.0 = Repr::Many(many);
                }
            },
            Repr::Many(users) => users.push(user),
        }
    }
}

impl Default for Users {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Users {
    type Target = [UserId];

    fn deref(&self) -> &[UserId] {
        match &self.0 {
            Repr::Few(users, len) => &users[..usize::from(*len)],
            Repr::Many(users) => users,
        }
    }
}

impl From<UserId> for Users {
    fn from(user: UserId) -> Self {
        Self(Repr::Few([user, NOBODY], 1))
    }
}

impl From<[UserId; 2]> for Users {
    fn from(users: [UserId; 2]) -> Self {
        Self(Repr::Few(users, 2))
    }
}

impl From<Vec<UserId>> for Users {
    fn from(users: Vec<UserId>) -> Self {
        Self(Repr::Many(users))
    }
}

impl FromIterator<UserId> for Users {
    fn from_iter<I: IntoIterator<Item = UserId>>(users: I) -> Self {
        let mut all = Self::new();
        for user in users {
            all.push(user);
        }
        all
    }
}

impl PartialEq for Users {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Users {}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
