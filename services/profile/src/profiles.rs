//! Users as others see them.

use runtime::ids::UserId;

use crate::{
    Accounts,
    error::Error,
    model::{ProfileChange, User},
};

impl Accounts {
    /// The user with this id.
    pub async fn user(&self, user_id: UserId) -> Result<User, Error> {
        let users = self.store.users(vec![user_id]).await?;
        users.into_iter().next().ok_or(Error::UserNotFound)
    }

    /// The user with this username.
    pub async fn user_named(&self, username: &str) -> Result<User, Error> {
        let account = self.store.account(username).await?;
        Ok(account.ok_or(Error::UserNotFound)?.user)
    }

    /// Those of the users that exist.
    pub async fn users(&self, user_ids: Vec<UserId>) -> Result<Vec<User>, Error> {
        Ok(self.store.users(user_ids).await?)
    }

    /// Changes a user.
    pub async fn update_user(&self, user_id: UserId, change: ProfileChange) -> Result<User, Error> {
        let facts_max = self.config.outbox_facts_max;
        let is_told = change.picture.is_some();
        let changed = self.store.update_user(user_id, change, facts_max).await?;
        if is_told {
            self.outbox.notify_one();
        }
        changed.ok_or(Error::UserNotFound)
    }
}
