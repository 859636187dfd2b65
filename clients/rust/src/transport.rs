//! The way to the server: one HTTP/2 connection that calls and the session share.

use std::time::Duration;

use parking_lot::RwLock;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// How long a TCP (and TLS) connection may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Hands out the channel, and replaces it when its connection is taken for dead: a half-open one
/// gives no error by itself for minutes.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Absent if the channel was given from outside; then it cannot be replaced.
    endpoint: Option<Endpoint>,
    channel: RwLock<Channel>,
}

impl Transport {
    /// Connects when it is first used.
    pub(crate) fn new(server_url: &str) -> Result<Self> {
        let endpoint = endpoint(server_url)?;
        Ok(Self {
            channel: RwLock::new(endpoint.connect_lazy()),
            endpoint: Some(endpoint),
        })
    }

    pub(crate) fn with_channel(channel: Channel) -> Self {
        Self {
            endpoint: None,
            channel: RwLock::new(channel),
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.read().clone()
    }

    /// The next call opens a new connection. What is under way on the old one goes on.
    pub(crate) fn renew(&self) {
        if let Some(endpoint) = &self.endpoint {
            *self.channel.write() = endpoint.connect_lazy();
        }
    }
}

fn endpoint(server_url: &str) -> Result<Endpoint> {
    let malformed = |error: tonic::transport::Error| {
        Error::Config(format!("server url {server_url:?}: {error}"))
    };
    let endpoint = Endpoint::from_shared(server_url.to_owned())
        .map_err(malformed)?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true);
    match endpoint.uri().scheme_str() {
        Some("http") => Ok(endpoint),
        Some("https") => with_tls(endpoint),
        _ => Err(Error::Config(format!(
            "server url {server_url:?} must begin with http:// or https://"
        ))),
    }
}

#[cfg(feature = "tls")]
fn with_tls(endpoint: Endpoint) -> Result<Endpoint> {
    let tls = tonic::transport::ClientTlsConfig::new().with_webpki_roots();
    endpoint
        .tls_config(tls)
        .map_err(|error| Error::Config(format!("tls: {error}")))
}

#[cfg(not(feature = "tls"))]
fn with_tls(_endpoint: Endpoint) -> Result<Endpoint> {
    Err(Error::Config(
        "https:// needs the feature `tls` of the crate messenger-client".to_owned(),
    ))
}
