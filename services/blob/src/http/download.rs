//! `GET` and `HEAD` of signed URLs. What is there never changes, so caches may keep it.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use runtime::ids::BlobId;

use super::{
    Body, full, plain,
    ranges::{Wanted, wanted},
    refused, text_value, value,
};
use crate::{
    Service,
    model::MediaType,
    objects::{ByteStream, ObjectKey},
    receipts::hex,
    urls::UrlError,
};

/// Bytes of the hash that an entity tag shows: enough that no two are the same.
const ETAG_BYTES: usize = 16;
/// What a browser may do with what it shows as a page of its own: nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; \
                      media-src 'self'; sandbox";

/// What a URL leads to.
struct Found {
    blob: BlobId,
    key: ObjectKey,
    media_type: MediaType,
    size_bytes: u64,
    etag: String,
    left: Duration,
}

pub(super) async fn answer(service: &Arc<Service>, request: &Request<Incoming>) -> Response<Body> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    let now = service.clock.now_unix_ms();
    let signed = match service.urls.check(path, query, now) {
        Ok(signed) => signed,
        Err(UrlError::NotOurs) => return plain(StatusCode::NOT_FOUND, "not found\n"),
        Err(UrlError::Unsigned) => {
            return plain(StatusCode::FORBIDDEN, "the URL is not signed\n");
        }
        Err(UrlError::Expired) => return plain(StatusCode::FORBIDDEN, "the URL has expired\n"),
    };
    let blob = match service.store.blobs(vec![signed.blob]).await {
        Ok(found) => found.into_iter().next(),
        Err(error) => return refused(&error.into()),
    };
    let Some(blob) = blob else {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    };
    let Some((key, media_type, size_bytes)) = blob.place(signed.variant) else {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    };
    let found = Found {
        blob: blob.id,
        key,
        media_type,
        size_bytes,
        etag: format!(
            "\"{}-{}\"",
            hex(&blob.sha256[..ETAG_BYTES]),
            signed.variant.name()
        ),
        left: signed.left,
    };
    found.answer(service, request).await
}

