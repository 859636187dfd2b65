//! WebP: chunks are copied by a list of what is needed, those inside of frames too.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    AnimationDecoder, DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder,
    codecs::webp::{WebPDecoder, WebPEncoder},
    metadata::Orientation,
};

use super::{
    FRAMES_MAX, Outline, PictureError, check_frames, check_sides, icc, icc::Channels, lossless,
    orientation_of_exif, pieces::Pieces, upright,
};

/// Bytes of the header of the file, in which its size stands.
const FILE_HEADER_BYTES: usize = 12;
/// Bytes of the header of a chunk.
const CHUNK_HEADER_BYTES: usize = 8;
/// Bytes of the header of a frame.
const FRAME_HEADER_BYTES: usize = 16;
/// Chunks of a file, those inside of frames not counted: each frame and some ten.
const CHUNKS_MAX: u32 = FRAMES_MAX + 256;
/// Chunks in a frame: its transparency, its pixels, and some that nobody knows.
const CHUNKS_IN_FRAME_MAX: u32 = 16;
const HAS_PROFILE: u8 = 0x20;
const HAS_ALPHA: u8 = 0x10;
const IS_MOVING: u8 = 0x02;
/// Bytes of the header of lossless pixels: a signature and the sides.
const LOSSLESS_HEADER_BYTES: usize = 5;

const DAMAGED: PictureError = PictureError::Unreadable("a WebP's structure is damaged");
const CUT_OFF: PictureError = PictureError::Unreadable("a WebP ends before its end");

/// A WebP whose chunks are known.
#[derive(Debug, Default)]
pub(super) struct WebP {
    /// Everything behind the file's header, the extended header and the profile.
    body: Pieces,
    body_bytes: usize,
    extended: Option<Extended>,
    profile: Option<Vec<u8>>,
    exif: Option<Orientation>,
    /// Of a still picture: it is in the file's header or in the picture itself.
    sides: Option<(u32, u32)>,
    frames: u32,
    has_alpha_chunk: bool,
    has_control: bool,
    /// What a decoder makes of the codes of lossless pixels, those of the most costly chunk.
    table_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Extended {
    flags: u8,
    width: u32,
    height: u32,
}

struct Chunk<'a> {
    kind: [u8; 4],
    content: &'a [u8],
    /// With header and padding.
    end: usize,
}

/// The chunk at a place; its padding may be missing at the end, as some writers leave it.
fn chunk(file: &[u8], at: usize) -> Result<Chunk<'_>, PictureError> {
    let header = file.get(at..at + CHUNK_HEADER_BYTES).ok_or(CUT_OFF)?;
    let &[k0, k1, k2, k3, s0, s1, s2, s3] = header else {
        return Err(CUT_OFF);
    };
    let begin = at + CHUNK_HEADER_BYTES;
    let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
    Ok(Chunk {
        kind: [k0, k1, k2, k3],
        content: file.get(begin..begin + size).ok_or(CUT_OFF)?,
        end: begin + size + size % 2,
    })
}

/// Walks the chunks to the end that the file states; what comes behind it is not looked at.
pub(super) fn plan(content: &Bytes) -> Result<(Outline, WebP), PictureError> {
    let &[_, _, _, _, s0, s1, s2, s3, ..] = content.as_ref() else {
        return Err(CUT_OFF);
    };
    let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize + CHUNK_HEADER_BYTES;
    let file = content.get(..size).ok_or(CUT_OFF)?;
    let mut webp = WebP::default();
    let mut at = FILE_HEADER_BYTES;
    let mut chunks = 0;
    while at < file.len() {
        let chunk = chunk(file, at)?;
        chunks += 1;
        if chunks > CHUNKS_MAX {
            return Err(PictureError::TooLarge("a WebP of too many chunks"));
        }
        let first = chunks == 1;
        webp.read_chunk(&chunk, at, first)?;
        at = chunk.end;
        // Without the extension, there is one chunk, and what comes behind it is nobody's.
        if webp.extended.is_none() {
            break;
        }
    }
    webp.finish()
}

