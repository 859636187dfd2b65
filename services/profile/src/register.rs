//! Making an account.

use runtime::ids::{DeviceId, UserId};

use crate::{
    Accounts, Session,
    error::Error,
    model::{Account, Device, User},
    store::Created,
    tokens::RefreshToken,
};

/// What a new account begins with; all fields in their valid form.
pub struct NewAccount {
    /// In its one form.
    pub username: String,
    /// As typed.
    pub password: String,
    /// Not empty.
    pub display_name: String,
    /// Of the first device; not empty.
    pub device_name: String,
}

impl Accounts {
    /// Makes an account and logs its first device in.
    pub async fn register(&self, new: NewAccount) -> Result<Session, Error> {
        let now = self.clock.now_unix_ms();
        self.take_registration(now)?;
        // Asked first, so that a taken name costs no hash.
        if self.store.account(&new.username).await?.is_some() {
            return Err(Error::UsernameTaken);
        }
        let password_hash = self.passwords.hash(new.password).await?;
        let user = User {
            user_id: UserId::generate(),
            username: new.username,
            display_name: new.display_name,
            status_text: String::new(),
            created_unix_ms: now,
            version: 1,
            picture: None,
        };
        let token = RefreshToken::first(user.user_id, DeviceId::generate());
        let device = Device {
            user_id: user.user_id,
            device_id: token.device_id,
            name: new.device_name,
            created_unix_ms: now,
            refresh: self.tokens.fresh_state(&token, now),
            revision: 0,
        };
        let tokens = self.tokens.pair(&token, &device.refresh, now)?;
        let account = Account {
            user: user.clone(),
            password_hash,
        };
        match self.store.create_account(account, device).await? {
            Created::Yes => Ok(Session {
                user,
                device_id: token.device_id,
                tokens,
            }),
            Created::UsernameTaken => Err(Error::UsernameTaken),
        }
    }

    fn take_registration(&self, now_unix_ms: i64) -> Result<(), Error> {
        let taken = self
            .registrations
            .lock()
            .take(&self.registration_quota, now_unix_ms);
        taken.map_err(|retry_after| Error::RateLimited { retry_after })
    }
}
