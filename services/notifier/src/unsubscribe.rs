//! Ending digests by the link of one.

use crate::{
    Service,
    model::DigestPeriod,
    store::{PreferencesChange, StoreError, Updated},
    tokens::Named,
};

/// What became of a link that was followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// No digests are sent to that address, whether they were before or not.
    Yes,
    /// It is no link of ours.
    Unknown,
}

impl Service {
    fn named(&self, token: &str) -> Option<Named> {
        self.mail.as_ref()?.tokens.check(token)
    }

    /// Whether it is a link of ours.
    pub(crate) fn may_unsubscribe(&self, token: &str) -> bool {
        self.named(token).is_some()
    }

    /// Safe to repeat. The link of a mail to an address that the user has no more changes nothing for the one
    /// he has now.
    pub(crate) async fn unsubscribe(&self, token: &str) -> Result<Ended, StoreError> {
        let Some(named) = self.named(token) else {
            return Ok(Ended::Unknown);
        };
        let email = self.store.email(named.user).await?;
        if !email.is_some_and(|email| named.is_of(&email.address)) {
            return Ok(Ended::Yes);
        }
        let preferences = self.store.preferences(vec![named.user]).await?;
        let wants = preferences.first().map(|preferences| preferences.digest);
        if wants == Some(DigestPeriod::Off) {
            return Ok(Ended::Yes);
        }
        let off = PreferencesChange {
            digest: Some(DigestPeriod::Off),
            ..PreferencesChange::default()
        };
        let changed = self
            .store
            .update_preferences(named.user, off, 0, self.next_digest());
        match changed.await? {
            Updated::Changed(_) | Updated::OtherVersion => Ok(Ended::Yes),
        }
    }
}
