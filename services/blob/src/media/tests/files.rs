//! Pictures that other encoders wrote, in kinds that ours cannot write, whole and damaged.

use std::fs;

use image::Rgba;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

/// Damaged pictures that are tried: some seconds of them.
const DAMAGED_COUNT: usize = 4_000;
/// Memory of a damaged picture that is read: larger ones are slow, and nothing else.
const MEMORY_BYTES_MAX: u64 = 40 << 20;

/// All files, by name.
fn files() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/media/tests/pictures");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind != "md"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() > 30);
    files
}

fn file(name: &str) -> Vec<u8> {
    let found = files().into_iter().find(|(other, _)| other == name);
    found.unwrap().1
}

/// In the middle of each quarter of an upright picture.
fn colors(image: &DynamicImage) -> [Rgba<u8>; 4] {
    [(4, 4), (16, 4), (4, 12), (16, 12)].map(|(x, y)| image.to_rgba8().get_pixel(x, y).to_owned())
}

fn assert_near(name: &str, seen: [Rgba<u8>; 4], expected: [[u8; 4]; 4]) {
    for (seen, expected) in seen.iter().zip(expected) {
        // What is transparent has any colour.
        let channels = if expected[3] == 0 { 3..4 } else { 0..4 };
        for at in channels {
            let off = seen.0[at].abs_diff(expected[at]);
            assert!(off < 16, "{name}: {seen:?} is not {expected:?}");
        }
    }
}

#[test]
fn pictures_of_every_kind_keep_their_colours_in_the_file_and_in_the_thumbnails() {
    for (name, content) in files() {
        if name.starts_with("groups") {
            continue;
        }
        let kind = detect(&content).unwrap();
        let picture = read(content, kind).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut expected = [
            [200, 30, 30, 255],
            [30, 200, 30, 255],
            [30, 30, 200, 255],
            [220, 220, 220, 255],
        ];
        if name.starts_with("gray") {
            expected = [81, 130, 49, 220].map(|light| [light, light, light, 255]);
        }
        if ["transparent", "alpha-l", "key"]
            .iter()
            .any(|it| name.contains(it))
        {
            expected[3][3] = 0;
            assert_eq!(picture.look.small.media_type, MediaType::Png, "{name}");
        }
        assert_eq!(
            (picture.look.width, picture.look.height),
            (24, 16),
            "{name}"
        );
        for content in [&picture.small, &picture.large, &picture.content] {
            // Whether a viewer converts CMYK is its own affair: the decoder of `image` does.
            let seen = image::load_from_memory(content).unwrap();
            assert_near(&name, colors(&seen), expected);
        }
    }
}

#[test]
fn pictures_of_unusual_kinds_keep_their_colours_when_they_are_turned() {
    for name in [
        "cmyk.jpg",
        "progressive-420.jpg",
        "gray.jpg",
        "rgba-16-interlaced.png",
        "gray-16.png",
        "gray-alpha.png",
        "palette-transparent.png",
        "palette-4-interlaced.png",
        "alpha-lossy.webp",
        "palette-lossless.webp",
    ] {
        let content = file(name);
        let kind = detect(&content).unwrap();
        let upright = image::load_from_memory(&content).unwrap();
        let expected = colors(&upright).map(|pixel| pixel.0);
        let picture = read(make::with_exif(content, kind, 3), kind).unwrap();
        let turned = image::load_from_memory(&picture.content).unwrap();
        let pixels = turned.to_rgba8();
        // Upside down: where the middles of the quarters are now.
        let seen = [(19, 11), (7, 11), (19, 3), (7, 3)].map(|(x, y)| *pixels.get_pixel(x, y));
        assert_near(name, seen, expected);
        assert_clean(&picture.content);
    }
}

#[test]
fn a_place_and_a_camera_are_not_in_what_is_kept_whether_it_is_turned_or_not() {
    // The numbers of the place as they are stored, in both byte orders, and the name of who made the camera.
    let places = [
        [52_u32, 1, 31, 1, 12, 1].map(u32::to_le_bytes).concat(),
        [52_u32, 1, 31, 1, 12, 1].map(u32::to_be_bytes).concat(),
    ];
    let camera = &b"Maker of cameras"[..];
    for kind in ["jpg", "png", "webp"] {
        for orientation in [1, 6] {
            let content = file(&format!("gps-{orientation}.{kind}"));
            let held = |content: &[u8]| {
                let place = places.iter().any(|place| contains(content, place));
                [place, contains(content, camera)]
            };
            // The test would see them.
            assert_eq!(held(&content), [true; 2], "{kind} {orientation}");
            let media_type = detect(&content).unwrap();
            let picture = read(content, media_type).unwrap();
            for kept in [&picture.content, &picture.small, &picture.large] {
                assert_eq!(held(kept), [false; 2], "{kind} {orientation}");
                assert_clean(kept);
            }
        }
    }
}

