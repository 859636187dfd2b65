//! Pictures that are made to cost, each with what it costs and how it is refused.

use std::time::Instant;

use super::*;

const MIB: u64 = 1024 * 1024;

fn is_too_large(result: Result<Picture, PictureError>) -> bool {
    matches!(result, Err(PictureError::TooLarge(_)))
}

fn is_unreadable(result: Result<Picture, PictureError>) -> bool {
    matches!(result, Err(PictureError::Unreadable(_)))
}

/// A picture whose header says these sides.
fn declared(kind: MediaType, width: u16, height: u16) -> Vec<u8> {
    let mut content = make::still(kind, 1);
    match kind {
        MediaType::Jpeg => {
            let at = content
                .windows(2)
                .position(|it| it == [0xFF, 0xC0])
                .unwrap();
            content[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
            content[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
        }
        MediaType::Png => {
            let mut header = content[16..29].to_vec();
            header[..4].copy_from_slice(&u32::from(width).to_be_bytes());
            header[4..8].copy_from_slice(&u32::from(height).to_be_bytes());
            content.drain(8..33);
            let chunk = img_parts::png::PngChunk::new(*b"IHDR", header.into());
            content.splice(8..8, chunk.encoder().bytes());
        }
        MediaType::Gif => {
            content[6..8].copy_from_slice(&width.to_le_bytes());
            content[8..10].copy_from_slice(&height.to_le_bytes());
        }
        _ => {
            let bits = u32::from(width - 1) | u32::from(height - 1) << 14;
            content[21..25].copy_from_slice(&bits.to_le_bytes());
        }
    }
    content
}

#[test]
fn sides_are_refused_before_anything_is_decoded() {
    for kind in KINDS {
        let begun = Instant::now();
        // 14 bits are all that a WebP can say.
        let (side, other) = (16_383, 16_000);
        assert!(
            is_too_large(read(declared(kind, side, other), kind)),
            "{kind:?}"
        );
        if kind != MediaType::WebP {
            assert!(
                is_too_large(read(declared(kind, 16_385, 1), kind)),
                "{kind:?}"
            );
            assert!(
                is_too_large(read(declared(kind, 1, 65_535), kind)),
                "{kind:?}"
            );
            assert!(is_unreadable(read(declared(kind, 0, 9), kind)), "{kind:?}");
        }
        assert!(begun.elapsed() < Duration::from_millis(200), "{kind:?}");
    }
}

#[test]
fn large_sides_with_few_bytes_cost_what_they_say_and_are_found_out() {
    for kind in [MediaType::Png, MediaType::WebP] {
        let content = declared(kind, 4_000, 4_000);
        let plan = Plan::new(content.into(), kind).unwrap();
        assert!(plan.memory_bytes() < 220 * MIB, "{kind:?}");
        assert!(is_unreadable(plan.read()), "{kind:?}");
    }
    // A GIF's frame may be smaller than its picture: nothing is wrong with it.
    let gif = Plan::new(
        declared(MediaType::Gif, 2_000, 2_000).into(),
        MediaType::Gif,
    )
    .unwrap();
    assert!(gif.memory_bytes() < 70 * MIB);
    gif.read().unwrap();
}

#[test]
fn a_line_of_the_largest_side_is_a_picture_as_any_other() {
    for (width, height) in [(16_384, 1), (1, 16_384)] {
        let line = image::RgbaImage::from_pixel(width, height, image::Rgba([1, 2, 3, 255]));
        let picture = read(make::png(&line), MediaType::Png).unwrap();
        assert_eq!(picture.look.width.max(picture.look.height), 16_384);
        assert_eq!(picture.look.small.width.min(picture.look.small.height), 1);
    }
}

/// A zlib stream of zeros.
fn zeros(bytes: usize) -> Vec<u8> {
    let image = image::GrayImage::new(1_024, (bytes / 1_025) as u32);
    let mut content = Vec::new();
    use image::ImageEncoder as _;
    image::codecs::png::PngEncoder::new_with_quality(
        &mut content,
        image::codecs::png::CompressionType::Best,
        image::codecs::png::FilterType::NoFilter,
    )
    .write_image(
        &image,
        image.width(),
        image.height(),
        image::ExtendedColorType::L8,
    )
    .unwrap();
    let parts = img_parts::png::Png::from_bytes(content.into()).unwrap();
    let data = parts.chunks_by_type(*b"IDAT");
    data.flat_map(|chunk| chunk.contents().to_vec()).collect()
}

#[test]
fn bombs_beside_the_pixels_are_not_unpacked_or_only_within_their_budget() {
    let bomb = zeros(32 * MIB as usize);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let plain = make::still(MediaType::Png, 1);
    let begun = Instant::now();
    for (name, head) in [
        (*b"iTXt", &b"XML:com.adobe.xmp\0\x01\0\0\0"[..]),
        (*b"zTXt", b"Comment\0\0"),
    ] {
        let content = make::with_chunk(plain.clone(), name, &[head, &bomb].concat());
        let plan = Plan::new(content.into(), MediaType::Png).unwrap();
        assert!(plan.memory_bytes() < 20 * MIB);
        assert_clean(&plan.read().unwrap().content);
    }
    let profile = [b"icc\0\0", &bomb[..]].concat();
    let content = make::with_chunk(plain, *b"iCCP", &profile);
    let plan = Plan::new(content.into(), MediaType::Png).unwrap();
    assert!(plan.memory_bytes() > profile.len() as u64 * 1_000 || profile.len() > 65_536);
    let picture = plan.read().unwrap();
    assert_eq!(make::profile_of(&picture.content, MediaType::Png), None);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn pixels_that_unpack_to_more_than_the_sides_say_are_not_unpacked() {
    let mut parts = img_parts::png::Png::from_bytes(make::still(MediaType::Png, 1).into()).unwrap();
    parts.remove_chunks_by_type(*b"IDAT");
    let data = zeros(64 * MIB as usize);
    let at = parts.chunks().len() - 1;
    let chunk = img_parts::png::PngChunk::new(*b"IDAT", data.into());
    parts.chunks_mut().insert(at, chunk);
    let begun = Instant::now();
    // Refused or not: what counts is that it takes no longer than its pixels do.
    let _ = read(parts.encoder().bytes().to_vec(), MediaType::Png);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn scans_of_a_jpeg_count_with_its_pixels() {
    let mut content = declared(MediaType::Jpeg, 7_000, 7_000);
    let frame = content
        .windows(2)
        .position(|it| it == [0xFF, 0xC0])
        .unwrap();
    content[frame + 1] = 0xC2;
    content.truncate(content.len() - 2);
    for _ in 0..20 {
        content.extend_from_slice(&[0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 63, 0, 0]);
    }
    content.extend_from_slice(&[0xFF, 0xD9]);
    let begun = Instant::now();
    assert!(is_too_large(read(content, MediaType::Jpeg)));
    assert!(begun.elapsed() < Duration::from_millis(200));
}

#[test]
fn segments_and_chunks_are_bounded() {
    let mut jpeg = make::still(MediaType::Jpeg, 1);
    jpeg.splice(2..2, [0xFF, 0xFE, 0, 2].repeat(5_000));
    assert!(is_too_large(read(jpeg, MediaType::Jpeg)));
    let mut png = make::still(MediaType::Png, 1);
    let chunk = img_parts::png::PngChunk::new(*b"teSt", Bytes::new());
    png.splice(33..33, chunk.encoder().bytes().repeat(2_000));
    assert!(is_too_large(read(png, MediaType::Png)));
    let mut webp = make::moving_webp(1);
    webp.extend(b"JUNK\0\0\0\0".repeat(5_000));
    make::set_riff_size(&mut webp);
    assert!(is_too_large(read(webp, MediaType::WebP)));
}

#[test]
fn frames_count_with_the_pixels_of_all_of_the_picture() {
    let mut gif = make::moving_gif(250);
    gif[6..8].copy_from_slice(&4_000_u16.to_le_bytes());
    gif[8..10].copy_from_slice(&4_000_u16.to_le_bytes());
    let begun = Instant::now();
    assert!(is_too_large(read(gif, MediaType::Gif)));
    let mut webp = make::moving_webp(250);
    webp[24..30].copy_from_slice(&[0x9F, 0x0F, 0, 0x9F, 0x0F, 0]);
    assert!(is_too_large(read(webp, MediaType::WebP)));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn palettes_that_are_none_are_refused() {
    for (name, data) in [
        (*b"PLTE", vec![1; 769]),
        (*b"PLTE", vec![1; 4]),
        (*b"tRNS", vec![1; 257]),
    ] {
        let content = make::with_chunk(make::still(MediaType::Png, 1), name, &data);
        assert!(is_unreadable(read(content, MediaType::Png)));
    }
    // A frame of a GIF without any palette.
    let mut gif = make::moving_gif(1);
    gif.drain(13..25);
    gif[10] = 0;
    assert!(is_unreadable(read(gif, MediaType::Gif)));
}

#[test]
fn profiles_that_are_large_or_of_other_colours_do_not_stay() {
    let mut large = make::icc_profile();
    large.resize(70_000, 7);
    large[..4].copy_from_slice(&70_000_u32.to_be_bytes());
    let mut gray = make::icc_profile();
    gray[16..20].copy_from_slice(b"GRAY");
    let mut lying = make::icc_profile();
    lying[3] = 9;
    for profile in [large, gray, lying, SECRET.to_vec()] {
        for kind in [MediaType::Jpeg, MediaType::Png, MediaType::WebP] {
            let content = make::with_profile(make::still(kind, 1), kind, profile.clone());
            let picture = read(content, kind).unwrap();
            assert_eq!(make::profile_of(&picture.content, kind), None, "{kind:?}");
        }
    }
}

#[test]
fn what_is_cut_off_or_of_another_kind_is_refused() {
    for kind in KINDS {
        let whole = make::still(kind, 1);
        for cut in [whole.len() - 1, whole.len() / 2, 20, 3, 0] {
            let refused = read(whole[..cut].to_vec(), kind);
            assert!(is_unreadable(refused), "{kind:?} cut at {cut}");
        }
        for other in MediaType::ALL {
            if other != kind {
                assert!(
                    is_unreadable(read(whole.clone(), other)),
                    "{kind:?} {other:?}"
                );
            }
        }
    }
}
