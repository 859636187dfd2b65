//! A whole cluster on this machine: real Kafka, real PostgreSQL, an S3 server, and several processes of
//! each service, on free ports, with all data in one folder that goes with it.
//!
//! `cargo run --release -p cluster` starts one for people. Tests start one with a proxy on every way
//! between its parts, kill and stop and cut off what they like, and look what becomes of it.

mod links;
mod node;
mod settings;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use runtime::auth::KeyPair;
use servers::{
    kafka::{self, Kafka},
    postgres::{Postgres, PostgresOptions},
    process::Signal,
    s3::S3,
};
use tempfile::TempDir;
use tokio::task::block_in_place;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

pub use links::{Link, LinkState};
pub use node::{Node, Service};

/// How long a process may take until it serves; a second on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process may take to stop when it is asked to; then it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(25);
/// The name of PostgreSQL among the nodes.
const POSTGRES: &str = "postgres";
/// The same of the S3 server.
const S3_NODE: &str = "s3";
/// Where links of clients come from.
const CLIENT: &str = "client";

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Kafka brokers: 1, or 3 that replicate.
    pub brokers: usize,
    /// Processes of messaging.
    pub messaging: usize,
    /// Processes of profile.
    pub profile: usize,
    /// Processes of presence.
    pub presence: usize,
    /// Processes of groups.
    pub groups: usize,
    /// Processes of blob.
    pub blob: usize,
    /// Processes of the notifier.
    pub notifier: usize,
    /// By whom users are told of what they have not received; nobody is told otherwise.
    pub pushes: Option<Pushes>,
    /// The mail server of this machine that takes e-mail; none is sent otherwise.
    pub smtp: Option<SocketAddr>,
    /// Whether every way between two parts, and from clients, goes through a [`Link`].
    pub linked: bool,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Whether PostgreSQL syncs to the disk.
    pub durable: bool,
    /// Whether limits of rates are far away and passwords cost nothing: for traffic of machines.
    pub relaxed: bool,
    /// How often sessions hear where their inbox is; the usual 30 s otherwise.
    pub heartbeat: Option<Duration>,
    /// libfaketime, if the clocks of nodes are to be moved.
    pub faketime: Option<PathBuf>,
    /// More lines of the table `kafka` in the settings of all processes that have one.
    pub kafka: Vec<String>,
    /// How dead readers of the log are noticed.
    pub consumer_groups: kafka::GroupSettings,
    /// Where everything is kept; a temporary folder otherwise.
    pub folder: Option<PathBuf>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            brokers: 1,
            messaging: 2,
            profile: 2,
            presence: 2,
            groups: 2,
            blob: 2,
            notifier: 2,
            pushes: None,
            smtp: None,
            linked: false,
            // Each node has some of them, also when one is gone; fewer make fuller batches.
            partitions: 4,
            durable: true,
            relaxed: false,
            heartbeat: None,
            faketime: None,
            kafka: Vec::new(),
            consumer_groups: kafka::GroupSettings::default(),
            folder: None,
        }
    }
}

/// Firebase Cloud Messaging, or what stands in for it.
#[derive(Debug, Clone)]
pub struct Pushes {
    /// Where it is.
    pub url: String,
    /// The file of a service account that it believes.
    pub service_account_file: PathBuf,
    /// How long a message may be on its way before its recipient is told.
    pub after: Duration,
}

/// What the services need and do not bring.
struct Servers {
    kafka: Kafka,
    postgres: Postgres,
    s3: S3,
}

