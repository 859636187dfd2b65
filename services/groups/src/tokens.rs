//! Tokens of invitations: the secret of a link. Kept nowhere, only their SHA-256 is.
//!
//! A token is derived from a secret of the store, so that a repetition of the call that made it shows
//! the same one. Nobody who has some tokens can tell others.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use runtime::ids::UserId;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::TokenHash;

/// Bytes of a token before it is text.
const TOKEN_BYTES: usize = 32;

/// The token that a request makes, in text.
pub(crate) fn token(secret: &[u8; 32], actor: UserId, request_id: Uuid) -> String {
    // Hashed twice, each time with the secret: the inner hash is never seen, and so cannot be extended.
    let inner = Sha256::new()
        .chain_update(secret)
        .chain_update(b"invitation")
        .chain_update(actor.as_bytes())
        .chain_update(request_id.as_bytes())
        .finalize();
    let outer = Sha256::new()
        .chain_update(secret)
        .chain_update(inner)
        .finalize();
    URL_SAFE_NO_PAD.encode(outer)
}

/// What is kept of a token; `None` for a text that is none.
pub(crate) fn token_hash(text: &str) -> Option<TokenHash> {
    // Before decoding: a token has one length.
    if text.len() != (TOKEN_BYTES * 4).div_ceil(3) {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_same_for_the_same_request_and_no_other() {
        let (ann, bob) = (UserId::generate(), UserId::generate());
        let (one, two) = (Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16]));
        let made = token(&[7; 32], ann, one);
        assert_eq!(made, token(&[7; 32], ann, one));
        assert_eq!(token_hash(&made), token_hash(&token(&[7; 32], ann, one)));
        for other in [
            token(&[8; 32], ann, one),
            token(&[7; 32], bob, one),
            token(&[7; 32], ann, two),
        ] {
            assert_ne!(made, other);
            assert_ne!(token_hash(&made), token_hash(&other));
        }
        assert_eq!(token_hash(""), None);
        assert_eq!(token_hash(&made[1..]), None);
    }
}
