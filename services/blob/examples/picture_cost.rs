//! What it costs to read the pictures of a phone: milliseconds, and the memory they are counted with.
//!
//!     cargo run --release -p blob --example picture_cost

use std::{io::Cursor, time::Instant};

use blob::{media::Plan, model::MediaType};
use bytes::Bytes;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use img_parts::ImageEXIF;

/// Gradients and some noise, as much as a photograph has.
fn photograph(width: u32, height: u32) -> DynamicImage {
    let mut noise = 1_u32;
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = (noise >> 29) as u8;
        Rgb([(x >> 6) as u8, (y >> 6) as u8, ((x + y) >> 7) as u8]
            .map(|it| it.saturating_add(grain)))
    }))
}

fn measure(name: &str, content: Vec<u8>, media_type: MediaType) -> Result<(), String> {
    let bytes = content.len();
    let begun = Instant::now();
    let plan = Plan::new(Bytes::from(content), media_type).map_err(|error| error.to_string())?;
    let planned = begun.elapsed();
    let memory = plan.memory_bytes() >> 20;
    let picture = plan.read().map_err(|error| error.to_string())?;
    println!(
        "{name}: {bytes} bytes, planned in {} ms, read in {} ms, counted with {memory} MiB, \
         served {} bytes, thumbnails {} and {} bytes",
        planned.as_millis(),
        begun.elapsed().as_millis(),
        picture.content.len(),
        picture.small.len(),
        picture.large.len(),
    );
    Ok(())
}

fn jpeg(image: &DynamicImage) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    JpegEncoder::new_with_quality(&mut content, 85)
        .encode_image(image)
        .map_err(|error| error.to_string())?;
    Ok(content)
}

/// With an EXIF block that says that the camera was held upright.
fn turned(content: Vec<u8>) -> Result<Vec<u8>, String> {
    let exif = b"II\x2A\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut parts = img_parts::jpeg::Jpeg::from_bytes(Bytes::from(content))
        .map_err(|error| error.to_string())?;
    parts.set_exif(Some(Bytes::from_static(exif)));
    Ok(parts.encoder().bytes().to_vec())
}

fn main() -> Result<(), String> {
    let large = photograph(8_000, 6_000);
    let large = jpeg(&large)?;
    measure("48-megapixel JPEG", large.clone(), MediaType::Jpeg)?;
    measure("48-megapixel JPEG, turned", turned(large)?, MediaType::Jpeg)?;
    let usual = photograph(4_032, 3_024);
    let usual_jpeg = jpeg(&usual)?;
    measure("12-megapixel JPEG", usual_jpeg.clone(), MediaType::Jpeg)?;
    measure(
        "12-megapixel JPEG, turned",
        turned(usual_jpeg)?,
        MediaType::Jpeg,
    )?;
    let screen = photograph(1_080, 2_400);
    for (name, format, media_type) in [
        ("screen of PNG", ImageFormat::Png, MediaType::Png),
        (
            "screen of lossless WebP",
            ImageFormat::WebP,
            MediaType::WebP,
        ),
    ] {
        let mut content = Cursor::new(Vec::new());
        screen
            .write_to(&mut content, format)
            .map_err(|error| error.to_string())?;
        measure(name, content.into_inner(), media_type)?;
    }
    Ok(())
}
