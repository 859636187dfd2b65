//! What every keeper of bytes must hold, run over each adapter.

use bytes::Bytes;
use futures_util::{TryStreamExt, future::join_all};
use runtime::ids::{BlobId, UploadId, UserId};
use sha2::{Digest, Sha256};

use super::*;
use crate::limits::BLOB_BYTES_MAX;

pub(crate) const JPEG: MediaType = MediaType::Jpeg;

/// Uploads at the same time.
const TOGETHER: usize = 200;

pub(crate) fn stage_key() -> StageKey {
    StageKey {
        owner: UserId::generate(),
        upload: UploadId::generate(),
    }
}

pub(crate) fn object_key() -> ObjectKey {
    ObjectKey {
        blob: BlobId::generate(),
        variant: Variant::Original,
    }
}

/// Bytes of which every place is another.
pub(crate) fn bytes(len: usize, seed: u8) -> Bytes {
    let byte = |at: usize| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8 ^ seed;
    (0..len).map(byte).collect()
}

pub(crate) fn content(of: &[u8]) -> Content {
    Content {
        size_bytes: of.len() as u64,
        sha256: Sha256::digest(of).into(),
    }
}

/// All of a stream, whose parts are as small as is promised.
pub(crate) async fn all(stream: ByteStream) -> Result<Vec<u8>, ObjectError> {
    let parts: Vec<Bytes> = stream.try_collect().await?;
    let sizes = parts.iter().map(Bytes::len);
    assert!(
        sizes
            .clone()
            .all(|len| (1..=READ_PART_BYTES).contains(&len))
    );
    Ok(parts.concat())
}

pub(crate) async fn whole(objects: &dyn Objects, key: ObjectKey) -> Result<Vec<u8>, ObjectError> {
    let size = objects.size_bytes(key).await?;
    all(objects.get(key, 0..size).await?).await
}

/// Stages all of it, in pieces of at most so many bytes, and flushes.
pub(crate) async fn stage(objects: &dyn Objects, key: StageKey, of: &Bytes, piece: usize) {
    let mut stage = objects.open_stage(key).await.unwrap();
    let mut left = of.slice(usize::try_from(stage.written_bytes()).unwrap()..);
    while !left.is_empty() {
        let part = left.split_to(piece.min(left.len()));
        stage.write(part).await.unwrap();
    }
    stage.flush().await.unwrap();
    assert_eq!(stage.written_bytes(), of.len() as u64);
}

/// Runs every check. Each call of `open` answers another process's view of the same bytes.
pub(crate) async fn run<O: Objects>(open: impl AsyncFn() -> O) {
    let one = open().await;
    what_is_not_there_is_not_found(&one).await;
    putting_is_instead_of_what_was_there(&one).await;
    ranges_are_exact(&one).await;
    deleting_takes_all_that_is_there(&one).await;
    staging_in_odd_sizes_keeps_every_byte(&one).await;
    what_was_flushed_is_there_and_never_a_gap(&open).await;
    one_writer_has_an_upload(&one).await;
    uploads_of_two_owners_are_two(&one).await;
    promoting_may_come_again(&open).await;
    only_the_bytes_that_were_checked_become_an_object(&one).await;
    many_uploads_at_once_do_not_mix(&one).await;
}

async fn what_is_not_there_is_not_found(objects: &dyn Objects) {
    use ObjectError::NotFound;
    let (stage, key) = (stage_key(), object_key());
    assert!(matches!(objects.size_bytes(key).await, Err(NotFound)));
    assert!(matches!(objects.get(key, 0..1).await, Err(NotFound)));
    assert!(matches!(objects.read_stage(stage).await, Err(NotFound)));
    assert_eq!(objects.staged_bytes(stage).await.unwrap(), 0);
    let content = content(b"never");
    let promoted = objects.promote(stage, key, content, JPEG).await;
    assert!(matches!(promoted, Err(NotFound)));
    objects.discard_stage(stage).await.unwrap();
    objects.delete(key.blob).await.unwrap();
}

async fn putting_is_instead_of_what_was_there(objects: &dyn Objects) {
    let key = object_key();
    for (len, seed) in [(70_000, 1), (10, 2), (300_000, 3)] {
        let content = bytes(len, seed);
        objects.put(key, content.clone(), JPEG).await.unwrap();
        assert_eq!(objects.size_bytes(key).await.unwrap(), len as u64);
        assert_eq!(whole(objects, key).await.unwrap(), content);
    }
}

