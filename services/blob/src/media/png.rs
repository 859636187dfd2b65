//! PNG: chunks are copied by a list of what is needed.
//!
//! A moving PNG becomes still: its first picture stays, as those see it who do not know the extension.
//! Keeping it would mean to check frames that only the extension's decoder reads, in pictures that
//! hardly anybody sends; what moves is sent as GIF, WebP or video.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder,
    codecs::png::{PngDecoder, PngEncoder},
    metadata::Orientation,
};
use img_parts::{
    ImageICC,
    png::{Png as Parts, PngChunk},
};

use super::{
    Outline, PictureError, check_sides, icc, icc::Channels, orientation_of_exif, pieces::Pieces,
    upright,
};

/// Chunks besides those of the pixels: a file has some ten.
const CHUNKS_MAX: usize = 1_024;
/// Bytes by which a byte of deflated data can grow at most.
const INFLATE_FACTOR: u64 = 1_032;
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

const DAMAGED: PictureError = PictureError::Unreadable("a PNG's structure is damaged");

/// A PNG whose chunks are known.
#[derive(Debug)]
pub(super) struct Png {
    /// Without the signature, the header and the profile, which come first.
    body: Pieces,
    header: Header,
    profile: Option<PngChunk>,
    /// The chunk that says that colours are sRGB; a profile that stays says more.
    srgb: Option<PngChunk>,
}

#[derive(Debug, Clone)]
struct Header {
    chunk: PngChunk,
    width: u32,
    height: u32,
    depth: u8,
    color: u8,
}

/// Walks the chunks to the end, with their checksums; what comes behind it is not looked at.
pub(super) fn plan(content: &Bytes) -> Result<(Outline, Png), PictureError> {
    let mut rest = content.slice(SIGNATURE.len().min(content.len())..);
    let header = read_header(chunk(&mut rest)?)?;
    check_sides(header.width, header.height)?;
    let mut png = Png {
        body: Pieces::default(),
        header,
        profile: None,
        srgb: None,
    };
    let mut seen: Vec<[u8; 4]> = Vec::new();
    let mut orientation = None;
    let mut transparent = false;
    let mut last = *b"IHDR";
    let mut others = 0;
    loop {
        let begin = content.len() - rest.len();
        let part = chunk(&mut rest)?;
        let range = begin..content.len() - rest.len();
        let (kind, length) = (part.kind(), part.contents().len());
        if kind != *b"IDAT" {
            others += 1;
        } else if last != *b"IDAT" && seen.contains(b"IDAT") {
            // Other chunks between those of the pixels.
            return Err(DAMAGED);
        }
        if others > CHUNKS_MAX {
            return Err(PictureError::TooLarge("a PNG of more than 1,024 chunks"));
        }
        let needed = match &kind {
            b"IDAT" => true,
            b"PLTE" => (3..=768).contains(&length) && length % 3 == 0,
            b"tRNS" => {
                transparent = true;
                (1..=256).contains(&length)
            }
            b"gAMA" | b"cICP" => length == 4,
            b"cHRM" => length == 32,
            b"sRGB" => length == 1,
            b"iCCP" => length <= icc::PROFILE_BYTES_MAX,
            b"IEND" => length == 0,
            _ => false,
        };
        if needed && kind != *b"IDAT" && seen.contains(&kind) {
            return Err(DAMAGED);
        }
        match &kind {
            b"PLTE" | b"tRNS" | b"IEND" if !needed => return Err(DAMAGED),
            b"IEND" => {
                png.body.keep(range);
                break;
            }
            b"iCCP" if needed => png.profile = Some(part),
            b"sRGB" if needed => png.srgb = Some(part),
            b"eXIf" => {
                orientation.get_or_insert_with(|| orientation_of_exif(part.contents()));
            }
            _ if needed => png.body.keep(range),
            // An upper-case name: nobody can read the picture without it.
            [first, ..] if first.is_ascii_uppercase() => return Err(DAMAGED),
            _ => {}
        }
        if needed && !seen.contains(&kind) {
            seen.push(kind);
        }
        last = kind;
    }
    if !seen.contains(b"IDAT") {
        return Err(DAMAGED);
    }
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok((png.outline(orientation, transparent), png))
}

fn chunk(rest: &mut Bytes) -> Result<PngChunk, PictureError> {
    PngChunk::from_bytes(rest).map_err(|error| match error {
        img_parts::Error::BadCRC => PictureError::Unreadable("a checksum of a PNG is wrong"),
        _ => PictureError::Unreadable("a PNG ends before its end"),
    })
}

