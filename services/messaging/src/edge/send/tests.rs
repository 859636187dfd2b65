use std::sync::Arc;

use prost::Message;
use proto::log::v1::AttachmentThumbnail;
use runtime::{
    auth::{KeyPair, Receipt, ReceiptSigner},
    clock::ManualClock,
    ids::BlobId,
};
use uuid::Uuid;

use super::*;
use crate::limits::{FRAME_BYTES_MAX, MENTIONS_MAX, TEXT_CHARS_MAX};

/// When the receipts here expire.
const EXPIRES_UNIX_MS: i64 = 5_000;

struct Case {
    signer: ReceiptSigner,
    verifier: ReceiptVerifier,
    clock: ManualClock,
    user: UserId,
}

impl Case {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let clock = ManualClock::at(1_000);
        Self {
            verifier: ReceiptVerifier::new(Arc::new(clock.clone()), &key.public()),
            signer: ReceiptSigner::new(key),
            clock,
            user: UserId::generate(),
        }
    }

    fn receipt(&self, attachment: Attachment, purpose: ReceiptPurpose) -> String {
        let receipt = Receipt {
            owner: self.user,
            purpose,
            attachment,
            expires_unix_ms: EXPIRES_UNIX_MS,
        };
        self.signer.sign(&receipt).unwrap()
    }

    fn of_attachment(&self, attachment: Attachment) -> String {
        self.receipt(attachment, ReceiptPurpose::Attachment)
    }

    fn receipts(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.of_attachment(large())).collect()
    }

    fn sent(&self, attachment_receipts: Vec<String>) -> Sent {
        let peer = UserId::generate();
        Sent {
            conversation_id: ConversationId::direct(self.user, peer).unwrap().to_string(),
            message_id: Uuid::now_v7().to_string(),
            text: String::new(),
            mentioned_user_ids: Vec::new(),
            mentions_all: false,
            attachment_receipts,
        }
    }

    fn check(&self, receipts: Vec<String>) -> Result<Send, (ErrorReason, String)> {
        let checked = check_send(&self.verifier, self.user, self.sent(receipts));
        let send = checked.map(|(_, send)| send);
        send.map_err(|error| (error.reason, error.field))
    }
}

/// As large as one of ours is in a record.
fn large() -> Attachment {
    let thumbnail = |side, size_bytes| AttachmentThumbnail {
        media_type: "image/jpeg".to_owned(),
        width: side,
        height: side,
        size_bytes,
    };
    Attachment {
        blob_id: BlobId::generate().as_bytes().to_vec(),
        media_type: "video/quicktime".to_owned(),
        size_bytes: 16 * 1024 * 1024,
        sha256: vec![0xa5; 32],
        width: 16_384,
        height: 16_384,
        // Four by four components.
        placeholder: "x".repeat(36),
        small: Some(thumbnail(320, 200_000)),
        large: Some(thumbnail(1_280, 3_000_000)),
    }
}

#[test]
fn a_message_of_attachments_alone_has_what_its_receipts_say_in_their_order() {
    let case = Case::new();
    let attachments: Vec<_> = (0..ATTACHMENTS_MAX).map(|_| large()).collect();
    let receipts = attachments.iter().cloned().map(|a| case.of_attachment(a));
    let send = case.check(receipts.collect()).unwrap();
    assert_eq!(send.body.attachments, attachments);
    assert_eq!(send.refused_unless_duplicate, 0);
    // Without any it has a text.
    let required = (ErrorReason::FieldRequired, "text".to_owned());
    assert_eq!(case.check(Vec::new()), Err(required));
}

#[test]
fn a_receipt_that_is_not_for_this_is_refused_with_its_field() {
    let case = Case::new();
    let invalid = Err((
        ErrorReason::ReceiptInvalid,
        "attachment_receipts".to_owned(),
    ));
    let good = case.of_attachment(large());
    let other = Case {
        user: UserId::generate(),
        verifier: case.verifier.clone(),
        signer: case.signer.clone(),
        clock: case.clock.clone(),
    };
    let mut short = large();
    short.sha256.pop();
    for receipts in [
        vec![good.clone(), String::new()],
        vec![good.clone(), good.clone()],
        vec![case.receipt(large(), ReceiptPurpose::Picture)],
        vec![other.of_attachment(large())],
        vec![Case::new().of_attachment(large())],
        vec![case.of_attachment(short)],
    ] {
        assert_eq!(case.check(receipts), invalid);
    }
    let too_many = Err((
        ErrorReason::FieldOutOfRange,
        "attachment_receipts".to_owned(),
    ));
    assert_eq!(case.check(case.receipts(ATTACHMENTS_MAX + 1)), too_many);
}

#[test]
fn an_expired_receipt_leaves_the_judgement_to_the_log() {
    let case = Case::new();
    let mut receipts = case.receipts(2);
    case.clock.set(EXPIRES_UNIX_MS);
    let send = case.check(receipts.clone()).unwrap();
    let expired = ErrorReason::ReceiptExpired as u32;
    assert_eq!(send.refused_unless_duplicate, expired);
    assert_eq!(send.body.attachments.len(), 2);
    // What never was one is no retry of anything.
    receipts.push("x".to_owned());
    let refused = case.check(receipts).unwrap_err();
    assert_eq!(refused.0, ErrorReason::ReceiptInvalid);
}

#[test]
fn the_longest_message_with_all_that_it_may_have_fits_into_a_frame() {
    let case = Case::new();
    let send = wire_v1::Send {
        conversation_id: case.sent(Vec::new()).conversation_id,
        message_id: Uuid::now_v7().to_string(),
        text: "\u{1f600}".repeat(TEXT_CHARS_MAX),
        traceparent: "0".repeat(55),
        mentioned_user_ids: vec![case.user.to_string(); MENTIONS_MAX],
        mentions_all: true,
        attachment_receipts: case.receipts(ATTACHMENTS_MAX),
    };
    let receipt_bytes = send.attachment_receipts[0].len();
    assert!(receipt_bytes < 1_000, "{receipt_bytes} bytes");
    let frame = wire_v1::ClientFrame {
        request_id: u64::MAX,
        frame: Some(wire_v1::client_frame::Frame::Send(send)),
    };
    let bytes = frame.encoded_len();
    assert!(bytes <= FRAME_BYTES_MAX, "{bytes} bytes");
    eprintln!("a receipt has {receipt_bytes} bytes, the frame {bytes}");
    let before = std::time::Instant::now();
    for _ in 0..100 {
        let wire_v1::client_frame::Frame::Send(send) = frame.frame.as_ref().unwrap() else {
            unreachable!()
        };
        attachments(&case.verifier, case.user, &send.attachment_receipts).unwrap();
    }
    eprintln!("ten receipts take {:?}", before.elapsed() / 100);
}
