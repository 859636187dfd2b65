//! Tokens that were verified: most come again and again.

use std::collections::VecDeque;

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

/// Tokens that are remembered.
const KEPT_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct Verified<C>(Mutex<VecDeque<(String, Header, C)>>);

impl<C> Default for Verified<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Clone + DeserializeOwned> Verified<C> {
    /// The claims of a token whose signature is right; times and audiences are the caller's to check.
    pub(crate) fn verify(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Option<(Header, C)> {
        let mut kept = self.0.lock();
        if let Some((_, header, claims)) = kept.iter().find(|(known, ..)| known == token) {
            return Some((header.clone(), claims.clone()));
        }
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let data = jsonwebtoken::decode::<C>(token, key, &validation).ok()?;
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((token.to_owned(), data.header.clone(), data.claims.clone()));
        Some((data.header, data.claims))
    }
}

pub(crate) fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
