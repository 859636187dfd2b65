//! PostgreSQL: a cluster of its own in a temporary folder, to be killed, paused and started again.
//!
//! The programs are those of the machine (Debian: `postgresql`). Works on Linux only: the processes
//! of a server are found in `/proc`, by the folder that they work in.

use std::{
    cmp::Reverse,
    env, fs,
    fs::{OpenOptions, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// The superuser of every cluster. Whoever reaches the loopback interface is let in.
pub const USER: &str = "test";
/// Who runs the server when the caller is root, whom PostgreSQL refuses.
const UNPRIVILEGED: &str = "nobody";
/// How long a start, a stop or a new database may take; seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at whether something has happened.
const LOOK: Duration = Duration::from_millis(10);
/// Ports that are tried before a start has failed: somebody else may take one in the meantime.
const PORT_TRIES: usize = 8;

/// Outlives whoever started it: when its input ends, it kills what works in the data folder, again
/// until nothing does, and removes everything. `find` reads every link in one process.
const JANITOR: &str = r#"
cat >/dev/null
tries=0
while [ "$tries" -lt 200 ]; do
    left=$(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1/data" 2>/dev/null | cut -d/ -f3)
    [ -n "$left" ] || break
    kill -s KILL $left 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05
done
rm -rf "$1"
"#;

/// How a server is to run.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Syncs to the disk. Without it, the death of processes still loses nothing, a loss of power
    /// may.
    pub durable: bool,
    /// `max_connections` of the server.
    pub connections_max: u32,
    /// Further settings, as (name, value).
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// As in production: a commit is on the disk before it is answered.
    pub const fn durable() -> Self {
        Self {
            durable: true,
            connections_max: 100,
            settings: Vec::new(),
        }
    }

    /// For suites: no waiting for the disk. What was committed survives [`Postgres::kill`].
    pub const fn fast() -> Self {
        Self {
            durable: false,
            connections_max: 200,
            settings: Vec::new(),
        }
    }
}

/// A running server. Nothing of it is left when this is dropped, and also not when the process that
/// holds it is killed.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    run_as: Option<Account>,
    options: PostgresOptions,
    port: u16,
    postmaster: Option<Child>,
    janitor: Child,
}

impl Postgres {
    /// Makes a cluster and starts it on a free port of the loopback interface.
    pub fn start(options: PostgresOptions) -> Result<Self> {
        let programs = find_programs()?;
        let folder = tempfile::Builder::new()
            .prefix("postgres-")
            .tempdir()
            .context("no temporary folder")?
            .keep();
        // From here on the folder is the janitor's to remove.
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the caller; this must still be there afterwards.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let mut server = Self {
            programs,
            folder,
            run_as: None,
            options,
            port: 0,
            postmaster: None,
            janitor,
        };
        server.make_cluster()?;
        for _ in 0..PORT_TRIES {
            server.port = crate::free_port()?;
            match server.start_again() {
                Err(error) if server.log().contains("could not bind") => drop(error),
                started => return started.map(|()| server),
            }
        }
        bail!("no free port in {PORT_TRIES} tries: {}", server.log())
    }

    /// The URL of a database on this server, which need not be there yet.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1; the same after [`Self::start_again`].
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database.
    pub fn create_database(&self, name: &str) -> Result<()> {
        let mut createdb = self.command("createdb");
        createdb
            .args(["-h", "127.0.0.1", "-U", USER, "-T", "template0", "-p"])
            .arg(self.port.to_string())
            .arg(name);
        run(createdb)
    }

    /// The process that everything else of the server is a child of; `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// Kills every process of the server at once: a crash. The data stay as they are.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else {
            return Ok(());
        };
        // Stopped first, so that it neither starts children nor tells them to end cleanly.
        signal("STOP", &[postmaster.id()])?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "cannot kill {left:?}");
            signal("KILL", &left)?;
            thread::sleep(LOOK);
        }
        postmaster.kill().context("cannot kill the postmaster")?;
        postmaster
            .wait()
            .context("cannot wait for the postmaster")?;
        Ok(())
    }

    /// Stops every process where it is; connections stay open and nobody answers.
    pub fn pause(&self) -> Result<()> {
        let Some(postmaster) = &self.postmaster else {
            bail!("the server is down");
        };
        // First the one that starts others.
        signal("STOP", &[postmaster.id()])?;
        signal("STOP", &self.processes()?)
    }

    /// Lets a paused server go on.
    pub fn resume(&self) -> Result<()> {
        signal("CONT", &self.processes()?)
    }

    /// Starts a server that is down, on the same data and port, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.postmaster.is_none(), "the server is running");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .context("no file for the server's log")?;
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data());
        for (name, value) in self.settings() {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres.stderr(log.try_clone()?).stdout(log);
        let postmaster = self.postmaster.insert(postgres.spawn()?);
        let pid = postmaster.id();
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = postmaster.try_wait()? {
                self.postmaster = None;
                bail!("postgres ended with {status}: {}", self.log());
            }
            if is_ready(&self.folder.join("data/postmaster.pid"), pid) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.log();
                self.kill()?;
                bail!("postgres was not ready after {DEADLINE:?}: {log}");
            }
            thread::sleep(LOOK);
        }
    }

    /// What the server has written into its log so far, over all starts.
    pub fn log(&self) -> String {
        fs::read(self.log_file()).map_or_else(
            |error| format!("no log: {error}"),
            |log| String::from_utf8_lossy(&log).into_owned(),
        )
    }

    fn make_cluster(&mut self) -> Result<()> {
        fs::create_dir(self.data())?;
        if fs::metadata("/proc/self")?.uid() == 0 {
            let account = Account::find(UNPRIVILEGED)?;
            // To pass through; what is inside is that user's own.
            fs::set_permissions(&self.folder, Permissions::from_mode(0o755))?;
            chown(self.data(), Some(account.user), Some(account.group))?;
            self.run_as = Some(account);
        }
        let mut initdb = self.command("initdb");
        initdb
            .args(["-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "-D"])
            .arg(self.data());
        run(initdb)
    }

    fn settings(&self) -> Vec<(String, String)> {
        let on_or_off = if self.options.durable { "on" } else { "off" };
        let mut settings: Vec<(String, String)> = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("shared_buffers", "128MB"),
            ("fsync", on_or_off),
            ("full_page_writes", on_or_off),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        settings.push(("port".to_owned(), self.port.to_string()));
        let connections_max = self.options.connections_max.to_string();
        settings.push(("max_connections".to_owned(), connections_max));
        settings.extend(self.options.settings.iter().cloned());
        settings
    }

    /// One of PostgreSQL's programs, as the user that may run them, in the data folder.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match &self.run_as {
            None => Command::new(program),
            Some(account) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={}", account.user))
                    .arg(format!("--regid={}", account.group))
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        };
        command
            .current_dir(self.data())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            // Ctrl-C is for the caller, who then drops this.
            .process_group(0);
        command
    }

    /// Every process that works in the data folder. Those that have ended are not among them.
    fn processes(&self) -> Result<Vec<u32>> {
        let data = self.data();
        let mut processes = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
                continue;
            };
            // One that has gone in the meantime, or is somebody else's, has no folder to read.
            if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data) {
                processes.push(pid);
            }
        }
        Ok(processes)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The end of its input is the janitor's sign; it ends by itself, whatever it can do.
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
        if let Some(postmaster) = &mut self.postmaster {
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
    }
}

