//! Accounts, devices, profiles and presence.

use proto::{
    presence::v1::{GetPresenceRequest, presence_service_client::PresenceServiceClient},
    profile::v1::{
        BatchGetProfilesRequest, GetProfileRequest, ListDevicesRequest, LogInRequest,
        LogOutDeviceRequest, RegisterRequest, SearchProfilesRequest, Tokens, UpdateProfileRequest,
        account_service_client::AccountServiceClient, get_profile_request::By,
        profile_service_client::ProfileServiceClient,
    },
};

use crate::{
    client::Client,
    error::{Error, Result},
    model::{Device, Presence, Profile, ProfilesPage},
    tokens::Credentials,
};

/// Profiles in one request.
const PROFILES_MAX: usize = 500;
/// Users in one request for presence.
const PRESENCES_MAX: usize = 200;

/// What an account is made of.
#[derive(Clone, Default)]
pub struct NewAccount {
    /// Unique; 2 to 32 of `a-z0-9_.-`, beginning with a letter or a digit.
    pub username: String,
    /// 8 to 128 characters.
    pub password: String,
    /// Empty = the username.
    pub display_name: String,
    /// What the first device calls itself; empty = "device".
    pub device_name: String,
}

/// What logs a device in.
#[derive(Clone, Default)]
pub struct LogIn {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// What the device calls itself; empty = "device".
    pub device_name: String,
    /// A device of this user that logs in again and stays the same one; empty = a new device.
    pub device_id: String,
}

/// Changes of the own profile: what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileUpdate {
    /// 1 to 64 characters.
    pub display_name: Option<String>,
    /// 0 to 140 characters.
    pub status_text: Option<String>,
    /// The receipt of the new picture, uploaded with [`Purpose::Picture`](crate::model::Purpose); empty
    /// removes it. [`Client::set_profile_picture`] does both.
    pub picture_receipt: Option<String>,
}

impl Client {
    /// Makes an account and logs this device in.
    pub async fn register(&self, account: NewAccount) -> Result<Profile> {
        let request = RegisterRequest {
            username: account.username,
            password: account.password,
            display_name: account.display_name,
            device_name: account.device_name,
        };
        let call =
            async |channel, request| AccountServiceClient::new(channel).register(request).await;
        let answer = self.call_once(request, call).await?;
        self.logged_in(answer.profile, answer.device_id, answer.tokens)
            .await
    }

    /// Logs this device in, in place of whoever was.
    pub async fn log_in(&self, log_in: LogIn) -> Result<Profile> {
        let request = LogInRequest {
            username: log_in.username,
            password: log_in.password,
            device_name: log_in.device_name,
            device_id: log_in.device_id,
        };
        let call =
            async |channel, request| AccountServiceClient::new(channel).log_in(request).await;
        let answer = self.call_once(request, call).await?;
        self.logged_in(answer.profile, answer.device_id, answer.tokens)
            .await
    }

    /// Logs this device out, at the server and here.
    pub async fn log_out(&self) -> Result<()> {
        self.log_out_device("").await?;
        self.inner.auth.clear().await
    }

    /// Logs one of the user's devices out; its sessions end at once.
    pub async fn log_out_device(&self, device_id: &str) -> Result<()> {
        let request = LogOutDeviceRequest {
            device_id: device_id.to_owned(),
        };
        self.call(request, async |channel, request| {
            AccountServiceClient::new(channel)
                .log_out_device(request)
                .await
        })
        .await?;
        Ok(())
    }

    /// The user's devices that are logged in, newest first.
    pub async fn devices(&self) -> Result<Vec<Device>> {
        let request = ListDevicesRequest {};
        let answer = self
            .call(request, async |channel, request| {
                AccountServiceClient::new(channel)
                    .list_devices(request)
                    .await
            })
            .await?;
        Ok(answer.devices)
    }

    /// The profile of a user.
    pub async fn profile(&self, user_id: &str) -> Result<Profile> {
        self.profile_by(By::UserId(user_id.to_owned())).await
    }

    /// The profile of the user with this name.
    pub async fn profile_by_username(&self, username: &str) -> Result<Profile> {
        self.profile_by(By::Username(username.to_owned())).await
    }

    /// The profiles of many users; those that do not exist are left out.
    pub async fn profiles(&self, user_ids: &[String]) -> Result<Vec<Profile>> {
        let mut profiles = Vec::new();
        for user_ids in user_ids.chunks(PROFILES_MAX) {
            let request = BatchGetProfilesRequest {
                user_ids: user_ids.to_vec(),
            };
            let answer = self
                .call(request, async |channel, request| {
                    ProfileServiceClient::new(channel)
                        .batch_get_profiles(request)
                        .await
                })
                .await?;
            profiles.extend(answer.profiles);
        }
        Ok(profiles)
    }

    /// Changes the own profile and gives it back.
    pub async fn update_profile(&self, update: ProfileUpdate) -> Result<Profile> {
        let request = UpdateProfileRequest {
            display_name: update.display_name,
            status_text: update.status_text,
            picture_receipt: update.picture_receipt,
        };
        let answer = self
            .call(request, async |channel, request| {
                ProfileServiceClient::new(channel)
                    .update_profile(request)
                    .await
            })
            .await?;
        present(answer.profile)
    }

    /// Users whose name, or a word of it, begins with the prefix. 1 to 50 a page, 0 = 20; the page
    /// token is empty for the first page.
    pub async fn search_profiles(
        &self,
        prefix: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<ProfilesPage> {
        let request = SearchProfilesRequest {
            prefix: prefix.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
        };
        self.call(request, async |channel, request| {
            ProfileServiceClient::new(channel)
                .search_profiles(request)
                .await
        })
        .await
    }

    /// Who of these users is online, in the same order.
    pub async fn presence(&self, user_ids: &[String]) -> Result<Vec<Presence>> {
        let mut presences = Vec::new();
        for user_ids in user_ids.chunks(PRESENCES_MAX) {
            let request = GetPresenceRequest {
                user_ids: user_ids.to_vec(),
            };
            let answer = self
                .call(request, async |channel, request| {
                    PresenceServiceClient::new(channel)
                        .get_presence(request)
                        .await
                })
                .await?;
            presences.extend(answer.presences);
        }
        Ok(presences)
    }

    async fn profile_by(&self, by: By) -> Result<Profile> {
        let request = GetProfileRequest { by: Some(by) };
        let answer = self
            .call(request, async |channel, request| {
                ProfileServiceClient::new(channel)
                    .get_profile(request)
                    .await
            })
            .await?;
        present(answer.profile)
    }

    async fn logged_in(
        &self,
        profile: Option<Profile>,
        device_id: String,
        tokens: Option<Tokens>,
    ) -> Result<Profile> {
        let (profile, tokens) = (present(profile)?, present(tokens)?);
        let credentials = Credentials {
            user_id: profile.user_id.clone(),
            username: profile.username.clone(),
            device_id,
            access_token: tokens.access_token,
            access_expires_unix_ms: tokens.access_expires_unix_ms,
            refresh_token: tokens.refresh_token,
            refresh_expires_unix_ms: tokens.refresh_expires_unix_ms,
        };
        self.inner.auth.set(credentials).await?;
        Ok(profile)
    }
}

/// What the contract says is always set.
pub(crate) fn present<T>(field: Option<T>) -> Result<T> {
    field.ok_or_else(|| Error::Protocol("an answer lacks its content".to_owned()))
}
