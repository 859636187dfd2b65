//! SMTP: a mail server that keeps what it takes, and misbehaves by whom a mail is for.
//!
//! It is aiosmtpd, in an environment of Python's that is made once below cargo's target folder: 5 s, and no need for
//! anything but `python3` with `venv` and the network. Others wait for the first who needs it.
//!
//! | recipient | what happens |
//! |---|---|
//! | `nobody@` | 550 5.1.1 |
//! | `full@` | 452 4.2.2 |
//! | `later@` | 451 4.7.1, after the mail |
//! | `policy@`, `unwanted@` | 550 5.7.1; 554 5.7.1, after the mail |
//! | `plain@` | 550 and no more |
//! | `away@` | 421 |
//! | `slow@` | two seconds |
//! | `lost-answer@` | kept, and the connection is cut before the answer; once for each such address |

use std::{
    fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::process::{Process, target_folder};

const VERSION: &str = "1.4.6";
const HANDLER: &str = include_str!("smtp/handler.py");
/// How long a start may take; 300 ms on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(10);
/// Times that the installation is tried: the network is not always there.
const INSTALL_TRIES: u32 = 3;

/// A running server. Nothing of it is left when this is dropped, and also not when the process that
/// holds it is killed.
#[derive(Debug)]
pub struct Smtp {
    python: PathBuf,
    address: SocketAddr,
    options: SmtpOptions,
    // Before the folder: it must be gone when that is removed.
    process: Option<Process>,
    folder: TempDir,
}

/// How a server is to be.
#[derive(Debug, Clone, Default)]
pub struct SmtpOptions {
    /// A user and a password that it insists on.
    pub credentials: Option<(String, String)>,
    /// It speaks TLS.
    pub tls: Option<SmtpTls>,
}

/// With what a server speaks TLS.
#[derive(Debug, Clone)]
pub struct SmtpTls {
    /// From the beginning of a connection, and not only after `STARTTLS`.
    pub implicit: bool,
    /// In PEM.
    pub certificate: String,
    /// In PEM.
    pub key: String,
}

impl SmtpOptions {
    fn tls_mode(&self) -> &'static str {
        match &self.tls {
            None => "",
            Some(tls) if tls.implicit => "implicit",
            Some(_) => "starttls",
        }
    }
}

/// A mail as it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mail {
    /// The sender of the envelope.
    pub from: String,
    /// The recipient of the envelope.
    pub to: String,
    /// Headers and body.
    pub data: String,
}

impl Smtp {
    /// Starts one that lets everybody in.
    pub fn start() -> Result<Self> {
        Self::start_with(&SmtpOptions::default())
    }

    /// Starts one.
    pub fn start_with(options: &SmtpOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("smtp-").tempdir()?;
        fs::create_dir(folder.path().join("mails"))?;
        fs::write(folder.path().join("handler.py"), HANDLER)?;
        let mut server = Self {
            options: options.clone(),
            python: python()?,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, crate::free_port()?)),
            process: None,
            folder,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Where it listens; the same after [`Self::start_again`].
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has taken, in order.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.folder.path().join("mails"))? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                files.push(path);
            }
        }
        files.sort();
        let read = |path: &PathBuf| Ok(serde_json::from_slice(&fs::read(path)?)?);
        files.iter().map(read).collect()
    }

    /// SIGKILL. What it has taken stays. Does nothing if it is down.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts a server that is down, on the same port, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is running");
        let first = self.mails()?.len().to_string();
        let mut arguments = vec!["handler.py".to_owned(), "mails".to_owned()];
        if let Some((user, password)) = &self.options.credentials {
            arguments.extend([user.clone(), password.clone()]);
        }
        if let Some(tls) = &self.options.tls {
            fs::write(self.folder.path().join("certificate.pem"), &tls.certificate)?;
            fs::write(self.folder.path().join("key.pem"), &tls.key)?;
        }
        let log = self.folder.path().join("log");
        let process = Process::start_with(
            &self.python.display().to_string(),
            &arguments,
            &[
                ("PORT".to_owned(), self.address.port().to_string()),
                ("FIRST".to_owned(), first),
                ("TLS".to_owned(), self.options.tls_mode().to_owned()),
            ],
            self.folder.path(),
            &log,
            Some(self.folder.path()),
        )?;
        let process = self.process.insert(process);
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if !process.is_running() {
                self.process = None;
                bail!("aiosmtpd has ended: {}", said());
            }
            if started.elapsed() > DEADLINE {
                self.kill()?;
                bail!("aiosmtpd was not ready after {DEADLINE:?}: {}", said());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// The interpreter that has aiosmtpd, made if it is not there. Several processes may want it at once: one makes it.
fn python() -> Result<PathBuf> {
    let cache = target_folder().join("servers");
    let folder = cache.join(format!("aiosmtpd-{VERSION}"));
    let python = folder.join("bin/python");
    let done = folder.join("done");
    if done.is_file() {
        return Ok(python);
    }
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join("aiosmtpd.lock"))?;
    lock.lock()
        .context("cannot wait for who installs aiosmtpd")?;
    let mut tries = 0;
    while !done.is_file() {
        tries += 1;
        match install(&folder, &python) {
            Ok(()) => fs::write(&done, VERSION)?,
            Err(error) if tries == INSTALL_TRIES => return Err(error),
            Err(_) => thread::sleep(Duration::from_secs(1)),
        }
    }
    Ok(python)
}

fn install(folder: &Path, python: &Path) -> Result<()> {
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(folder);
    run(
        &mut make,
        "python3 cannot make an environment (Debian: python3-venv)",
    )?;
    let mut install = Command::new(python);
    let package = format!("aiosmtpd=={VERSION}");
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &package,
    ]);
    run(&mut install, "pip cannot install aiosmtpd")
}

fn run(command: &mut Command, what: &'static str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context(what)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {said}");
    Ok(())
}
