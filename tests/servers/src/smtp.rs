//! SMTP: a server that keeps the mails that it takes in a temporary folder, and misbehaves towards some
//! recipients (see `smtp/handler.py`).
//!
//! The program is aiosmtpd, which a virtual environment of Python below cargo's target folder has. It is
//! made once, in some seconds; others wait for the first who needs it.

use std::{
    fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Process, target_folder};

/// The version of aiosmtpd.
const VERSION: &str = "1.4.6";
/// What it does with mails.
const HANDLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/smtp/handler.py");
/// How long a start may take; 300 ms on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(10);
/// Tries to fetch it: registries have bad minutes.
const FETCH_TRIES: u32 = 3;

/// How a server is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Who must log in, and with which password; `None` = nobody need.
    pub credentials: Option<(&'static str, &'static str)>,
    /// With a certificate of its own for `localhost`.
    pub tls: Tls,
}

/// Whether a server speaks TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tls {
    /// No.
    #[default]
    None,
    /// From the first byte.
    Implicit,
    /// After it was asked, and then it wants it.
    StartTls,
}

/// A mail that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// What came between DATA and the dot.
    pub bytes: Vec<u8>,
    /// The port of the connection's other end: the same for mails of one connection.
    pub peer_port: u16,
    /// It came over TLS.
    pub tls: bool,
    /// Its sender had logged in.
    pub authenticated: bool,
}

/// A running server. Nothing of it is left when this is dropped, and also not when the process that
/// holds it is killed.
#[derive(Debug)]
pub struct Smtp {
    python: PathBuf,
    options: Options,
    address: SocketAddr,
    // Before the folder: it must be gone when that is removed.
    process: Option<Process>,
    folder: TempDir,
}

impl Smtp {
    /// Starts one that takes mails of everybody, without TLS, on a free port of the loopback interface.
    pub fn start() -> Result<Self> {
        Self::start_with(Options::default())
    }

    /// Starts one as it is asked for.
    pub fn start_with(options: Options) -> Result<Self> {
        let python = python()?;
        let folder = tempfile::Builder::new().prefix("smtp-").tempdir()?;
        fs::create_dir(folder.path().join("mails"))?;
        if options.tls != Tls::None {
            make_certificate(folder.path())?;
        }
        let mut server = Self {
            python,
            options,
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

    /// The certificate by which it is known, in PEM, if it speaks TLS.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// The mails that it has taken since it was first started, in their order.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.folder.path().join("mails"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "eml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| mail(path)).collect()
    }

    /// The process; `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL: its connections end. Mails stay. Does nothing if it is down.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts a server that is down, on the same folder and port, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is running");
        let folder = self.folder.path();
        let file = |name: &str| folder.join(name).display().to_string();
        let mut arguments = vec![
            HANDLER.to_owned(),
            "--folder".to_owned(),
            folder.display().to_string(),
        ];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--port", self.address.port().to_string());
        if let Some((username, password)) = self.options.credentials {
            option("--username", username.to_owned());
            option("--password", password.to_owned());
        }
        if self.options.tls != Tls::None {
            let tls = match self.options.tls {
                Tls::StartTls => "starttls",
                Tls::Implicit | Tls::None => "implicit",
            };
            option("--tls", tls.to_owned());
            option("--certificate", file("certificate.pem"));
            option("--key", file("key.pem"));
        }
        let listens = folder.join("port");
        match fs::remove_file(&listens) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let process = Process::start(
            &self.python.display().to_string(),
            &arguments,
            folder,
            &folder.join("log"),
            Some(folder),
        )?;
        let process = self.process.insert(process);
        let started = Instant::now();
        while !listens.is_file() {
            if !process.is_running() {
                self.process = None;
                bail!("aiosmtpd has ended: {}", self.log());
            }
            if started.elapsed() > DEADLINE {
                self.kill()?;
                bail!("aiosmtpd was not ready after {DEADLINE:?}: {}", self.log());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// What it has said since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn mail(path: &Path) -> Result<Mail> {
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(path.with_extension("json"))?)?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let is = |key: &str| facts[key].as_bool().unwrap_or(false);
    let to = facts["to"].as_array().context("no recipients")?;
    Ok(Mail {
        from: text(&facts["from"]).context("no sender")?,
        to: to.iter().filter_map(text).collect(),
        bytes: fs::read(path)?,
        peer_port: facts["peer_port"].as_u64().unwrap_or(0).try_into()?,
        tls: is("tls"),
        authenticated: is("authenticated"),
    })
}

/// A certificate of `localhost`, signed by itself, with its key.
fn make_certificate(folder: &Path) -> Result<()> {
    let command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
         -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
         -keyout key.pem -out certificate.pem";
    let mut openssl = Command::new("openssl");
    openssl.args(command.split_whitespace()).current_dir(folder);
    run(&mut openssl, "openssl")
}

/// Python with aiosmtpd, made if it is not there. Several processes may want it at once: one makes it.
fn python() -> Result<PathBuf> {
    let cache = target_folder().join("servers");
    let folder = cache.join(format!("aiosmtpd-{VERSION}"));
    let (python, done) = (folder.join("bin/python"), folder.join("done"));
    if done.is_file() {
        return Ok(python);
    }
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join("aiosmtpd.lock"))?;
    lock.lock()
        .context("cannot wait for who fetches aiosmtpd")?;
    if !done.is_file() {
        install(&folder)?;
        // Last: without it, what is there is of somebody who did not finish.
        fs::write(&done, VERSION)?;
    }
    Ok(python)
}

fn install(folder: &Path) -> Result<()> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(folder);
    run(&mut venv, "python3 -m venv (Debian: python3-venv)")?;
    let fetch = || {
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .arg(format!("aiosmtpd=={VERSION}"));
        run(&mut pip, "pip")
    };
    for _ in 1..FETCH_TRIES {
        match fetch() {
            Err(error) => eprintln!("fetching aiosmtpd again: {error:#}"),
            fetched => return fetched,
        }
    }
    fetch()
}

fn run(command: &mut Command, name: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {said}");
    Ok(())
}

#[cfg(test)]
mod tests;
