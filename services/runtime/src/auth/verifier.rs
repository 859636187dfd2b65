//! Decides whether a token is good, and whose it is.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use proto::error::v1::ErrorReason;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::{
    AUDIENCE_SERVICE, AUDIENCE_USER, Caller, ISSUER_USER, KeyError, ServiceCaller, UserCaller, keys,
};
use crate::{
    clock::Clock,
    ids::{DeviceId, UserId},
    status::ApiError,
};

/// When to try again while the keys are fetched: about as long as that takes.
const KEYS_RETRY: Duration = Duration::from_millis(500);
/// Longer tokens are refused before they are decoded; ours have about 350 bytes.
const TOKEN_BYTES_MAX: usize = 1_024;
/// Verified tokens that are remembered, since a signature costs more than the rest of a small call.
/// About 130 bytes each.
const VERIFIED_MAX: usize = 32_768;
/// Bytes of a service's name.
const SERVICE_NAME_BYTES_MAX: usize = 64;

/// A public key of user tokens, as `ListPublicKeys` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserKey {
    /// The `kid` in the header of the tokens signed with it.
    pub key_id: String,
    /// SubjectPublicKeyInfo in PEM.
    pub pem: String,
}

impl UserKey {
    /// The key in `pem`, with the id that its tokens name it by.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let public = keys::public_key(pem)?;
        Ok(Self {
            key_id: keys::key_id(&public),
            pem: pem.to_owned(),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UserClaims {
    sub: String,
    dev: String,
    iss: String,
    aud: String,
    /// Seconds, as in all JWTs.
    iat: i64,
    exp: i64,
}

impl UserClaims {
    pub(super) fn of(caller: &UserCaller) -> Self {
        Self {
            sub: caller.user_id.to_string(),
            dev: caller.device_id.to_string(),
            iss: ISSUER_USER.to_owned(),
            aud: AUDIENCE_USER.to_owned(),
            iat: caller.issued_unix_ms.div_euclid(1_000),
            exp: caller.expires_unix_ms.div_euclid(1_000),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ServiceClaims {
    pub(super) sub: String,
    pub(super) aud: String,
    pub(super) iat: i64,
    pub(super) exp: i64,
}

/// Verifies tokens without asking anybody. Clones share everything.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    service_key_id: String,
    service_key: DecodingKey,
    user_keys: ArcSwap<UserKeys>,
    verified: Cache<[u8; 32], Verified>,
    /// A token named a key that is not known.
    key_missing: Notify,
    /// Whether the keys of users were ever set.
    ready: AtomicBool,
}

#[derive(Default)]
struct UserKeys {
    /// Grows with each change, so that what was verified with older keys is verified again.
    generation: u64,
    /// By key id.
    keys: HashMap<String, UserVerifyingKey>,
}

#[derive(Clone)]
struct UserVerifyingKey {
    public: VerifyingKey,
    decoding: DecodingKey,
}

#[derive(Clone)]
struct Verified {
    caller: Caller,
    expires_unix_ms: i64,
    generation: u64,
}

impl Verifier {
    /// Knows the key of services, and no key of users until [`Verifier::set_user_keys`].
    pub fn new(clock: Arc<dyn Clock>, service_key: VerifyingKey) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock,
                service_key_id: keys::key_id(&service_key),
                service_key: keys::decoding_key(&service_key),
                user_keys: ArcSwap::default(),
                verified: Cache::new(VERIFIED_MAX),
                key_missing: Notify::new(),
                ready: AtomicBool::new(false),
            }),
        }
    }

    /// Trusts these keys for tokens of users from now on, and no others. If one of them is
    /// malformed, nothing changes.
    pub fn set_user_keys(&self, user_keys: Vec<UserKey>) -> Result<(), KeyError> {
        let mut keys = HashMap::with_capacity(user_keys.len());
        for key in user_keys {
            let public = keys::public_key(&key.pem)?;
            let decoding = keys::decoding_key(&public);
            keys.insert(key.key_id, UserVerifyingKey { public, decoding });
        }
        self.inner.user_keys.rcu(|old| UserKeys {
            generation: old.generation + u64::from(!same(&old.keys, &keys)),
            keys: keys.clone(),
        });
        self.inner.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether it knows the keys of users' tokens.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// Whose token it is. Errors: TOKEN_INVALID, TOKEN_EXPIRED, and UNAVAILABLE while no key of
    /// users is known yet.
    pub fn verify(&self, token: &str) -> Result<Caller, ApiError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid());
        }
        let now = self.inner.clock.now_unix_ms();
        let generation = self.inner.user_keys.load().generation;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.inner.verified.get(&hash);
        let verified = match known {
            Some(known) if known.generation == generation => known,
            _ => {
                let (caller, expires_unix_ms) = self.decode(token)?;
                let verified = Verified {
                    caller,
                    expires_unix_ms,
                    generation,
                };
                // One that has expired already must not push out one that is still used.
                if now < expires_unix_ms {
                    self.inner.verified.insert(hash, verified.clone());
                }
                verified
            }
        };
        if now < verified.expires_unix_ms {
            Ok(verified.caller)
        } else {
            self.inner.verified.remove(&hash);
            Err(ApiError::new(
                ErrorReason::TokenExpired,
                "the access token has expired",
            ))
        }
    }

    /// Waits until a token names a key that is not known.
    pub(super) async fn key_missing(&self) {
        self.inner.key_missing.notified().await;
    }

    fn decode(&self, token: &str) -> Result<(Caller, i64), ApiError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
        // Whatever the header says, only this algorithm is used; the key decides who may be meant.
        if header.alg != Algorithm::EdDSA {
            return Err(invalid());
        }
        let key_id = header.kid.ok_or_else(invalid)?;
        if key_id == self.inner.service_key_id {
            return self.decode_service(token);
        }
        let keys = self.inner.user_keys.load();
        match keys.keys.get(&key_id) {
            Some(key) => decode_user(token, &key.decoding),
            None => {
                self.inner.key_missing.notify_one();
                if self.inner.ready.load(Ordering::Acquire) {
                    Err(invalid())
                } else {
                    Err(ApiError::retry_after(
                        ErrorReason::Unavailable,
                        "the server does not know the keys of tokens yet",
                        KEYS_RETRY,
                    ))
                }
            }
        }
    }

    fn decode_service(&self, token: &str) -> Result<(Caller, i64), ApiError> {
        let claims: ServiceClaims = claims(token, &self.inner.service_key, AUDIENCE_SERVICE, None)?;
        if claims.sub.is_empty() || claims.sub.len() > SERVICE_NAME_BYTES_MAX {
            return Err(invalid());
        }
        let caller = Caller::Service(ServiceCaller {
            name: claims.sub.into(),
        });
        Ok((caller, to_ms(claims.exp)))
    }
}

