//! Signed URLs: whoever has one may download until it expires, also a CDN for everybody.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use runtime::{ids::BlobId, secret::Secret};
use sha2::Sha256;

use crate::model::{MediaType, Variant};

/// Where blobs are, on the HTTP listener.
pub(crate) const BLOBS_PATH: &str = "/v1/blobs/";
/// Signs and checks URLs. All processes of the service have the same secret.
#[derive(Clone)]
pub(crate) struct UrlSigner {
    mac: Hmac<Sha256>,
    life_s: i64,
}

impl UrlSigner {
    /// URLs are good for `life` at least, and for twice that at most.
    pub(crate) fn new(secret: &Secret, life: Duration) -> Self {
        let life_s = i64::try_from(life.as_secs()).unwrap_or(i64::MAX / 4).max(1);
        // A key of HMAC is a block of its hash, filled up with zeros.
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(secret);
        let mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        Self { mac, life_s }
    }

    /// The path and query, and when it expires, in Unix seconds. Everybody who asks within one life gets
    /// the same, so that caches keep it once.
    pub(crate) fn sign(
        &self,
        blob: BlobId,
        variant: Variant,
        media_type: MediaType,
        now_unix_ms: i64,
    ) -> (String, i64) {
        let now_s = now_unix_ms.div_euclid(1_000);
        let expires_s = (now_s.div_euclid(self.life_s) + 2).saturating_mul(self.life_s);
        let (name, extension) = (variant.name(), media_type.extension());
        let path = format!("{BLOBS_PATH}{blob}/{name}.{extension}");
        let signature = self.mac_of(&path, expires_s).finalize().into_bytes();
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        (
            format!("{path}?expires={expires_s}&signature={signature}"),
            expires_s,
        )
    }

    /// Which bytes a URL is of, and for how many seconds it is good yet.
    pub(crate) fn check(
        &self,
        path: &str,
        query: &str,
        now_unix_ms: i64,
    ) -> Result<Signed, UrlError> {
        let (blob, variant) = parse_path(path).ok_or(UrlError::NotOurs)?;
        let (mut expires, mut signature) = (None, None);
        // What a CDN or a client adds is of no meaning.
        for part in query.split('&') {
            match part.split_once('=') {
                Some(("expires", value)) => expires = value.parse::<i64>().ok(),
                Some(("signature", value)) => signature = Some(value),
                _ => {}
            }
        }
        let (Some(expires_s), Some(signature)) = (expires, signature) else {
            return Err(UrlError::Unsigned);
        };
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
        let signature = signature.map_err(|_| UrlError::Unsigned)?;
        let mac = self.mac_of(path, expires_s);
        mac.verify_slice(&signature)
            .map_err(|_| UrlError::Unsigned)?;
        let left_s = expires_s.saturating_sub(now_unix_ms.div_euclid(1_000));
        match u64::try_from(left_s) {
            Ok(left_s) if left_s > 0 => Ok(Signed {
                blob,
                variant,
                left: Duration::from_secs(left_s),
            }),
            _ => Err(UrlError::Expired),
        }
    }

    fn mac_of(&self, path: &str, expires_s: i64) -> Hmac<Sha256> {
        self.mac
            .clone()
            .chain_update(path)
            .chain_update("\n")
            .chain_update(expires_s.to_string())
    }
}

/// What a good URL says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) blob: BlobId,
    pub(crate) variant: Variant,
    /// Until it expires.
    pub(crate) left: Duration,
}

/// Why a URL is good for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UrlError {
    /// There is nothing there.
    NotOurs,
    /// Without our signature.
    Unsigned,
    /// It was good once.
    Expired,
}

fn parse_path(path: &str) -> Option<(BlobId, Variant)> {
    let (blob, file) = path.strip_prefix(BLOBS_PATH)?.split_once('/')?;
    let (name, _extension) = file.split_once('.')?;
    let variant = Variant::ALL.into_iter().find(|v| v.name() == name)?;
    Some((BlobId::parse(blob).ok()?, variant))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn signer() -> UrlSigner {
        UrlSigner::new(&[7; 32], Duration::from_secs(3_600))
    }

    #[test]
    fn a_url_is_good_for_an_hour_at_least_and_the_same_for_all_who_ask_meanwhile() {
        let (signer, blob) = (signer(), BlobId::generate());
        let sign = |now| signer.sign(blob, Variant::Small, MediaType::Jpeg, now);
        let (url, expires_s) = sign(5 * HOUR_MS);
        assert_eq!(sign(6 * HOUR_MS - 1), (url.clone(), expires_s));
        assert_ne!(sign(6 * HOUR_MS).0, url);
        assert_eq!(expires_s, 7 * 3_600);
        let (path, query) = url.split_once('?').unwrap();
        let signed = signer.check(path, query, 6 * HOUR_MS).unwrap();
        assert_eq!((signed.blob, signed.variant), (blob, Variant::Small));
        assert_eq!(signed.left, Duration::from_secs(3_600));
        let expired = signer.check(path, query, 7 * HOUR_MS);
        assert_eq!(expired, Err(UrlError::Expired));
    }

    #[test]
    fn nobody_makes_a_url_of_another_blob_variant_or_time() {
        let (signer, blob) = (signer(), BlobId::generate());
        let (url, expires) = signer.sign(blob, Variant::Small, MediaType::Jpeg, HOUR_MS);
        let (path, query) = url.split_once('?').unwrap();
        let other = BlobId::generate().to_string();
        for (path, query) in [
            (path.replace(&blob.to_string(), &other), query.to_owned()),
            (path.replace("small", "original"), query.to_owned()),
            (path.replace(".jpg", ".html"), query.to_owned()),
            (
                path.to_owned(),
                query.replace(&expires.to_string(), &(expires + 1).to_string()),
            ),
            (path.to_owned(), String::new()),
            (path.to_owned(), format!("expires={expires}&signature=")),
        ] {
            let checked = signer.check(&path, &query, HOUR_MS);
            assert_eq!(checked, Err(UrlError::Unsigned), "{path}?{query}");
        }
        let another = UrlSigner::new(&[8; 32], Duration::from_secs(3_600));
        let checked = another.check(path, query, HOUR_MS);
        assert_eq!(checked, Err(UrlError::Unsigned));
        for path in ["/", "/v1/blobs/x/small.jpg", "/v1/blobs/../../etc/passwd"] {
            let checked = signer.check(path, query, HOUR_MS);
            assert_eq!(checked, Err(UrlError::NotOurs), "{path}");
        }
    }
}
