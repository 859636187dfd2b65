//! JPEG: its segments are walked here to the end, since what can be read of one is decided by them; the
//! segments that are needed are copied as they are, so that quality survives.

use bytes::Bytes;
use image::{DynamicImage, GrayImage, RgbImage, codecs::jpeg::JpegEncoder, metadata::Orientation};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use super::{
    Outline, PictureError, check_sides, icc, icc::Channels, orientation_of_exif, pieces::Pieces,
    upright,
};

/// Segments of a file: some tables for each scan, and what a colour profile, previews and makers' notes
/// fill.
const SEGMENTS_MAX: usize = 4_096;
/// Scans of a progressive picture: encoders write about ten, and the decoder takes no more.
const SCANS_MAX: u64 = 100;
/// Scans times pixels: sixteen scans of the largest picture. Each scan visits every pixel, however few
/// bytes it has.
const SCANNED_PIXELS_MAX: u64 = 800_000_000;
/// Pixels of the largest block that components are stored in: the stored sides are its multiples.
const BLOCK_SIDE: u64 = 32;
/// Quality of a picture that was turned and is encoded again, in percent: what one does not see.
const TURNED_QUALITY: u8 = 92;
/// What ends a file.
const END: [u8; 2] = [0xFF, 0xD9];
/// Bits that are no word of any code (the standard leaves out the one of all ones), as they are stored. More than
/// the decoder holds ahead, so that it sees the end only if it wants more than there is.
const NO_WORDS: [u8; 16] = [
    0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0,
];
/// Parts of a colour profile: they are counted in a byte.
const PROFILE_PARTS_MAX: usize = 255;

const DAMAGED: PictureError = PictureError::Unreadable("a JPEG's structure is damaged");
const CUT_OFF: PictureError = PictureError::Unreadable("a JPEG ends before its end");
const UNSUPPORTED: PictureError = PictureError::Unreadable("a kind of JPEG that is not supported");

/// A JPEG whose segments are known.
#[derive(Debug, Default)]
pub(super) struct Jpeg {
    /// Tables, frame and scans.
    body: Pieces,
    /// The pixel's shape and the way colours are stored: without them, they would look different.
    jfif: Option<Vec<u8>>,
    adobe: Option<Vec<u8>>,
    profile_parts: Vec<(u8, Vec<u8>)>,
    profile_bytes: usize,
    orientation: Option<Orientation>,
    frame: Option<Frame>,
    scans: u64,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    width: u32,
    height: u32,
    components: u8,
    progressive: bool,
}

/// Walks the segments to the end of the picture; what comes behind it (other pictures, videos, archives)
/// is not looked at, and not kept.
pub(super) fn plan(content: &Bytes) -> Result<(Outline, Jpeg), PictureError> {
    let mut jpeg = Jpeg::default();
    // Behind the marker that begins the picture, by which it was detected.
    let mut at = 2;
    for _ in 0..SEGMENTS_MAX {
        let (marker, begin) = marker(content, at)?;
        if marker == 0xD9 {
            return jpeg.finish();
        }
        let length = match content.get(begin..begin + 2) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => return Err(CUT_OFF),
        };
        let end = begin + length;
        if length < 2 {
            return Err(DAMAGED);
        }
        let segment = content.get(begin + 2..end).ok_or(CUT_OFF)?;
        // The marker of a kept segment is the two bytes before its length: fill bytes are left out.
        let kept = begin - 2..end;
        at = end;
        match marker {
            0xC0..=0xC2 => {
                jpeg.read_frame(marker, segment)?;
                jpeg.body.keep(kept);
            }
            0xC4 if are_huffman_tables(segment) => jpeg.body.keep(kept),
            0xDB if are_quantization_tables(segment) => jpeg.body.keep(kept),
            0xDD if segment.len() == 2 => jpeg.body.keep(kept),
            0xDA => {
                jpeg.begin_scan(segment)?;
                at = end_of_entropy(content, end).ok_or(CUT_OFF)?;
                jpeg.body.keep(kept.start..at);
            }
            0xE0..=0xEF | 0xFE => jpeg.read_application(marker, segment),
            0xC4 | 0xDB | 0xDD | 0xD8 => return Err(DAMAGED),
            // Arithmetic coding, lossless, layered, a height that is told later: nothing shows them.
            _ => return Err(UNSUPPORTED),
        }
    }
    Err(PictureError::TooLarge("a JPEG of more than 4,096 segments"))
}

/// The marker at a place, and where its segment begins.
fn marker(content: &[u8], at: usize) -> Result<(u8, usize), PictureError> {
    let rest = content.get(at..).ok_or(CUT_OFF)?;
    let fill = rest.iter().take_while(|&&byte| byte == 0xFF).count();
    match rest.get(fill) {
        None => Err(CUT_OFF),
        Some(0) => Err(DAMAGED),
        Some(_) if fill == 0 => Err(DAMAGED),
        Some(&marker) => Ok((marker, at + fill + 1)),
    }
}

/// Where the next marker is that is not part of a scan's data.
fn end_of_entropy(content: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin;
    loop {
        at += content.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        match content.get(at + 1)? {
            0 | 0xD0..=0xD7 => at += 2,
            0xFF => at += 1,
            _ => return Some(at),
        }
    }
}

