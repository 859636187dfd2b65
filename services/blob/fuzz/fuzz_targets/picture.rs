//! Whatever arrives is refused, or is a clean picture of the sides that are said.
#![no_main]

use blob::media::{Plan, detect};
use bytes::Bytes;
use image::GenericImageView as _;
use libfuzzer_sys::fuzz_target;

/// Pictures that may cost more are skipped: they are slow, and nothing else.
const MEMORY_BYTES_MAX: u64 = 48 << 20;

fuzz_target!(|content: &[u8]| {
    let Some(media_type) = detect(content).filter(|kind| kind.is_picture()) else {
        return;
    };
    let Ok(plan) = Plan::new(Bytes::copy_from_slice(content), media_type) else {
        return;
    };
    if plan.memory_bytes() > MEMORY_BYTES_MAX {
        return;
    }
    let Ok(picture) = plan.read() else {
        return;
    };
    let seen = image::load_from_memory(&picture.content).expect("what is served decodes");
    let sides = (picture.look.width, picture.look.height);
    assert_eq!(seen.dimensions(), sides);
    let again = Plan::new(picture.content.clone(), media_type).expect("it is read again");
    let again = again.read().expect("it is read again");
    assert_eq!(again.content, picture.content, "cleaning it again changes it");
});
