//! Page tokens: opaque to clients, and good only for the call and the arguments that made them.

use std::hash::{DefaultHasher, Hash, Hasher};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::error::v1::ErrorReason;

use crate::status::ApiError;

/// Longer tokens are refused before they are decoded; ours have well below 200 bytes.
const PAGE_TOKEN_BYTES_MAX: usize = 512;

/// Makes a token of `cursor` for a call with these arguments.
///
/// `scope` names the call and everything that must not change from page to page. The check guards
/// against mistakes, not against forgery: a cursor never carries rights, so a forged one only reads
/// another page of what the caller may read anyway.
pub fn encode(scope: &impl Hash, cursor: &[u8]) -> String {
    let mut bytes = check(scope, cursor).to_le_bytes().to_vec();
    bytes.extend_from_slice(cursor);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The cursor in a token that [`encode`] made with the same scope; `field` is named in the error.
pub fn decode(scope: &impl Hash, token: &str, field: &str) -> Result<Vec<u8>, ApiError> {
    let invalid = || {
        ApiError::field(
            ErrorReason::PageTokenInvalid,
            field,
            "the page token was not made by this call with these arguments",
        )
    };
    if token.len() > PAGE_TOKEN_BYTES_MAX {
        return Err(invalid());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let (sum, cursor) = bytes.split_first_chunk::<8>().ok_or_else(invalid)?;
    if u64::from_le_bytes(*sum) != check(scope, cursor) {
        return Err(invalid());
    }
    Ok(cursor.to_vec())
}

fn check(scope: &impl Hash, cursor: &[u8]) -> u64 {
    // SipHash with fixed keys: the same in every process and on every node of one release.
    let mut hasher = DefaultHasher::new();
    scope.hash(&mut hasher);
    cursor.hash(&mut hasher);
    hasher.finish()
}

/// The page size to use: `asked`, or `default` for 0; outside of 1..=`max` an error of `field`.
pub fn page_size(asked: i32, default: usize, max: usize, field: &str) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(size) if size <= max => Ok(size),
        _ => Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            field,
            format!("a page has 1 to {max} entries"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_call_only() {
        let token = encode(&("ListThings", "of-one"), b"cursor");
        assert_eq!(
            decode(&("ListThings", "of-one"), &token, "page_token").unwrap(),
            b"cursor"
        );
        for (scope, token) in [
            (("ListThings", "of-another"), token.as_str()),
            (("ListThings", "of-one"), "bm90IG9uZQ"),
            (("ListThings", "of-one"), "%%%"),
            (("ListThings", "of-one"), ""),
        ] {
            let error = decode(&scope, token, "page_token").unwrap_err();
            assert_eq!(error.reason, ErrorReason::PageTokenInvalid);
            assert_eq!(error.field, "page_token");
        }
    }
}
