//! S3: a server of its own over a temporary folder, to be killed, paused and started again.
//!
//! The program is `s3s-fs`, which checks signatures and keeps objects as files. It is built once by
//! `cargo install`, from source, below cargo's target folder: 107 s on two idle cores, and no need for
//! anything but Rust and the network. Others wait for the first who needs it.

use std::{
    env, fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Process, Signal, target_folder};

/// The version of s3s-fs: the newest that our version of Rust compiles.
const VERSION: &str = "0.14.1";
/// The bucket that every server has.
pub const BUCKET: &str = "blobs";
/// Who is let in.
pub const ACCESS_KEY_ID: &str = "test";
/// The secret of [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "testtest";
/// How long a start may take; 50 ms on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(10);
/// Ports that are tried before a start has failed: somebody else may take one in the meantime.
const PORT_TRIES: usize = 8;

/// A running server. Nothing of it is left when this is dropped, and also not when the process that
/// holds it is killed.
#[derive(Debug)]
pub struct S3 {
    program: PathBuf,
    address: SocketAddr,
    // Before the folder: it must be gone when that is removed.
    process: Option<Process>,
    folder: TempDir,
}

impl S3 {
    /// Starts one with an empty [`BUCKET`] on a free port of the loopback interface.
    pub fn start() -> Result<Self> {
        let program = program()?;
        let folder = tempfile::Builder::new().prefix("s3-").tempdir()?;
        fs::create_dir_all(folder.path().join("data").join(BUCKET))?;
        let mut server = Self {
            program,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            process: None,
            folder,
        };
        for _ in 0..PORT_TRIES {
            server.address.set_port(crate::free_port()?);
            match server.start_again() {
                Err(error) if server.log().contains("in use") => drop(error),
                started => return started.map(|()| server),
            }
        }
        bail!("no free port in {PORT_TRIES} tries: {}", server.log())
    }

    /// The URL at which it listens; the same after [`Self::start_again`].
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens; the same after [`Self::start_again`].
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes an empty bucket besides [`BUCKET`].
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        fs::create_dir(self.data().join(name)).context("no new bucket")
    }

    /// The process; `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL. What was stored stays. Does nothing if it is down.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGSTOP: it keeps its connections and does not answer.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Starts a server that is down, on the same data and port, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server is running");
        let arguments = [
            "--host",
            "127.0.0.1",
            "--port",
            &self.address.port().to_string(),
            "--access-key",
            ACCESS_KEY_ID,
            "--secret-key",
            SECRET_ACCESS_KEY,
            &self.data().display().to_string(),
        ]
        .map(str::to_owned);
        let process = Process::start_with(
            &self.program.display().to_string(),
            &arguments,
            &[("RUST_LOG".to_owned(), "error".to_owned())],
            self.folder.path(),
            &self.log_file(),
            Some(self.folder.path()),
        )?;
        let process = self.process.insert(process);
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if !process.is_running() {
                self.process = None;
                bail!("s3s-fs has ended: {}", self.log());
            }
            if started.elapsed() > DEADLINE {
                self.kill()?;
                bail!("s3s-fs was not ready after {DEADLINE:?}: {}", self.log());
            }
            thread::sleep(LOOK);
        }
        // Whoever listens must be it, and not somebody who took the port before.
        thread::sleep(LOOK);
        if !process.is_running() {
            self.process = None;
            bail!("s3s-fs has ended: {}", self.log());
        }
        Ok(())
    }

    /// What it has said since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_mut().context("the server is down")?;
        process.signal(signal)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// The program, built if it is not there. Several processes may want it at once: one builds.
fn program() -> Result<PathBuf> {
    let cache = target_folder().join("servers");
    let folder = cache.join(format!("s3s-fs-{VERSION}"));
    let program = folder.join("bin/s3s-fs");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join("s3s-fs.lock"))?;
    lock.lock().context("cannot wait for who builds s3s-fs")?;
    if !program.is_file() {
        install(&cache, &folder)?;
    }
    Ok(program)
}

fn install(cache: &Path, folder: &Path) -> Result<()> {
    let build = tempfile::Builder::new()
        .prefix("building-")
        .tempdir_in(cache)?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install
        // Where the toolchain of the workspace is the one that is taken.
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["install", "--quiet", "--locked", "--features", "binary"])
        .arg(format!("s3s-fs@{VERSION}"))
        .arg("--root")
        .arg(folder)
        .arg("--target-dir")
        .arg(build.path())
        .stdin(Stdio::null());
    // Of the build that runs this, and not of that one.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        install.env_remove(variable);
    }
    let output = install.output().context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cargo cannot install s3s-fs: {said}"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