fn same(old: &HashMap<String, UserVerifyingKey>, new: &HashMap<String, UserVerifyingKey>) -> bool {
    let kept = |(id, key): (&String, &UserVerifyingKey)| {
        old.get(id).is_some_and(|old| old.public == key.public)
    };
    old.len() == new.len() && new.iter().all(kept)
}

fn decode_user(token: &str, key: &DecodingKey) -> Result<(Caller, i64), ApiError> {
    let claims: UserClaims = claims(token, key, AUDIENCE_USER, Some(ISSUER_USER))?;
    let caller = UserCaller {
        user_id: UserId::parse(&claims.sub).map_err(|_| invalid())?,
        device_id: DeviceId::parse(&claims.dev).map_err(|_| invalid())?,
        issued_unix_ms: to_ms(claims.iat),
        expires_unix_ms: to_ms(claims.exp),
    };
    Ok((Caller::User(caller), caller.expires_unix_ms))
}

/// The claims of a token with a good signature and the right audience. `exp` is left to the caller,
/// who has the clock.
fn claims<T: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    audience: &str,
    issuer: Option<&str>,
) -> Result<T, ApiError> {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    if let Some(issuer) = issuer {
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "sub", "iss"]);
    }
    let decoded = jsonwebtoken::decode::<T>(token, key, &validation);
    Ok(decoded.map_err(|_| invalid())?.claims)
}

fn to_ms(seconds: i64) -> i64 {
    seconds.saturating_mul(1_000)
}

fn invalid() -> ApiError {
    ApiError::new(ErrorReason::TokenInvalid, "the access token is not valid")
}
