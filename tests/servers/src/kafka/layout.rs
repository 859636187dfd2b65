//! Where brokers are on this machine: ports, folders, properties.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::ExtraListener;
use crate::free_listener;

/// A broker's place on this machine.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) properties: PathBuf,
    pub(super) log: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) extra: Vec<(String, SocketAddr)>,
}

/// Ports and folders of all brokers.
pub(super) struct Layout {
    folder: PathBuf,
    /// Per broker: for clients, for controllers, and for each extra listener. Held until all
    /// properties are written, so that no port is in there twice.
    ports: Vec<Vec<TcpListener>>,
    extra: Vec<String>,
}

impl Layout {
    pub(super) fn new(folder: &Path, brokers: usize, extra: &[ExtraListener]) -> Result<Self> {
        for listener in extra {
            let name = &listener.name;
            let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            ensure!(
                !name.is_empty() && name.chars().all(plain),
                "listener name {name:?}"
            );
            let count = listener.advertised.len();
            ensure!(
                count == brokers,
                "listener {name}: {count} addresses for {brokers} brokers"
            );
        }
        let ports = |_| (0..2 + extra.len()).map(|_| free_listener()).collect();
        Ok(Self {
            folder: folder.to_owned(),
            ports: (0..brokers).map(ports).collect::<Result<_>>()?,
            extra: extra.iter().map(|listener| listener.name.clone()).collect(),
        })
    }

    fn address(&self, broker: usize, at: usize) -> Result<SocketAddr> {
        let port = self.ports.get(broker).and_then(|ports| ports.get(at));
        Ok(port.context("no such port")?.local_addr()?)
    }

    pub(super) fn addresses(
        &self,
        at: usize,
        extra: &[ExtraListener],
    ) -> Result<Vec<(String, String)>> {
        let mut listeners = vec![
            format!("PLAINTEXT://{}", self.address(at, 0)?),
            format!("CONTROLLER://{}", self.address(at, 1)?),
        ];
        let mut advertised = listeners.clone();
        let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        for (n, listener) in extra.iter().enumerate() {
            let name = &listener.name;
            listeners.push(format!("{name}://{}", self.address(at, 2 + n)?));
            let proxy = listener.advertised.get(at).context("no address")?;
            advertised.push(format!("{name}://{proxy}"));
            protocols.push_str(&format!(",{name}:PLAINTEXT"));
        }
        let mut voters = Vec::new();
        for broker in 0..self.ports.len() {
            voters.push(format!("{}@{}", broker + 1, self.address(broker, 1)?));
        }
        let properties = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", (at + 1).to_string()),
            ("listeners", listeners.join(",")),
            ("advertised.listeners", advertised.join(",")),
            ("listener.security.protocol.map", protocols),
            ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.voters", voters.join(",")),
            (
                "log.dirs",
                self.folder
                    .join(format!("data-{}", at + 1))
                    .display()
                    .to_string(),
            ),
        ];
        Ok(properties
            .map(|(key, value)| (key.to_owned(), value))
            .into())
    }

    /// Writes a broker's properties.
    pub(super) fn write(&self, at: usize, properties: &[(String, String)]) -> Result<Node> {
        let lines = properties
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"));
        let extra = self.extra.iter().enumerate();
        let extra = extra.map(|(n, name)| Ok((name.clone(), self.address(at, 2 + n)?)));
        let node = Node {
            properties: self.folder.join(format!("broker-{}.properties", at + 1)),
            log: self.folder.join(format!("broker-{}.log", at + 1)),
            address: self.address(at, 0)?,
            extra: extra.collect::<Result<_>>()?,
        };
        fs::write(&node.properties, lines.collect::<String>())?;
        Ok(node)
    }
}
