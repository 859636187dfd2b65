//! What is judged, as its operator sees it: processes to be killed, links to be cut.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::ensure;
use async_trait::async_trait;

mod cluster;
mod disk;
mod embedded;

pub use ::cluster::{Link, LinkState};
pub use cluster::{Clustered, ClusteredOptions};
pub use embedded::{Embedded, EmbeddedOptions};

/// Where Debian's package `faketime` puts the library.
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// What a deployment may be unable to do on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// [`Deployment::terminate`].
    Restart,
    /// [`Deployment::clock_jump`].
    ClockJump,
    /// [`Deployment::fill_disk`].
    FillDisk,
}

/// A running messenger of one or many processes.
///
/// Nodes and links have names that end in a number where there are several of a kind: `messaging-0`,
/// `client-1>messaging-0`.
#[async_trait]
pub trait Deployment: Send + Sync {
    /// Where a device finds it: a url, or several with commas between them.
    fn url(&self, device: usize) -> String;
    /// The processes.
    fn nodes(&self) -> Vec<String>;
    /// The ways between clients and processes, and between processes: `FROM>TO`.
    fn links(&self) -> Vec<String>;
    /// Why it cannot do this to this node; `None` if it can.
    fn lacks(&self, ability: Ability, node: &str) -> Option<String>;

    /// Ends the process at once: SIGKILL.
    async fn kill(&self, node: &str) -> anyhow::Result<()>;
    /// Asks the process to stop, and waits until it has: SIGTERM.
    async fn terminate(&self, node: &str) -> anyhow::Result<()>;
    /// Starts a process that was ended; answers when it can be used.
    async fn start(&self, node: &str) -> anyhow::Result<()>;
    /// Stops the process where it is: SIGSTOP.
    async fn pause(&self, node: &str) -> anyhow::Result<()>;
    /// Lets it go on: SIGCONT.
    async fn resume(&self, node: &str) -> anyhow::Result<()>;
    /// The process's wall clock is so many seconds off; 0 = right again.
    async fn clock_jump(&self, node: &str, seconds: i64) -> anyhow::Result<()>;
    /// Nothing more can be written where the process keeps its data.
    async fn fill_disk(&self, node: &str) -> anyhow::Result<()>;
    /// There is room again.
    async fn free_disk(&self, node: &str) -> anyhow::Result<()>;
    /// Changes what a link does.
    async fn set_link(&self, link: &str, state: LinkState) -> anyhow::Result<()>;

    /// Processes that ended although nobody ended them, each once; they are started again.
    async fn died(&self) -> Vec<String>;
    /// What the processes have logged, by node.
    fn logs(&self) -> Vec<(String, PathBuf)>;
}

/// The library that moves the clocks of processes, or why there is none.
pub(crate) fn faketime() -> Result<PathBuf, String> {
    let mut places = FAKETIME.iter().map(PathBuf::from);
    let place = places.find(|path| path.exists());
    place.ok_or_else(|| "no libfaketime here (Debian: faketime)".to_owned())
}

/// The kind of a node or a link: its name without numbers.
pub fn kind_of(name: &str) -> String {
    let plain = |part: &str| match part.rsplit_once('-') {
        Some((kind, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kind.to_owned(),
        _ => part.to_owned(),
    };
    let parts: Vec<_> = name.split('>').map(plain).collect();
    parts.join("-")
}

/// How long a process may take to start, on a machine where others run too.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to stop when asked.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Sends a signal, such as `STOP`. There is no safe call for it in the standard library.
pub(crate) fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let told = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status()?;
    ensure!(told.success(), "process {pid} cannot be sent {name}");
    Ok(())
}
