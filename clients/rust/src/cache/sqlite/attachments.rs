//! Attachments in columns.

use prost::Message as _;
use proto::messaging::v1::Message;
use rusqlite::{Row, types::Type};

use crate::model::{Attachment, DraftAttachment};

/// Between receipts, which are ASCII without blanks.
const SEPARATOR: &str = " ";

/// As a message of the contract that has nothing else, so that later fields are kept; NULL = none.
pub(super) fn encode<'a>(attachments: impl Iterator<Item = &'a Attachment>) -> Option<Vec<u8>> {
    let attachments: Vec<Attachment> = attachments.cloned().collect();
    (!attachments.is_empty()).then(|| {
        let message = Message {
            attachments,
            ..Message::default()
        };
        message.encode_to_vec()
    })
}

/// What proves them, in the same order; NULL = none.
pub(super) fn receipts(attachments: &[DraftAttachment]) -> Option<String> {
    let receipts: Vec<&str> = attachments.iter().map(|a| a.receipt.as_str()).collect();
    (!receipts.is_empty()).then(|| receipts.join(SEPARATOR))
}

/// What [`encode`] has made of them.
pub(super) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Attachment>> {
    let Some(bytes) = row.get::<_, Option<Vec<u8>>>(column)? else {
        return Ok(Vec::new());
    };
    // A message without its attachments would be another message.
    let malformed =
        |error| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error));
    let message = Message::decode(bytes.as_slice()).map_err(malformed)?;
    Ok(message.attachments)
}

/// What [`encode`] and [`receipts`] have made of those of a draft.
pub(super) fn read_drafted(
    row: &Row<'_>,
    attachments: usize,
    receipts: usize,
) -> rusqlite::Result<Vec<DraftAttachment>> {
    let proofs: Option<String> = row.get(receipts)?;
    let proofs = proofs.unwrap_or_default();
    let proofs = proofs.split(SEPARATOR).map(str::to_owned);
    let attachments = read(row, attachments)?.into_iter();
    let drafted = attachments.zip(proofs);
    Ok(drafted
        .map(|(attachment, receipt)| DraftAttachment {
            receipt,
            attachment,
        })
        .collect())
}
