//! Asks every call for a token, before the service sees it.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use proto::error::v1::ErrorReason;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{Access, Caller, Verifier, not_allowed};
use crate::status::ApiError;

/// Who may call the method with this path, such as `/messenger.profile.v1.AccountService/LogIn`.
/// `None`: there is no such method.
pub type Policy = fn(path: &str) -> Option<Access>;

/// One layer around all services of a listener. A method that the policy does not know is answered
/// UNIMPLEMENTED and reaches no service: a method that was forgotten in it is closed, not open.
#[derive(Clone)]
pub struct AuthLayer {
    verifier: Verifier,
    policy: Policy,
}

impl AuthLayer {
    /// Health and reflection are public without being in the policy.
    pub fn new(verifier: Verifier, policy: Policy) -> Self {
        Self { verifier, policy }
    }

    /// Decides about a call; `Ok(None)` = everybody may make it.
    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Option<Caller>, Status> {
        let access = is_standard(path)
            .then_some(Access::Public)
            .or_else(|| (self.policy)(path))
            .ok_or_else(|| Status::unimplemented("no such method"))?;
        if access == Access::Public {
            return Ok(None);
        }
        let caller = self.verifier.verify(bearer(headers)?)?;
        match (access, &caller) {
            (Access::Any, _)
            | (Access::User, Caller::User(_))
            | (Access::Service, Caller::Service(_)) => Ok(Some(caller)),
            _ => Err(not_allowed().into()),
        }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            auth: self.clone(),
            inner,
        }
    }
}

/// A service behind an [`AuthLayer`]. What it passes on carries a [`Caller`] in its extensions,
/// unless the method is public.
#[derive(Clone)]
pub struct AuthService<S> {
    auth: AuthLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.auth.admit(request.uri().path(), request.headers()) {
            Ok(caller) => {
                // Never what came from outside.
                request.extensions_mut().remove::<Caller>();
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let missing = || ApiError::new(ErrorReason::TokenMissing, "an access token is required");
    let value = headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let value = value.to_str().map_err(|_| missing())?;
    match value.split_once(' ') {
        // The scheme's name has no case, in HTTP.
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(missing()),
    }
}

/// Whether every listener offers this to everybody.
pub(crate) fn is_standard(path: &str) -> bool {
    const PUBLIC: [&str; 3] = [
        "/grpc.health.v1.Health/",
        "/grpc.reflection.v1.ServerReflection/",
        "/grpc.reflection.v1alpha.ServerReflection/",
    ];
    PUBLIC.iter().any(|service| path.starts_with(service))
}
