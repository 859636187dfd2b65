//! `cargo run --release -p cluster`: a whole messenger on this machine, until Ctrl-C.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use cluster::{Cluster, ClusterOptions, Pushes, Service};

mod failover;

/// How long a message may be on its way before its recipient is told, as in the one-process form.
const PUSHED_AFTER: Duration = Duration::from_secs(10);

/// Starts Kafka, PostgreSQL, an S3 server and several processes of each service on free ports.
#[derive(Debug, Parser)]
#[command(name = "cluster", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    size: Size,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start it and leave it running until Ctrl-C (what happens without a command, too)
    Up,
    /// Kill sequencers with -9, and measure how long their conversations wait for the next ack
    Failover {
        /// How often
        #[arg(long, default_value_t = 20)]
        kills: usize,
    },
}

#[derive(Debug, Args)]
struct Size {
    /// Kafka brokers: 1, or 3 that replicate
    #[arg(long, global = true, default_value_t = 1)]
    brokers: usize,
    /// Processes of messaging
    #[arg(long, global = true, default_value_t = 2)]
    messaging: usize,
    /// Processes of profile
    #[arg(long, global = true, default_value_t = 2)]
    profile: usize,
    /// Processes of presence
    #[arg(long, global = true, default_value_t = 2)]
    presence: usize,
    /// Processes of groups
    #[arg(long, global = true, default_value_t = 2)]
    groups: usize,
    /// Processes of blob
    #[arg(long, global = true, default_value_t = 2)]
    blob: usize,
    /// Processes of the notifier
    #[arg(long, global = true, default_value_t = 2)]
    notifier: usize,
    /// Where Firebase Cloud Messaging is, or what stands in for it: who is away for 10 s is pushed to
    #[arg(long, global = true, value_name = "URL", requires = "fcm_account")]
    fcm_url: Option<String>,
    /// The file of a service account that it believes
    #[arg(long, global = true, value_name = "FILE", requires = "fcm_url")]
    fcm_account: Option<PathBuf>,
    /// A mail server of this machine that takes e-mail, without TLS; none is sent otherwise
    #[arg(long, global = true, value_name = "ADDRESS")]
    smtp: Option<SocketAddr>,
    /// Partitions of each topic
    #[arg(long, global = true, default_value_t = 4)]
    partitions: u32,
    /// Where everything is kept; a temporary folder otherwise, which goes at the end
    #[arg(long, global = true, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// One more setting of the processes' table `kafka`, such as `linger_ms=0`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    kafka: Vec<String>,
    /// No limits of rates, and passwords that cost nothing: for the load program and for replays
    #[arg(long, global = true)]
    relaxed: bool,
}

impl Size {
    fn options(&self) -> ClusterOptions {
        ClusterOptions {
            brokers: self.brokers,
            messaging: self.messaging,
            profile: self.profile,
            presence: self.presence,
            groups: self.groups,
            blob: self.blob,
            notifier: self.notifier,
            pushes: self.pushes(),
            smtp: self.smtp,
            partitions: self.partitions,
            folder: self.folder.clone(),
            relaxed: self.relaxed,
            kafka: self.kafka.clone(),
            ..ClusterOptions::default()
        }
    }

    fn pushes(&self) -> Option<Pushes> {
        Some(Pushes {
            url: self.fcm_url.clone()?,
            // Processes are started elsewhere.
            service_account_file: std::path::absolute(self.fcm_account.as_ref()?).ok()?,
            after: PUSHED_AFTER,
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        None | Some(Command::Up) => up(arguments.size.options()).await,
        Some(Command::Failover { kills }) => failover::run(arguments.size.options(), kills).await,
    }
}

async fn up(options: ClusterOptions) -> Result<()> {
    println!("starting Kafka, PostgreSQL, the S3 server and the services; Ctrl-C ends it");
    let cluster = tokio::select! {
        cluster = Cluster::start(options) => cluster?,
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
    };
    println!("{}", greeting(&cluster));
    write_processes(&cluster)?;
    let mut died_before = Vec::new();
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let died = cluster.died();
                for name in died.iter().filter(|name| !died_before.contains(*name)) {
                    eprintln!("{name} has ended; its log:\n{}", cluster.log(name));
                }
                died_before = died;
            }
        }
    }
    println!("stopping");
    Ok(())
}

/// For the load program, which measures their CPU time. PostgreSQL's are several.
fn write_processes(cluster: &Cluster) -> Result<()> {
    let mut lines = String::new();
    for name in cluster.nodes() {
        if let Some(pid) = cluster.pid(&name) {
            lines.push_str(&format!("{name} {pid}\n"));
        }
    }
    std::fs::write(cluster.folder().join("processes"), lines)?;
    Ok(())
}

/// What a person wants to know first.
fn greeting(cluster: &Cluster) -> String {
    let urls = cluster.urls().join(",");
    let pictures = cluster.http_urls().join(",");
    let mut lines = vec![format!(
        "\nclients reach it at {urls}\nand upload and download by HTTP at {pictures}\n"
    )];
    for name in cluster.nodes() {
        let address = match (cluster.address(&name), name.as_str()) {
            (Some(address), _) => format!("http://{address}"),
            (None, "postgres") => cluster.database(Service::Messaging),
            (None, "s3") => cluster.s3_endpoint(),
            (None, _) => cluster.bootstrap_servers(),
        };
        let pid = cluster.pid(&name).unwrap_or_default();
        lines.push(format!("  {name:<13} {address}  pid {pid}"));
    }
    lines.push(format!(
        "\nlogs and settings are in {}\n\n\
         try it in other terminals (any password of 8 characters), and kill -9 what you like:\n\n  \
         cargo run --release -p messenger -- --server {urls} --as ada register ada\n  \
         cargo run --release -p messenger -- --server {urls} --as grace register grace\n  \
         cargo run --release -p messenger -- --server {urls} --as ada chat grace\n",
        cluster.folder().display(),
    ));
    lines.join("\n")
}