/// Where the data of the last scan begins.
fn last_scan(content: &[u8]) -> usize {
    let marker = content
        .windows(2)
        .rposition(|it| it == [0xFF, 0xDA])
        .unwrap();
    let length = u16::from_be_bytes([content[marker + 2], content[marker + 3]]);
    marker + 2 + usize::from(length)
}

#[test]
fn a_jpeg_that_is_cut_off_and_ended_again_is_refused() {
    for name in [
        "baseline-420.jpg",
        "progressive-444.jpg",
        "progressive-420.jpg",
        "gray.jpg",
        "gray-progressive.jpg",
        "cmyk.jpg",
        "gps-1.jpg",
        "gps-6.jpg",
    ] {
        let whole = file(name);
        let begin = last_scan(&whole);
        // Of the last byte, some bits may be filling.
        for cut in begin..whole.len() - 3 {
            let ended = [&whole[..cut], &[0xFF, 0xD9]].concat();
            let refused = read(ended, MediaType::Jpeg);
            assert!(
                matches!(refused, Err(PictureError::Unreadable(_))),
                "{name} of {} bytes, cut at {cut}",
                whole.len()
            );
        }
    }
}

/// A file of another kind whose pixels end before their end, with everything around them mended.
fn cut(name: &str, bytes: usize) -> Option<Vec<u8>> {
    let mut content = file(name);
    if name.ends_with("png") {
        let mut parts = img_parts::png::Png::from_bytes(content.into()).unwrap();
        let at = parts.chunks().len() - 2;
        let pixels = parts.chunks()[at].contents().clone();
        let pixels = pixels.slice(..pixels.len().checked_sub(bytes)?);
        parts.chunks_mut()[at] = img_parts::png::PngChunk::new(*b"IDAT", pixels);
        return Some(parts.encoder().bytes().to_vec());
    }
    if name.ends_with("gif") {
        // One block of pixels, in front of an empty one and the trailer.
        let end = content.len() - 2;
        let at = (0..end).rfind(|at| usize::from(content[*at]) == end - at - 1)?;
        content[at] = content[at]
            .checked_sub(bytes as u8)
            .filter(|left| *left > 0)?;
        content.drain(end - bytes..end);
        return Some(content);
    }
    let left = content.len().checked_sub(20 + 16 + bytes)? + 16;
    content.truncate(20 + left);
    content[16..20].copy_from_slice(&(left as u32).to_le_bytes());
    make::set_riff_size(&mut content);
    Some(content)
}

#[test]
fn pixels_that_end_too_early_are_refused_whatever_is_mended_around_them() {
    for name in [
        "rgb-16.png",
        "interlaced.png",
        "palette-2.png",
        "interlaced.gif",
        "groups-lossless.webp",
        "lossy.webp",
    ] {
        // The last five bytes of a PNG's pixels are their checksum and the word that says that they end.
        let cuts: Vec<_> = (6..60).filter_map(|bytes| cut(name, bytes)).collect();
        assert!(cuts.len() > 2, "{name}");
        for content in cuts {
            let refused = read(content.clone(), detect(&content).unwrap());
            assert!(
                matches!(refused, Err(PictureError::Unreadable(_))),
                "{name}, {} bytes are left",
                content.len()
            );
        }
    }
}

#[test]
fn damaged_files_are_refused_or_clean_the_same_ones_in_each_run() {
    let files = files();
    let mut random = StdRng::seed_from_u64(1);
    let mut accepted = 0;
    for at in 0..DAMAGED_COUNT {
        let (name, whole) = &files[at % files.len()];
        let kind = detect(whole).unwrap();
        let mut content = whole.clone();
        for _ in 0..1 + random.next_u32() % 3 {
            damage(&mut content, &mut random);
        }
        match Plan::new(content.clone().into(), kind) {
            Ok(plan) if plan.memory_bytes() < MEMORY_BYTES_MAX => {
                if let Ok(picture) = plan.read() {
                    accepted += 1;
                    properties::hold(&picture)
                        .unwrap_or_else(|error| panic!("{name}, number {at}: {error}"));
                }
            }
            // What our walk of the codes refuses, the decoder refuses as well.
            Err(error) if error == lossless::DAMAGED && !name.starts_with("moving") => {
                assert!(
                    image::load_from_memory(&content).is_err(),
                    "{name}, number {at}"
                );
            }
            _ => {}
        }
    }
    // Bits of pixels may mean others: the test is none if all is refused in front of the decoder.
    assert!(accepted > DAMAGED_COUNT / 20, "{accepted}");
}

fn damage(content: &mut Vec<u8>, random: &mut StdRng) {
    if content.is_empty() {
        return;
    }
    let mut below = |limit: usize| random.next_u64() as usize % limit;
    let (at, from) = (below(content.len()), below(content.len()));
    let bytes = 1 + below(32);
    match below(7) {
        0..3 => content[at] ^= 1 << below(8),
        3 => content[at] = below(256) as u8,
        4 => content.truncate(at),
        5 => drop(content.drain(at..content.len().min(at + bytes))),
        _ => {
            let part = content[from..content.len().min(from + bytes)].to_vec();
            content.splice(at..at, part);
        }
    }
}