impl WebP {
    fn read_chunk(
        &mut self,
        chunk: &Chunk<'_>,
        at: usize,
        first: bool,
    ) -> Result<(), PictureError> {
        let moving = self
            .extended
            .is_some_and(|extended| extended.flags & IS_MOVING != 0);
        match &chunk.kind {
            b"VP8X" if first => self.extended = Some(extended(chunk.content)?),
            // Pixels come first only where there is no extension.
            b"VP8 " | b"VP8L" if first != self.extended.is_none() => return Err(DAMAGED),
            b"VP8 " | b"VP8L" if !moving => {
                if self.sides.is_some() {
                    return Err(DAMAGED);
                }
                let sides = sides(chunk)?;
                self.sides = Some(sides);
                self.count_tables(chunk, sides)?;
                self.keep(chunk, at);
            }
            b"ALPH" if !moving && !first && self.sides.is_none() && !self.has_alpha_chunk => {
                self.has_alpha_chunk = true;
                // Its sides are those of the pixels behind it, which are held to be the same.
                if let Some(extended) = self.extended {
                    self.count_tables(chunk, (extended.width, extended.height))?;
                }
                self.keep(chunk, at);
            }
            b"ANIM" if moving && !self.has_control && chunk.content.len() == 6 => {
                self.has_control = true;
                self.keep(chunk, at);
            }
            b"ANMF" if moving && self.has_control => self.read_frame(chunk, at)?,
            b"VP8 " | b"VP8L" | b"ALPH" | b"ANIM" | b"ANMF" | b"VP8X" => return Err(DAMAGED),
            _ if first => return Err(DAMAGED),
            b"ICCP" if self.profile.is_none() && icc::is_sane(chunk.content, Channels::Rgb) => {
                self.profile = Some(chunk.content.to_vec());
            }
            b"EXIF" => {
                self.exif
                    .get_or_insert_with(|| orientation_of_exif(chunk.content));
            }
            _ => {}
        }
        Ok(())
    }

    fn keep(&mut self, chunk: &Chunk<'_>, at: usize) {
        let end = at + CHUNK_HEADER_BYTES + chunk.content.len();
        self.body.keep(at..end);
        self.body_bytes += end - at;
        // The padding is ours: what stands there could be anything.
        if chunk.content.len() % 2 == 1 {
            self.body.add(vec![0]);
            self.body_bytes += 1;
        }
    }

    /// Takes the tables of lossless pixels into account; the transparency of lossy ones may be lossless.
    fn count_tables(
        &mut self,
        chunk: &Chunk<'_>,
        (width, height): (u32, u32),
    ) -> Result<(), PictureError> {
        let stream = match (&chunk.kind, chunk.content) {
            (b"VP8L", content) => content.get(LOSSLESS_HEADER_BYTES..),
            // Its two lowest bits are 1 if it is compressed.
            (b"ALPH", [head, stream @ ..]) if head & 3 == 1 => Some(stream),
            _ => None,
        };
        if let Some(stream) = stream {
            let bytes = lossless::table_bytes(stream, width, height)?;
            self.table_bytes = self.table_bytes.max(bytes);
        }
        Ok(())
    }

