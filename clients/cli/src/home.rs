//! Where a person's log-ins and history are kept on this machine.
//!
//! `BASE/SERVER/NAME/` holds what one device of one account needs; `BASE/SERVER/_current` names the
//! account that logged in last. Nobody but the owner can look into it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

/// The file that names the account that logged in last; not a username, so that it is nobody's
/// folder.
const CURRENT: &str = "_current";
/// Letters of a username (profile.proto).
const USERNAME_CHARS: std::ops::RangeInclusive<usize> = 2..=32;

/// What is kept for one server.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// What is kept for one account.
#[derive(Debug)]
pub(crate) struct AccountHome {
    dir: PathBuf,
    pub(crate) username: String,
}

impl Home {
    /// Of a server, below `base` or the folder that programs keep their data in.
    pub(crate) fn new(base: Option<&Path>, server: &str) -> anyhow::Result<Self> {
        let base = match base {
            Some(base) => base.to_owned(),
            None => default_base()?,
        };
        Ok(Self {
            dir: base.join(server_key(server)),
        })
    }

    /// The account that was named, or else the one that logged in last.
    pub(crate) fn account(&self, named: Option<&str>) -> anyhow::Result<Option<AccountHome>> {
        if let Some(name) = named {
            return self.account_named(name).map(Some);
        }
        match fs::read_to_string(self.dir.join(CURRENT)) {
            Ok(name) => self.account_named(name.trim()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("cannot read who is logged in"),
        }
    }

    /// The account of this name, whether or not it has ever logged in.
    pub(crate) fn account_named(&self, name: &str) -> anyhow::Result<AccountHome> {
        let username = username(name)?;
        Ok(AccountHome {
            dir: self.dir.join(&username),
            username,
        })
    }

    /// Makes the account the one that acts unless another is named.
    pub(crate) fn set_current(&self, account: &AccountHome) -> anyhow::Result<()> {
        make_private(&self.dir)?;
        let beside = self.dir.join("_current.new");
        fs::write(&beside, format!("{}\n", account.username))
            .and_then(|()| fs::rename(&beside, self.dir.join(CURRENT)))
            .with_context(|| format!("cannot write to {}", self.dir.display()))
    }

    /// Forgets everything of the account.
    pub(crate) fn forget(&self, account: &AccountHome) -> anyhow::Result<()> {
        if let Some(current) = self.account(None)?
            && current.username == account.username
        {
            remove(fs::remove_file(self.dir.join(CURRENT)))?;
        }
        remove(fs::remove_dir_all(&account.dir))
    }
}

impl AccountHome {
    /// Makes the folder, for nobody but its owner.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        make_private(&self.dir)
    }

    pub(crate) fn exists(&self) -> bool {
        self.tokens().exists()
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.join("cache.sqlite")
    }
}

fn remove(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("cannot forget the account")
        }
        _ => Ok(()),
    }
}

fn make_private(dir: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .with_context(|| format!("cannot make the folder {}", dir.display()))
}

fn default_base() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Ok(data.join("messenger"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/share/messenger")),
        None => bail!("there is no home folder here: name one with --profile-dir"),
    }
}

/// The server as the name of a folder: `http://127.0.0.1:7400` is `at-127.0.0.1_7400`. The prefix
/// keeps an odd server from being the folder itself or the one above it.
fn server_key(server: &str) -> String {
    let authority = server.split_once("://").map_or(server, |(_, rest)| rest);
    let key: String = authority
        .trim_end_matches('/')
        .chars()
        .map(|c| match c {
            '.' | '-' => c,
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        })
        .collect();
    format!("at-{key}")
}

/// The name as the server knows it; it becomes part of a path, so nothing else may pass.
pub(crate) fn username(name: &str) -> anyhow::Result<String> {
    let name = name.trim_start_matches('@').to_ascii_lowercase();
    let is_valid = USERNAME_CHARS.contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c));
    ensure!(
        is_valid,
        "{:?} is not a username: 2 to 32 of a-z 0-9 _ . -, beginning with a letter or a digit",
        name
    );
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_and_no_server_leads_out_of_the_folder() {
        for name in [
            "",
            "a",
            "..",
            "../x",
            "a/b",
            "_current",
            "-x",
            "é",
            &"a".repeat(33),
        ] {
            assert!(username(name).is_err(), "{name:?}");
        }
        assert_eq!(username("@Alice").unwrap(), "alice");
        assert_eq!(server_key("http://127.0.0.1:7400/"), "at-127.0.0.1_7400");
        assert_eq!(server_key("http://../.."), "at-.._..");
    }

    #[test]
    fn the_account_that_logged_in_last_acts_until_it_is_forgotten() {
        let base = env::temp_dir().join(format!("messenger-home-{}", std::process::id()));
        let home = Home::new(Some(&base), "http://here:1").unwrap();
        assert!(home.account(None).unwrap().is_none());
        for name in ["alice", "bob"] {
            let account = home.account_named(name).unwrap();
            account.create().unwrap();
            fs::write(account.tokens(), "secret").unwrap();
            home.set_current(&account).unwrap();
        }
        let bob = home.account(None).unwrap().unwrap();
        assert_eq!(bob.username, "bob");
        assert_eq!(
            home.account(Some("alice")).unwrap().unwrap().username,
            "alice"
        );
        #[cfg(unix)]
        {
            let metadata = fs::metadata(&bob.dir).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
            assert_eq!(mode & 0o777, 0o700);
        }
        home.forget(&bob).unwrap();
        assert!(home.account(None).unwrap().is_none());
        assert!(!bob.exists());
        assert!(home.account_named("alice").unwrap().exists());
        fs::remove_dir_all(base).unwrap();
    }
}