/// A running cluster. Nothing of it is left when it is dropped, or when its process is killed.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they go: who needs others first.
    nodes: BTreeMap<String, Mutex<Node>>,
    links: BTreeMap<String, Link>,
    kafka: Mutex<Kafka>,
    postgres: Mutex<Postgres>,
    s3: Mutex<S3>,
    folder: PathBuf,
    _temporary: Option<TempDir>,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts everything, and waits until all services say that they serve. Needs a runtime with
    /// several threads.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        let temporary = match &options.folder {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("cluster-").tempdir()?),
        };
        let folder = match (&options.folder, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => bail!("no folder"),
        };
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        make_keys(&folder)?;
        let mut nodes = settings::place_nodes(&options, &folder)?;
        if temporary.is_some() {
            nodes.values_mut().for_each(Node::set_temporary);
        }
        let links = settings::open_links(&options, &nodes).await?;
        let servers = block_in_place(|| start_servers(&options, &folder, &nodes, &links))?;
        let places = settings::Places::new(&options, &folder, &nodes, &links, &servers);
        places.lead_links()?;
        places.write_settings()?;
        let nodes = nodes
            .into_iter()
            .map(|(name, node)| (name, Mutex::new(node)));
        let cluster = Self {
            nodes: nodes.collect(),
            links,
            kafka: Mutex::new(servers.kafka),
            postgres: Mutex::new(servers.postgres),
            s3: Mutex::new(servers.s3),
            folder,
            _temporary: temporary,
            options,
        };
        for name in cluster.nodes.keys() {
            cluster.node(name)?.start()?;
        }
        for name in cluster.nodes.keys() {
            cluster.wait_until_serving(name).await?;
        }
        Ok(cluster)
    }

    /// Where clients reach messaging, and everything else through it: one url for each node, through
    /// its link if there are links.
    pub fn urls(&self) -> Vec<String> {
        self.urls_of(|node| (node.service == Service::Messaging).then_some(node.address))
    }

    /// Where clients upload and download by HTTP: one url for each node of blob, through its link if there
    /// are links.
    pub fn http_urls(&self) -> Vec<String> {
        self.urls_of(|node| node.http_address)
    }

    fn urls_of(&self, address: impl Fn(&Node) -> Option<SocketAddr>) -> Vec<String> {
        let url = |(name, node): (&String, &Mutex<Node>)| {
            let address = address(&locked(node))?;
            let link = self.links.get(&format!("{CLIENT}>{name}"));
            Some(format!("http://{}", link.map_or(address, Link::address)))
        };
        self.nodes.iter().filter_map(url).collect()
    }

    /// The names of everything that can be killed: `messaging-0`, `kafka-0`, `postgres`, `s3`.
    pub fn nodes(&self) -> Vec<String> {
        let brokers = (0..self.options.brokers).map(|at| format!("kafka-{at}"));
        let services = self.nodes.keys().cloned();
        services
            .chain(brokers)
            .chain([POSTGRES, S3_NODE].map(str::to_owned))
            .collect()
    }

    /// The names of all links: `messaging-0>kafka-1`, `client>messaging-0`, and
    /// `messaging>messaging-0` for the way to a node's edge from all others.
    pub fn links(&self) -> Vec<String> {
        self.links.keys().cloned().collect()
    }

    /// Where a service process listens, without a link.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.nodes.get(name).map(|node| locked(node).address)
    }

    /// The process of a node; none while it is down.
    pub fn pid(&self, name: &str) -> Option<u32> {
        match name {
            POSTGRES => return locked(&self.postgres).pid(),
            S3_NODE => return locked(&self.s3).pid(),
            _ => {}
        }
        match broker_number(name) {
            Some(at) => locked(&self.kafka).brokers().get(at)?.pid(),
            None => locked(self.nodes.get(name)?).pid(),
        }
    }

    /// Where logs, settings and data are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The addresses of all brokers.
    pub fn bootstrap_servers(&self) -> String {
        locked(&self.kafka).bootstrap_servers()
    }

    /// The url of the S3 server.
    pub fn s3_endpoint(&self) -> String {
        locked(&self.s3).endpoint()
    }

    /// The url of a service's database.
    pub fn database(&self, service: Service) -> String {
        locked(&self.postgres).url(service.name())
    }

    /// Changes what a link does.
    pub fn set_link(&self, name: &str, state: LinkState) -> Result<()> {
        let link = self.links.get(name);
        link.with_context(|| format!("no link {name}"))?.set(state);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&self, name: &str) -> Result<()> {
        block_in_place(|| {
            match name {
                POSTGRES => return locked(&self.postgres).kill(),
                S3_NODE => return locked(&self.s3).kill(),
                _ => {}
            }
            match broker_number(name) {
                Some(at) => self.broker(at, kafka::Broker::kill),
                None => self.node(name)?.kill(),
            }
        })
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub fn pause(&self, name: &str) -> Result<()> {
        match name {
            POSTGRES => return locked(&self.postgres).pause(),
            S3_NODE => return locked(&self.s3).pause(),
            _ => {}
        }
        match broker_number(name) {
            Some(at) => self.broker(at, kafka::Broker::pause),
            None => self.node(name)?.signal(Signal::STOP),
        }
    }

    /// SIGCONT.
    pub fn resume(&self, name: &str) -> Result<()> {
        match name {
            POSTGRES => return locked(&self.postgres).resume(),
            S3_NODE => return locked(&self.s3).resume(),
            _ => {}
        }
        match broker_number(name) {
            Some(at) => self.broker(at, kafka::Broker::resume),
            None => self.node(name)?.signal(Signal::CONT),
        }
    }

    /// Starts a node in its old place, and waits until it serves.
    pub async fn start_again(&self, name: &str) -> Result<()> {
        match name {
            POSTGRES => return block_in_place(|| locked(&self.postgres).start_again()),
            S3_NODE => return block_in_place(|| locked(&self.s3).start_again()),
            _ => {}
        }
        if let Some(at) = broker_number(name) {
            return block_in_place(|| self.broker(at, kafka::Broker::start_again));
        }
        self.node(name)?.start()?;
        self.wait_until_serving(name).await
    }

    /// Starts a service process, and does not wait for it: it may have to wait for others.
    pub fn launch(&self, name: &str) -> Result<()> {
        self.node(name)?.start()
    }

    /// Asks a service process to stop, and waits until it has. Answers whether it did so in time; it is
    /// gone in any case.
    pub async fn terminate(&self, name: &str) -> Result<bool> {
        self.node(name)?.ask_to_stop()?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if self.node(name)?.has_ended() {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.node(name)?.kill()?;
        Ok(false)
    }

    /// Moves the clock of a service process by so many seconds from the true time. Needs
    /// [`ClusterOptions::faketime`]; monotonic time goes on as ever.
    pub fn set_clock(&self, name: &str, offset_seconds: i64) -> Result<()> {
        ensure!(
            self.options.faketime.is_some(),
            "started without libfaketime"
        );
        drop(self.node(name)?);
        settings::write_clock(&self.folder, name, offset_seconds)
    }

    /// Service processes that are down though nobody killed them.
    pub fn died(&self) -> Vec<String> {
        let died =
            |(name, node): (&String, &Mutex<Node>)| locked(node).has_died().then(|| name.clone());
        self.nodes.iter().filter_map(died).collect()
    }

    /// Where service processes log, by their names.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        let log = |(name, node): (&String, &Mutex<Node>)| (name.clone(), locked(node).log_file());
        self.nodes.iter().map(log).collect()
    }

    /// What a service process has logged.
    pub fn log(&self, name: &str) -> String {
        let log = self.nodes.get(name).map(|node| locked(node).log_file());
        log.and_then(|path| fs::read_to_string(path).ok())
            .unwrap_or_default()
    }

    /// Waits until a service process says over health that it serves.
    pub async fn wait_until_serving(&self, name: &str) -> Result<()> {
        let (address, service) = {
            let node = self.node(name)?;
            (node.address, node.service)
        };
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .timeout(Duration::from_secs(1))
            .connect_lazy();
        let mut health = HealthClient::new(channel);
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let request = HealthCheckRequest {
                service: service.grpc_service().to_owned(),
            };
            if let Ok(answer) = health.check(request).await
                && answer.into_inner().status() == ServingStatus::Serving
            {
                return Ok(());
            }
            let log = || self.log(name);
            ensure!(
                Instant::now() < deadline,
                "{name} does not serve; its log:\n{}",
                log()
            );
            if !self.node(name)?.is_running() {
                bail!("{name} has ended; its log:\n{}", self.log(name));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn node(&self, name: &str) -> Result<MutexGuard<'_, Node>> {
        let node = self.nodes.get(name);
        Ok(locked(node.with_context(|| format!("no node {name}"))?))
    }

    fn broker(&self, at: usize, act: fn(&mut kafka::Broker) -> Result<()>) -> Result<()> {
        let mut kafka = locked(&self.kafka);
        act(kafka.brokers().get_mut(at).context("no such broker")?)
    }
}

/// A panic elsewhere is no reason for another one here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn broker_number(name: &str) -> Option<usize> {
    name.strip_prefix("kafka-")?.parse().ok()
}