/// A user of the machine, by numbers.
#[derive(Debug)]
struct Account {
    user: u32,
    group: u32,
}

impl Account {
    fn find(name: &str) -> Result<Self> {
        let number = |flag| -> Result<u32> {
            let output = Command::new("id").args([flag, name]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.trim()
                .parse()
                .with_context(|| format!("no user {name}"))
        };
        Ok(Self {
            user: number("-u")?,
            group: number("-g")?,
        })
    }
}

/// The folder with `initdb` and the rest: of the one in the path, or the newest that Debian has.
fn find_programs() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).filter_map(|folder| {
        // Often a link into the folder that has all of them.
        let program = folder.join("initdb").canonicalize().ok()?;
        Some(program.parent()?.to_owned())
    });
    let mut of_debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    of_debian.sort_by_key(|(version, _)| Reverse(*version));
    in_path
        .chain(of_debian.into_iter().map(|(_, folder)| folder))
        .find(|folder| {
            ["initdb", "postgres", "createdb"]
                .iter()
                .all(|p| folder.join(p).exists())
        })
        .context("no initdb, postgres and createdb here; install PostgreSQL (Debian: postgresql)")
}

/// Whether the server of this process accepts connections: what `pg_ctl --wait` looks at, too.
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    let mut lines = text.lines();
    // A file that a crash has left behind has another pid.
    let is_its_own = lines.next().is_some_and(|line| line == pid.to_string());
    is_its_own && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

/// Sends a signal; processes that have gone in the meantime are no error.
fn signal(name: &str, processes: &[u32]) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    Command::new("sh")
        .args(["-c", "kill -s \"$@\" 2>/dev/null", "sh", name])
        .args(processes.iter().map(u32::to_string))
        .status()
        .context("cannot start sh")?;
    Ok(())
}

/// Runs a program to its end.
fn run(mut command: Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests;
