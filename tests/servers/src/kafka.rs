//! Apache Kafka in KRaft mode: one broker, or three that replicate.
//!
//! Every broker is a controller too. Its data, its log and its properties lie in one folder; it is
//! killed when its [`Broker`] is dropped and when this process ends, however it ends. Needs a JDK
//! and, the first time, Maven.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::BuildHasher,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::process::{Process, Signal};
use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

mod jars;
mod layout;
mod probe;

use jars::Jars;
use layout::{Layout, Node};

/// How long a broker may take to be ready. Two seconds are usual; on cores that others use, twenty.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often to look.
const POLL: Duration = Duration::from_millis(50);
/// Lines of a broker's log in an error.
const LOG_LINES: usize = 20;
/// The settings of every broker of ours, whatever their number.
///
/// Nothing may make a topic by writing to its name, and no broker without all acknowledged records
/// may become a leader. Internal topics are small: a group's offsets are a few bytes. The cleaner
/// gets 4 MiB instead of 128 MiB, which would be half of the heap.
pub const BROKER_PROPERTIES: &[(&str, &str)] = &[
    ("auto.create.topics.enable", "false"),
    ("unclean.leader.election.enable", "false"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.num.partitions", "4"),
    ("log.cleaner.dedupe.buffer.size", "4194304"),
    // The old protocol of groups: nobody is waited for, and short sessions are allowed.
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "100"),
    // The new one: the lowest that a group may ask for; the defaults are 45 and 5 seconds.
    ("group.consumer.min.session.timeout.ms", "100"),
    ("group.consumer.min.heartbeat.interval.ms", "10"),
];

/// What three brokers have besides: a dead one is noticed after 2 seconds instead of 9, a dead
/// controller after 1 second, and an append needs two of the three.
pub const REPLICATION_PROPERTIES: &[(&str, &str)] = &[
    ("min.insync.replicas", "2"),
    ("broker.session.timeout.ms", "2000"),
    ("broker.heartbeat.interval.ms", "300"),
    ("controller.quorum.fetch.timeout.ms", "1000"),
    ("controller.quorum.election.timeout.ms", "500"),
    // A follower that hangs holds up every append until it is out of the in-sync set.
    ("replica.lag.time.max.ms", "5000"),
];

/// How groups of readers (KIP-848) notice that a member is gone. The time that a killed reader's
/// partitions are silent is the session; the shorter it is, the sooner a reader that only starves
/// for a moment loses them and comes back, which moves partitions twice.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// A member that has not been heard of for so long is out. Takeover takes as long, no longer.
    pub session_timeout_ms: u32,
    /// How often members say that they are there: six chances within the session above, so that one
    /// that gets the processor late is not out. It also bounds how long a member waits for news.
    pub heartbeat_interval_ms: u32,
    /// How long the coordinator waits between two assignments. 0: it never lets a partition wait.
    pub assignment_interval_ms: u32,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            session_timeout_ms: 3_000,
            heartbeat_interval_ms: 500,
            assignment_interval_ms: 0,
        }
    }
}

/// One more address on every broker, for clients behind a proxy: who connects through it is told of
/// the advertised addresses only.
#[derive(Debug, Clone)]
pub struct ExtraListener {
    /// Its name: capital letters, digits, `_`.
    pub name: String,
    /// What each broker says of itself there: `HOST:PORT` of its proxy, one for each broker.
    pub advertised: Vec<String>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// 1, or 3 that replicate everything.
    pub brokers: usize,
    /// Where data and logs go; a temporary folder otherwise. Must be empty.
    pub folder: Option<PathBuf>,
    /// How dead readers are noticed.
    pub groups: GroupSettings,
    /// More listeners.
    pub extra_listeners: Vec<ExtraListener>,
    /// The heap of each broker. What it takes besides is about 150 MiB.
    pub heap_mib: u32,
    /// Compile at the first level only: starts faster, and works more slowly in the long run.
    pub short_lived: bool,
    /// More broker properties; they win over ours.
    pub properties: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: 1,
            folder: None,
            groups: GroupSettings::default(),
            extra_listeners: Vec::new(),
            heap_mib: 256,
            short_lived: true,
            properties: Vec::new(),
        }
    }
}