/// The keys that all processes share.
fn make_keys(folder: &Path) -> Result<()> {
    for key in [settings::SERVICE_KEY, settings::USER_KEY] {
        KeyPair::load_or_create(&folder.join(key))?;
    }
    for secret in [settings::URL_SECRET, settings::MAIL_SECRET] {
        let secret = folder.join(secret);
        if !secret.exists() {
            fs::write(secret, rand::random::<[u8; 32]>())?;
        }
    }
    Ok(())
}

fn start_servers(
    options: &ClusterOptions,
    folder: &Path,
    nodes: &BTreeMap<String, Node>,
    links: &BTreeMap<String, Link>,
) -> Result<Servers> {
    let kafka_options = kafka::Options {
        brokers: options.brokers,
        folder: Some(folder.join("kafka")),
        groups: options.consumer_groups.clone(),
        extra_listeners: settings::listeners(options, nodes, links)?,
        short_lived: false,
        ..kafka::Options::default()
    };
    let postgres_options = match options.durable {
        true => PostgresOptions::durable(),
        false => PostgresOptions::fast(),
    };
    std::thread::scope(|scope| {
        let kafka = scope.spawn(|| Kafka::start(&kafka_options));
        let postgres = Postgres::start(postgres_options)?;
        for service in Service::ALL {
            postgres.create_database(service.name())?;
        }
        let s3 = S3::start()?;
        let kafka = kafka
            .join()
            .unwrap_or_else(|_| bail!("starting Kafka panicked"))?;
        Ok(Servers {
            kafka,
            postgres,
            s3,
        })
    })
}
