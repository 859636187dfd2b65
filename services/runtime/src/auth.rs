//! Who calls: tokens of users and of services, and the layer that asks every call for one.
//!
//! Both kinds are JWTs signed with Ed25519 and live for minutes. A user's token is made by
//! `profile` and verified by everybody with its public keys; a service's token is made by the
//! service itself. They differ in their audience, so neither is ever taken for the other.

use std::sync::Arc;

use proto::error::v1::ErrorReason;

use crate::{
    ids::{DeviceId, UserId},
    status::ApiError,
};

mod identity;
mod keys;
mod layer;
mod receipt;
mod refresh;
mod verifier;

pub use identity::{SERVICE_TOKEN_LIFE, ServiceChannel, ServiceIdentity};
pub use keys::{KeyError, KeyPair};
pub(crate) use layer::is_standard;
pub use layer::{AuthLayer, AuthService, Policy};
pub use receipt::{
    RECEIPT_BYTES_MAX, Receipt, ReceiptError, ReceiptPurpose, ReceiptSigner, ReceiptVerifier,
};
pub use refresh::keep_user_keys;
pub use verifier::{UserKey, Verifier};

/// The audience of a user's access token.
const AUDIENCE_USER: &str = "messenger";
/// The audience of a service's token.
const AUDIENCE_SERVICE: &str = "messenger-internal";
/// The audience of a receipt of the blob service.
const AUDIENCE_RECEIPT: &str = "messenger-receipt";
/// Who makes tokens of users.
const ISSUER_USER: &str = "messenger-profile";

/// Who makes a call, as its token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A device of a user.
    User(UserCaller),
    /// A service of this system.
    Service(ServiceCaller),
}

/// A device of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserCaller {
    /// The user.
    pub user_id: UserId,
    /// The device that the token was made for.
    pub device_id: DeviceId,
    /// When the token was made.
    pub issued_unix_ms: i64,
    /// From when on the token is good for nothing. A session must not outlive it.
    pub expires_unix_ms: i64,
}

/// A service of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCaller {
    /// Its name, such as `messaging`.
    pub name: Arc<str>,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a token.
    Public,
    /// Users.
    User,
    /// Services.
    Service,
    /// Users and services.
    Any,
}

/// The caller of a request that has passed an [`AuthLayer`].
pub fn caller<T>(request: &tonic::Request<T>) -> Result<&Caller, ApiError> {
    request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| ApiError::new(ErrorReason::TokenMissing, "an access token is required"))
}

/// The user that calls; a service is refused.
pub fn user_caller<T>(request: &tonic::Request<T>) -> Result<UserCaller, ApiError> {
    match caller(request)? {
        Caller::User(user) => Ok(*user),
        Caller::Service(_) => Err(not_allowed()),
    }
}

fn not_allowed() -> ApiError {
    ApiError::new(
        ErrorReason::CallerNotAllowed,
        "this kind of caller may not use this method",
    )
}

#[cfg(test)]
mod tests;
