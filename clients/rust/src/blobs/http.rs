//! GET over HTTP/1.1, for signed URLs.
//!
//! Redirects are not followed: a signed URL is where the bytes are, and what leads elsewhere did not come
//! from the server that signed it. No token and no cookie is sent.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// How long a TCP connection may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the first byte of an answer may take, and any after it: then the connection counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Connections of a host that are kept for the next download, and for how long.
const IDLE_CONNECTIONS_MAX: usize = 4;
const IDLE_TIME: Duration = Duration::from_secs(30);

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = HttpConnector;

/// Connects when it is used.
#[derive(Clone)]
pub(crate) struct HttpClient(Client<Connector, Empty<Bytes>>);

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

/// From where on, and of which version of the content.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) offset: u64,
    /// What the first answer had as ETag.
    pub(super) etag: Option<&'a HeaderValue>,
}

impl HttpClient {
    pub(crate) fn new() -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector());
        Self(client)
    }

    /// Asks; answers with the head, whatever its status is. [`Error::Transport`] without an answer.
    pub(super) async fn get(&self, url: &str, from: From<'_>) -> Result<Response<Incoming>> {
        // The URL is what lets everybody see the blob: it is in no error.
        let malformed = |_| Error::Protocol("a signed url is no url".to_owned());
        let uri: http::Uri = url.parse().map_err(malformed)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") if cfg!(feature = "tls") => {}
            _ => {
                let message = "a signed url needs the feature `tls` of the crate messenger-client";
                return Err(Error::Config(message.to_owned()));
            }
        }
        let mut request = Request::get(uri);
        if from.offset > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", from.offset));
            if let Some(etag) = from.etag {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let request = request
            .body(Empty::new())
            .map_err(|_| Error::Protocol("a signed url makes no request".to_owned()))?;
        match timeout(SILENCE_MAX, self.0.request(request)).await {
            Ok(answer) => answer.map_err(broken),
            Err(_) => Err(Error::Timeout(SILENCE_MAX)),
        }
    }
}

/// The next bytes of an answer; `None` after its end.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        let frame = match timeout(SILENCE_MAX, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(broken)?,
            Ok(None) => return Ok(None),
            Err(_) => return Err(Error::Timeout(SILENCE_MAX)),
        };
        // Trailers have no bytes.
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

fn broken(error: impl std::error::Error) -> Error {
    Error::Transport(format!("download: {error}"))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
    tcp.set_nodelay(true);
    tcp
}

#[cfg(not(feature = "tls"))]
fn connector() -> Connector {
    tcp()
}

#[cfg(feature = "tls")]
fn connector() -> Connector {
    let mut tcp = tcp();
    tcp.enforce_http(false);
    hyper_rustls::HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp)
}
