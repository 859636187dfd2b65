//! Parts of uploads: which of them count, and what others have left.

use proptest::prelude::*;

use super::*;
use crate::objects::s3::stage::{PART_BYTES, Parts};

proptest! {
    /// Whatever parts there are, those that count are a beginning without a gap and without a byte twice.
    #[test]
    fn the_parts_that_count_are_one_beginning(
        parts in proptest::collection::btree_map(0_u64..40, 0_u64..20, 0..12)
    ) {
        let chosen = Parts::choose(parts.clone());
        let mut end = 0;
        for part in &chosen.whole {
            prop_assert_eq!(part.offset + part.skip, end);
            prop_assert_eq!(part.offset + parts[&part.offset], part.end);
            prop_assert!(part.end > end);
            end = part.end;
        }
        prop_assert_eq!(chosen.end(), end);
        prop_assert_eq!(chosen.whole.len() + chosen.strays.len(), parts.len());
        // It goes as far as there are bytes.
        let reached = (0..=60).find(|at| {
            !parts.iter().any(|(offset, len)| (*offset..offset + len).contains(at))
        });
        prop_assert_eq!(reached, Some(end));
    }
}

#[tokio::test]
async fn flushing_often_makes_no_more_parts() {
    let server = S3::start().unwrap();
    let objects = open(&server).await;
    let (key, content) = (stage_key(), bytes(2 * PART_BYTES + 50, 1));
    for piece in 0..100 {
        let end = content.len() * (piece + 1) / 100;
        stage(&objects, key, &content.slice(..end), 65_536).await;
    }
    let parts = objects.inner.parts(key).await.unwrap();
    assert_eq!((parts.whole.len(), parts.strays.len()), (3, 0));
    let read = all(objects.read_stage(key).await.unwrap()).await.unwrap();
    assert_eq!(read, content);
}

/// Two processes, which know nothing of each other.
#[tokio::test]
async fn two_writers_leave_a_beginning_and_only_checked_bytes_become_an_object() {
    let server = S3::start().unwrap();
    let (one, other) = (open(&server).await, open(&server).await);
    let (key, to) = (stage_key(), object_key());
    let (right, wrong) = (bytes(1_300_000, 1), bytes(1_300_000, 2));
    let mut first = one.open_stage(key).await.unwrap();
    let mut second = other.open_stage(key).await.unwrap();
    second.write(wrong.slice(..900_000)).await.unwrap();
    second.flush().await.unwrap();
    first.write(right.slice(..700_000)).await.unwrap();
    first.flush().await.unwrap();
    drop((first, second));
    let staged = one.staged_bytes(key).await.unwrap();
    let read = all(one.read_stage(key).await.unwrap()).await.unwrap();
    assert_eq!(read.len() as u64, staged);
    stage(&one, key, &right, 65_536).await;
    let mut last = other.open_stage(key).await.unwrap();
    assert_eq!(last.written_bytes(), right.len() as u64);
    one.promote(key, to, content(&right), JPEG).await.unwrap();
    assert_eq!(whole(&one, to).await.unwrap(), right);
    // It comes late, and its bytes do not.
    last.write(wrong.slice(..10)).await.unwrap();
    last.flush().await.unwrap();
    drop(last);
    let again = other.promote(key, to, content(&right), JPEG).await;
    again.unwrap();
    assert_eq!(whole(&one, to).await.unwrap(), right);
    // The same size and other bytes.
    let (key, to) = (stage_key(), object_key());
    for len in [1_300_000, 9_000_000] {
        stage(&one, key, &bytes(len, 2), 65_536).await;
        let promoted = one.promote(key, to, content(&bytes(len, 1)), JPEG).await;
        assert!(
            matches!(promoted, Err(ObjectError::Changed)),
            "{promoted:?}"
        );
        let size = one.size_bytes(to).await;
        assert!(matches!(size, Err(ObjectError::NotFound)));
    }
}

/// What several dead processes may have left, with wrong bytes where they do not count.
#[tokio::test]
async fn parts_that_overlap_or_are_behind_a_gap_do_not_count_twice() {
    let server = S3::start().unwrap();
    let objects = open(&server).await;
    let (key, to) = (stage_key(), object_key());
    let (right, wrong) = (bytes(2_000_000, 1), bytes(2_000_000, 2));
    for (offset, part) in [
        (0, right.slice(..600_000)),
        (100_000, wrong.slice(..10_000)),
        (500_000, right.slice(500_000..800_000)),
        (1_700_000, wrong.slice(..100_000)),
    ] {
        let path = objects.inner.part(key, offset);
        let put = objects.inner.client.put(&path, PutPayload::from(part));
        put.await.unwrap();
    }
    assert_eq!(objects.staged_bytes(key).await.unwrap(), 800_000);
    let read = all(objects.read_stage(key).await.unwrap()).await.unwrap();
    assert!(read == right[..800_000]);
    stage(&objects, key, &right.slice(..1_750_000), 65_536).await;
    stage(&objects, key, &right, 65_536).await;
    let promoted = objects.promote(key, to, content(&right), JPEG);
    promoted.await.unwrap();
    assert!(whole(&objects, to).await.unwrap() == right);
}

/// A process died while it removed the parts of what it had promoted.
#[tokio::test]
async fn a_promote_that_was_cut_off_is_finished_by_another_process() {
    let server = S3::start().unwrap();
    let one = open(&server).await;
    let (key, to, bytes) = (stage_key(), object_key(), bytes(6_000_000, 1));
    stage(&one, key, &bytes, 65_536).await;
    one.put(to, bytes.clone(), JPEG).await.unwrap();
    let last = one.inner.parts(key).await.unwrap().whole.pop().unwrap();
    one.inner
        .remove_offsets(key, vec![last.offset])
        .await
        .unwrap();
    let other = open(&server).await;
    other.promote(key, to, content(&bytes), JPEG).await.unwrap();
    assert_eq!(other.staged_bytes(key).await.unwrap(), 0);
    assert_eq!(whole(&other, to).await.unwrap(), bytes);
}
