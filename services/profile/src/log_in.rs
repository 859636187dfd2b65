//! Logging a device in.

use runtime::ids::DeviceId;

use crate::{
    Accounts, Session,
    error::Error,
    model::{Account, Device},
    store::LoggedIn,
    tokens::RefreshToken,
    validate,
};

/// Who wants in, and with what.
pub struct Credentials {
    /// In its one form.
    pub username: String,
    /// As typed.
    pub password: String,
    /// `None`: as it was called before.
    pub device_name: Option<String>,
    /// The device that it was before, if any.
    pub device_id: Option<DeviceId>,
}

impl Accounts {
    /// Logs a device in. Each attempt is counted in this process before the password is looked at, so
    /// that many at once are no way around the limit, and in all processes once it has failed: so
    /// nobody makes the store write more often than this process hashes. A right one clears both.
    pub async fn log_in(&self, credentials: Credentials) -> Result<Session, Error> {
        let now = self.clock.now_unix_ms();
        let attempts = self.log_in_attempts.of(&credentials.username);
        let taken = attempts.lock().take(&self.log_in_quota, now);
        taken.map_err(|retry_after| Error::TooManyAttempts { retry_after })?;
        let account = match self.verify(&credentials).await {
            Ok(Some(account)) => account,
            Ok(None) => {
                let note = self
                    .store
                    .note_failed_log_in(&credentials.username, &self.log_in_quota);
                note.await?;
                return Err(Error::CredentialsInvalid);
            }
            // The password was not judged: this was no attempt.
            Err(error) => {
                attempts.lock().give_back(&self.log_in_quota);
                return Err(error);
            }
        };
        *attempts.lock() = Default::default();
        self.add_device(account, credentials, now).await
    }

    /// The account, if the password is its own.
    async fn verify(&self, credentials: &Credentials) -> Result<Option<Account>, Error> {
        let username = &credentials.username;
        let (account, taken) = self.store.account_to_log_in(username).await?;
        let taken_ms = i64::try_from(taken.as_millis()).unwrap_or(i64::MAX);
        self.log_in_quota
            .check(taken_ms)
            .map_err(|retry_after| Error::TooManyAttempts { retry_after })?;
        let hash = account.as_ref().map(|a| a.password_hash.clone());
        let right = self
            .passwords
            .verify(credentials.password.clone(), hash)
            .await?;
        if right && !taken.is_zero() {
            self.store.clear_failed_log_ins(username).await?;
        }
        Ok(account.filter(|_| right))
    }

    async fn add_device(
        &self,
        account: Account,
        credentials: Credentials,
        now_unix_ms: i64,
    ) -> Result<Session, Error> {
        let user = account.user;
        let before = match credentials.device_id {
            Some(device_id) => self.store.device(user.user_id, device_id).await?,
            None => None,
        };
        // An id that this user's devices do not have is not taken over: it could be anybody's.
        let device_id = before
            .as_ref()
            .map_or_else(DeviceId::generate, |d| d.device_id);
        let name = credentials.device_name.or(before.map(|d| d.name));
        let token = RefreshToken::first(user.user_id, device_id);
        let device = Device {
            user_id: user.user_id,
            device_id,
            name: validate::device_name_or_default(name),
            created_unix_ms: now_unix_ms,
            refresh: self.tokens.fresh_state(&token, now_unix_ms),
            // Of a new row. Not the number that a row of the same id may have had before it was
            // removed: what somebody decides on that one does not fit this one.
            revision: rand::random::<u32>().into(),
        };
        let tokens = self.tokens.pair(&token, &device.refresh, now_unix_ms)?;
        let devices_max = self.config.devices_per_user_max;
        let logged_in = self.store.log_in_device(device, devices_max, now_unix_ms);
        match logged_in.await? {
            LoggedIn::Yes => Ok(Session {
                user,
                device_id,
                tokens,
            }),
            LoggedIn::TooManyDevices => Err(Error::TooManyDevices),
        }
    }
}
