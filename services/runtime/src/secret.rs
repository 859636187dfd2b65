//! Secrets that all processes of a service share, in files.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// A key of 256 bits, as it comes from a random source.
pub type Secret = [u8; SECRET_BYTES];

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// The secret in a file: exactly 32 bytes.
pub fn load(path: &Path) -> io::Result<Secret> {
    let bytes = fs::read(path)?;
    Secret::try_from(bytes).map_err(|_| {
        let message = format!("{} must have {SECRET_BYTES} bytes", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// The same of a file that is made with a new secret, readable by its owner only, if it is not there.
pub fn load_or_create(path: &Path) -> io::Result<Secret> {
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        loaded => return loaded,
    }
    // Beside it, and linked into place: it is there whole, or not at all.
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&rand::random::<Secret>())?;
    file.sync_all()?;
    match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::remove_file(&temporary)?;
    load(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_for_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.secret");
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), made);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(load_or_create(&path).is_err());
    }
}
