//! The HTTP side: downloads at signed URLs, for clients and for a CDN, and uploads from browsers.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use proto::error::v1::ErrorReason;
use runtime::status::ApiError;
use serde_json::json;
use tonic::Code;

use crate::{Service, urls::BLOBS_PATH};

mod download;
mod ranges;
mod upload;

/// Where uploads are.
const UPLOADS_PATH: &str = "/v1/uploads/";
/// How long a browser may remember what a page may do.
const PREFLIGHT_SECONDS: &str = "86400";
/// Headers of an upload, as a page must be allowed to send them.
const UPLOAD_HEADERS: &str = "authorization, content-type, content-range, x-content-sha256, x-blob-purpose, x-poster-receipt";
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Answers requests.
#[derive(Clone)]
pub(crate) struct Http {
    service: Arc<Service>,
}

impl Http {
    pub(crate) const fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let is_upload = request.uri().path().starts_with(UPLOADS_PATH);
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = if is_upload {
            self.answer_upload(request).await
        } else if request.uri().path().starts_with(BLOBS_PATH) {
            self.answer_download(&request).await
        } else {
            plain(StatusCode::NOT_FOUND, "not found\n")
        };
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"));
        if is_upload {
            self.allow_origin(origin, headers);
        } else {
            // Whoever has the URL may have the bytes, a page too.
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value("*"));
        }
        response
    }

    async fn answer_download(&self, request: &Request<Incoming>) -> Response<Body> {
        match *request.method() {
            Method::GET | Method::HEAD => download::answer(&self.service, request).await,
            Method::OPTIONS => preflight("GET, HEAD", "range, if-range, if-none-match"),
            _ => method_not_allowed("GET, HEAD, OPTIONS"),
        }
    }

    async fn answer_upload(&self, request: Request<Incoming>) -> Response<Body> {
        let answered = match *request.method() {
            Method::PUT => upload::put(&self.service, request).await,
            Method::HEAD | Method::GET => upload::head(&self.service, &request).await,
            Method::OPTIONS => return preflight("PUT, HEAD, GET", UPLOAD_HEADERS),
            _ => return method_not_allowed("PUT, HEAD, GET, OPTIONS"),
        };
        answered.unwrap_or_else(|error| refused(&error))
    }

    fn allow_origin(&self, origin: Option<HeaderValue>, headers: &mut http::HeaderMap) {
        headers.insert(header::VARY, value("origin"));
        let Some(origin) = origin else { return };
        let allowed = &self.service.config.allowed_origins;
        let matches = |a: &String| a == "*" || a.as_bytes() == origin.as_bytes();
        if allowed.iter().any(matches) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let shown = value("upload-offset, upload-complete, retry-after");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Http {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answering = self.clone().answer(request);
        Box::pin(async move { Ok(answering.await) })
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

const fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

/// A header of digits and dates, and of what else cannot be malformed.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| value(""))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, value("no-store"));
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(header::ALLOW, value(allowed));
    response
}

fn preflight(methods: &'static str, headers_allowed: &'static str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, value(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value(headers_allowed));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, value(PREFLIGHT_SECONDS));
    response
}

/// An error in JSON, with the status that HTTP has for it.
fn refused(error: &ApiError) -> Response<Body> {
    let status = match (error.reason, error.code()) {
        (ErrorReason::BlobTooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
        (ErrorReason::MediaTypeNotAllowed, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (_, Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition) => {
            StatusCode::BAD_REQUEST
        }
        (_, Code::Unauthenticated) => StatusCode::UNAUTHORIZED,
        (_, Code::PermissionDenied) => StatusCode::FORBIDDEN,
        (_, Code::NotFound) => StatusCode::NOT_FOUND,
        (_, Code::AlreadyExists | Code::Aborted) => StatusCode::CONFLICT,
        (_, Code::DeadlineExceeded) => StatusCode::REQUEST_TIMEOUT,
        (_, Code::ResourceExhausted) => StatusCode::TOO_MANY_REQUESTS,
        (_, Code::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let shown = json!({
        "reason": error.reason.info_name(),
        "message": error.message,
        "field": error.field,
    });
    let mut response = Response::new(full(shown.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value("application/json"));
    headers.insert(header::CACHE_CONTROL, value("no-store"));
    if let Some(after) = error.retry_after {
        // Whole seconds, and not too early.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
