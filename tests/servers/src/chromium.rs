//! Chromium without a window, with a profile of its own in a temporary folder. It reaches nothing but
//! 127.0.0.1.
//!
//! The program is that of the machine (Debian: `chromium`).

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Process, Signal};

/// How long it may take to end by itself, with the processes that it started; then it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// What every one is started with. Root needs `no-sandbox`; it opens nothing but pages of tests. The rest
/// keeps it from talking to others: it does so at every start, whatever it is for.
const SWITCHES: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// A running browser. Dropping it ends it.
#[derive(Debug)]
pub struct Chromium {
    process: Process,
    folder: TempDir,
}

impl Chromium {
    /// Opens the front page of a site, which is allowed to show notifications: its origin, such as
    /// `http://127.0.0.1:8080`. More switches may be given.
    pub fn open(origin: &str, switches: &[String]) -> Result<Self> {
        let program = find_program()?;
        let folder = tempfile::Builder::new()
            .prefix("chromium-")
            .tempdir()
            .context("no temporary folder")?;
        let profile = folder.path().join("profile");
        fs::create_dir_all(profile.join("Default"))?;
        // As if the user had been asked: 1 = allowed.
        let preferences = format!(
            r#"{{"profile":{{"content_settings":{{"exceptions":{{"notifications":{{"{origin},*":{{"setting":1}}}}}}}}}}}}"#
        );
        fs::write(profile.join("Default/Preferences"), preferences)?;
        let mut arguments: Vec<String> = SWITCHES.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        arguments.extend_from_slice(switches);
        arguments.push(format!("{origin}/"));
        // Beside its profile it writes into the home of whoever runs it, and leaves sockets behind.
        let into = |name: &str| (name.to_owned(), folder.path().display().to_string());
        let process = Process::start_with(
            &program.display().to_string(),
            &arguments,
            &[into("HOME"), into("TMPDIR")],
            folder.path(),
            &folder.path().join("log"),
            Some(folder.path()),
        )?;
        Ok(Self { process, folder })
    }

    /// What it printed, for the message of a test that fails.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Whether a notification with this tag was ever kept, also one that pages are not told of: by the journal
    /// of its database.
    pub fn has_stored_notification(&self, tag: &str) -> Result<bool> {
        let folder = self.folder.path();
        let journals = fs::read_dir(folder.join("profile/Default/Platform Notifications"))
            .context("no notification was ever shown")?;
        for journal in journals {
            let bytes = fs::read(journal?.path())?;
            if bytes.windows(tag.len()).any(|part| part == tag.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Of the browser itself; it has more processes.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Killed, its other processes would still write into the folder while that is removed.
        let _ = self.process.signal(Signal::TERM);
        let until = Instant::now() + ENDS_WITHIN;
        while self.process.is_running() && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }
}

fn find_program() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join("chromium"))
        .find(|program| program.is_file())
        .context("no chromium here; install it (Debian: chromium), as `tests/run --prepare` does")
}
