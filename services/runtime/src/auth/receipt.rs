//! Receipts: what the blob service says of an upload, signed, so that others need not ask it.
//!
//! A JWT like the tokens, by the key of the services, with an audience of its own: so a receipt is
//! never taken for a token, and nobody needs to know one more key.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use prost::Message;
use proto::{error::v1::ErrorReason, log::v1::Attachment};
use serde::{Deserialize, Serialize};

use super::{AUDIENCE_RECEIPT, KeyError, KeyPair, keys};
use crate::{
    clock::Clock,
    ids::{BlobId, UserId},
    status::ApiError,
};

/// Bytes of a receipt; ours have below 1,000.
pub const RECEIPT_BYTES_MAX: usize = 2_048;

/// What the blob was uploaded for: `messenger.blob.v1.Purpose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptPurpose {
    /// Of a message.
    Attachment = 1,
    /// Of a profile or a group.
    Picture = 2,
}

/// What the blob service says of an upload.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// Who uploaded it.
    pub owner: UserId,
    /// What for.
    pub purpose: ReceiptPurpose,
    /// What it is. Its `blob_id` is one.
    pub attachment: Attachment,
    /// Until when the blob is kept for whoever has this receipt, in Unix milliseconds, by full seconds.
    pub expires_unix_ms: i64,
}

impl Receipt {
    /// Of which blob.
    pub fn blob_id(&self) -> Result<BlobId, ReceiptError> {
        BlobId::from_slice(&self.attachment.blob_id).map_err(|_| ReceiptError::Invalid)
    }
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReceiptError {
    /// Not one of ours, not of this user, or not for this purpose.
    #[error("the receipt is not valid")]
    Invalid,
    /// It was good once. What it said.
    #[error("the receipt has expired")]
    Expired(Box<Receipt>),
}

impl ReceiptError {
    /// As callers hear it, of the field that had the receipt.
    pub fn of_field(&self, field: &str) -> ApiError {
        match self {
            Self::Invalid => ApiError::field(
                ErrorReason::ReceiptInvalid,
                field,
                "not a receipt of an upload of the caller for this purpose",
            ),
            Self::Expired(_) => ApiError::field(
                ErrorReason::ReceiptExpired,
                field,
                "the receipt is too old; upload the same again",
            ),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: String,
    /// Seconds, as in all JWTs.
    exp: i64,
    purpose: u8,
    /// An encoded `messenger.log.v1.Attachment`, in base64.
    blob: String,
}

/// Makes receipts.
#[derive(Clone)]
pub struct ReceiptSigner {
    key: KeyPair,
}

impl ReceiptSigner {
    /// Signs with the key of the services.
    pub const fn new(key: KeyPair) -> Self {
        Self { key }
    }

    /// The receipt in text.
    pub fn sign(&self, receipt: &Receipt) -> Result<String, KeyError> {
        self.key.sign(&Claims {
            sub: receipt.owner.to_string(),
            aud: AUDIENCE_RECEIPT.to_owned(),
            exp: receipt.expires_unix_ms.div_euclid(1_000),
            purpose: receipt.purpose as u8,
            blob: BASE64_URL_SAFE_NO_PAD.encode(receipt.attachment.encode_to_vec()),
        })
    }
}

/// Believes receipts, without asking anybody. Clones share everything.
#[derive(Clone)]
pub struct ReceiptVerifier {
    key: Arc<DecodingKey>,
    clock: Arc<dyn Clock>,
}

impl ReceiptVerifier {
    /// Knows the public key of the services.
    pub fn new(clock: Arc<dyn Clock>, service_key: &VerifyingKey) -> Self {
        Self {
            key: Arc::new(keys::decoding_key(service_key)),
            clock,
        }
    }

    /// What the receipt says, if `owner` has it for `purpose`.
    pub fn verify(
        &self,
        receipt: &str,
        owner: UserId,
        purpose: ReceiptPurpose,
    ) -> Result<Receipt, ReceiptError> {
        if receipt.len() > RECEIPT_BYTES_MAX {
            return Err(ReceiptError::Invalid);
        }
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.set_audience(&[AUDIENCE_RECEIPT]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(receipt, &self.key, &validation)
            .map_err(|_| ReceiptError::Invalid)?
            .claims;
        if claims.sub != owner.to_string() || claims.purpose != purpose as u8 {
            return Err(ReceiptError::Invalid);
        }
        let blob = BASE64_URL_SAFE_NO_PAD.decode(&claims.blob);
        let blob = blob.map_err(|_| ReceiptError::Invalid)?;
        let receipt = Receipt {
            owner,
            purpose,
            attachment: Attachment::decode(&*blob).map_err(|_| ReceiptError::Invalid)?,
            expires_unix_ms: claims.exp.saturating_mul(1_000),
        };
        receipt.blob_id()?;
        if self.clock.now_unix_ms() < receipt.expires_unix_ms {
            Ok(receipt)
        } else {
            Err(ReceiptError::Expired(Box::new(receipt)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::ServiceIdentity, clock::ManualClock};

    fn receipt() -> Receipt {
        Receipt {
            owner: UserId::generate(),
            purpose: ReceiptPurpose::Attachment,
            attachment: Attachment {
                blob_id: BlobId::generate().as_bytes().to_vec(),
                media_type: "image/jpeg".to_owned(),
                size_bytes: 1_234_567,
                sha256: vec![7; 32],
                placeholder: "LEHV6nWB2yk8pyo0adR*.7kCMdnj".to_owned(),
                ..Attachment::default()
            },
            expires_unix_ms: 5_000,
        }
    }

    #[test]
    fn a_receipt_proves_what_it_says_to_its_owner_for_its_purpose_until_it_expires() {
        let key = KeyPair::generate().unwrap();
        let clock = ManualClock::at(4_999);
        let verifier = ReceiptVerifier::new(Arc::new(clock.clone()), &key.public());
        let receipt = receipt();
        let text = ReceiptSigner::new(key.clone()).sign(&receipt).unwrap();
        assert!(text.len() < 1_000, "{} bytes", text.len());
        let (owner, purpose) = (receipt.owner, receipt.purpose);
        assert_eq!(verifier.verify(&text, owner, purpose).unwrap(), receipt);
        let invalid = Err(ReceiptError::Invalid);
        let other = UserId::generate();
        assert_eq!(verifier.verify(&text, other, purpose), invalid);
        let picture = ReceiptPurpose::Picture;
        assert_eq!(verifier.verify(&text, owner, picture), invalid);
        let forged = ReceiptSigner::new(KeyPair::generate().unwrap());
        let forged = forged.sign(&receipt).unwrap();
        assert_eq!(verifier.verify(&forged, owner, purpose), invalid);
        assert_eq!(verifier.verify("", owner, purpose), invalid);
        clock.set(5_000);
        let expired = Err(ReceiptError::Expired(Box::new(receipt)));
        assert_eq!(verifier.verify(&text, owner, purpose), expired);
    }

    #[test]
    fn a_token_of_a_service_is_no_receipt() {
        let key = KeyPair::generate().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_000));
        let verifier = ReceiptVerifier::new(clock.clone(), &key.public());
        let bearer = ServiceIdentity::new("blob", key, clock).bearer().unwrap();
        let token = bearer.to_str().unwrap().trim_start_matches("Bearer ");
        let verified = verifier.verify(token, UserId::generate(), ReceiptPurpose::Picture);
        assert_eq!(verified, Err(ReceiptError::Invalid));
    }
}