fn read_header(chunk: PngChunk) -> Result<Header, PictureError> {
    let &[w3, w2, w1, w0, h3, h2, h1, h0, depth, color, ..] = chunk.contents().as_ref() else {
        return Err(DAMAGED);
    };
    if chunk.kind() != *b"IHDR" || chunk.contents().len() != 13 {
        return Err(DAMAGED);
    }
    Ok(Header {
        width: u32::from_be_bytes([w3, w2, w1, w0]),
        height: u32::from_be_bytes([h3, h2, h1, h0]),
        depth,
        color,
        chunk,
    })
}

impl Png {
    fn outline(&self, orientation: Orientation, transparent: bool) -> Outline {
        let header = &self.header;
        let pixels = u64::from(header.width) * u64::from(header.height);
        let channels = match header.color {
            0 => 1,
            2 | 3 => 3,
            4 => 2,
            _ => 4,
        } + u64::from(transparent);
        let bytes = if header.depth == 16 { 2 } else { 1 };
        // What a pixel has when it is unpacked (8 bytes at most), and two rows. Turned: also its copy, and
        // the new file while it grows (24 bytes at most).
        let mut memory = pixels * channels * bytes + u64::from(header.width) * 16;
        if orientation != Orientation::NoTransforms {
            memory *= 3;
        }
        if let Some(profile) = &self.profile {
            // What a bomb in place of a profile would cost until it is known as one.
            memory += profile.contents().len() as u64 * INFLATE_FACTOR;
        }
        Outline {
            width: header.width,
            height: header.height,
            orientation,
            pixel_memory_bytes: memory,
        }
    }

    /// The clean file, and its pixels, upright.
    pub(super) fn read(
        &self,
        content: &Bytes,
        outline: &Outline,
    ) -> Result<(Vec<u8>, DynamicImage), PictureError> {
        let profile = self.profile();
        let clean = self.clean(content, profile.clone());
        let unreadable = |_| PictureError::Unreadable("a PNG's pixels are damaged");
        let decoder = PngDecoder::with_limits(Cursor::new(&clean), outline.decoder_limits())
            .map_err(unreadable)?;
        if decoder.dimensions() != (outline.width, outline.height) {
            return Err(DAMAGED);
        }
        let image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
        if !outline.is_turned() {
            return Ok((clean, image));
        }
        drop(clean);
        let image = upright(image, outline.orientation);
        let mut encoded = Vec::new();
        let mut encoder = PngEncoder::new(&mut encoded);
        if let Some(profile) = profile {
            encoder
                .set_icc_profile(profile)
                .map_err(|_| PictureError::Unreadable("a PNG's colours cannot be kept"))?;
        }
        encoder
            .write_image(
                image.as_bytes(),
                image.width(),
                image.height(),
                ExtendedColorType::from(image.color()),
            )
            .map_err(|_| PictureError::Unreadable("a PNG cannot be turned"))?;
        Ok((encoded, image))
    }

    /// The colour profile, if it may stay.
    fn profile(&self) -> Option<Vec<u8>> {
        let channels = match self.header.color {
            0 | 4 => Channels::Gray,
            _ => Channels::Rgb,
        };
        let mut parts = Parts::from_bytes(Bytes::from_static(SIGNATURE)).ok()?;
        parts.chunks_mut().push(self.profile.clone()?);
        let profile = parts.icc_profile()?;
        icc::is_sane(&profile, channels).then(|| profile.to_vec())
    }

    fn clean(&self, content: &Bytes, profile: Option<Vec<u8>>) -> Vec<u8> {
        let mut head = vec![self.header.chunk.clone()];
        match profile {
            Some(profile) => {
                // Written again: its name is a text of whoever made it, and there may be bytes behind it.
                if let Ok(mut parts) = Parts::from_bytes(Bytes::from_static(SIGNATURE)) {
                    parts.set_icc_profile(Some(Bytes::from(profile)));
                    head.append(parts.chunks_mut());
                }
            }
            None => head.extend(self.srgb.clone()),
        }
        let mut clean = SIGNATURE.to_vec();
        for chunk in head {
            clean.extend_from_slice(&chunk.encoder().bytes());
        }
        clean.extend_from_slice(&self.body.assemble(content));
        clean
    }
}
