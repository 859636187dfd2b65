//! What must be true of every kind of picture, with pictures that are made here.

mod codes;
mod files;
mod hostile;
mod make;
mod properties;

use image::{DynamicImage, GenericImageView, metadata::Orientation};

use super::*;
use make::{SECRET, exif, icc_profile};

fn read(content: Vec<u8>, media_type: MediaType) -> Result<Picture, PictureError> {
    Plan::new(Bytes::from(content), media_type)?.read()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn assert_clean(content: &[u8]) {
    for marker in [
        SECRET,
        b"Exif\0\0",
        b"EXIF",
        b"eXIf",
        b"xmp",
        b"XMP ",
        b"tEXt",
        b"PK\x03\x04",
    ] {
        assert!(
            !contains(content, marker),
            "{:?} is left",
            String::from_utf8_lossy(marker)
        );
    }
}

const KINDS: [MediaType; 4] = [
    MediaType::Jpeg,
    MediaType::Png,
    MediaType::Gif,
    MediaType::WebP,
];

#[test]
fn a_kind_is_known_by_its_content_and_nothing_else_passes() {
    for kind in KINDS {
        assert_eq!(detect(&make::still(kind, 1)), Some(kind));
    }
    let ftyp = |brands: &[u8]| {
        let mut head = ((8 + brands.len()) as u32).to_be_bytes().to_vec();
        head.extend_from_slice(b"ftyp");
        head.extend_from_slice(brands);
        head
    };
    assert_eq!(detect(&ftyp(b"mp42\0\0\0\0isom")), Some(MediaType::Mp4));
    assert_eq!(detect(&ftyp(b"qt  \0\0\0\0")), Some(MediaType::QuickTime));
    assert_eq!(detect(&ftyp(b"heic\0\0\0\0mif1heic")), None);
    assert_eq!(detect(&ftyp(b"M4A \0\0\0\0isom")), None);
    assert_eq!(
        detect(b"\x1A\x45\xDF\xA3\x9F\x42\x82\x84webm"),
        Some(MediaType::WebM)
    );
    assert_eq!(detect(b"\x1A\x45\xDF\xA3\x9F\x42\x82\x88matroska"), None);
    assert_eq!(detect(b"RIFF\0\0\0\0WAVE"), None);
    assert_eq!(detect(b"<svg xmlns="), None);
    assert_eq!(detect(b""), None);
}

#[test]
fn a_picture_of_every_kind_stands_upright_from_all_eight_orientations() {
    let stored = make::image();
    for kind in KINDS {
        for number in 1..=8 {
            let content = make::still(kind, number);
            let picture = read(content, kind).unwrap();
            let mut expected = DynamicImage::ImageRgb8(stored.clone());
            // GIF has no EXIF: it says nothing of how it stands.
            if kind != MediaType::Gif {
                expected.apply_orientation(Orientation::from_exif(number).unwrap());
            }
            let seen = image::load_from_memory(&picture.content).unwrap();
            assert_eq!(
                seen.dimensions(),
                expected.dimensions(),
                "{kind:?} {number}"
            );
            assert_eq!(
                (picture.look.width, picture.look.height),
                expected.dimensions()
            );
            // The picture's corners have four colours; JPEG and GIF keep them nearly.
            for (x, y, pixel) in expected.to_rgb8().enumerate_pixels() {
                let other = seen.to_rgb8().get_pixel(x, y).0;
                let off = pixel.0.iter().zip(other).map(|(a, b)| a.abs_diff(b)).max();
                assert!(
                    off < Some(24),
                    "{kind:?} {number}: {pixel:?} is {other:?} at {x} {y}"
                );
            }
            assert_clean(&picture.content);
        }
    }
}

#[test]
fn what_is_said_beside_the_pixels_is_gone_and_the_colour_profile_stays() {
    for kind in KINDS {
        let picture = read(make::with_metadata(kind), kind).unwrap();
        assert_clean(&picture.content);
        assert_clean(&picture.small);
        assert_clean(&picture.large);
        if kind != MediaType::Gif {
            let profile = make::profile_of(&picture.content, kind);
            assert_eq!(profile, Some(icc_profile()), "{kind:?}");
        }
        let seen = image::load_from_memory(&picture.content).unwrap();
        let stored = image::load_from_memory(&make::still(kind, 1)).unwrap();
        assert_eq!(seen.to_rgba8(), stored.to_rgba8(), "{kind:?} lost quality");
        // What is clean stays as it is.
        let again = read(picture.content.to_vec(), kind).unwrap();
        assert_eq!(again.content, picture.content, "{kind:?}");
    }
}

#[test]
fn a_profile_stays_with_a_picture_that_is_turned() {
    for kind in [MediaType::Jpeg, MediaType::Png, MediaType::WebP] {
        let content = make::with_profile(make::still(kind, 6), kind, icc_profile());
        let picture = read(content, kind).unwrap();
        assert_eq!(
            make::profile_of(&picture.content, kind),
            Some(icc_profile()),
            "{kind:?}"
        );
    }
}

#[test]
fn what_moves_goes_on_moving() {
    let gif = read(make::moving_gif(5), MediaType::Gif).unwrap();
    assert_eq!(gif.content.as_ref(), make::moving_gif(5));
    let webp = read(make::moving_webp(5), MediaType::WebP).unwrap();
    let decoder =
        image::codecs::webp::WebPDecoder::new(std::io::Cursor::new(&webp.content)).unwrap();
    assert!(decoder.has_animation());
    use image::AnimationDecoder as _;
    assert_eq!(decoder.into_frames().count(), 5);
    assert_clean(&webp.content);
}

#[test]
fn thumbnails_are_no_larger_than_the_picture_and_keep_what_is_transparent() {
    let mut wide = image::RgbaImage::from_pixel(3_000, 40, image::Rgba([10, 200, 30, 255]));
    let opaque = read(make::png(&wide), MediaType::Png).unwrap();
    assert_eq!(opaque.look.large.media_type, MediaType::Jpeg);
    assert_eq!(
        (opaque.look.large.width, opaque.look.large.height),
        (1_280, 17)
    );
    assert_eq!(
        (opaque.look.small.width, opaque.look.small.height),
        (320, 4)
    );
    wide.put_pixel(0, 0, image::Rgba([0; 4]));
    let transparent = read(make::png(&wide), MediaType::Png).unwrap();
    assert_eq!(transparent.look.large.media_type, MediaType::Png);
    let dot = read(make::png(&image::RgbaImage::new(1, 1)), MediaType::Png).unwrap();
    assert_eq!((dot.look.large.width, dot.look.small.height), (1, 1));
    assert_eq!(dot.look.small.size_bytes, dot.small.len() as u64);
    assert_eq!(dot.look.placeholder.len(), 28);
}

#[tokio::test]
async fn pictures_wait_for_memory_and_are_told_when_there_is_none() {
    let content = Bytes::from(make::still(MediaType::Jpeg, 1));
    let memory = Plan::new(content.clone(), MediaType::Jpeg)
        .unwrap()
        .memory_bytes();
    let config = PicturesConfig {
        memory_bytes_max: memory.next_multiple_of(1024),
        wait_max: Duration::from_millis(20),
        ..PicturesConfig::default()
    };
    let pictures = Pictures::new(config);
    let taken = pictures.budget.clone().acquire_many_owned(1).await.unwrap();
    let refused = pictures.read(content.clone(), MediaType::Jpeg).await;
    assert_eq!(refused.unwrap_err(), PictureError::Overloaded);
    drop(taken);
    pictures
        .read(content.clone(), MediaType::Jpeg)
        .await
        .unwrap();
    let config = PicturesConfig {
        memory_bytes_max: memory - 1024,
        ..config
    };
    let refused = Pictures::new(config)
        .read(content.clone(), MediaType::Jpeg)
        .await;
    assert_eq!(refused.unwrap_err(), TOO_MUCH_MEMORY);
}

#[tokio::test]
async fn a_picture_that_takes_too_long_is_refused_and_holds_its_memory_until_it_ends() {
    let image = image::RgbaImage::from_fn(2_000, 2_000, |x, y| {
        image::Rgba([x as u8, y as u8, (x * y) as u8, 255])
    });
    let config = PicturesConfig {
        read_max: Duration::from_millis(1),
        ..PicturesConfig::default()
    };
    let pictures = Pictures::new(config);
    let all = pictures.budget.available_permits();
    let refused = pictures
        .read(make::png(&image).into(), MediaType::Png)
        .await;
    assert!(matches!(refused, Err(PictureError::TooLarge(_))));
    assert!(pictures.budget.available_permits() < all);
    let freed = pictures.budget.acquire_many(all as u32);
    let freed = time::timeout(Duration::from_secs(30), freed).await;
    assert!(freed.unwrap().is_ok());
}

#[test]
fn an_orientation_is_read_from_both_byte_orders() {
    for number in 1..=8 {
        let orientation = Orientation::from_exif(number).unwrap();
        assert_eq!(orientation_of_exif(&exif(number)), orientation);
    }
    assert_eq!(
        orientation_of_exif(b"Exif\0\0rubbish"),
        Orientation::NoTransforms
    );
}
