//! What a picture looks like, smaller.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    DynamicImage, ExtendedColorType, ImageEncoder, RgbImage, RgbaImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
};

use super::PictureError;
use crate::{
    limits,
    model::{Look, MediaType, Thumbnail},
};

/// Pixels of a side of the picture whose BlurHash is computed: it has at most four waves a side.
const PLACEHOLDER_SIDE_MAX: u32 = 64;
/// Waves of the BlurHash along the longer and the shorter side: some 28 characters.
const PLACEHOLDER_WAVES: (u32, u32) = (4, 3);
/// Quality of thumbnails, in percent: no artefacts that one sees at their size.
const THUMBNAIL_QUALITY: u8 = 80;

/// A look, and the files of its thumbnails.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) look: Look,
    pub(super) small: Bytes,
    pub(super) large: Bytes,
}

const CANNOT: PictureError = PictureError::Unreadable("it cannot be made smaller");

/// Makes the thumbnails and the placeholder of an upright image. Thumbnails have no colour profile, and
/// their numbers are those of the picture: with a profile far from sRGB they look paler than it does.
/// That is less than a profile in each of them, or a conversion, would cost.
pub(super) fn look(image: &DynamicImage) -> Result<Made, PictureError> {
    let large_image = shrink(image, limits::LARGE_SIDE_MAX);
    let small_image = shrink(&large_image, limits::SMALL_SIDE_MAX);
    let (large, large_content) = encode(&large_image)?;
    let (small, small_content) = encode(&small_image)?;
    Ok(Made {
        look: Look {
            width: image.width(),
            height: image.height(),
            placeholder: placeholder(&small_image)?,
            small,
            large,
        },
        small: small_content,
        large: large_content,
    })
}

/// At most this wide and high, never larger than it is, in RGB or, if a pixel of it is transparent, RGBA.
fn shrink(image: &DynamicImage, side_max: u32) -> DynamicImage {
    let small = if image.width() > side_max || image.height() > side_max {
        // The mean of the pixels that fall into one: fast, and good when much smaller.
        &image.thumbnail(side_max, side_max)
    } else {
        image
    };
    if small.color().has_alpha() {
        let pixels = small.to_rgba8();
        if pixels.pixels().any(|pixel| pixel.0[3] < u8::MAX) {
            return DynamicImage::ImageRgba8(pixels);
        }
    }
    DynamicImage::ImageRgb8(small.to_rgb8())
}

fn encode(image: &DynamicImage) -> Result<(Thumbnail, Bytes), PictureError> {
    let (media_type, content) = match image {
        DynamicImage::ImageRgba8(pixels) => (MediaType::Png, png(pixels)?),
        other => (MediaType::Jpeg, jpeg(&other.to_rgb8(), THUMBNAIL_QUALITY)?),
    };
    let thumbnail = Thumbnail {
        media_type,
        width: image.width(),
        height: image.height(),
        size_bytes: content.len() as u64,
    };
    Ok((thumbnail, Bytes::from(content)))
}

fn png(pixels: &RgbaImage) -> Result<Vec<u8>, PictureError> {
    let mut content = Vec::new();
    PngEncoder::new(&mut content)
        .write_image(
            pixels,
            pixels.width(),
            pixels.height(),
            ExtendedColorType::Rgba8,
        )
        .map_err(|_| CANNOT)?;
    Ok(content)
}

fn jpeg(pixels: &RgbImage, quality: u8) -> Result<Vec<u8>, PictureError> {
    let mut content = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut content, quality)
        .encode_image(pixels)
        .map_err(|_| CANNOT)?;
    Ok(content.into_inner())
}

/// The BlurHash of a small image, on white where it is transparent.
fn placeholder(image: &DynamicImage) -> Result<String, PictureError> {
    let mut pixels = shrink(image, PLACEHOLDER_SIDE_MAX).to_rgba8();
    for pixel in pixels.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0;
        let on_white = |value: u8| {
            let (value, alpha) = (u16::from(value), u16::from(alpha));
            // At most 255: a mean of two bytes.
            ((value * alpha + 255 * (255 - alpha)) / 255) as u8
        };
        pixel.0 = [on_white(red), on_white(green), on_white(blue), u8::MAX];
    }
    let (long, short) = PLACEHOLDER_WAVES;
    let (width, height) = pixels.dimensions();
    let (x, y) = if width >= height {
        (long, short)
    } else {
        (short, long)
    };
    blurhash::encode(x, y, width, height, &pixels).map_err(|_| CANNOT)
}