async fn ranges_are_exact(objects: &dyn Objects) {
    let key = object_key();
    let size = usize::try_from(BLOB_BYTES_MAX).unwrap();
    let content = bytes(size, 4);
    objects.put(key, content.clone(), JPEG).await.unwrap();
    let middle = size / 2 - 300_001..size / 2 + 300_001;
    for range in [
        0..1,
        0..READ_PART_BYTES,
        0..READ_PART_BYTES + 1,
        middle,
        size - 1..size,
        7..7,
        0..size,
    ] {
        let wanted = range.start as u64..range.end as u64;
        let read = all(objects.get(key, wanted).await.unwrap()).await.unwrap();
        assert_eq!(read, content[range.clone()], "{range:?}");
    }
    // Less than was asked for is an error, at once or at the end.
    let beyond = size as u64 - 5..size as u64 + 5;
    let read = match objects.get(key, beyond).await {
        Ok(stream) => all(stream).await,
        Err(error) => Err(error),
    };
    assert!(matches!(read, Err(ObjectError::Unavailable(_))), "{read:?}");
    // One that is read while it goes is whole, or fails; it never just ends.
    let stream = objects.get(key, 0..size as u64).await.unwrap();
    objects.delete(key.blob).await.unwrap();
    if let Ok(read) = all(stream).await {
        assert_eq!(read, content);
    }
}

async fn deleting_takes_all_that_is_there(objects: &dyn Objects) {
    let there = |some: &[Variant]| some.to_vec();
    for variants in [
        there(&[]),
        there(&[Variant::Large]),
        there(&[Variant::Original, Variant::Small]),
        there(&Variant::ALL),
    ] {
        let (gone, other) = (BlobId::generate(), object_key());
        objects.put(other, bytes(9, 5), JPEG).await.unwrap();
        for variant in variants {
            let key = ObjectKey {
                blob: gone,
                variant,
            };
            objects.put(key, bytes(9, 6), JPEG).await.unwrap();
        }
        objects.delete(gone).await.unwrap();
        for variant in Variant::ALL {
            let key = ObjectKey {
                blob: gone,
                variant,
            };
            let size = objects.size_bytes(key).await;
            assert!(matches!(size, Err(ObjectError::NotFound)), "{key:?}");
        }
        assert_eq!(objects.size_bytes(other).await.unwrap(), 9);
    }
}

async fn staging_in_odd_sizes_keeps_every_byte(objects: &dyn Objects) {
    for (len, piece) in [
        (1, 1),
        (5_000, 7),
        (1_500_001, 65_536),
        (1_200_000, 999_999),
    ] {
        let (key, content) = (stage_key(), bytes(len, 7));
        stage(objects, key, &content, piece).await;
        assert_eq!(objects.staged_bytes(key).await.unwrap(), len as u64);
        let read = all(objects.read_stage(key).await.unwrap()).await.unwrap();
        assert_eq!(read, content);
        objects.discard_stage(key).await.unwrap();
        assert_eq!(objects.staged_bytes(key).await.unwrap(), 0);
    }
}

/// Writers go, with and without a flush, and others go on, in this process or another one.
async fn what_was_flushed_is_there_and_never_a_gap<O: Objects>(open: &impl AsyncFn() -> O) {
    let (key, content) = (stage_key(), bytes(2_000_003, 8));
    let mut flushed = 0;
    let mut one = open().await;
    for round in 0..12_usize {
        if round % 3 == 2 {
            one = open().await;
        }
        let staged = one.staged_bytes(key).await.unwrap();
        let mut stage = one.open_stage(key).await.unwrap();
        let at = usize::try_from(stage.written_bytes()).unwrap();
        assert_eq!(at as u64, staged);
        assert!((flushed..=content.len()).contains(&at), "{at}, {flushed}");
        let mut left = content.slice(at..);
        for piece in [1, 60_000, 99_999, 200_000 / (round + 1)] {
            stage
                .write(left.split_to(piece.min(left.len())))
                .await
                .unwrap();
            if round % 2 == 0 && piece == 60_000 {
                stage.flush().await.unwrap();
                flushed = usize::try_from(stage.written_bytes()).unwrap();
            }
        }
        let written = stage.written_bytes();
        drop(stage);
        let staged = one.staged_bytes(key).await.unwrap();
        assert!((flushed as u64..=written).contains(&staged));
        let read = all(one.read_stage(key).await.unwrap()).await.unwrap();
        assert_eq!(read, content[..read.len()]);
        assert!(read.len() >= flushed);
    }
    stage(&one, key, &content, 100_000).await;
    let read = all(one.read_stage(key).await.unwrap()).await.unwrap();
    assert_eq!(read, content);
}

