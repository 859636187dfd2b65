//! How the user is told of what no device of his has received.

use proto::notifier::v1::{
    ConfirmEmailAddressRequest, GetPreferencesRequest, GetPreferencesResponse, GetPushSetupRequest,
    GetPushSetupResponse, RegisterPushTargetRequest, RemoveEmailAddressRequest,
    RemovePushTargetRequest, SetEmailAddressRequest, UpdatePreferencesRequest,
    notifier_service_client::NotifierServiceClient,
};

use crate::{
    accounts::present,
    client::Client,
    error::Result,
    model::{DigestPeriod, EmailAddress, Preferences, PreviewDetail, PushTarget, QuietHours},
};

/// Changes of what the user wants: what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreferencesUpdate {
    /// Pushes at all.
    pub push: Option<bool>,
    /// What they say of a message.
    pub preview: Option<PreviewDetail>,
    /// Mentions are pushed from muted conversations too.
    pub mentions_pierce_mute: Option<bool>,
    /// When nothing is pushed.
    pub quiet_hours: Option<QuietHours>,
    /// An IANA time zone, such as `Europe/Berlin`.
    pub time_zone: Option<String>,
    /// How often an e-mail comes of what is unread.
    pub digest: Option<DigestPeriod>,
    /// When a daily or weekly one comes, by the user's clock: 0 to 23.
    pub digest_hour: Option<u32>,
    /// The version that the change was made from; 0 = whatever it is.
    pub if_version: u64,
}

impl Client {
    /// Where this device takes pushes, in place of what it had registered. Worth a call at each start of the
    /// app: tokens change, and the server forgets those that their provider calls gone.
    pub async fn register_push(&self, target: PushTarget) -> Result<()> {
        let request = RegisterPushTargetRequest {
            target: Some(target),
        };
        self.call(request, async |channel, request| {
            NotifierServiceClient::new(channel)
                .register_push_target(request)
                .await
        })
        .await?;
        Ok(())
    }

    /// This device takes no pushes any more. Logging out does the same.
    pub async fn remove_push(&self) -> Result<()> {
        self.call(RemovePushTargetRequest {}, async |channel, request| {
            NotifierServiceClient::new(channel)
                .remove_push_target(request)
                .await
        })
        .await?;
        Ok(())
    }

    /// Which providers the server pushes by, and the key that Web Push subscriptions are made with.
    pub async fn push_setup(&self) -> Result<GetPushSetupResponse> {
        self.call(GetPushSetupRequest {}, async |channel, request| {
            NotifierServiceClient::new(channel)
                .get_push_setup(request)
                .await
        })
        .await
    }

    /// What the user wants to be told of, and how.
    pub async fn preferences(&self) -> Result<Preferences> {
        present(self.wanted().await?.preferences)
    }

    /// Where digests go; `None` if the user gave no address.
    pub async fn email(&self) -> Result<Option<EmailAddress>> {
        Ok(self.wanted().await?.email)
    }

    async fn wanted(&self) -> Result<GetPreferencesResponse> {
        self.call(GetPreferencesRequest {}, async |channel, request| {
            NotifierServiceClient::new(channel)
                .get_preferences(request)
                .await
        })
        .await
    }

    /// Where digests are to go. A mail with a code is sent there; nothing else is before the code was given
    /// to [`Client::confirm_email`]. The address that is confirmed already changes nothing.
    pub async fn set_email(&self, address: &str) -> Result<EmailAddress> {
        let request = SetEmailAddressRequest {
            address: address.to_owned(),
        };
        let answer = self
            .call(request, async |channel, request| {
                NotifierServiceClient::new(channel)
                    .set_email_address(request)
                    .await
            })
            .await?;
        present(answer.email)
    }

    /// The code of the last mail. Worth a retry if the answer is lost: it is good for a day.
    pub async fn confirm_email(&self, code: &str) -> Result<EmailAddress> {
        let request = ConfirmEmailAddressRequest {
            code: code.to_owned(),
        };
        let answer = self
            .call(request, async |channel, request| {
                NotifierServiceClient::new(channel)
                    .confirm_email_address(request)
                    .await
            })
            .await?;
        present(answer.email)
    }

    /// No mail any more.
    pub async fn remove_email(&self) -> Result<()> {
        self.call(RemoveEmailAddressRequest {}, async |channel, request| {
            NotifierServiceClient::new(channel)
                .remove_email_address(request)
                .await
        })
        .await?;
        Ok(())
    }

    /// Changes it, and gives it back.
    pub async fn update_preferences(&self, update: PreferencesUpdate) -> Result<Preferences> {
        let request = UpdatePreferencesRequest {
            push: update.push,
            preview: update.preview.map(Into::into),
            mentions_pierce_mute: update.mentions_pierce_mute,
            quiet_hours: update.quiet_hours,
            time_zone: update.time_zone,
            digest: update.digest.map(Into::into),
            digest_hour: update.digest_hour,
            if_version: update.if_version,
        };
        let answer = self
            .call(request, async |channel, request| {
                NotifierServiceClient::new(channel)
                    .update_preferences(request)
                    .await
            })
            .await?;
        present(answer.preferences)
    }
}
