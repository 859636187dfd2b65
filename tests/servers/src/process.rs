//! A server process that does not outlive this one, however this one ends.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Starts the server, says its pid, and waits for whichever comes first: the server's end, or the
/// end of its own input, which is a pipe from this process. The kernel closes that even after
/// SIGKILL of this process; then the server is killed, and the folder `$1` removed unless it is
/// empty. A signal on the parent's death would not do: it is sent when the thread that started the
/// server ends.
const SUPERVISOR: &str = r#"
temporary=$1; shift
exec 3<&0
"$@" </dev/null >&2 &
server=$!
echo "$server"
exec >/dev/null
( read -r _; trap "" TERM; kill -9 "$server" ) <&3 2>/dev/null &
watcher=$!
wait "$server"
kill "$watcher" 2>/dev/null
wait "$watcher" && [ -n "$temporary" ] && rm -rf "$temporary"
"#;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    supervisor: Child,
    pid: Pid,
    /// The end of the pipe that says that this process lives. Not left to `Child`, which closes it
    /// before it waits.
    _alive: ChildStdin,
}

impl Process {
    /// Runs `program` in `folder`; what it prints is added to the file `log`. The folder
    /// `temporary` is removed if this process ends without ending the server.
    pub fn start(
        program: &str,
        arguments: &[String],
        folder: &Path,
        log: &Path,
        temporary: Option<&Path>,
    ) -> Result<Self> {
        Self::start_with(program, arguments, &[], folder, log, temporary)
    }

    /// The same with more in its environment.
    pub fn start_with(
        program: &str,
        arguments: &[String],
        environment: &[(String, String)],
        folder: &Path,
        log: &Path,
        temporary: Option<&Path>,
    ) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(temporary.unwrap_or(Path::new("")))
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            // Ctrl-C in a terminal is for this process, which ends its servers in its own order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = supervisor.stdout.take().and_then(|stdout| {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).ok()?;
            Pid::from_raw(line.trim().parse().ok()?)
        });
        match (pid, supervisor.stdin.take()) {
            (Some(pid), Some(alive)) => Ok(Self {
                supervisor,
                pid,
                _alive: alive,
            }),
            _ => {
                let _ = supervisor.kill();
                let _ = supervisor.wait();
                anyhow::bail!("{program} did not start")
            }
        }
    }

    /// Of the server itself.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.supervisor.try_wait(), Ok(None))
    }

    /// Sends a signal. The pid is the server's own for as long as the supervisor runs, which waits
    /// for it.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        anyhow::ensure!(self.is_running(), "the server has ended");
        kill_process(self.pid, signal).context("cannot send a signal")
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> Result<()> {
        self.supervisor.wait().context("cannot wait")?;
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.is_running() {
            kill_process(self.pid, Signal::KILL).context("cannot kill")?;
            self.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The folder that cargo builds into: what tests keep between runs goes below it.
pub fn target_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("CARGO_TARGET_DIR") {
        return folder.into();
    }
    let program = std::env::current_exe().unwrap_or_default();
    let mut above = program.ancestors();
    let target = above.find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    target.map_or_else(beside, Path::to_owned)
}
