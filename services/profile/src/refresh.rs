//! New tokens for a refresh token, and what it means when one comes twice.

use runtime::ids::{DeviceId, UserId};

use crate::{
    Accounts,
    error::Error,
    events,
    model::RefreshState,
    tokens::{RefreshToken, Tokens},
};

/// Successors of one token that may be unused at once: an honest device that asks again within the
/// grace needs two or three.
const UNUSED_MAX: usize = 8;
/// How often a change is tried again when another one of the same device came first.
const TRIES_MAX: usize = 5;

/// New tokens, and whose they are.
pub struct Refreshed {
    /// The user.
    pub user_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// For the device.
    pub tokens: Tokens,
}

/// What a refresh token that came is worth.
#[derive(Debug, PartialEq, Eq)]
enum Worth {
    /// A successor; this is the state afterwards.
    Successor(RefreshState),
    /// As many successors are unused as may be.
    TooMany,
    /// It was used before: somebody else has it, too.
    Reused,
    /// It is not of this log-in, or too old.
    Invalid,
}

impl Accounts {
    /// Uses a refresh token up and makes its successor.
    pub async fn refresh(&self, text: &str) -> Result<Refreshed, Error> {
        let token = RefreshToken::parse(text).ok_or(Error::RefreshTokenInvalid)?;
        let (user_id, device_id) = (token.user_id, token.device_id);
        for _ in 0..TRIES_MAX {
            let now = self.clock.now_unix_ms();
            let device = self.store.device(user_id, device_id).await?;
            let device = device.ok_or(Error::DeviceRevoked)?;
            let successor = token.successor();
            let fresh = self.tokens.fresh_state(&successor, now);
            let grace_ms = self.config.refresh_grace.as_millis();
            let grace_ms = i64::try_from(grace_ms).unwrap_or(i64::MAX);
            let revision = device.revision;
            match worth(&device.refresh, &token, fresh, grace_ms) {
                Worth::Successor(state) => {
                    // Signed first: a token is not used up if there is nothing to answer with.
                    let tokens = self.tokens.pair(&successor, &state, now)?;
                    let put = self.store.put_refresh(user_id, device_id, revision, state);
                    if put.await? {
                        return Ok(Refreshed {
                            user_id,
                            device_id,
                            tokens,
                        });
                    }
                }
                Worth::Reused => {
                    let fact = events::device_revoked(user_id, device_id);
                    let out = self.store.log_out_device(
                        user_id,
                        device_id,
                        Some(revision),
                        fact,
                        self.config.outbox_facts_max,
                    );
                    if out.await? {
                        tracing::warn!(%user_id, %device_id, "refresh token reused");
                        self.outbox.notify_one();
                        return Err(Error::RefreshTokenReused);
                    }
                }
                Worth::TooMany => {
                    let retry_after = self.config.refresh_grace;
                    return Err(Error::RateLimited { retry_after });
                }
                Worth::Invalid => return Err(Error::RefreshTokenInvalid),
            }
        }
        Err(Error::Overloaded)
    }
}

/// Judges `token` by the state of its device. `fresh` is the state with its successor alone.
fn worth(state: &RefreshState, token: &RefreshToken, fresh: RefreshState, grace_ms: i64) -> Worth {
    let now = fresh.refreshed_unix_ms;
    if state.family != token.family_hash() || state.expires_unix_ms <= now {
        return Worth::Invalid;
    }
    let secret = token.secret_hash();
    if state.unused.contains(&secret) {
        // Its siblings, if any, are void with it: one that still comes shows that there are two
        // holders.
        return Worth::Successor(RefreshState {
            used: Some(secret),
            used_unix_ms: now,
            ..fresh
        });
    }
    // The token used last, and none of its successors was used (or that would be the last).
    let again = state.used == Some(secret);
    if !again || now.saturating_sub(state.used_unix_ms) >= grace_ms {
        return Worth::Reused;
    }
    if state.unused.len() >= UNUSED_MAX {
        return Worth::TooMany;
    }
    // The answer was probably lost. The first successor may have arrived all the same.
    let mut unused = state.unused.clone();
    unused.extend(fresh.unused);
    Worth::Successor(RefreshState {
        family: state.family,
        unused,
        used: state.used,
        used_unix_ms: state.used_unix_ms,
        refreshed_unix_ms: now,
        expires_unix_ms: fresh.expires_unix_ms,
    })
}