    /// A frame, with only the chunks in it that are needed.
    fn read_frame(&mut self, frame: &Chunk<'_>, at: usize) -> Result<(), PictureError> {
        self.frames += 1;
        if self.frames > FRAMES_MAX {
            return Err(PictureError::TooLarge("it has more than 4,096 frames"));
        }
        let header = frame.content.get(..FRAME_HEADER_BYTES).ok_or(DAMAGED)?;
        let frame_sides = frame_sides(header).ok_or(DAMAGED)?;
        let picture = self.extended.ok_or(DAMAGED)?;
        if frame_sides.0 > picture.width || frame_sides.1 > picture.height {
            return Err(DAMAGED);
        }
        // Before what is in it is walked: its codes may tell of as many blocks as it has.
        check_frames(picture.width, picture.height, self.frames)?;
        let base = at + CHUNK_HEADER_BYTES;
        let mut kept = WebP::default();
        let mut inside = FRAME_HEADER_BYTES;
        let mut chunks = 0;
        while inside < frame.content.len() {
            let part = chunk(frame.content, inside)?;
            chunks += 1;
            if chunks > CHUNKS_IN_FRAME_MAX {
                return Err(DAMAGED);
            }
            match &part.kind {
                b"ALPH" if chunks == 1 => kept.keep(&part, base + inside),
                b"VP8 " | b"VP8L" if kept.sides.is_none() => {
                    // The frame's own sides are those that a decoder allocates by.
                    let sides = sides(&part)?;
                    if sides != frame_sides {
                        return Err(DAMAGED);
                    }
                    kept.sides = Some(sides);
                    kept.keep(&part, base + inside);
                }
                b"ALPH" | b"VP8 " | b"VP8L" => return Err(DAMAGED),
                _ => {}
            }
            self.count_tables(&part, frame_sides)?;
            inside = part.end;
        }
        if kept.sides.is_none() {
            return Err(DAMAGED);
        }
        let size = FRAME_HEADER_BYTES + kept.body_bytes;
        let mut begin = b"ANMF".to_vec();
        begin.extend_from_slice(&(size as u32).to_le_bytes());
        self.body.add(begin);
        self.body.keep(base..base + FRAME_HEADER_BYTES);
        self.body.append(kept.body);
        self.body_bytes += CHUNK_HEADER_BYTES + size;
        Ok(())
    }

    fn finish(self) -> Result<(Outline, Self), PictureError> {
        let moving = self.frames > 0;
        let (width, height) = match (self.extended, self.sides) {
            (Some(extended), Some(sides)) if sides == (extended.width, extended.height) => sides,
            (Some(extended), None) if moving => (extended.width, extended.height),
            (None, Some(sides)) => sides,
            _ => return Err(DAMAGED),
        };
        check_sides(width, height)?;
        check_frames(width, height, self.frames)?;
        let pixels = u64::from(width) * u64::from(height);
        // Lossy: the planes of brightness and colour (1.5 bytes a pixel), the result (4), and transparency
        // (5 while it is unpacked). Lossless: the result and a copy with transparency (8), its transforms
        // (1). Moving: also the canvas, the frame, and the first picture, which is kept (24 in all).
        let mut memory = pixels * if moving { 24 } else { 11 } + self.table_bytes;
        // That of a moving picture is ignored, as browsers do.
        let orientation = self
            .exif
            .filter(|_| !moving)
            .unwrap_or(Orientation::NoTransforms);
        if orientation != Orientation::NoTransforms {
            // The turned copy, and the new file while it grows.
            memory += pixels * 16;
        }
        let outline = Outline {
            width,
            height,
            orientation,
            pixel_memory_bytes: memory,
        };
        Ok((outline, self))
    }