impl Options {
    /// All properties of a broker but its addresses and its folder.
    fn properties(&self, layout: &Layout, at: usize) -> Result<Vec<(String, String)>> {
        let copies = self.brokers.to_string();
        let in_sync = if self.brokers > 1 { "2" } else { "1" };
        let groups = &self.groups;
        let mut all = layout.addresses(at, &self.extra_listeners)?;
        let mut add = |key: &str, value: &str| all.push((key.to_owned(), value.to_owned()));
        for (key, value) in BROKER_PROPERTIES {
            add(key, value);
        }
        if self.brokers > 1 {
            for (key, value) in REPLICATION_PROPERTIES {
                add(key, value);
            }
        }
        add("default.replication.factor", &copies);
        add("offsets.topic.replication.factor", &copies);
        for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
            add(&format!("{topic}.replication.factor"), &copies);
            add(&format!("{topic}.min.isr"), in_sync);
        }
        let group = |name: &str| format!("group.consumer.{name}.ms");
        add(
            &group("session.timeout"),
            &groups.session_timeout_ms.to_string(),
        );
        add(
            &group("heartbeat.interval"),
            &groups.heartbeat_interval_ms.to_string(),
        );
        add(
            &group("assignment.interval"),
            &groups.assignment_interval_ms.to_string(),
        );
        for (key, value) in &self.properties {
            all.retain(|(ours, _)| ours != key);
            all.push((key.clone(), value.clone()));
        }
        Ok(all)
    }
}

/// Running brokers. Dropping them kills them, and removes a temporary folder.
#[derive(Debug)]
pub struct Kafka {
    // Before the folder: they must be gone when it is removed.
    brokers: Vec<Broker>,
    _folder: Option<TempDir>,
}

impl Kafka {
    /// Starts brokers, and waits until each knows all of them.
    pub fn start(options: &Options) -> Result<Self> {
        ensure!(matches!(options.brokers, 1 | 3), "1 broker, or 3");
        let jars = Jars::get()?;
        let temporary = match &options.folder {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("kafka-").tempdir()?),
        };
        let folder = match (&options.folder, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => bail!("no folder"),
        };
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let layout = Layout::new(&folder, options.brokers, &options.extra_listeners)?;
        let mut nodes = Vec::new();
        for at in 0..options.brokers {
            let properties = options.properties(&layout, at)?;
            nodes.push(layout.write(at, &properties)?);
        }
        drop(layout);
        let id = cluster_id();
        thread::scope(|scope| {
            let formatting = nodes
                .iter()
                .map(|node| scope.spawn(|| format(&jars, node, &id)));
            let formatting: Vec<_> = formatting.collect();
            formatting.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| bail!("formatting panicked"))
            })
        })?;
        let heap = format!("-Xmx{}m", options.heap_mib);
        let mut java = vec![heap, "-Xms64m".to_owned(), "-XX:+UseSerialGC".to_owned()];
        if options.short_lived {
            java.push("-XX:TieredStopAtLevel=1".to_owned());
        }
        let mut brokers = Vec::new();
        for node in nodes {
            let (jars, java) = (jars.clone(), java.clone());
            let mut broker = Broker {
                node,
                jars,
                java,
                process: None,
                temporary: temporary.as_ref().map(|folder| folder.path().to_owned()),
            };
            broker.spawn()?;
            brokers.push(broker);
        }
        let mut kafka = Self {
            brokers,
            _folder: temporary,
        };
        for broker in &mut kafka.brokers {
            broker.wait_until_it_knows(options.brokers)?;
        }
        Ok(kafka)
    }

    /// The addresses of all brokers, as clients want them.
    pub fn bootstrap_servers(&self) -> String {
        let addresses = self.brokers.iter().map(|b| b.address().to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Where a broker listens under the name of an [`ExtraListener`].
    pub fn listener(&self, broker: usize, name: &str) -> Option<SocketAddr> {
        self.brokers.get(broker)?.listener(name)
    }

    /// The brokers; their number in this list is fixed.
    pub fn brokers(&mut self) -> &mut [Broker] {
        &mut self.brokers
    }
}

/// A broker, which may be down.
#[derive(Debug)]
pub struct Broker {
    node: Node,
    jars: Jars,
    /// Options of java.
    java: Vec<String>,
    process: Option<Process>,
    /// Whose removal the server's end brings if this process is killed.
    temporary: Option<PathBuf>,
}

impl Broker {
    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.node.address
    }

    /// Where it listens under the name of an [`ExtraListener`]: what a proxy must lead to.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        let mut extra = self.node.extra.iter();
        extra
            .find(|(own, _)| own == name)
            .map(|(_, address)| *address)
    }

    /// Its process, if it is not down.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it has said since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.node.log).unwrap_or_default()
    }

    /// SIGKILL. Does nothing if it is down.
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

    /// Starts it again, on the ports and the data that it had, and waits until it is part of the
    /// cluster again. Kills it before if it is running.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()?;
        self.wait_until_it_knows(1)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let process = self.process.as_mut().context("the broker is down")?;
        process.signal(signal)
    }

    fn spawn(&mut self) -> Result<()> {
        let options: Vec<_> = self.java.iter().map(String::as_str).collect();
        let file = self.node.properties.display().to_string();
        let arguments = self.jars.arguments(&options, "kafka.Kafka", &[&file]);
        let folder = self.jars.folder();
        self.process = Some(Process::start(
            "java",
            &arguments,
            folder,
            &self.node.log,
            self.temporary.as_deref(),
        )?);
        Ok(())
    }

    fn wait_until_it_knows(&mut self, brokers: usize) -> Result<()> {
        let process = self.process.as_mut().context("the broker is down")?;
        wait_for(process, &self.node, brokers)
    }
}

