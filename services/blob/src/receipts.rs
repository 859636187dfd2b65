//! A blob as others see it: in receipts, answers and JSON.

use proto::{blob::v1 as pb, log::v1 as log};
use serde_json::{Value, json};

use crate::{
    model::{Blob, Look, Thumbnail},
    upload::Uploaded,
};

/// As it is in a receipt, and from there in messages.
pub(crate) fn attachment(blob: &Blob) -> log::Attachment {
    let look = blob.look.as_ref();
    let thumbnail = |of: fn(&Look) -> &Thumbnail| {
        look.map(of).map(|t| log::AttachmentThumbnail {
            media_type: t.media_type.name().to_owned(),
            width: t.width,
            height: t.height,
            size_bytes: t.size_bytes,
        })
    };
    log::Attachment {
        blob_id: blob.id.as_bytes().to_vec(),
        media_type: blob.media_type.name().to_owned(),
        size_bytes: blob.size_bytes,
        sha256: blob.sha256.to_vec(),
        width: look.map_or(0, |look| look.width),
        height: look.map_or(0, |look| look.height),
        placeholder: look.map_or_else(String::new, |look| look.placeholder.clone()),
        small: thumbnail(|look| &look.small),
        large: thumbnail(|look| &look.large),
    }
}

/// As an answer has it.
pub(crate) fn blob_pb(blob: &Blob) -> pb::Blob {
    let look = blob.look.as_ref();
    let thumbnail = |of: fn(&Look) -> &Thumbnail| {
        look.map(of).map(|t| pb::Thumbnail {
            media_type: t.media_type.name().to_owned(),
            width: t.width,
            height: t.height,
            size_bytes: t.size_bytes,
        })
    };
    pb::Blob {
        blob_id: blob.id.to_string(),
        owner_id: blob.owner.to_string(),
        purpose: i32::from(blob.purpose as u8),
        media_type: blob.media_type.name().to_owned(),
        size_bytes: blob.size_bytes,
        sha256: blob.sha256.to_vec(),
        width: look.map_or(0, |look| look.width),
        height: look.map_or(0, |look| look.height),
        placeholder: look.map_or_else(String::new, |look| look.placeholder.clone()),
        small: thumbnail(|look| &look.small),
        large: thumbnail(|look| &look.large),
        created_unix_ms: blob.created_unix_ms,
    }
}

/// The answer to an upload.
pub(crate) fn uploaded_pb(uploaded: &Uploaded) -> pb::UploadResponse {
    pb::UploadResponse {
        blob: Some(blob_pb(&uploaded.blob)),
        receipt: uploaded.receipt.clone(),
        receipt_expires_unix_ms: uploaded.receipt_expires_unix_ms,
        existed: uploaded.existed,
    }
}

/// The same in JSON, as protobuf's JSON has it but for `sha256`, which is in hex, and numbers, which are
/// numbers.
pub(crate) fn uploaded_json(uploaded: &Uploaded) -> Value {
    let blob = &uploaded.blob;
    let thumbnail = |t: &Thumbnail| {
        json!({
            "mediaType": t.media_type.name(),
            "width": t.width,
            "height": t.height,
            "sizeBytes": t.size_bytes,
        })
    };
    let mut shown = json!({
        "blobId": blob.id.to_string(),
        "ownerId": blob.owner.to_string(),
        "mediaType": blob.media_type.name(),
        "sizeBytes": blob.size_bytes,
        "sha256": hex(&blob.sha256),
        "createdUnixMs": blob.created_unix_ms,
    });
    if let Some(look) = &blob.look {
        shown["width"] = look.width.into();
        shown["height"] = look.height.into();
        shown["placeholder"] = look.placeholder.clone().into();
        shown["small"] = thumbnail(&look.small);
        shown["large"] = thumbnail(&look.large);
    }
    json!({
        "blob": shown,
        "receipt": uploaded.receipt,
        "receiptExpiresUnixMs": uploaded.receipt_expires_unix_ms,
        "existed": uploaded.existed,
    })
}

/// In lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of 64 hex digits.
pub(crate) fn sha256_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    // `from_str_radix` takes a sign.
    (!text.contains('+')).then_some(bytes)
}
