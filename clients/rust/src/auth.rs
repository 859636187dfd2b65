//! The tokens of the device: loaded, handed out, and refreshed in time, once for everybody who asks.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proto::profile::v1::{
    RefreshRequest, RefreshResponse, account_service_client::AccountServiceClient,
};
use tokio::{sync::watch, time::Instant};
use tonic::{Request, metadata::AsciiMetadataValue};

use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind, Result},
    tokens::{Credentials, TokenStore},
    transport::Transport,
};

/// How long before its end an access token is replaced, but not more than a quarter of its life.
const RENEW_BEFORE_END: Duration = Duration::from_secs(60);
/// When to replace a new token that is over by the clock of this machine, which then must be wrong.
/// The server's TOKEN_EXPIRED is heeded anyway.
const RENEW_WITHOUT_CLOCK: Duration = Duration::from_secs(300);
/// Tries of one refresh. An answer that was lost can be had again for 30 s.
const REFRESH_TRIES: u32 = 5;
/// How long one try may take.
const REFRESH_DEADLINE: Duration = Duration::from_secs(8);
/// The first wait between tries, and the longest.
const REFRESH_WAIT: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_millis(1_000));

/// Credentials in use.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) credentials: Credentials,
    /// When to replace the access token, by this machine's monotonic clock.
    pub(crate) renew_at: Instant,
}

impl Held {
    fn new(credentials: Credentials, fresh: bool) -> Arc<Self> {
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            });
        let left_ms = credentials.access_expires_unix_ms.saturating_sub(now_ms);
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        let wait = match (left.is_zero(), fresh) {
            (true, true) => RENEW_WITHOUT_CLOCK,
            (true, false) => Duration::ZERO,
            (false, _) => left - RENEW_BEFORE_END.min(left / 4),
        };
        let now = Instant::now();
        // A year is as good as for ever, and cannot overflow.
        let wait = wait.min(Duration::from_secs(365 * 86_400));
        Arc::new(Self {
            credentials,
            renew_at: now.checked_add(wait).unwrap_or(now),
        })
    }
}

pub(crate) struct Auth {
    transport: Arc<Transport>,
    store: Arc<dyn TokenStore>,
    /// What is in use; watched by sessions, which tell the server about new tokens.
    current: watch::Sender<Option<Arc<Held>>>,
    /// Held while the credentials change.
    changing: tokio::sync::Mutex<()>,
}

impl Auth {
    pub(crate) fn new(transport: Arc<Transport>, store: Arc<dyn TokenStore>) -> Arc<Self> {
        Arc::new(Self {
            transport,
            store,
            current: watch::Sender::new(None),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// Tells about each change of the credentials.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.current.subscribe()
    }

    /// What the device is logged in with, from the store at first.
    pub(crate) async fn held(&self) -> Result<Arc<Held>> {
        let held = self.current.borrow().clone();
        if let Some(held) = held {
            return Ok(held);
        }
        let _changing = self.changing.lock().await;
        let held = self.current.borrow().clone();
        if let Some(held) = held {
            return Ok(held);
        }
        let credentials = self.store.load().await?.ok_or(Error::NotLoggedIn)?;
        Ok(self.publish(credentials, false))
    }

    /// After registering or logging in.
    pub(crate) async fn set(&self, credentials: Credentials) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.store.save(&credentials).await?;
        self.publish(credentials, true);
        Ok(())
    }

    /// After logging out.
    pub(crate) async fn clear(&self) -> Result<()> {
        let _changing = self.changing.lock().await;
        self.current.send_replace(None);
        self.store.clear().await
    }

    /// A token that has some time left.
    pub(crate) async fn fresh(self: &Arc<Self>) -> Result<Arc<Held>> {
        let held = self.held().await?;
        if Instant::now() < held.renew_at {
            return Ok(held);
        }
        self.refresh(&held.credentials.access_token).await
    }

    /// Replaces a token that the server no longer takes, unless somebody has done so already.
    pub(crate) async fn refresh(self: &Arc<Self>, stale_access_token: &str) -> Result<Arc<Held>> {
        let (auth, stale) = (self.clone(), stale_access_token.to_owned());
        // In a task: a refresh token is used up by asking, so the asker must not vanish before the
        // answer is saved.
        tokio::spawn(async move { auth.refresh_alone(&stale).await })
            .await
            .map_err(|error| Error::Storage(error.to_string()))?
    }

    async fn refresh_alone(&self, stale: &str) -> Result<Arc<Held>> {
        let _changing = self.changing.lock().await;
        let held = self.current.borrow().clone().ok_or(Error::NotLoggedIn)?;
        if held.credentials.access_token != stale {
            return Ok(held);
        }
        let _store = self.store.lock().await?;
        let stored = self.store.load().await?.ok_or(Error::NotLoggedIn)?;
        if stored.access_token != stale {
            // Another program has refreshed, or logged in, with the same store.
            return Ok(self.publish(stored, false));
        }
        let answer = self.ask(&stored.refresh_token).await?;
        let tokens = answer.tokens.unwrap_or_default();
        let credentials = Credentials {
            access_token: tokens.access_token,
            access_expires_unix_ms: tokens.access_expires_unix_ms,
            refresh_token: tokens.refresh_token,
            refresh_expires_unix_ms: tokens.refresh_expires_unix_ms,
            ..stored
        };
        self.store.save(&credentials).await?;
        Ok(self.publish(credentials, true))
    }

    async fn ask(&self, refresh_token: &str) -> Result<RefreshResponse> {
        let mut backoff = Backoff::new(REFRESH_WAIT.0, REFRESH_WAIT.1);
        let mut tries = 1;
        loop {
            let error = match self.ask_once(refresh_token).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if tries == REFRESH_TRIES || error.kind() == ErrorKind::Rejected {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(backoff.next(error.retry_after())).await;
        }
    }

    async fn ask_once(&self, refresh_token: &str) -> Result<RefreshResponse> {
        let way = self.transport.way();
        let mut client = AccountServiceClient::new(way.channel.clone());
        let request = RefreshRequest {
            refresh_token: refresh_token.to_owned(),
        };
        match tokio::time::timeout(REFRESH_DEADLINE, client.refresh(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let error = Error::from(status);
                self.transport.failed(&way, &error);
                Err(error)
            }
            Err(_) => {
                self.transport.leave(&way);
                Err(Error::Timeout(REFRESH_DEADLINE))
            }
        }
    }

    fn publish(&self, credentials: Credentials, fresh: bool) -> Arc<Held> {
        let held = Held::new(credentials, fresh);
        self.current.send_replace(Some(held.clone()));
        held
    }
}

/// A request with the token in it.
pub(crate) fn authorized<T>(message: T, access_token: &str) -> Result<Request<T>> {
    let mut value: AsciiMetadataValue = format!("Bearer {access_token}")
        .parse()
        .map_err(|_| Error::Storage("the stored access token is not a token".to_owned()))?;
    value.set_sensitive(true);
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}
