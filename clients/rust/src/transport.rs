//! The way to the servers: one HTTP/2 connection that calls and the session share.

use std::time::Duration;

use parking_lot::RwLock;
use proto::error::v1::ErrorReason;
use rand::RngExt;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

/// How long a TCP (and TLS) connection may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// What divides the urls of several servers.
const URL_SEPARATOR: char = ',';

/// Hands out the channel, and replaces it when its connection is taken for dead (a half-open one
/// gives no error by itself for minutes), or when another server may be better.
#[derive(Debug)]
pub(crate) struct Transport {
    /// The servers, all alike. None if the channel was given from outside; then it is never replaced.
    endpoints: Vec<Endpoint>,
    current: RwLock<Way>,
}

/// A channel, and which one it is.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) channel: Channel,
    number: usize,
}

impl Transport {
    /// Takes one url, or several divided by commas. Begins at any of the servers, so that many clients
    /// spread over them, and connects when it is first used.
    pub(crate) fn new(server_urls: &str) -> Result<Self> {
        let endpoints = server_urls
            .split(URL_SEPARATOR)
            .map(|url| endpoint(url.trim()))
            .collect::<Result<Vec<_>>>()?;
        let number = rand::rng().random_range(0..endpoints.len());
        Ok(Self {
            current: RwLock::new(Way {
                channel: endpoints[number].connect_lazy(),
                number,
            }),
            endpoints,
        })
    }

    pub(crate) fn with_channel(channel: Channel) -> Self {
        Self {
            endpoints: Vec::new(),
            current: RwLock::new(Way { channel, number: 0 }),
        }
    }

    pub(crate) fn way(&self) -> Way {
        self.current.read().clone()
    }

    /// How many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.endpoints.len().max(1)
    }

    /// The next call opens a new connection, to the next server. What is under way on the old one goes
    /// on. Nothing happens if somebody else has left this way already.
    pub(crate) fn leave(&self, way: &Way) {
        let mut current = self.current.write();
        if current.number != way.number || self.endpoints.is_empty() {
            return;
        }
        let number = way.number.wrapping_add(1);
        *current = Way {
            channel: self.endpoints[number % self.endpoints.len()].connect_lazy(),
            number,
        };
    }

    /// Goes to another server, if there is one, after an error that another one may not give.
    pub(crate) fn failed(&self, way: &Way, error: &Error) {
        if self.servers() > 1 && is_of_the_server(error) {
            self.leave(way);
        }
    }
}

/// Whether the error says something of the server at hand and not of what was asked.
fn is_of_the_server(error: &Error) -> bool {
    match error {
        Error::Unreachable(_) | Error::Transport(_) | Error::Timeout(_) => true,
        Error::Server(error) => matches!(
            error.reason,
            ErrorReason::GoingAway | ErrorReason::Unavailable | ErrorReason::Overloaded
        ),
        _ => false,
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
