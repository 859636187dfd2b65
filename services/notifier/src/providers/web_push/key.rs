//! The key that push services know us by (VAPID, RFC 8292).

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use web_push_native::p256::{
    SecretKey,
    elliptic_curve::sec1::ToEncodedPoint as _,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding},
};

use super::super::{SetupError, read};

/// A key of P-256. Its `Debug` shows the public half.
pub struct VapidKey {
    pub(super) encoding: EncodingKey,
    public: Box<[u8; 65]>,
}

impl std::fmt::Debug for VapidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("VapidKey")
            .field(&self.public_text())
            .finish()
    }
}

impl VapidKey {
    /// The key in a file: PKCS#8 in PEM, or its 32 bytes in base64url as the usual tools print them.
    pub fn load(path: &Path) -> Result<Self, SetupError> {
        let malformed = || SetupError::Credential {
            path: path.to_owned(),
            problem: "not a key of P-256, in PKCS#8 or as 32 bytes in base64url".to_owned(),
        };
        let text = read(path)?;
        let secret = match text.contains("-----BEGIN") {
            true => SecretKey::from_pkcs8_pem(text.trim()).ok(),
            false => URL_SAFE_NO_PAD
                .decode(text.trim().trim_end_matches('='))
                .ok()
                .and_then(|bytes| SecretKey::from_slice(&bytes).ok()),
        };
        Self::of(&secret.ok_or_else(malformed)?).ok_or_else(malformed)
    }

    /// The key in a file, which is made with a new key, readable by its owner only, if there is none. It
    /// must be kept: browsers subscribe to it, and take pushes of no other.
    pub fn load_or_create(path: &Path) -> Result<Self, SetupError> {
        match Self::load(path) {
            Err(SetupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(|source| SetupError::File {
                    path: path.to_owned(),
                    source,
                })?;
                // Read again: of two processes that create it at once, one makes the file.
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    fn of(secret: &SecretKey) -> Option<Self> {
        let pkcs8 = secret.to_pkcs8_der().ok()?;
        let point = secret.public_key().to_encoded_point(false);
        Some(Self {
            encoding: EncodingKey::from_ec_der(pkcs8.as_bytes()),
            public: Box::new(point.as_bytes().try_into().ok()?),
        })
    }

    /// What browsers subscribe with (`applicationServerKey`): an uncompressed point.
    pub fn public(&self) -> &[u8; 65] {
        &self.public
    }

    /// The same in base64url.
    pub(super) fn public_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(*self.public)
    }
}

/// Writes beside the file and links it into place: it is there whole, or not at all, and one that another
/// process made meanwhile is kept.
fn create(path: &Path) -> io::Result<()> {
    let secret = loop {
        // One in 2^32 is not below the order of the curve.
        if let Ok(secret) = SecretKey::from_slice(&rand::random::<[u8; 32]>()) {
            break secret;
        }
    };
    let pem = secret
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_the_same_in_both_forms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/vapid.pem");
        let made = VapidKey::load_or_create(&path).unwrap();
        let again = VapidKey::load_or_create(&path).unwrap();
        assert_eq!(made.public(), again.public());
        let pem = fs::read_to_string(&path).unwrap();
        let secret = SecretKey::from_pkcs8_pem(&pem).unwrap();
        let raw = URL_SAFE_NO_PAD.encode(secret.to_bytes());
        let path = folder.path().join("raw");
        fs::write(&path, format!("{raw}=\n")).unwrap();
        let loaded = VapidKey::load(&path).unwrap();
        assert_eq!(made.public(), loaded.public());
        assert!(!format!("{loaded:?}").contains(&raw));
        fs::write(&path, format!("{raw}AAAA")).unwrap();
        let error = VapidKey::load(&path).unwrap_err().to_string();
        assert!(!error.contains(&raw), "{error}");
    }
}
