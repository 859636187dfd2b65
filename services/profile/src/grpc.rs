//! The two services on the wire: validates and converts, nothing else.

use std::sync::Arc;

use proto::error::v1::ErrorReason;
use proto::profile::v1::{
    self as pb, account_service_server::AccountService, get_profile_request::By,
    profile_service_server::ProfileService,
};
use runtime::{
    auth::{ReceiptPurpose, ReceiptVerifier, UserKey, user_caller},
    ids::{BlobId, UserId},
    page_token,
    status::ApiError,
};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    Accounts, Session,
    error::Error,
    log_in::Credentials,
    model::{Device, ProfileChange, User},
    register::NewAccount,
    tokens::Tokens,
    validate,
};

/// Profiles in a page when the caller does not say.
const PAGE_DEFAULT: usize = 20;
/// Profiles in a page.
const PAGE_MAX: usize = 50;

/// The services, as tonic wants them.
#[derive(Clone)]
pub(crate) struct Grpc {
    accounts: Arc<Accounts>,
    receipts: ReceiptVerifier,
}

impl Grpc {
    /// Speaks for these accounts.
    pub(crate) const fn new(accounts: Arc<Accounts>, receipts: ReceiptVerifier) -> Self {
        Self { accounts, receipts }
    }

    /// The blob of a picture that the caller has uploaded.
    fn picture(&self, receipt: &str, caller: UserId) -> Result<BlobId, ApiError> {
        let verified = self
            .receipts
            .verify(receipt, caller, ReceiptPurpose::Picture);
        let blob = verified.and_then(|receipt| receipt.blob_id());
        blob.map_err(|error| error.of_field("picture_receipt"))
    }
}

#[async_trait]
impl AccountService for Grpc {
    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterResponse>, Status> {
        let request = request.into_inner();
        let username = validate::username(&request.username)?;
        let display_name = match request.display_name.as_str() {
            "" => username.clone(),
            text => validate::display_name(text)?,
        };
        let device_name = validate::device_name(&request.device_name)?;
        let new = NewAccount {
            username,
            password: validate::new_password(request.password)?,
            display_name,
            device_name: validate::device_name_or_default(device_name),
        };
        let session = answer(self.accounts.register(new).await)?;
        let (profile, device_id, tokens) = session_pb(session);
        Ok(Response::new(pb::RegisterResponse {
            profile,
            device_id,
            tokens,
        }))
    }

    async fn log_in(
        &self,
        request: Request<pb::LogInRequest>,
    ) -> Result<Response<pb::LogInResponse>, Status> {
        let request = request.into_inner();
        let credentials = Credentials {
            username: validate::username(&request.username)?,
            password: validate::password(request.password)?,
            device_name: validate::device_name(&request.device_name)?,
            device_id: validate::device_id(&request.device_id)?,
        };
        let session = answer(self.accounts.log_in(credentials).await)?;
        let (profile, device_id, tokens) = session_pb(session);
        Ok(Response::new(pb::LogInResponse {
            profile,
            device_id,
            tokens,
        }))
    }

    async fn refresh(
        &self,
        request: Request<pb::RefreshRequest>,
    ) -> Result<Response<pb::RefreshResponse>, Status> {
        let token = request.into_inner().refresh_token;
        if token.is_empty() {
            let error = ApiError::field(
                ErrorReason::FieldRequired,
                "refresh_token",
                "must not be empty",
            );
            return Err(error.into());
        }
        let refreshed = answer(self.accounts.refresh(&token).await)?;
        Ok(Response::new(pb::RefreshResponse {
            user_id: refreshed.user_id.to_string(),
            device_id: refreshed.device_id.to_string(),
            tokens: Some(tokens_pb(refreshed.tokens)),
        }))
    }

    async fn log_out_device(
        &self,
        request: Request<pb::LogOutDeviceRequest>,
    ) -> Result<Response<pb::LogOutDeviceResponse>, Status> {
        let caller = user_caller(&request)?;
        let device_id = validate::device_id(&request.get_ref().device_id)?;
        let device_id = device_id.unwrap_or(caller.device_id);
        answer(self.accounts.log_out(caller.user_id, device_id).await)?;
        Ok(Response::new(pb::LogOutDeviceResponse {}))
    }

    async fn list_devices(
        &self,
        request: Request<pb::ListDevicesRequest>,
    ) -> Result<Response<pb::ListDevicesResponse>, Status> {
        let caller = user_caller(&request)?;
        let devices = answer(self.accounts.devices(caller.user_id).await)?;
        let devices = devices.into_iter().map(|device| pb::Device {
            current: device.device_id == caller.device_id,
            ..device_pb(device)
        });
        Ok(Response::new(pb::ListDevicesResponse {
            devices: devices.collect(),
        }))
    }

    async fn list_public_keys(
        &self,
        _: Request<pb::ListPublicKeysRequest>,
    ) -> Result<Response<pb::ListPublicKeysResponse>, Status> {
        let keys = self.accounts.public_keys().into_iter().map(key_pb);
        Ok(Response::new(pb::ListPublicKeysResponse {
            keys: keys.collect(),
        }))
    }
}