impl Found {
    async fn answer(self, service: &Arc<Service>, request: &Request<Incoming>) -> Response<Body> {
        let headers = request.headers();
        if is_known(headers, &self.etag) {
            return self.respond(StatusCode::NOT_MODIFIED, full(Bytes::new()));
        }
        let wanted = match (headers.get(header::RANGE), headers.get(header::IF_RANGE)) {
            (Some(range), None) => range
                .to_str()
                .map_or(Wanted::Everything, |range| wanted(range, self.size_bytes)),
            (Some(range), Some(tag)) if tag.as_bytes() == self.etag.as_bytes() => range
                .to_str()
                .map_or(Wanted::Everything, |range| wanted(range, self.size_bytes)),
            _ => Wanted::Everything,
        };
        let is_head = request.method() == Method::HEAD;
        match wanted {
            // A range is a matter of GET.
            _ if is_head => {
                let mut response = self.respond(StatusCode::OK, full(Bytes::new()));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, self.size_bytes.into());
                headers.insert(header::CONTENT_TYPE, value(self.media_type.name()));
                response
            }
            Wanted::Everything => self.send(service, 0..self.size_bytes, StatusCode::OK).await,
            Wanted::NotSatisfiable => {
                let mut response =
                    self.respond(StatusCode::RANGE_NOT_SATISFIABLE, full(Bytes::new()));
                let size = text_value(&format!("bytes */{}", self.size_bytes));
                response.headers_mut().insert(header::CONTENT_RANGE, size);
                let no_store = value("no-store");
                response
                    .headers_mut()
                    .insert(header::CACHE_CONTROL, no_store);
                response
            }
            Wanted::Ranges(mut ranges) => match ranges.pop() {
                Some(range) if ranges.is_empty() => {
                    let of = self.content_range(&range);
                    let mut response = self.send(service, range, StatusCode::PARTIAL_CONTENT).await;
                    if response.status() == StatusCode::PARTIAL_CONTENT {
                        response
                            .headers_mut()
                            .insert(header::CONTENT_RANGE, text_value(&of));
                    }
                    response
                }
                Some(range) => {
                    ranges.push(range);
                    self.send_parts(service, ranges)
                }
                None => self.send(service, 0..self.size_bytes, StatusCode::OK).await,
            },
        }
    }

    fn content_range(&self, range: &Range<u64>) -> String {
        let (first, last, size) = (range.start, range.end - 1, self.size_bytes);
        format!("bytes {first}-{last}/{size}")
    }

    async fn send(
        &self,
        service: &Arc<Service>,
        range: Range<u64>,
        status: StatusCode,
    ) -> Response<Body> {
        let length = range.end - range.start;
        let bytes = match service.objects.get(self.key, range).await {
            Ok(bytes) => bytes,
            Err(error) => return refused(&error.into()),
        };
        let mut response = self.respond(status, streamed(bytes));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CONTENT_TYPE, value(self.media_type.name()));
        response
    }

    /// Several ranges, as `multipart/byteranges`. Each is opened when its turn comes.
    fn send_parts(&self, service: &Arc<Service>, ranges: Vec<Range<u64>>) -> Response<Body> {
        // Not in the bytes by chance, and the same for the same blob, so that an answer can be cached.
        let boundary = format!("part-{}", self.blob);
        let mut length = 0;
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let of = self.content_range(&range);
            let media_type = self.media_type.name();
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {of}\r\n\r\n"
            );
            length += head.len() as u64 + (range.end - range.start);
            parts.push((Bytes::from(head), range));
        }
        let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        length += end.len() as u64;
        let (service, key) = (service.clone(), self.key);
        let bytes = stream::iter(parts)
            .then(move |(head, range)| {
                let service = service.clone();
                async move {
                    let head = stream::once(async move { Ok(head) });
                    match service.objects.get(key, range).await {
                        Ok(bytes) => head.chain(bytes).boxed(),
                        Err(error) => stream::once(async move { Err(error) }).boxed(),
                    }
                }
            })
            .flatten()
            .chain(stream::once(async move { Ok(end) }));
        let mut response = self.respond(StatusCode::PARTIAL_CONTENT, streamed(bytes.boxed()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        let kind = text_value(&format!("multipart/byteranges; boundary={boundary}"));
        headers.insert(header::CONTENT_TYPE, kind);
        response
    }

    /// With what all answers say.
    fn respond(&self, status: StatusCode, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let cache = format!("public, max-age={}, immutable", self.left.as_secs());
        headers.insert(header::CACHE_CONTROL, text_value(&cache));
        headers.insert(header::ETAG, text_value(&self.etag));
        headers.insert(header::ACCEPT_RANGES, value("bytes"));
        headers.insert(header::CONTENT_SECURITY_POLICY, value(POLICY));
        let name = format!(
            "inline; filename=\"{}.{}\"",
            self.blob,
            self.media_type.extension()
        );
        headers.insert(header::CONTENT_DISPOSITION, text_value(&name));
        headers.insert(
            http::HeaderName::from_static("cross-origin-resource-policy"),
            value("cross-origin"),
        );
        response
    }
}

fn streamed(bytes: ByteStream) -> Body {
    let frames = bytes
        .map_ok(Frame::data)
        .map_err(|error| std::io::Error::other(error.to_string()));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// Whether the client has it already (`If-None-Match`).
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| {
        let tags = tags.to_str().unwrap_or("");
        tags.split(',').any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_it_is_known_by_any_of_its_tags() {
        let known = |tags: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value(tags));
            is_known(&headers, "\"a-small\"")
        };
        assert!(known("\"a-small\"") && known("\"b\", W/\"a-small\"") && known("*"));
        assert!(!known("\"a-large\"") && !known("") && !known("a-small"));
        assert!(!is_known(&HeaderMap::new(), "\"a-small\""));
    }
}
