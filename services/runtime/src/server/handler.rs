//! What happens to every call: a deadline, and a reason in every error.

use std::{convert::Infallible, future::Future, pin::Pin, time::Duration};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use proto::error::v1::ErrorReason;
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::stage::{Answerer, Stage};
use crate::status::ApiError;

#[derive(Clone)]
pub(super) struct Handler {
    stage: Stage,
    request_timeout: Duration,
    streaming_timeout: Duration,
}

impl Handler {
    pub(super) const fn new(
        stage: Stage,
        request_timeout: Duration,
        streaming_timeout: Duration,
    ) -> Self {
        Self {
            stage,
            request_timeout,
            streaming_timeout,
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let answerer = self.stage.answerer(path);
        let longest = match proto::STREAMED_TO.contains(&path) {
            true => self.streaming_timeout,
            false => self.request_timeout,
        };
        let asked = grpc_timeout(request.headers());
        let timeout = asked.map_or(longest, |asked| asked.min(longest));
        let late = || Status::deadline_exceeded("not answered in time").into_http();
        Box::pin(async move {
            Ok(match answerer {
                // A router is always ready.
                Answerer::Services(mut services) => {
                    match tokio::time::timeout(timeout, services.call(request)).await {
                        Ok(Ok(response)) => with_reason(response),
                        Ok(Err(never)) => match never {},
                        Err(_) => late(),
                    }
                }
                Answerer::Gateway(gateway) => {
                    let answer = tokio::time::timeout(timeout, gateway.pass_on(request)).await;
                    answer.unwrap_or_else(|_| late())
                }
                Answerer::Nobody(status) => status.into_http(),
            })
        })
    }
}

/// The time that the caller is willing to wait, if it says so in a form that the protocol knows.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Errors that tonic makes by itself, before a service is asked, carry no reason: gives them one.
fn with_reason(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let Some(code) = headers.get("grpc-status") else {
        return response;
    };
    if headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let error = match Code::from_bytes(code.as_bytes()) {
        Code::OutOfRange => ApiError::new(
            ErrorReason::FrameTooLarge,
            "the request is larger than the limit",
        ),
        Code::Internal => ApiError::new(ErrorReason::FieldMalformed, "the request is malformed"),
        _ => return response,
    };
    Status::from(error).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_protocol_says_or_not_at_all() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&headers)
        };
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        for bad in ["", "S", "1", "-1S", "1x", "123456789S", "1 S", "+1S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
