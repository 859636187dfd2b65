//! Ed25519 keys that tokens are signed with, and the files that keep them over a restart.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ed25519_dalek::{
    SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, spki::der::pem},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    UserCaller,
    verifier::{UserClaims, UserKey},
};

/// Bytes of the hash of a public key that its id shows: enough that two keys never share one.
const KEY_ID_BYTES: usize = 8;

/// Why there is no key, or no token.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Not an Ed25519 key: a private one in PKCS#8, a public one in SubjectPublicKeyInfo, both PEM.
    #[error("not an ed25519 key in pem: {0}")]
    Malformed(String),
    /// The token could not be signed.
    #[error("the token could not be signed: {0}")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

/// A key that signs tokens, with its public half. Clones share it.
#[derive(Clone)]
pub struct KeyPair {
    key_id: Arc<str>,
    public: VerifyingKey,
    public_pem: Arc<str>,
    encoding: Arc<EncodingKey>,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyPair").field(&self.key_id).finish()
    }
}

impl KeyPair {
    /// A new key that is kept nowhere.
    pub fn generate() -> Result<Self, KeyError> {
        Self::of(&new_key())
    }

    /// The key in a file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let pem = fs::read_to_string(path).map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::of(&SigningKey::from_pkcs8_pem(&pem).map_err(malformed)?)
    }

    /// The key in a file, which is made with a new key, readable by its owner only, if there is
    /// none.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let pem = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path, &new_key())?;
                // Read again: of two processes that create it at once, one makes the file.
                fs::read_to_string(path).map_err(io)?
            }
            read => read.map_err(io)?,
        };
        let key = SigningKey::from_pkcs8_pem(&pem).map_err(malformed)?;
        Self::of(&key)
    }

    fn of(key: &SigningKey) -> Result<Self, KeyError> {
        let public = key.verifying_key();
        let private = key.to_pkcs8_der().map_err(malformed)?;
        Ok(Self {
            key_id: key_id(&public).into(),
            public,
            public_pem: public
                .to_public_key_pem(pem::LineEnding::LF)
                .map_err(malformed)?
                .into(),
            encoding: Arc::new(EncodingKey::from_ed_der(private.as_bytes())),
        })
    }

    /// The `kid` of the tokens signed with it: derived from the public key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half, SubjectPublicKeyInfo in PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The public half, to verify service tokens with.
    pub fn public(&self) -> VerifyingKey {
        self.public
    }

    /// The public half as verifiers of user tokens want it.
    pub fn user_key(&self) -> UserKey {
        UserKey {
            key_id: self.key_id.to_string(),
            pem: self.public_pem.to_string(),
        }
    }

    /// An access token of a user. Its times have a resolution of a second.
    pub fn sign_user(&self, caller: &UserCaller) -> Result<String, KeyError> {
        self.sign(&UserClaims::of(caller))
    }

    pub(super) fn sign<T: Serialize>(&self, claims: &T) -> Result<String, KeyError> {
        let header = Header {
            kid: Some(self.key_id.to_string()),
            ..Header::new(Algorithm::EdDSA)
        };
        Ok(jsonwebtoken::encode(&header, claims, &self.encoding)?)
    }
}

/// The id that a public key has in the headers of tokens.
pub(super) fn key_id(key: &VerifyingKey) -> String {
    let hash = Sha256::digest(key.as_bytes());
    let shown = hash.iter().take(KEY_ID_BYTES);
    shown.map(|byte| format!("{byte:02x}")).collect()
}

/// For the JWT library, which panics on an Ed25519 key that is too short: made from a checked one.
pub(super) fn decoding_key(key: &VerifyingKey) -> DecodingKey {
    DecodingKey::from_ed_der(key.as_bytes())
}

pub(super) fn public_key(pem: &str) -> Result<VerifyingKey, KeyError> {
    VerifyingKey::from_public_key_pem(pem).map_err(malformed)
}

fn new_key() -> SigningKey {
    SigningKey::from_bytes(&rand::random())
}

/// Writes beside the file and links it into place: it is there whole, or not at all, and one that
/// another process made meanwhile is kept.
fn create(path: &Path, key: &SigningKey) -> Result<(), KeyError> {
    let pem = key.to_pkcs8_pem(pem::LineEnding::LF).map_err(malformed)?;
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::remove_file(&temporary)?;
        if let Some(folder) = path.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })
}

fn malformed(error: impl std::fmt::Display) -> KeyError {
    KeyError::Malformed(error.to_string())
}
