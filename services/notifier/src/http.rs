//! Where people and their mail programs end digests: a page with a button, and what it sends (RFC 8058).

use std::{convert::Infallible, sync::Arc};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{Service, store::StoreError, unsubscribe::Ended};

/// Where links of mails lead to, before the token.
pub(crate) const UNSUBSCRIBE_PATH: &str = "/v1/unsubscribe/";

/// Nothing is loaded, sent elsewhere, framed or run.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Asks before anything is changed: mail servers follow links to see where they lead.
const ASK: &str = include_str!("../templates/unsubscribe.html");
const ENDED: &str = include_str!("../templates/unsubscribed.html");

/// Answers requests.
#[derive(Clone)]
pub(crate) struct Http {
    service: Arc<Service>,
}

impl Http {
    pub(crate) const fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match request.uri().path().strip_prefix(UNSUBSCRIBE_PATH) {
            Some(token) => self.unsubscribe(request.method(), token).await,
            None => plain(StatusCode::NOT_FOUND, "not found\n"),
        };
        let headers = response.headers_mut();
        let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // The token is in the address.
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
        response
    }

    async fn unsubscribe(&self, method: &Method, token: &str) -> Response<Full<Bytes>> {
        match *method {
            Method::GET | Method::HEAD => match self.service.may_unsubscribe(token) {
                true => page(ASK),
                false => unknown(),
            },
            // What the body says is of no meaning: the token says it all. It is not read.
            Method::POST => match self.service.unsubscribe(token).await {
                Ok(Ended::Yes) => page(ENDED),
                Ok(Ended::Unknown) => unknown(),
                Err(error) => failed(&error),
            },
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
                let allowed = HeaderValue::from_static("GET, HEAD, POST");
                response.headers_mut().insert(header::ALLOW, allowed);
                response
            }
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Http {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Full<Bytes>>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answering = self.clone().answer(request);
        Box::pin(async move { Ok(answering.await) })
    }
}

fn with_type(
    status: StatusCode,
    text: &'static str,
    media_type: &'static str,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, text, "text/plain; charset=utf-8")
}

fn page(text: &'static str) -> Response<Full<Bytes>> {
    with_type(StatusCode::OK, text, "text/html; charset=utf-8")
}

fn unknown() -> Response<Full<Bytes>> {
    plain(StatusCode::NOT_FOUND, "this link is not one of ours\n")
}

fn failed(error: &StoreError) -> Response<Full<Bytes>> {
    tracing::warn!(%error, "cannot end digests now");
    let mut response = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "not now, try again later\n",
    );
    let after = HeaderValue::from_static("60");
    response.headers_mut().insert(header::RETRY_AFTER, after);
    response
}
