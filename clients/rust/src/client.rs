//! The client: a way to the servers, with the tokens of one device.

use std::{fmt, sync::Arc, time::Duration};

use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    auth::{Auth, authorized},
    backoff::Backoff,
    blobs::http::HttpClient,
    error::{Error, ErrorKind, Result},
    model::ErrorReason,
    session::{Events, Options, Session},
    tokens::{Credentials, MemoryTokens, TokenStore},
    transport::Transport,
};

/// How long a call may take unless [`ClientBuilder::deadline`] says otherwise: the server waits up
/// to 5 s for a state that a read names, and up to 10 s for the place of a message.
const DEADLINE: Duration = Duration::from_secs(15);
/// Tries of a call that can be repeated without harm, if there is only one server. With several it is
/// tried as long as one call may take: some of them are there, or will be soon.
const TRIES_MAX: u32 = 4;
/// The first wait between tries, and the longest.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Longer waits than this, asked for by the server, are left to the caller.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Bytes of a user agent that the protocol allows.
const USER_AGENT_BYTES_MAX: usize = 100;

/// A device's way to the server. Cheap to clone; clones share the connection and the tokens.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) transport: Arc<Transport>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) user_agent: String,
    pub(crate) deadline: Duration,
    pub(crate) http: HttpClient,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Sets up a [`Client`].
pub struct ClientBuilder {
    server_url: String,
    channel: Option<Channel>,
    tokens: Arc<dyn TokenStore>,
    user_agent: String,
    deadline: Duration,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("server_url", &self.server_url)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Where the tokens are kept. Default: in memory, as long as the client lives.
    #[must_use]
    pub fn tokens(mut self, store: impl TokenStore) -> Self {
        self.tokens = Arc::new(store);
        self
    }

    /// Name and version of the program, for the operators of the server; at most 100 bytes.
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// How long a call may take. Default: 15 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Uses this channel instead of making one for the url, such as one to a server in the same
    /// process. A channel from outside is not replaced when its connection seems dead.
    #[must_use]
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// The client. Must be called within a tokio runtime; connects when it is first used.
    pub fn build(self) -> Result<Client> {
        if self.user_agent.len() > USER_AGENT_BYTES_MAX {
            return Err(Error::Config(format!(
                "a user agent has at most {USER_AGENT_BYTES_MAX} bytes"
            )));
        }
        let transport = Arc::new(match self.channel {
            Some(channel) => Transport::with_channel(channel),
            None => Transport::new(&self.server_url)?,
        });
        Ok(Client {
            inner: Arc::new(Inner {
                auth: Auth::new(transport.clone(), self.tokens),
                transport,
                user_agent: self.user_agent,
                deadline: self.deadline,
                http: HttpClient::new(),
            }),
        })
    }
}

impl Client {
    /// A client of the server at a url such as `http://127.0.0.1:7400`, or of several servers that are
    /// alike, divided by commas: it begins at any of them, and goes to the next when one is away.
    pub fn builder(server_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            server_url: server_url.into(),
            channel: None,
            tokens: Arc::new(MemoryTokens::default()),
            user_agent: concat!("messenger-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            deadline: DEADLINE,
        }
    }

    /// What the device is logged in with, from the token store; [`Error::NotLoggedIn`] if nothing.
    /// Its access token may be about to end: [`Client::access_token`] gives one that is not.
    pub async fn credentials(&self) -> Result<Credentials> {
        Ok(self.inner.auth.held().await?.credentials.clone())
    }

    /// An access token for calls that this crate does not make, refreshed if it ends soon.
    pub async fn access_token(&self) -> Result<String> {
        let held = self.inner.auth.fresh().await?;
        Ok(held.credentials.access_token.clone())
    }

    /// Opens the device's session, which connects, and reconnects, by itself from now on.
    ///
    /// Fails only if nobody is logged in or the cache cannot be read; a server that is away is
    /// waited for. A device has one session: connecting twice with one device makes the sessions
    /// replace each other.
    pub async fn connect(&self, options: Options) -> Result<(Session, Events)> {
        crate::session::connect(self.clone(), options).await
    }

