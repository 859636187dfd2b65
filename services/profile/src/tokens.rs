//! What a logged-in device holds: an access token that others verify, a refresh token for here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use runtime::{
    auth::{KeyPair, UserCaller},
    ids::{DeviceId, UserId},
};
use sha2::{Digest, Sha256};

use crate::{
    config::Config,
    error::Error,
    model::{Hash, RefreshState},
};

/// Bytes of a refresh token: two ids, the family's secret and its own.
const REFRESH_TOKEN_BYTES: usize = 16 + 16 + 32 + 32;

/// A pair of tokens, for the device only.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// A JWT.
    pub access_token: String,
    /// When it stops being good.
    pub access_expires_unix_ms: i64,
    /// Good for one refresh.
    pub refresh_token: String,
    /// When it stops being good.
    pub refresh_expires_unix_ms: i64,
}

/// A refresh token. It names its device; 256 random bits prove that it comes from one of this
/// device's log-ins (its family), 256 more that it is this one.
#[derive(Clone)]
pub struct RefreshToken {
    /// Whose.
    pub user_id: UserId,
    /// Of which device.
    pub device_id: DeviceId,
    family: [u8; 32],
    secret: [u8; 32],
}

impl RefreshToken {
    /// The first one of a log-in.
    pub fn first(user_id: UserId, device_id: DeviceId) -> Self {
        Self {
            user_id,
            device_id,
            family: rand::random(),
            secret: rand::random(),
        }
    }

    /// Another one of the same family.
    pub fn successor(&self) -> Self {
        Self {
            secret: rand::random(),
            ..self.clone()
        }
    }

    /// What is kept of the family.
    pub fn family_hash(&self) -> Hash {
        Sha256::digest(self.family).into()
    }

    /// What is kept of this one.
    pub fn secret_hash(&self) -> Hash {
        Sha256::digest(self.secret).into()
    }

    /// The text that the device gets.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(REFRESH_TOKEN_BYTES);
        bytes.extend_from_slice(self.user_id.as_bytes());
        bytes.extend_from_slice(self.device_id.as_bytes());
        bytes.extend_from_slice(&self.family);
        bytes.extend_from_slice(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// From the text that a device sends.
    pub fn parse(text: &str) -> Option<Self> {
        // Before decoding: a token has one length.
        if text.len() != REFRESH_TOKEN_BYTES.div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (user_id, rest) = bytes.split_first_chunk::<16>()?;
        let (device_id, rest) = rest.split_first_chunk::<16>()?;
        let (family, rest) = rest.split_first_chunk::<32>()?;
        let secret = rest.try_into().ok()?;
        Some(Self {
            user_id: UserId::from_slice(user_id).ok()?,
            device_id: DeviceId::from_slice(device_id).ok()?,
            family: *family,
            secret,
        })
    }
}

/// Makes tokens.
pub struct TokenMaker {
    key: KeyPair,
    access_life_ms: i64,
    refresh_life_ms: i64,
}

impl TokenMaker {
    /// Signs with `key`.
    pub fn new(key: KeyPair, config: &Config) -> Self {
        let ms = |life: std::time::Duration| i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        Self {
            key,
            access_life_ms: ms(config.access_token_life),
            refresh_life_ms: ms(config.refresh_token_life),
        }
    }

    /// The state of a device whose tokens were last made now, and one of them is `token`.
    pub fn fresh_state(&self, token: &RefreshToken, now_unix_ms: i64) -> RefreshState {
        RefreshState {
            family: token.family_hash(),
            unused: vec![token.secret_hash()],
            used: None,
            used_unix_ms: 0,
            refreshed_unix_ms: now_unix_ms,
            expires_unix_ms: now_unix_ms.saturating_add(self.refresh_life_ms),
        }
    }

    /// The pair for a device whose refresh token is `refresh`, good as `state` says.
    pub fn pair(
        &self,
        refresh: &RefreshToken,
        state: &RefreshState,
        now_unix_ms: i64,
    ) -> Result<Tokens, Error> {
        // Tokens count in seconds; rounded down, so that none is good longer than it says.
        let issued_unix_ms = now_unix_ms.div_euclid(1_000).saturating_mul(1_000);
        let caller = UserCaller {
            user_id: refresh.user_id,
            device_id: refresh.device_id,
            issued_unix_ms,
            expires_unix_ms: issued_unix_ms.saturating_add(self.access_life_ms),
        };
        Ok(Tokens {
            access_token: self.key.sign_user(&caller)?,
            access_expires_unix_ms: caller.expires_unix_ms,
            refresh_token: refresh.to_text(),
            refresh_expires_unix_ms: state.expires_unix_ms,
        })
    }
}
