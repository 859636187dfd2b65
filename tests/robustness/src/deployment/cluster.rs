//! Several processes of each service, on a real Kafka, a real PostgreSQL and an S3 server, with a link on every way
//! between two of them.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use cluster::{Cluster, ClusterOptions};

use super::{Ability, Deployment, LinkState, faketime};

/// How often sessions hear where their inbox is: half-open connections are noticed within seconds.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How it is to be.
#[derive(Debug, Clone, Copy)]
pub struct ClusteredOptions {
    /// Kafka brokers: 1, or 3 that replicate.
    pub brokers: usize,
    /// Processes of messaging.
    pub messaging: usize,
    /// Clocks will be changed, so that processes are started with a library for that.
    pub clock: bool,
}

impl Default for ClusteredOptions {
    fn default() -> Self {
        Self {
            brokers: 1,
            messaging: 2,
            clock: false,
        }
    }
}

/// A running cluster. Gone when it is dropped.
#[derive(Debug)]
pub struct Clustered {
    cluster: Cluster,
    faketime: Result<PathBuf, String>,
}

impl Clustered {
    /// Starts everything.
    pub async fn start(options: ClusteredOptions) -> anyhow::Result<Self> {
        let faketime = match options.clock {
            true => faketime(),
            false => Err("not asked for".to_owned()),
        };
        let cluster = Cluster::start(ClusterOptions {
            brokers: options.brokers,
            messaging: options.messaging,
            linked: true,
            // Processes die here, machines do not: what the kernel has is safe.
            durable: false,
            relaxed: true,
            heartbeat: Some(HEARTBEAT),
            faketime: faketime.clone().ok(),
            ..ClusterOptions::default()
        });
        Ok(Self {
            cluster: cluster.await?,
            faketime,
        })
    }
}

fn is_service(node: &str) -> bool {
    !["postgres", "s3"].contains(&node) && !node.starts_with("kafka")
}

#[async_trait]
impl Deployment for Clustered {
    fn url(&self, device: usize) -> String {
        // All of them; the SDK begins at any.
        let mut urls = self.cluster.urls();
        let first = device % urls.len().max(1);
        urls.rotate_left(first);
        urls.join(",")
    }

    fn nodes(&self) -> Vec<String> {
        self.cluster.nodes()
    }

    fn links(&self) -> Vec<String> {
        self.cluster.links()
    }

    fn lacks(&self, ability: Ability, node: &str) -> Option<String> {
        let is_service = is_service(node);
        match ability {
            Ability::Restart | Ability::ClockJump if !is_service => {
                Some("only services are told to, not their servers".to_owned())
            }
            Ability::Restart => None,
            Ability::ClockJump => self.faketime.as_ref().err().cloned(),
            Ability::FillDisk => Some("its data are not on a disk of their own".to_owned()),
        }
    }

    async fn kill(&self, node: &str) -> anyhow::Result<()> {
        self.cluster.kill(node)
    }

    async fn terminate(&self, node: &str) -> anyhow::Result<()> {
        match self.cluster.terminate(node).await? {
            true => Ok(()),
            false => bail!("{node} did not stop in time"),
        }
    }

    async fn start(&self, node: &str) -> anyhow::Result<()> {
        self.cluster.start_again(node).await
    }

    async fn pause(&self, node: &str) -> anyhow::Result<()> {
        self.cluster.pause(node)
    }

    async fn resume(&self, node: &str) -> anyhow::Result<()> {
        self.cluster.resume(node)
    }

    async fn clock_jump(&self, node: &str, seconds: i64) -> anyhow::Result<()> {
        self.cluster.set_clock(node, seconds)
    }

    async fn fill_disk(&self, node: &str) -> anyhow::Result<()> {
        bail!("the disk of {node} cannot be filled")
    }

    async fn free_disk(&self, _node: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn set_link(&self, link: &str, state: LinkState) -> anyhow::Result<()> {
        self.cluster.set_link(link, state)
    }

    async fn died(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in self.cluster.died() {
            let again = self
                .cluster
                .kill(&node)
                .and_then(|()| self.cluster.launch(&node));
            found.push(format!(
                "{node} ended by itself; started again: {:?}",
                again.context("start")
            ));
        }
        found
    }

    fn logs(&self) -> Vec<(String, PathBuf)> {
        self.cluster.logs()
    }
}
