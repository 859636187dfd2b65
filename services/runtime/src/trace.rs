//! The W3C trace context of a request, as it travels through the system: in gRPC metadata and frames
//! from outside, in the headers of records through the log. No outcome depends on it.

use bytes::Bytes;
use tonic::metadata::MetadataMap;

/// The name of the header, in metadata and in records.
pub const TRACEPARENT: &str = "traceparent";

/// Hexadecimal digits of each part: version, trace id, parent id, flags.
const PARTS: [usize; 4] = [2, 32, 16, 2];

/// The context, if it is one of version 00. Anything else is as good as none.
pub fn parse(traceparent: &str) -> Option<Bytes> {
    let mut parts = traceparent.split('-');
    let is_hex = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    for length in PARTS {
        let part = parts.next()?;
        if part.len() != length || !is_hex(part) {
            return None;
        }
    }
    let is_whole = parts.next().is_none() && traceparent.starts_with("00-");
    is_whole.then(|| Bytes::copy_from_slice(traceparent.as_bytes()))
}

/// The context that came with a call.
pub fn of_call(metadata: &MetadataMap) -> Option<Bytes> {
    parse(metadata.get(TRACEPARENT)?.to_str().ok()?)
}

/// The headers of a record that carries the context.
pub fn headers(context: Option<Bytes>) -> Vec<(String, Bytes)> {
    let header = |context| (TRACEPARENT.to_owned(), context);
    context.map(header).into_iter().collect()
}

/// The context that a record carries.
pub fn of_headers(headers: &[(String, Bytes)]) -> Option<Bytes> {
    let header = headers.iter().find(|(name, _)| name == TRACEPARENT);
    header.map(|(_, context)| context.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_context_is_passed_on() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(parse(good).as_deref(), Some(good.as_bytes()));
        assert_eq!(
            of_headers(&headers(parse(good))).as_deref(),
            Some(good.as_bytes())
        );
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
