//! How a service says who it is when it calls another one.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tonic::{
    Request, Status,
    metadata::Ascii,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::{AUDIENCE_SERVICE, KeyError, KeyPair, verifier::ServiceClaims};
use crate::{clock::Clock, status::ApiError};

/// How long a service's token is good: short, since nobody can take it back.
pub const SERVICE_TOKEN_LIFE: Duration = Duration::from_secs(5 * 60);
/// A token is no longer handed out when it has less than this left: longer than any call lasts.
const SERVICE_TOKEN_RENEWED_BEFORE: Duration = Duration::from_secs(60);

/// A channel whose calls carry the identity of the service that makes them.
pub type ServiceChannel = InterceptedService<Channel, ServiceIdentity>;

/// A service, able to prove it. Clones share the current token.
#[derive(Clone)]
pub struct ServiceIdentity {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    key: KeyPair,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<Current>,
}

struct Current {
    bearer: MetadataValue<Ascii>,
    issued_unix_ms: i64,
    renew_unix_ms: i64,
}

impl ServiceIdentity {
    /// The service with this name, such as `messaging`.
    pub fn new(name: impl Into<String>, key: KeyPair, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                name: name.into(),
                key,
                clock,
                current: ArcSwapOption::empty(),
            }),
        }
    }

    /// The value of the `authorization` metadata.
    pub fn bearer(&self) -> Result<MetadataValue<Ascii>, ApiError> {
        let now = self.inner.clock.now_unix_ms();
        if let Some(current) = &*self.inner.current.load()
            // Also not one from the future: the clock may have been set back.
            && (current.issued_unix_ms..current.renew_unix_ms).contains(&now)
        {
            return Ok(current.bearer.clone());
        }
        let life_ms = SERVICE_TOKEN_LIFE.as_millis() as i64;
        let token = self
            .token(now, now + life_ms)
            .map_err(|e| ApiError::internal(&e))?;
        let bearer: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|e| ApiError::internal(&e))?;
        self.inner.current.store(Some(Arc::new(Current {
            bearer: bearer.clone(),
            issued_unix_ms: now,
            renew_unix_ms: now + life_ms - SERVICE_TOKEN_RENEWED_BEFORE.as_millis() as i64,
        })));
        Ok(bearer)
    }

    /// `channel`, with this identity on every call.
    pub fn on(&self, channel: Channel) -> ServiceChannel {
        InterceptedService::new(channel, self.clone())
    }

    fn token(&self, issued_unix_ms: i64, expires_unix_ms: i64) -> Result<String, KeyError> {
        self.inner.key.sign(&ServiceClaims {
            sub: self.inner.name.clone(),
            aud: AUDIENCE_SERVICE.to_owned(),
            iat: issued_unix_ms.div_euclid(1_000),
            exp: expires_unix_ms.div_euclid(1_000),
        })
    }
}

impl Interceptor for ServiceIdentity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let bearer = self.bearer()?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }
}