/// A new id, in the form that Kafka wants: 16 bytes in base64.
fn cluster_id() -> String {
    const LETTERS: &[u8; 26] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let letter = |_| {
        let random = RandomState::new().hash_one(0) % 26;
        let letter = usize::try_from(random).ok().and_then(|at| LETTERS.get(at));
        char::from(*letter.unwrap_or(&b'A'))
    };
    // Of the last one only two bits count.
    (0..21).map(letter).chain(['A']).collect()
}

/// Prepares a broker's folder.
fn format(jars: &Jars, node: &Node, cluster_id: &str) -> Result<()> {
    let file = node.properties.display().to_string();
    let options = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
    let what = ["format", "-t", cluster_id, "-c", &file];
    let output = Command::new("java")
        .args(jars.arguments(&options, "kafka.tools.StorageTool", &what))
        .current_dir(jars.folder())
        .output()
        .context("cannot run java (Debian: openjdk-17-jre-headless)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the broker's folder cannot be prepared: {said}"
    );
    Ok(())
}

/// Waits until a broker knows so many brokers, itself among them.
fn wait_for(process: &mut Process, node: &Node, brokers: usize) -> Result<()> {
    let started = Instant::now();
    let name = node.address;
    loop {
        let answer = probe::brokers_alive(node.address);
        if answer.as_ref().is_ok_and(|alive| *alive >= brokers) {
            return Ok(());
        }
        let log = fs::read_to_string(&node.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
        let last: String = lines
            .iter()
            .rev()
            .map(|line| format!("\n    {line}"))
            .collect();
        ensure!(
            process.is_running(),
            "the broker {name} has ended; its last words:{last}"
        );
        if started.elapsed() > START_DEADLINE {
            let state = match answer {
                Ok(alive) => format!("it knows {alive} of {brokers} brokers"),
                Err(error) => format!("it does not answer: {error}"),
            };
            bail!(
                "the broker {name} is not ready after {START_DEADLINE:?}, {state}; it says:{last}"
            );
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests;
