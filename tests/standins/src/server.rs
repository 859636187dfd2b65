//! The socket: HTTP/2 without TLS, with what frames can do wrong.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    devices::{Devices, Notification},
    trouble::{Delays, Scope, Trouble, Troubles},
};

/// Requests of a connection at the same time, as Apple allows them.
const STREAMS_MAX: u32 = 1_000;
/// Bytes of a request's body: more than anybody takes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) retry_after: Option<u32>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Self {
            status,
            body,
            retry_after: None,
        }
    }
}

/// What a request is.
pub(crate) enum Checked {
    /// To be answered so, whatever trouble is planned.
    Answered(Answer),
    /// A push that is in order.
    Push(Box<(String, Notification, Answer)>),
    /// A push to this token that is not.
    Refused(String, Answer),
}

/// What differs between providers.
pub(crate) trait Provider: Send + Sync + 'static {
    fn check(&self, asked: &Asked, devices: &Devices) -> Checked;
    /// The answer to a push that is not taken, with the provider's word for why.
    fn refusal(&self, status: u16, word: &str) -> Answer;
}

/// The part that all have: the socket, the devices, and what goes wrong.
pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    provider: Arc<dyn Provider>,
    devices: Devices,
    troubles: Troubles,
    delays: Mutex<Delays>,
    down: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    statuses: Mutex<HashMap<u16, u64>>,
    /// Of the connections that there are: closed when the stand-in goes down.
    open: Mutex<CancellationToken>,
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StandIn").field(&self.address).finish()
    }
}

impl StandIn {
    /// Listens, at a free port if it is 0.
    pub(crate) async fn start(
        port: u16,
        provider: impl FnOnce(SocketAddr) -> Arc<dyn Provider>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            provider: provider(address),
            devices: Devices::default(),
            troubles: Troubles::default(),
            delays: Mutex::default(),
            down: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            statuses: Mutex::default(),
            open: Mutex::new(CancellationToken::new()),
        });
        let stop = CancellationToken::new();
        tokio::spawn(listen(listener, shared.clone(), stop.clone()));
        Ok(Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Those who are pushed to.
    pub fn devices(&self) -> &Devices {
        &self.shared.devices
    }

    /// Pushes of the scope meet this; of several, what was planned first.
    pub fn plan(&self, scope: Scope, trouble: Trouble) {
        self.shared.troubles.plan(scope, trouble);
    }

    /// No push meets anything any more.
    pub fn end_troubles(&self) {
        self.shared.troubles.end();
    }

    /// Answers take so long from now on.
    pub fn delay(&self, delays: Delays) {
        *self.shared.delays.lock() = delays;
    }

    /// Closes all connections, and every new one at once, until [`Self::up`].
    pub fn down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        let mut open = self.shared.open.lock();
        std::mem::replace(&mut *open, CancellationToken::new()).cancel();
    }

    /// Takes connections again.
    pub fn up(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }

    /// Connections that came so far, those closed at once included.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests that came so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Answers with a status so far.
    pub fn answers(&self, status: u16) -> u64 {
        let statuses = self.shared.statuses.lock();
        statuses.get(&status).copied().unwrap_or(0)
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        // Asked under the lock: a connection is either told of going down, or finds it down.
        let open = shared.open.lock().child_token();
        if shared.down.load(Ordering::SeqCst) {
            continue;
        }
        let (shared, stop) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = open.cancelled() => {}
                _ = serve(socket, shared) => {}
            }
        });
    }
}

enum Command {
    GoAway,
    Close,
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) -> Result<(), h2::Error> {
    let _ = socket.set_nodelay(true);
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(8 * 1024 * 1024)
        .handshake::<_, Bytes>(socket)
        .await?;
    let (commands, mut commanded) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                let (shared, commands) = (shared.clone(), commands.clone());
                tokio::spawn(async move {
                    let _ = answer(request, respond, &shared, &commands).await;
                });
            }
            Some(command) = commanded.recv() => match command {
                Command::GoAway => connection.graceful_shutdown(),
                Command::Close => return Ok(()),
            },
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
    commands: &mpsc::UnboundedSender<Command>,
) -> Result<(), h2::Error> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let (parts, stream) = request.into_parts();
    let path = parts.uri.path_and_query();
    let asked = Asked {
        method: parts.method.to_string(),
        path: path.map_or_else(String::new, ToString::to_string),
        headers: parts.headers,
        body: read(stream).await?,
    };
    let delay = shared.delays.lock().draw();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let (token, push, usual) = match shared.provider.check(&asked, &shared.devices) {
        Checked::Answered(answer) => return send(&mut respond, shared, &answer),
        Checked::Push(push) => {
            let (token, notification, answer) = *push;
            (token, Some(notification), answer)
        }
        Checked::Refused(token, answer) => (token, None, answer),
    };
    let take = || {
        if let Some(notification) = push {
            shared.devices.take(&token, notification);
        }
    };
    match shared.troubles.of(&token) {
        None => {
            take();
            send(&mut respond, shared, &usual)
        }
        Some(Trouble::Status(status, word, retry_after)) => {
            let mut answer = shared.provider.refusal(status, word);
            answer.retry_after = retry_after;
            send(&mut respond, shared, &answer)
        }
        Some(Trouble::TakenUnanswered) => {
            take();
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        Some(Trouble::CutOff) => {
            take();
            let mut body = respond.send_response(response(&usual), false)?;
            // The headers must be on their way: a reset would overtake them.
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        Some(Trouble::RefusedStream) => {
            respond.send_reset(Reason::REFUSED_STREAM);
            Ok(())
        }
        Some(Trouble::GoAway) => {
            take();
            let _ = commands.send(Command::GoAway);
            // What others sent on the connection meanwhile is answered too.
            tokio::time::sleep(Duration::from_millis(20)).await;
            send(&mut respond, shared, &usual)
        }
        Some(Trouble::Disconnect) => {
            take();
            let _ = commands.send(Command::Close);
            // The stream ends with the connection, not before it.
            std::future::pending::<()>().await;
            Ok(())
        }
        Some(Trouble::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            take();
            send(&mut respond, shared, &usual)
        }
    }
}

async fn read(mut stream: RecvStream) -> Result<Bytes, h2::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn response(answer: &Answer) -> Response<()> {
    let mut response = Response::builder().status(answer.status);
    if !answer.body.is_empty() {
        response = response.header("content-type", "application/json");
    }
    if let Some(seconds) = answer.retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(()).unwrap_or_default()
}

fn send(
    respond: &mut SendResponse<Bytes>,
    shared: &Shared,
    answer: &Answer,
) -> Result<(), h2::Error> {
    *shared.statuses.lock().entry(answer.status).or_insert(0) += 1;
    let empty = answer.body.is_empty();
    let mut stream = respond.send_response(response(answer), empty)?;
    if !empty {
        stream.send_data(Bytes::from(answer.body.clone()), true)?;
    }
    Ok(())
}
