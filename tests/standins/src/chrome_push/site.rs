//! What Chromium asks for by HTTP/1.1: check-in and registration at Google's, and the site that it opens.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Service;

pub(super) const CHECK_IN_PATH: &str = "/checkin";
pub(super) const REGISTER_PATH: &str = "/register";
/// Where the site's page says something to the test.
const SAY_PATH: &str = "/say";
/// Bytes of a request's body: what a page says of the longest notifications.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// What was said and not yet heard.
const SAID_MAX: usize = 1_000;

/// Who the browser is. Anything but 0, and the same for ever.
#[derive(Clone, PartialEq, Message)]
struct CheckedIn {
    #[prost(bool, tag = "1")]
    stats_ok: bool,
    #[prost(fixed64, tag = "7")]
    android_id: u64,
    #[prost(fixed64, tag = "8")]
    security_token: u64,
}

/// A site on this machine. What its pages post to `/say` is heard by the test.
#[derive(Debug)]
pub struct Site {
    address: SocketAddr,
    files: Files,
    said: tokio::sync::Mutex<mpsc::Receiver<String>>,
    _stop: DropGuard,
}

/// By path: the type of the content, and the content.
type Files = Arc<Mutex<HashMap<String, (String, String)>>>;

#[derive(Debug, Clone)]
struct Parts {
    service: Arc<Service>,
    files: Files,
    say: mpsc::Sender<String>,
}

impl Site {
    pub(super) async fn start(service: Arc<Service>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let files = Files::default();
        let (say, said) = mpsc::channel(SAID_MAX);
        let parts = Parts {
            service,
            files: files.clone(),
            say,
        };
        let stop = CancellationToken::new();
        tokio::spawn(listen(listener, parts, stop.clone()));
        Ok(Self {
            address,
            files,
            said: said.into(),
            _stop: stop.drop_guard(),
        })
    }

    /// `http://127.0.0.1:PORT`: browsers trust what comes from their own machine as if it were by TLS.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A file of the site, by its path, with its type of content.
    pub fn put(&self, path: &str, content_type: &str, content: &str) {
        let file = (content_type.to_owned(), content.to_owned());
        self.files.lock().insert(path.to_owned(), file);
    }

    /// The next thing that a page said. Waits for it.
    pub async fn hear(&self) -> Option<String> {
        self.said.lock().await.recv().await
    }
}

async fn listen(listener: TcpListener, parts: Parts, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (parts, stop) = (parts.clone(), stop.clone());
        tokio::spawn(async move {
            let answering = service_fn(|request| answer(request, parts.clone()));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), answering);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = serving => {}
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    parts: Parts,
) -> Result<Response<Full<Bytes>>, http::Error> {
    let with = |status: u16, content_type: &str, body: Bytes| {
        Response::builder()
            .status(status)
            .header("content-type", content_type)
            .body(Full::new(body))
    };
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET {
        let file = parts.files.lock().get(&path).cloned();
        return match file {
            Some((content_type, content)) => with(200, &content_type, content.into()),
            None => with(404, "text/plain", Bytes::new()),
        };
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX);
    let Ok(body) = body.collect().await else {
        return with(413, "text/plain", Bytes::new());
    };
    let body = body.to_bytes();
    match path.as_str() {
        CHECK_IN_PATH => {
            let checked_in = CheckedIn {
                stats_ok: true,
                android_id: 1,
                security_token: 1,
            };
            with(
                200,
                "application/x-protobuf",
                checked_in.encode_to_vec().into(),
            )
        }
        REGISTER_PATH => {
            let answer = match parts.service.subscriptions.add(&body) {
                Some(token) => format!("token={token}"),
                None => "Error=INVALID_PARAMETERS".to_owned(),
            };
            with(200, "text/plain", answer.into())
        }
        SAY_PATH => {
            let said = String::from_utf8_lossy(&body).into_owned();
            match parts.say.try_send(said) {
                Ok(()) => with(204, "text/plain", Bytes::new()),
                Err(_) => with(503, "text/plain", Bytes::new()),
            }
        }
        _ => with(404, "text/plain", Bytes::new()),
    }
}