#[async_trait]
impl ProfileService for Grpc {
    async fn get_profile(
        &self,
        request: Request<pb::GetProfileRequest>,
    ) -> Result<Response<pb::GetProfileResponse>, Status> {
        let user = match request.into_inner().by {
            Some(By::UserId(text)) => {
                let user_id = validate::user_id(&text, "user_id")?;
                self.accounts.user(user_id).await
            }
            Some(By::Username(text)) => {
                let username = validate::username(&text)?;
                self.accounts.user_named(&username).await
            }
            None => {
                let message = "one of user_id and username must be given";
                let error = ApiError::field(ErrorReason::FieldRequired, "by", message);
                return Err(error.into());
            }
        };
        Ok(Response::new(pb::GetProfileResponse {
            profile: Some(user_pb(answer(user)?)),
        }))
    }

    async fn batch_get_profiles(
        &self,
        request: Request<pb::BatchGetProfilesRequest>,
    ) -> Result<Response<pb::BatchGetProfilesResponse>, Status> {
        let user_ids = validate::user_ids(&request.get_ref().user_ids)?;
        let users = answer(self.accounts.users(user_ids).await)?;
        Ok(Response::new(pb::BatchGetProfilesResponse {
            profiles: users.into_iter().map(user_pb).collect(),
        }))
    }

    async fn update_profile(
        &self,
        request: Request<pb::UpdateProfileRequest>,
    ) -> Result<Response<pb::UpdateProfileResponse>, Status> {
        let caller = user_caller(&request)?;
        let request = request.get_ref();
        let display_name = request.display_name.as_deref();
        let status_text = request.status_text.as_deref();
        let change = ProfileChange {
            display_name: display_name.map(validate::display_name).transpose()?,
            status_text: status_text.map(validate::status_text).transpose()?,
            picture: match request.picture_receipt.as_deref() {
                Some("") => Some(None),
                Some(receipt) => Some(Some(self.picture(receipt, caller.user_id)?)),
                None => None,
            },
        };
        let user = answer(self.accounts.update_user(caller.user_id, change).await)?;
        Ok(Response::new(pb::UpdateProfileResponse {
            profile: Some(user_pb(user)),
        }))
    }

    async fn search_profiles(
        &self,
        request: Request<pb::SearchProfilesRequest>,
    ) -> Result<Response<pb::SearchProfilesResponse>, Status> {
        let request = request.get_ref();
        let prefix = validate::prefix(&request.prefix)?;
        let limit = page_token::page_size(request.page_size, PAGE_DEFAULT, PAGE_MAX, "page_size")?;
        let scope = ("SearchProfiles", &prefix);
        let after = match request.page_token.as_str() {
            "" => String::new(),
            token => page_cursor(&scope, token)?,
        };
        let (users, next) = answer(self.accounts.search(&prefix, &after, limit).await)?;
        let next = next.map(|username| page_token::encode(&scope, username.as_bytes()));
        Ok(Response::new(pb::SearchProfilesResponse {
            profiles: users.into_iter().map(user_pb).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }
}

fn page_cursor(scope: &(&str, &String), token: &str) -> Result<String, ApiError> {
    const FIELD: &str = "page_token";
    let cursor = page_token::decode(scope, token, FIELD)?;
    let malformed = |_| {
        let message = "the page token is malformed";
        ApiError::field(ErrorReason::PageTokenInvalid, FIELD, message)
    };
    String::from_utf8(cursor).map_err(malformed)
}

fn answer<T>(result: Result<T, Error>) -> Result<T, Status> {
    result.map_err(|error| ApiError::from(error).into())
}

fn session_pb(session: Session) -> (Option<pb::Profile>, String, Option<pb::Tokens>) {
    (
        Some(user_pb(session.user)),
        session.device_id.to_string(),
        Some(tokens_pb(session.tokens)),
    )
}

fn user_pb(user: User) -> pb::Profile {
    pb::Profile {
        user_id: user.user_id.to_string(),
        username: user.username,
        display_name: user.display_name,
        status_text: user.status_text,
        created_unix_ms: user.created_unix_ms,
        version: user.version,
        picture: user
            .picture
            .map_or_else(String::new, |blob| blob.to_string()),
    }
}

fn tokens_pb(tokens: Tokens) -> pb::Tokens {
    pb::Tokens {
        access_token: tokens.access_token,
        access_expires_unix_ms: tokens.access_expires_unix_ms,
        refresh_token: tokens.refresh_token,
        refresh_expires_unix_ms: tokens.refresh_expires_unix_ms,
    }
}

fn device_pb(device: Device) -> pb::Device {
    pb::Device {
        device_id: device.device_id.to_string(),
        name: device.name,
        created_unix_ms: device.created_unix_ms,
        refreshed_unix_ms: device.refresh.refreshed_unix_ms,
        current: false,
    }
}

fn key_pb(key: UserKey) -> pb::PublicKey {
    pb::PublicKey {
        key_id: key.key_id,
        pem: key.pem,
    }
}
