//! A server as a process of its own, to be killed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, mpsc},
};

use tempfile::TempDir;

use crate::{DEADLINE, eventually};

/// What the process is told, besides where it listens and keeps its data.
#[derive(Debug, Clone)]
pub struct StandaloneOptions(pub Vec<String>);

impl Default for StandaloneOptions {
    /// No limits on rates, and passwords that cost nothing.
    fn default() -> Self {
        let options = [
            "--session-frames-per-second=1000000",
            "--calls-per-second=1000000",
            "--password-hash-kib=8",
        ];
        Self(options.map(str::to_owned).to_vec())
    }
}

/// A running server. Killed when it is dropped.
pub struct ServerProcess {
    child: Child,
    url: String,
    options: StandaloneOptions,
    folder: TempDir,
}

impl ServerProcess {
    /// Starts the program on a free port; answers when it listens.
    pub fn start(options: StandaloneOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the data");
        let (child, url) = spawn(folder.path(), "127.0.0.1:0", &options);
        Self {
            child,
            url,
            options,
            folder,
        }
    }

    /// For clients.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Bytes of memory that the process has now.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("a running process");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = kib.and_then(|kib| kib.split_whitespace().next());
        1_024 * kib.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
    }

    /// The folder that it keeps everything in.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends it at once, as a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop, and waits until it has. The clients of the test go on meanwhile: they have to
    /// let their connections go.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id();
        // There is no safe call for it in the standard library.
        let told = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -TERM {pid}"))
            .status();
        assert!(told.is_ok_and(|told| told.success()), "cannot signal {pid}");
        let child = Mutex::new(&mut self.child);
        eventually("the server's end", async || {
            let ended = child.lock().map(|mut child| child.try_wait());
            ended.expect("no panic").expect("a child")
        })
        .await
    }

    /// Starts it on the same data and the same port, after [`Self::kill`] or [`Self::terminate`].
    pub fn start_again(&mut self) {
        self.kill();
        let listen = self.url.trim_start_matches("http://").to_owned();
        let (child, url) = spawn(self.folder.path(), &listen, &self.options);
        assert_eq!(url, self.url);
        self.child = child;
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, listen: &str, options: &StandaloneOptions) -> (Child, String) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("a log");
    let mut child = Command::new(program("standalone"))
        .arg("--listen")
        .arg(listen)
        .arg("--listen-http=127.0.0.1:0")
        .arg("--data")
        .arg(folder.join("data"))
        .args(&options.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the server's program");
    let output = child.stdout.take().expect("its output");
    let (found, url) = mpsc::channel();
    // Reads to the end, so that the program can always write.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("listens on ") {
                let _ = found.send(rest.split(' ').next().unwrap_or_default().to_owned());
            }
        }
    });
    match url.recv_timeout(DEADLINE) {
        Ok(url) => (child, url),
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("the server did not say where it listens:\n{log}");
        }
    }
}

/// A program of the workspace (`standalone`, `messenger`), beside the one that runs this; built if it
/// is not there or older than its sources.
pub fn program(name: &str) -> PathBuf {
    servers::program(name).expect("a program to test")
}
