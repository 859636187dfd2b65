//! What every store must hold, run over each adapter.

use runtime::ids::{BlobId, ConversationId, GroupId, UploadId, UserId};

use super::{
    Barrier, Begun, Finished, KeptBefore, LogIdentity, PositionAdvance, ReaderId, Store, StoreError,
};
use crate::model::{Blob, Look, MediaType, PictureOf, Purpose, Reference, Thumbnail, Upload};

mod references;
mod uploads;

/// Runs every check over a new store each. What `open` answers besides the store lives as long.
pub(crate) async fn run<S: Store, G>(open: impl AsyncFn() -> (S, G)) {
    macro_rules! each {
        ($($promise:path),* $(,)?) => {$(
            let (store, _guard) = open().await;
            $promise(&store).await;
        )*};
    }
    each!(
        uploads::an_upload_is_the_same_until_it_is_finished_and_then_its_blob,
        uploads::a_user_has_so_many_unfinished_uploads_at_most,
        uploads::the_same_bytes_are_one_blob_and_what_came_twice_is_left_over,
        uploads::an_upload_that_was_ended_is_not_finished_and_its_bytes_can_go,
        uploads::an_upload_that_was_given_up_counts_no_more_and_a_finished_one_stays,
        uploads::nothing_of_a_blob_can_go_with_its_upload,
        uploads::a_blob_that_goes_is_not_answered_and_its_bytes_can_come_anew,
        references::a_blob_goes_when_its_receipts_have_expired_and_nothing_refers_to_it,
        references::what_was_removed_stays_removed_in_any_order,
        references::the_picture_of_the_largest_version_is_kept,
        references::a_poster_is_kept_for_as_long_as_its_video,
        references::a_reference_to_what_is_not_there_is_told_and_not_kept,
        references::pictures_and_attachments_go_at_times_of_their_own,
        references::the_barrier_is_the_earliest_of_the_latest_of_all_partitions,
        references::positions_and_references_move_together,
        references::blobs_go_in_steps_and_what_goes_is_answered_until_it_is_forgotten,
    );
}

/// When uploads of tests begin.
pub(crate) const NOW: i64 = 1_800_000_000_000;

pub(crate) fn upload(owner: UserId, source: u8) -> Upload {
    Upload {
        id: UploadId::generate(),
        owner,
        purpose: Purpose::Attachment,
        size_bytes: 5_000,
        source_sha256: [source; 32],
        blob: BlobId::generate(),
        begun_unix_ms: NOW,
        finished: false,
    }
}

/// What the upload becomes, kept until [`NOW`].
pub(crate) fn blob_of(upload: &Upload) -> Blob {
    let thumbnail = |side| Thumbnail {
        media_type: MediaType::Jpeg,
        width: side,
        height: side / 2,
        size_bytes: u64::from(side) * 10,
    };
    Blob {
        id: upload.blob,
        owner: upload.owner,
        purpose: upload.purpose,
        media_type: MediaType::Png,
        size_bytes: 4_000,
        sha256: [9; 32],
        source_sha256: upload.source_sha256,
        look: Some(Look {
            width: 1_000,
            height: 500,
            placeholder: "LEHV6nWB2yk8".to_owned(),
            small: thumbnail(320),
            large: thumbnail(1_000),
        }),
        poster: None,
        created_unix_ms: NOW,
        kept_until_unix_ms: NOW,
    }
}

/// A blob of a new user that is kept until [`NOW`].
pub(crate) async fn made(store: &dyn Store) -> Blob {
    made_with(store, |_| {}).await
}

pub(crate) async fn made_with(store: &dyn Store, change: impl FnOnce(&mut Blob)) -> Blob {
    let mut upload = upload(UserId::generate(), 1);
    let mut blob = blob_of(&upload);
    change(&mut blob);
    upload.purpose = blob.purpose;
    store.begin_upload(upload.clone(), 10, NOW).await.unwrap();
    let finished = store.finish_upload(&upload, blob.clone()).await.unwrap();
    assert_eq!(finished, Finished::Kept(blob.clone()));
    blob
}

/// Attachments and pictures that are kept until then at most.
pub(crate) fn kept_before(unix_ms: i64) -> KeptBefore {
    KeptBefore {
        attachments_unix_ms: unix_ms,
        pictures_unix_ms: unix_ms,
    }
}

pub(crate) async fn is_there(store: &dyn Store, blob: BlobId) -> bool {
    !store.blobs(vec![blob]).await.unwrap().is_empty()
}

/// Takes and forgets all that can be removed at [`NOW`].
pub(crate) async fn remove(store: &dyn Store) -> Vec<BlobId> {
    let could = store.has_removable(kept_before(NOW)).await.unwrap();
    let mut going = store.take_removable(kept_before(NOW), 100).await.unwrap();
    assert!(could || going.is_empty());
    for blob in &going {
        store.forget_blob(*blob).await.unwrap();
    }
    going.sort();
    going
}

pub(crate) const READER: ReaderId = ReaderId {
    reader: "references",
    topic: "references",
    partition: 0,
};

pub(crate) fn log() -> LogIdentity {
    LogIdentity {
        log_id: "log one".to_owned(),
        topic_id: "topic one".to_owned(),
        partitions: 4,
    }
}

/// Applies references, by a reader that stands still.
pub(crate) async fn apply(store: &dyn Store, references: Vec<Reference>) -> Vec<BlobId> {
    let advance = PositionAdvance {
        reader: READER,
        from: 0,
        to: 0,
    };
    store.apply(references, Vec::new(), advance).await.unwrap()
}

pub(crate) fn event(conversation: ConversationId, seq: u64, blobs: &[&Blob]) -> Reference {
    Reference::Event {
        conversation,
        seq,
        blobs: blobs.iter().map(|blob| blob.id).collect(),
        removed: false,
    }
}

pub(crate) fn removed(mut reference: Reference) -> Reference {
    if let Reference::Event { removed, .. } = &mut reference {
        *removed = true;
    }
    reference
}

pub(crate) fn conversation() -> ConversationId {
    ConversationId::group(GroupId::generate())
}