async fn one_writer_has_an_upload(objects: &dyn Objects) {
    use ObjectError::Busy;
    let (key, content_) = (stage_key(), bytes(100, 9));
    let mut stage = objects.open_stage(key).await.unwrap();
    stage.write(content_.clone()).await.unwrap();
    stage.flush().await.unwrap();
    assert!(matches!(objects.open_stage(key).await, Err(Busy)));
    assert!(matches!(objects.discard_stage(key).await, Err(Busy)));
    let promoted = objects.promote(key, object_key(), content(&content_), JPEG);
    assert!(matches!(promoted.await, Err(Busy)));
    // Whoever looks is not in the way.
    assert_eq!(objects.staged_bytes(key).await.unwrap(), 100);
    drop(stage);
    let stage = objects.open_stage(key).await.unwrap();
    assert_eq!(stage.written_bytes(), 100);
}

async fn uploads_of_two_owners_are_two(objects: &dyn Objects) {
    let one = stage_key();
    let other = StageKey {
        owner: UserId::generate(),
        ..one
    };
    stage(objects, one, &bytes(1_000, 10), 300).await;
    stage(objects, other, &bytes(2_000, 11), 300).await;
    let read = async |key| all(objects.read_stage(key).await.unwrap()).await.unwrap();
    assert_eq!(read(one).await, bytes(1_000, 10));
    assert_eq!(read(other).await, bytes(2_000, 11));
    objects.discard_stage(one).await.unwrap();
    assert_eq!(read(other).await, bytes(2_000, 11));
}

async fn promoting_may_come_again<O: Objects>(open: &impl AsyncFn() -> O) {
    let one = open().await;
    for len in [1, 700_000, 11_000_000] {
        let (from, to, whole_) = (stage_key(), object_key(), bytes(len, 12));
        let content = content(&whole_);
        stage(&one, from, &whole_, 65_536).await;
        one.promote(from, to, content, JPEG).await.unwrap();
        assert_eq!(one.staged_bytes(from).await.unwrap(), 0);
        assert_eq!(whole(&one, to).await.unwrap(), whole_);
        one.promote(from, to, content, JPEG).await.unwrap();
        let second = open().await;
        second.promote(from, to, content, JPEG).await.unwrap();
        assert_eq!(whole(&second, to).await.unwrap(), whole_);
        // Somebody staged a beginning of it again.
        stage(&second, from, &whole_.slice(..len / 2), 65_536).await;
        let again = second.promote(from, to, content, JPEG).await;
        if let Err(error) = again {
            assert!(matches!(error, ObjectError::Changed), "{error}");
        }
        assert_eq!(whole(&one, to).await.unwrap(), whole_);
    }
}

async fn only_the_bytes_that_were_checked_become_an_object(objects: &dyn Objects) {
    for (there, wanted) in [(900_000, 900_001), (900_001, 900_000)] {
        let (from, to) = (stage_key(), object_key());
        stage(objects, from, &bytes(there, 13), 65_536).await;
        let content = content(&bytes(wanted, 13));
        let promoted = objects.promote(from, to, content, JPEG).await;
        assert!(
            matches!(promoted, Err(ObjectError::Changed)),
            "{promoted:?}"
        );
        let size = objects.size_bytes(to).await;
        assert!(matches!(size, Err(ObjectError::NotFound)));
        assert_eq!(objects.staged_bytes(from).await.unwrap(), there as u64);
    }
}

async fn many_uploads_at_once_do_not_mix(objects: &dyn Objects) {
    let uploads = (0..TOGETHER).map(|n| async move {
        let seed = u8::try_from(n).unwrap();
        let (from, to, whole_) = (stage_key(), object_key(), bytes(40_000 + n, seed));
        stage(objects, from, &whole_, 16_384).await;
        let content = content(&whole_);
        objects.promote(from, to, content, JPEG).await.unwrap();
        assert_eq!(whole(objects, to).await.unwrap(), whole_);
        objects.delete(to.blob).await.unwrap();
    });
    join_all(uploads).await;
}