/// Whether a segment is tables and nothing behind them.
fn are_quantization_tables(mut segment: &[u8]) -> bool {
    while let Some((&head, rest)) = segment.split_first() {
        let bytes = if head >> 4 == 0 { 64 } else { 128 };
        let Some(rest) = rest.get(bytes..) else {
            return false;
        };
        segment = rest;
    }
    true
}

/// Whether a segment is tables and nothing behind them.
fn are_huffman_tables(mut segment: &[u8]) -> bool {
    while !segment.is_empty() {
        let Some(counts) = segment.get(1..17) else {
            return false;
        };
        let codes: usize = counts.iter().map(|&count| usize::from(count)).sum();
        let Some(rest) = segment.get(17 + codes..) else {
            return false;
        };
        segment = rest;
    }
    true
}

impl Jpeg {
    fn read_frame(&mut self, marker: u8, segment: &[u8]) -> Result<(), PictureError> {
        let &[precision, h1, h0, w1, w0, components, ref each @ ..] = segment else {
            return Err(DAMAGED);
        };
        if precision != 8 || !matches!(components, 1 | 3 | 4) {
            return Err(UNSUPPORTED);
        }
        if self.frame.is_some() || each.len() != usize::from(components) * 3 {
            return Err(DAMAGED);
        }
        let frame = Frame {
            width: u32::from(u16::from_be_bytes([w1, w0])),
            height: u32::from(u16::from_be_bytes([h1, h0])),
            components,
            progressive: marker == 0xC2,
        };
        check_sides(frame.width, frame.height)?;
        self.frame = Some(frame);
        Ok(())
    }

    fn begin_scan(&mut self, segment: &[u8]) -> Result<(), PictureError> {
        let frame = self.frame.ok_or(DAMAGED)?;
        let components = usize::from(segment.first().copied().unwrap_or_default());
        if !(1..=4).contains(&components) || segment.len() != 4 + 2 * components {
            return Err(DAMAGED);
        }
        self.scans += 1;
        if !frame.progressive && self.scans > u64::from(frame.components) {
            return Err(DAMAGED);
        }
        let pixels = u64::from(frame.width) * u64::from(frame.height);
        if self.scans > SCANS_MAX || self.scans * pixels > SCANNED_PIXELS_MAX {
            return Err(PictureError::TooLarge("a JPEG of too many scans"));
        }
        Ok(())
    }

