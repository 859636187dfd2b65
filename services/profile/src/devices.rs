//! The devices of a user.

use runtime::ids::{DeviceId, UserId};

use crate::{Accounts, error::Error, events, model::Device};

impl Accounts {
    /// The devices that are logged in, the newest first.
    pub async fn devices(&self, user_id: UserId) -> Result<Vec<Device>, Error> {
        let now = self.clock.now_unix_ms();
        Ok(self.store.devices(user_id, now).await?)
    }

    /// Logs a device out. One that is not logged in stays so.
    pub async fn log_out(&self, user_id: UserId, device_id: DeviceId) -> Result<(), Error> {
        let fact = events::device_revoked(user_id, device_id);
        let facts_max = self.config.outbox_facts_max;
        let out = self
            .store
            .log_out_device(user_id, device_id, None, fact, facts_max);
        if out.await? {
            self.outbox.notify_one();
        }
        Ok(())
    }
}
