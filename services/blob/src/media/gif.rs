//! GIF: frames are passed through as they are, and decoded only to check them.

use bytes::Bytes;
use gif::{ColorOutput, DecodeOptions, Decoder, Encoder, MemoryLimit, Repeat};
use image::{DynamicImage, RgbaImage, imageops, metadata::Orientation};

use super::{Outline, PictureError, check_frames, check_sides};

const DAMAGED: PictureError = PictureError::Unreadable("a GIF is damaged or cut off");

/// A GIF whose blocks are known.
#[derive(Debug)]
pub(super) struct Gif {
    repeat: Repeat,
}

/// A decoder of a file. Frames must be inside of the picture: viewers do not agree on others.
fn open(
    content: &[u8],
    pixels: Option<ColorOutput>,
    outline_bytes: u64,
) -> Result<Decoder<&[u8]>, PictureError> {
    let mut options = DecodeOptions::new();
    options.check_frame_consistency(true);
    options.allow_unknown_blocks(true);
    match pixels {
        Some(color) => options.set_color_output(color),
        None => options.skip_frame_decoding(true),
    }
    let limit = outline_bytes.max(content.len() as u64).max(1);
    if let Some(limit) = std::num::NonZeroU64::new(limit) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    options.read_info(content).map_err(|_| DAMAGED)
}

/// Walks the blocks to the end, and counts the frames.
pub(super) fn plan(content: &Bytes) -> Result<(Outline, Gif), PictureError> {
    // The sides stand in front of the palette that an opened decoder has read.
    let &[_, _, _, _, _, _, w0, w1, h0, h1, ..] = content.as_ref() else {
        return Err(DAMAGED);
    };
    let width = u32::from(u16::from_le_bytes([w0, w1]));
    let height = u32::from(u16::from_le_bytes([h0, h1]));
    check_sides(width, height)?;
    let mut decoder = open(content, None, 0)?;
    let mut frames = 0;
    while let Some(frame) = decoder.next_frame_info().map_err(|_| DAMAGED)? {
        if frame.width == 0 || frame.height == 0 {
            return Err(DAMAGED);
        }
        frames += 1;
        check_frames(width, height, frames)?;
    }
    if frames == 0 {
        return Err(DAMAGED);
    }
    let outline = Outline {
        width,
        height,
        orientation: Orientation::NoTransforms,
        // The first frame as it is decoded, a copy of it, and the picture that it stands in: 4 bytes a pixel
        // each. All other frames take one byte, and half a byte that the reader takes ahead.
        pixel_memory_bytes: u64::from(width) * u64::from(height) * 12,
    };
    let repeat = decoder.repeat();
    Ok((outline, Gif { repeat }))
}

impl Gif {
    /// The clean file, and its first picture.
    pub(super) fn read(
        &self,
        content: &Bytes,
        outline: &Outline,
    ) -> Result<(Vec<u8>, DynamicImage), PictureError> {
        let clean = self.clean(content, outline)?;
        check_all(&clean, outline)?;
        let first = first_picture(&clean, outline)?;
        Ok((clean, first))
    }

    /// The sides, the palettes, how often it is repeated, and the frames with their times: the writer
    /// knows nothing else.
    fn clean(&self, content: &Bytes, outline: &Outline) -> Result<Vec<u8>, PictureError> {
        let mut decoder = open(content, None, outline.pixel_memory_bytes)?;
        let palette = decoder.global_palette().unwrap_or_default().to_vec();
        let (width, height) = (decoder.width(), decoder.height());
        let mut encoder = Encoder::new(Vec::new(), width, height, &palette).map_err(|_| DAMAGED)?;
        encoder.set_repeat(self.repeat).map_err(|_| DAMAGED)?;
        while let Some(frame) = decoder.read_next_frame().map_err(|_| DAMAGED)? {
            encoder
                .write_lzw_pre_encoded_frame(frame)
                .map_err(|_| DAMAGED)?;
        }
        encoder.into_inner().map_err(|_| DAMAGED)
    }
}

/// Decodes all frames, into one buffer.
fn check_all(clean: &[u8], outline: &Outline) -> Result<(), PictureError> {
    let limit = outline.pixel_memory_bytes;
    let mut decoder = open(clean, Some(ColorOutput::Indexed), limit)?;
    let mut pixels = Vec::new();
    while decoder.next_frame_info().map_err(|_| DAMAGED)?.is_some() {
        pixels.resize(decoder.buffer_size(), 0);
        decoder
            .read_into_buffer(&mut pixels)
            .map_err(|_| PictureError::Unreadable("a frame of a GIF is damaged"))?;
    }
    Ok(())
}

/// The first frame, where it stands in the picture; around it is nothing.
fn first_picture(clean: &[u8], outline: &Outline) -> Result<DynamicImage, PictureError> {
    let mut decoder = open(clean, Some(ColorOutput::RGBA), outline.pixel_memory_bytes)?;
    let frame = decoder.read_next_frame().map_err(|_| DAMAGED)?;
    let frame = frame.ok_or(DAMAGED)?;
    let (left, top) = (i64::from(frame.left), i64::from(frame.top));
    let sides = (u32::from(frame.width), u32::from(frame.height));
    let pixels = RgbaImage::from_raw(sides.0, sides.1, frame.buffer.to_vec()).ok_or(DAMAGED)?;
    if sides == (outline.width, outline.height) {
        return Ok(DynamicImage::ImageRgba8(pixels));
    }
    let mut picture = RgbaImage::new(outline.width, outline.height);
    imageops::replace(&mut picture, &pixels, left, top);
    Ok(DynamicImage::ImageRgba8(picture))
}
