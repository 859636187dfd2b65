//! `PUT` and `HEAD` of an upload: the same as the RPCs, for browsers.

use std::sync::Arc;

use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use proto::error::v1::ErrorReason;
use runtime::{
    auth::Caller,
    ids::{UploadId, UserId},
    status::ApiError,
};

use super::{Body, UPLOAD_COMPLETE, UPLOAD_OFFSET, UPLOADS_PATH, full, value};
use crate::{
    Service,
    grpc::receive,
    model::Purpose,
    receipts::{sha256_of_hex, uploaded_json},
    upload::{Beginning, Header, Uploaded},
};

pub(super) async fn put(
    service: &Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let owner = owner(service, request.headers())?;
    let upload = upload_id(request.uri().path())?;
    let header = header_of(upload, request.headers())?;
    let uploaded = match service.begin(owner, header).await? {
        Beginning::There(uploaded) => *uploaded,
        Beginning::Receive(receiving) => {
            let data = BodyStream::new(request.into_body()).filter_map(async |frame| match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(ApiError::unavailable(&error))),
            });
            receive(*receiving, data, service.config.silence_max).await?
        }
    };
    Ok(finished(&uploaded))
}

pub(super) async fn head(
    service: &Arc<Service>,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let owner = owner(service, request.headers())?;
    let upload = upload_id(request.uri().path())?;
    let (arrived, uploaded) = service.progress(owner, upload).await?;
    let is_head = request.method() == Method::HEAD;
    let mut response = match &uploaded {
        Some(uploaded) if !is_head => finished(uploaded),
        _ => {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, arrived.into());
    let complete = if uploaded.is_some() { "?1" } else { "?0" };
    headers.insert(UPLOAD_COMPLETE, value(complete));
    headers.insert(header::CACHE_CONTROL, value("no-store"));
    Ok(response)
}

fn finished(uploaded: &Uploaded) -> Response<Body> {
    let mut response = Response::new(full(uploaded_json(uploaded).to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value("application/json"));
    headers.insert(header::CACHE_CONTROL, value("no-store"));
    headers.insert(UPLOAD_COMPLETE, value("?1"));
    response
}

fn owner(service: &Service, headers: &HeaderMap) -> Result<UserId, ApiError> {
    let missing = || ApiError::new(ErrorReason::TokenMissing, "an access token is required");
    let bearer = text(headers, "authorization").ok_or_else(missing)?;
    let (scheme, token) = bearer.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    match service.verifier.verify(token.trim())? {
        Caller::User(user) => Ok(user.user_id),
        Caller::Service(_) => Err(ApiError::new(
            ErrorReason::CallerNotAllowed,
            "only users upload",
        )),
    }
}

fn upload_id(path: &str) -> Result<UploadId, ApiError> {
    let id = path.strip_prefix(UPLOADS_PATH).unwrap_or("");
    UploadId::parse(id).map_err(|error| {
        ApiError::field(ErrorReason::FieldMalformed, "upload_id", error.to_string())
    })
}

fn header_of(upload: UploadId, headers: &HeaderMap) -> Result<Header, ApiError> {
    let malformed = |field: &str, why: &str| {
        ApiError::field(ErrorReason::FieldMalformed, field.to_owned(), why)
    };
    let length = text(headers, "content-length").and_then(|text| text.parse::<u64>().ok());
    let length = length.ok_or_else(|| malformed("content-length", "required"))?;
    let (offset, size_bytes) = match text(headers, "content-range") {
        None => (0, length),
        Some(range) => {
            let read = content_range(range);
            let why = "must be `bytes FIRST-LAST/SIZE` to the end, of content-length bytes";
            read.filter(|(offset, size)| size.checked_sub(*offset) == Some(length))
                .ok_or_else(|| malformed("content-range", why))?
        }
    };
    let sha256 = text(headers, "x-content-sha256").and_then(sha256_of_hex);
    let purpose = match text(headers, "x-blob-purpose") {
        Some("attachment") => Purpose::Attachment,
        Some("picture") => Purpose::Picture,
        _ => return Err(malformed("x-blob-purpose", "attachment or picture")),
    };
    Ok(Header {
        upload,
        offset,
        size_bytes,
        sha256: sha256.ok_or_else(|| malformed("x-content-sha256", "64 hex digits"))?,
        purpose,
        poster_receipt: text(headers, "x-poster-receipt").unwrap_or("").to_owned(),
    })
}

/// Offset and size of `bytes FIRST-LAST/SIZE`, which must go to the end; `bytes */SIZE` has no bytes.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let size: u64 = size.parse().ok()?;
    if range == "*" {
        return Some((size, size));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last.checked_add(1)? == size).then_some((first, size))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_an_upload_goes_to_its_end() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0, 10)));
        assert_eq!(content_range("bytes 7-9/10"), Some((7, 10)));
        assert_eq!(content_range("bytes */10"), Some((10, 10)));
        for bad in [
            "bytes 0-8/10",
            "bytes 0-10/10",
            "bytes 9-7/10",
            "bytes 0-9/*",
            "bytes 0-18446744073709551615/0",
            "0-9/10",
            "",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
