//! One service process of the cluster: its settings file, its place, and its life.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use servers::process::{Process, Signal};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Edge, sequencer and inbox reader.
    Messaging,
    /// Accounts and profiles.
    Profile,
    /// The registry of sessions.
    Presence,
    /// Groups and their fan-out.
    Groups,
    /// Pictures and video.
    Blob,
    /// Pushes to who is away.
    Notifier,
}

impl Service {
    /// Every service, in the order in which a cluster is started.
    pub const ALL: [Self; 6] = [
        Self::Profile,
        Self::Presence,
        Self::Groups,
        Self::Blob,
        Self::Messaging,
        Self::Notifier,
    ];

    /// Also the name of its program and of its database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messaging => "messaging",
            Self::Profile => "profile",
            Self::Presence => "presence",
            Self::Groups => "groups",
            Self::Blob => "blob",
            Self::Notifier => "notifier",
        }
    }

    /// A service whose state its health is asked for.
    pub(crate) const fn grpc_service(self) -> &'static str {
        match self {
            Self::Messaging => "messenger.messaging.v1.MessagingService",
            Self::Profile => "messenger.profile.v1.AccountService",
            Self::Presence => "messenger.presence.v1.PresenceService",
            Self::Groups => "messenger.groups.v1.GroupService",
            Self::Blob => "messenger.blob.v1.BlobService",
            Self::Notifier => "messenger.notifier.v1.NotifierService",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A process of a service; may be down. Killed when it is dropped.
#[derive(Debug)]
pub struct Node {
    pub(crate) service: Service,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Where it answers HTTP, if it does.
    pub(crate) http_address: Option<SocketAddr>,
    program: PathBuf,
    folder: PathBuf,
    /// The folder that is to go with the cluster, however that ends.
    temporary: Option<PathBuf>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    /// Nobody has ended it.
    should_run: bool,
}

impl Node {
    pub(crate) fn new(
        service: Service,
        name: String,
        address: SocketAddr,
        folder: &Path,
        environment: Vec<(String, String)>,
    ) -> Result<Self> {
        let http_address = match service {
            Service::Blob => Some(free_address()?),
            _ => None,
        };
        Ok(Self {
            service,
            name,
            address,
            http_address,
            program: servers::program(service.name())?,
            folder: folder.to_owned(),
            temporary: None,
            environment,
            process: None,
            should_run: false,
        })
    }

    /// Says that the folder goes when this process ends without ending the node.
    pub(crate) fn set_temporary(&mut self) {
        self.temporary = Some(self.folder.clone());
    }

    /// Writes the settings that it starts with from now on.
    pub(crate) fn set_settings(&self, toml: &str) -> Result<()> {
        fs::write(self.settings_file(), toml).context("cannot write settings")
    }

    fn settings_file(&self) -> PathBuf {
        self.folder.join(format!("{}.toml", self.name))
    }

    /// Where its log is.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Starts it, unless it runs.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let program = self.program.display().to_string();
        let settings = self.settings_file().display().to_string();
        let process = Process::start_with(
            &program,
            &["--config".to_owned(), settings],
            &self.environment,
            &self.folder,
            &self.log_file(),
            self.temporary.as_deref(),
        );
        self.process = Some(process?);
        self.should_run = true;
        Ok(())
    }

    /// Whether its process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Its process, if it was not killed.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_mut();
        process
            .with_context(|| format!("{} is down", self.name))?
            .signal(signal)
    }

    /// SIGTERM: from now on its end is nobody's surprise.
    pub(crate) fn ask_to_stop(&mut self) -> Result<()> {
        self.should_run = false;
        self.signal(Signal::TERM)
    }

    /// Whether it has ended although nobody has ended it.
    pub(crate) fn has_died(&mut self) -> bool {
        self.should_run && !self.is_running()
    }

    /// SIGKILL. Does nothing if it is down.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.should_run = false;
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Forgets a process that has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        if self.is_running() {
            return false;
        }
        self.process = None;
        true
    }
}

/// A free port for a server that will listen there again after it was killed: one that the kernel does
/// not give to outgoing connections.
pub(crate) fn free_address() -> Result<SocketAddr> {
    servers::free_port().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