    /// The clean file, and its pixels (the first ones), upright.
    pub(super) fn read(
        &self,
        content: &Bytes,
        outline: &Outline,
    ) -> Result<(Vec<u8>, DynamicImage), PictureError> {
        let clean = self.clean(content);
        let unreadable = |_| PictureError::Unreadable("a WebP's pixels are damaged");
        let mut decoder = WebPDecoder::new(Cursor::new(&clean)).map_err(unreadable)?;
        if decoder.dimensions() != (outline.width, outline.height) {
            return Err(DAMAGED);
        }
        if self.frames > 0 {
            let image = self.read_moving(decoder)?;
            return Ok((clean, image));
        }
        decoder
            .set_limits(outline.decoder_limits())
            .map_err(unreadable)?;
        let image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
        if !outline.is_turned() {
            return Ok((clean, image));
        }
        drop(clean);
        let image = upright(image, outline.orientation);
        let mut encoded = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut encoded);
        if let Some(profile) = &self.profile {
            encoder
                .set_icc_profile(profile.clone())
                .map_err(|_| PictureError::Unreadable("a WebP's colours cannot be kept"))?;
        }
        encoder
            .write_image(
                image.as_bytes(),
                image.width(),
                image.height(),
                ExtendedColorType::from(image.color()),
            )
            .map_err(|_| PictureError::Unreadable("a WebP cannot be turned"))?;
        Ok((encoded, image))
    }

    /// Decodes every frame, and answers with the first one.
    fn read_moving(
        &self,
        decoder: WebPDecoder<Cursor<&Vec<u8>>>,
    ) -> Result<DynamicImage, PictureError> {
        let mut first = None;
        let mut frames = 0;
        for frame in decoder.into_frames() {
            let frame =
                frame.map_err(|_| PictureError::Unreadable("a frame of a WebP is damaged"))?;
            frames += 1;
            if first.is_none() {
                first = Some(frame.into_buffer());
            }
        }
        if frames != self.frames {
            return Err(DAMAGED);
        }
        first.map(DynamicImage::ImageRgba8).ok_or(DAMAGED)
    }

    fn clean(&self, content: &Bytes) -> Vec<u8> {
        let mut head = Vec::new();
        if let Some(extended) = self.extended {
            let mut flags = extended.flags & (HAS_ALPHA | IS_MOVING);
            if self.profile.is_some() {
                flags |= HAS_PROFILE;
            }
            head.extend_from_slice(b"VP8X\x0a\0\0\0");
            head.extend_from_slice(&[flags, 0, 0, 0]);
            for side in [extended.width - 1, extended.height - 1] {
                head.extend(side.to_le_bytes().into_iter().take(3));
            }
            if let Some(profile) = &self.profile {
                head.extend_from_slice(b"ICCP");
                head.extend_from_slice(&(profile.len() as u32).to_le_bytes());
                head.extend_from_slice(profile);
                if profile.len() % 2 == 1 {
                    head.push(0);
                }
            }
        }
        let body = self.body.assemble(content);
        let size = 4 + head.len() + body.len();
        let mut clean = b"RIFF".to_vec();
        clean.extend_from_slice(&(size as u32).to_le_bytes());
        clean.extend_from_slice(b"WEBP");
        clean.extend_from_slice(&head);
        clean.extend_from_slice(&body);
        clean
    }
}

fn u24(bytes: &[u8]) -> Option<u32> {
    match bytes {
        &[b0, b1, b2] => Some(u32::from_le_bytes([b0, b1, b2, 0])),
        _ => None,
    }
}

fn extended(content: &[u8]) -> Result<Extended, PictureError> {
    let side = |range| {
        content
            .get(range)
            .and_then(u24)
            .map(|less_one| less_one + 1)
    };
    let (Some(&flags), Some(width), Some(height), 10) =
        (content.first(), side(4..7), side(7..10), content.len())
    else {
        return Err(DAMAGED);
    };
    check_sides(width, height)?;
    Ok(Extended {
        flags,
        width,
        height,
    })
}

fn frame_sides(header: &[u8]) -> Option<(u32, u32)> {
    let width = header.get(6..9).and_then(u24)? + 1;
    let height = header.get(9..12).and_then(u24)? + 1;
    Some((width, height))
}

/// The sides that pixels state, lossy or lossless.
fn sides(chunk: &Chunk<'_>) -> Result<(u32, u32), PictureError> {
    let sides = match (&chunk.kind, chunk.content) {
        (b"VP8 ", &[_, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..]) => {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
            (side(w0, w1), side(h0, h1))
        }
        (b"VP8L", &[0x2F, b0, b1, b2, b3, ..]) => {
            let bits = u32::from_le_bytes([b0, b1, b2, b3]);
            ((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
        }
        _ => return Err(DAMAGED),
    };
    check_sides(sides.0, sides.1)?;
    Ok(sides)
}