    /// What applications write beside the picture. Previews, places, cameras and comments are left out by
    /// not being known here.
    fn read_application(&mut self, marker: u8, segment: &[u8]) {
        match marker {
            0xE0 if segment.len() >= 14 && segment.starts_with(b"JFIF\0") => {
                // Without its preview, of which the last two bytes are the sides.
                let mut jfif = segment.get(..12).unwrap_or_default().to_vec();
                jfif.extend_from_slice(&[0, 0]);
                self.jfif.get_or_insert(jfif);
            }
            0xE1 if segment.starts_with(b"Exif\0\0") => {
                self.orientation
                    .get_or_insert_with(|| orientation_of_exif(segment));
            }
            0xE2 => {
                let profile = segment
                    .strip_prefix(b"ICC_PROFILE\0")
                    .filter(|_| self.scans == 0);
                if let Some([part, _, profile @ ..]) = profile {
                    self.profile_bytes += profile.len();
                    // A profile that is too large is not collected any further, and not kept.
                    if self.profile_bytes <= icc::PROFILE_BYTES_MAX
                        && self.profile_parts.len() < PROFILE_PARTS_MAX
                    {
                        self.profile_parts.push((*part, profile.to_vec()));
                    }
                }
            }
            0xEE if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                let adobe = segment.get(..12).unwrap_or_default().to_vec();
                self.adobe.get_or_insert(adobe);
            }
            _ => {}
        }
    }

    fn finish(mut self) -> Result<(Outline, Self), PictureError> {
        let frame = self.frame.ok_or(CUT_OFF)?;
        if self.scans == 0 {
            return Err(CUT_OFF);
        }
        self.profile_parts.sort_by_key(|(part, _)| *part);
        let padded = |side: u32| u64::from(side).next_multiple_of(BLOCK_SIDE);
        let stored = padded(frame.width) * padded(frame.height);
        let pixels = u64::from(frame.width) * u64::from(frame.height);
        // A byte for each channel of the result, of which CMYK has three as well; and, where not all of a
        // pixel comes in one scan, two bytes for each stored component (11 bytes a pixel at most).
        let channels: u64 = if frame.components == 1 { 1 } else { 3 };
        let mut memory = pixels * channels;
        if frame.progressive || self.scans > 1 {
            memory += stored * 2 * u64::from(frame.components);
        } else {
            // Rows of blocks.
            memory += padded(frame.width) * BLOCK_SIDE * 16;
        }
        let orientation = self.orientation.unwrap_or(Orientation::NoTransforms);
        if orientation != Orientation::NoTransforms {
            // The turned copy, and the new file while it grows.
            memory += pixels * channels * 3;
        }
        let outline = Outline {
            width: frame.width,
            height: frame.height,
            orientation,
            pixel_memory_bytes: memory,
        };
        Ok((outline, self))
    }

    /// The clean file, and its pixels, upright.
    pub(super) fn read(
        &self,
        content: &Bytes,
        outline: &Outline,
    ) -> Result<(Vec<u8>, DynamicImage), PictureError> {
        let mut clean = self.clean(content);
        let clean_bytes = clean.len();
        // The decoder goes on with zeros behind the end, and those are gray pixels to it. Where it comes upon
        // what is no word before, it says that pixels are missing. (Of progressive pictures, it wants to have
        // seen the end of the first scan when it has read that.)
        if self.scans > 1 || self.frame.is_some_and(|frame| !frame.progressive) {
            clean.extend_from_slice(&NO_WORDS);
        }
        clean.extend_from_slice(&END);
        let image = decode(&clean, outline)?;
        clean.truncate(clean_bytes);
        clean.extend_from_slice(&END);
        if !outline.is_turned() {
            return Ok((clean, image));
        }
        drop(clean);
        let image = upright(image, outline.orientation);
        let mut encoded = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut encoded, TURNED_QUALITY);
        // The pixels are gray or RGB now: the profile of another space would be wrong.
        let channels = match image {
            DynamicImage::ImageLuma8(_) => Channels::Gray,
            _ => Channels::Rgb,
        };
        if let Some(profile) = self.profile().filter(|it| icc::is_sane(it, channels)) {
            use image::ImageEncoder as _;
            // An encoder that could not keep it would say so: this one can.
            encoder
                .set_icc_profile(profile)
                .map_err(|_| PictureError::Unreadable("a JPEG's colours cannot be kept"))?;
        }
        encoder
            .encode_image(&image)
            .map_err(|_| PictureError::Unreadable("a JPEG cannot be turned"))?;
        Ok((encoded, image))
    }

    fn profile(&self) -> Option<Vec<u8>> {
        let parts = &self.profile_parts;
        let in_order = (1..)
            .zip(parts)
            .all(|(at, (part, _))| at == u32::from(*part));
        let whole = self.profile_bytes <= icc::PROFILE_BYTES_MAX && !parts.is_empty() && in_order;
        whole.then(|| parts.iter().flat_map(|(_, part)| part.clone()).collect())
    }

    /// The file without its end.
    fn clean(&self, content: &Bytes) -> Vec<u8> {
        let mut clean = vec![0xFF, 0xD8];
        if let Some(jfif) = &self.jfif {
            add_segment(&mut clean, 0xE0, &[jfif]);
        }
        if let Some(adobe) = &self.adobe {
            add_segment(&mut clean, 0xEE, &[adobe]);
        }
        let channels = match self.frame.map(|frame| frame.components) {
            Some(1) => Channels::Gray,
            Some(4) => Channels::Cmyk,
            _ => Channels::Rgb,
        };
        if let Some(profile) = self.profile().filter(|it| icc::is_sane(it, channels)) {
            // Two parts at most, since a part has nearly 64 KiB.
            let parts = profile.chunks(60_000);
            let count = parts.len() as u8;
            for (part, bytes) in (1..).zip(parts) {
                add_segment(&mut clean, 0xE2, &[b"ICC_PROFILE\0", &[part, count], bytes]);
            }
        }
        clean.extend_from_slice(&self.body.assemble(content));
        clean
    }
}

fn add_segment(file: &mut Vec<u8>, marker: u8, parts: &[&[u8]]) {
    let length = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
    file.extend_from_slice(&[0xFF, marker]);
    // Ours are at most 60,016 bytes.
    file.extend_from_slice(&(length as u16).to_be_bytes());
    for part in parts {
        file.extend_from_slice(part);
    }
}

/// The pixels of a clean file. `image` has the same decoder, but lets it fill with gray what is damaged:
/// that is right for a viewer, and wrong for who says that the picture is there.
fn decode(clean: &[u8], outline: &Outline) -> Result<DynamicImage, PictureError> {
    let damaged = |_| PictureError::Unreadable("a JPEG's pixels are damaged");
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(outline.width as usize)
        .set_max_height(outline.height as usize)
        .jpeg_set_max_scans(SCANS_MAX as usize + 1);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(clean), options);
    decoder.decode_headers().map_err(damaged)?;
    let gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let space = if gray {
        ColorSpace::Luma
    } else {
        ColorSpace::RGB
    };
    // The conversion is chosen by the options that a decoder begins with.
    let mut decoder =
        JpegDecoder::new_with_options(ZCursor::new(clean), options.jpeg_set_out_colorspace(space));
    let channels = if gray { 1 } else { 3 };
    let mut pixels = vec![0; outline.pixels() as usize * channels];
    decoder.decode_into(&mut pixels).map_err(damaged)?;
    let image = if gray {
        GrayImage::from_raw(outline.width, outline.height, pixels).map(DynamicImage::ImageLuma8)
    } else {
        RgbImage::from_raw(outline.width, outline.height, pixels).map(DynamicImage::ImageRgb8)
    };
    image.ok_or(DAMAGED)
}