    /// A call with the device's token, refreshed once if the server says that it has expired. It is
    /// repeated after errors that may pass, so it must do no harm when it is carried out twice.
    pub(crate) async fn call<Q, A, F, W>(&self, message: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> W,
        W: Future<Output = std::result::Result<Response<A>, Status>>,
    {
        let mut backoff = Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1);
        let mut tries = 1;
        let give_up_at = tokio::time::Instant::now() + self.inner.deadline;
        let mut refreshed = false;
        loop {
            let held = self.inner.auth.fresh().await?;
            let token = &held.credentials.access_token;
            let request = authorized(message.clone(), token)?;
            let error = match self.once(request, &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.reason() == ErrorReason::TokenExpired && !refreshed {
                refreshed = true;
                self.inner.auth.refresh(token).await?;
                continue;
            }
            let again = match error.kind() {
                ErrorKind::Rejected => false,
                ErrorKind::Retryable => error.reason() != ErrorReason::TokenExpired,
                ErrorKind::Unknown => true,
            };
            let patient = error.retry_after().is_none_or(|w| w <= RETRY_AFTER_MAX);
            let wait = backoff.next(error.retry_after());
            let goes_on = match self.inner.transport.servers() {
                1 => tries < TRIES_MAX,
                _ => tokio::time::Instant::now() + wait < give_up_at,
            };
            if !again || !patient || !goes_on {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// A call that is tried again, as it is, until its answer is definite or `patience` is over: for
    /// what the server carries out once however often it is asked, by an id in the message.
    pub(crate) async fn call_until_definite<Q, A, F, W>(
        &self,
        message: Q,
        patience: Duration,
        call: F,
    ) -> Result<A>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> W,
        W: Future<Output = std::result::Result<Response<A>, Status>>,
    {
        let mut backoff = Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1);
        let give_up_at = tokio::time::Instant::now() + patience;
        loop {
            let error = match self.authorized_once(message.clone(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = backoff.next(error.retry_after());
            let is_definite = error.kind() == ErrorKind::Rejected;
            if is_definite || tokio::time::Instant::now() + wait >= give_up_at {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// One try with the device's token, replaced when the server says that it has expired.
    pub(crate) async fn authorized_once<Q, A, F, W>(&self, message: Q, call: &F) -> Result<A>
    where
        F: Fn(Channel, Request<Q>) -> W,
        W: Future<Output = std::result::Result<Response<A>, Status>>,
    {
        let held = self.inner.auth.fresh().await?;
        let token = &held.credentials.access_token;
        let answer = self.once(authorized(message, token)?, call).await;
        if let Err(error) = &answer
            && error.reason() == ErrorReason::TokenExpired
        {
            // The error stands, and is one to be tried again.
            self.inner.auth.refresh(token).await?;
        }
        answer
    }

    /// A call that may do harm when it is carried out twice: only what was not sent goes to the next
    /// server.
    pub(crate) async fn call_once<Q, A, F, W>(&self, message: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> W,
        W: Future<Output = std::result::Result<Response<A>, Status>>,
    {
        let mut tries = 1;
        loop {
            match self.once(Request::new(message.clone()), &call).await {
                Err(Error::Unreachable(_)) if tries < self.inner.transport.servers() => tries += 1,
                answer => return answer,
            }
        }
    }

    /// One try, within the deadline.
    pub(crate) async fn once<Q, A, F, W>(&self, mut request: Request<Q>, call: &F) -> Result<A>
    where
        F: Fn(Channel, Request<Q>) -> W,
        W: Future<Output = std::result::Result<Response<A>, Status>>,
    {
        let deadline = self.inner.deadline;
        request.set_timeout(deadline);
        let way = self.inner.transport.way();
        let answer = call(way.channel.clone(), request);
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let error = Error::from(status);
                self.inner.transport.failed(&way, &error);
                Err(error)
            }
            Err(_) => {
                // The connection may be half-open; the next call finds out on a new one.
                self.inner.transport.leave(&way);
                Err(Error::Timeout(deadline))
            }
        }
    }
}
