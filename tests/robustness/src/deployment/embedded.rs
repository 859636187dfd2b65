//! The messenger in one process, on embedded storage, with proxies on the ways to it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Ability, Deployment, Link, LinkState, START_DEADLINE, STOP_DEADLINE, disk::Disk, faketime,
    signal,
};

/// The only node.
const NODE: &str = "server";
/// Ways to it: a fault of one hits a part of the devices.
const LINKS: usize = 4;
/// Between two looks whether the process has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How it is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmbeddedOptions {
    /// Its clock will be changed, so that it is started with a library for that.
    pub clock: bool,
    /// Its disk will be filled, so that its data are on one of their own.
    pub disk: bool,
}

/// One server process. Killed when it is dropped.
#[derive(Debug)]
pub struct Embedded {
    program: PathBuf,
    folder: PathBuf,
    server: SocketAddr,
    proxies: Vec<Link>,
    faketime: Result<PathBuf, String>,
    process: Mutex<Process>,
    // Dropped after the process, which has files open on it.
    disk: Result<Disk, String>,
}

/// The process, and what is expected of it.
#[derive(Debug, Default)]
struct Process {
    child: Option<Child>,
    /// Nobody has ended it.
    should_run: bool,
}

impl Embedded {
    /// Starts the program `standalone`, with its data and its log in this folder.
    pub async fn start(folder: &Path, options: EmbeddedOptions) -> anyhow::Result<Self> {
        let program = tokio::task::spawn_blocking(|| harness::program("standalone")).await?;
        let data = folder.join("data");
        fs::create_dir_all(&data)?;
        let disk = match options.disk {
            true => Disk::mount(&data),
            false => Err("not asked for".to_owned()),
        };
        let faketime = match options.clock {
            true => faketime(),
            false => Err("not asked for".to_owned()),
        };
        let mut embedded = Self {
            program,
            folder: folder.to_owned(),
            server: SocketAddr::from(([127, 0, 0, 1], 0)),
            proxies: Vec::new(),
            faketime,
            disk,
            process: Mutex::default(),
        };
        embedded.set_clock(0)?;
        embedded.server = embedded.spawn().await?;
        for _ in 0..LINKS {
            embedded.proxies.push(Link::to(embedded.server).await?);
        }
        Ok(embedded)
    }

    fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        // Replaced and not written over: the library may read at any moment.
        let (new, clock) = (self.folder.join("clock.new"), self.folder.join("clock"));
        fs::write(&new, format!("{seconds:+}\n"))?;
        Ok(fs::rename(new, clock)?)
    }

    /// Starts the process; answers where it listens.
    async fn spawn(&self) -> anyhow::Result<SocketAddr> {
        let mut child = self.command()?.spawn().context("the server's program")?;
        let output = child.stdout.take().context("its output")?;
        let (found, address) = oneshot::channel();
        // Reads to the end, so that the program can always write.
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listens on http://")
                    && let Some(found) = found.take()
                {
                    // Nobody waits any more if it took too long.
                    let _ = found.send(rest.split(' ').next().unwrap_or_default().to_owned());
                }
            }
        });
        *self.process.lock() = Process {
            child: Some(child),
            should_run: true,
        };
        match tokio::time::timeout(START_DEADLINE, address).await {
            Ok(Ok(address)) => Ok(address.parse()?),
            Ok(Err(_)) => bail!("the server ended before it listened"),
            Err(_) => bail!("the server does not listen within {START_DEADLINE:?}"),
        }
    }

    fn command(&self) -> anyhow::Result<Command> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--listen={}", self.server))
            .arg("--listen-http=127.0.0.1:0")
            .arg("--data")
            .arg(self.folder.join("data"))
            .args([
                "--session-frames-per-second=1000000",
                "--calls-per-second=1000000",
                "--password-hash-kib=8",
                // Half-open connections are noticed within seconds.
                "--heartbeat-interval-ms=2000",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Ok(library) = &self.faketime {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.folder.join("clock"))
                .env("FAKETIME_CACHE_DURATION", "1")
                // Only what a wrong clock of a machine does.
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        Ok(command)
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let process = self.process.lock();
        let child = process.child.as_ref().context("the server does not run")?;
        signal(child.id(), name)
    }

    /// From now on its end is nobody's surprise.
    fn expect_end(&self) {
        self.process.lock().should_run = false;
    }

    fn has_ended(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut process = self.process.lock();
        let Some(child) = process.child.as_mut() else {
            return Ok(Some(ExitStatus::default()));
        };
        let ended = child.try_wait()?;
        if ended.is_some() {
            process.child = None;
        }
        Ok(ended)
    }
}

#[async_trait]
impl Deployment for Embedded {
    fn url(&self, device: usize) -> String {
        format!("http://{}", self.proxies[device % LINKS].address())
    }

    fn nodes(&self) -> Vec<String> {
        vec![NODE.to_owned()]
    }

    fn links(&self) -> Vec<String> {
        (0..LINKS).map(|n| format!("client-{n}>{NODE}")).collect()
    }

    fn lacks(&self, ability: Ability, _node: &str) -> Option<String> {
        match ability {
            Ability::Restart => None,
            Ability::ClockJump => self.faketime.as_ref().err().cloned(),
            Ability::FillDisk => self.disk.as_ref().err().cloned(),
        }
    }

    async fn kill(&self, _node: &str) -> anyhow::Result<()> {
        self.expect_end();
        let mut process = self.process.lock();
        if let Some(mut child) = process.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    async fn terminate(&self, node: &str) -> anyhow::Result<()> {
        self.expect_end();
        self.signal("TERM")?;
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            match self.has_ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the server was asked to stop, and ended with {status}"),
                None if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                None => {
                    self.kill(node).await?;
                    bail!("the server did not stop within {STOP_DEADLINE:?}");
                }
            }
        }
    }

    async fn start(&self, _node: &str) -> anyhow::Result<()> {
        ensure!(self.has_ended()?.is_some(), "the server runs already");
        let address = self.spawn().await?;
        ensure!(address == self.server, "the server has moved to {address}");
        Ok(())
    }

    async fn pause(&self, _node: &str) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    async fn resume(&self, _node: &str) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    async fn clock_jump(&self, _node: &str, seconds: i64) -> anyhow::Result<()> {
        self.set_clock(seconds)
    }

    async fn fill_disk(&self, _node: &str) -> anyhow::Result<()> {
        self.disk
            .as_ref()
            .map_err(|why| anyhow!(why.clone()))?
            .fill()
    }

    async fn free_disk(&self, _node: &str) -> anyhow::Result<()> {
        self.disk
            .as_ref()
            .map_err(|why| anyhow!(why.clone()))?
            .free()
    }

    async fn set_link(&self, link: &str, state: LinkState) -> anyhow::Result<()> {
        let place = self.links().iter().position(|name| name == link);
        self.proxies[place.context("no such link")?].set(state);
        Ok(())
    }

    async fn died(&self) -> Vec<String> {
        if !self.process.lock().should_run {
            return Vec::new();
        }
        match self.has_ended() {
            Ok(None) => Vec::new(),
            Ok(Some(status)) => {
                self.expect_end();
                let again = self.spawn().await;
                vec![format!(
                    "{NODE} ended with {status}; started again: {again:?}"
                )]
            }
            Err(error) => vec![format!("{NODE}: {error}")],
        }
    }

    fn logs(&self) -> Vec<(String, PathBuf)> {
        vec![(NODE.to_owned(), self.log_file())]
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = (child.kill(), child.wait());
        }
    }
}
