//! Pictures for tests.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, Rgb, RgbImage,
    RgbaImage, codecs,
};
use img_parts::{ImageEXIF, ImageICC, jpeg::Jpeg, png::Png, webp::WebP};

use crate::model::MediaType;

/// What must not be served.
pub(super) const SECRET: &[u8] = b"52.5200N 13.4050E by Alice";

/// 24 x 16 pixels with a colour in each quarter.
pub(super) fn image() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| match (x < 8, y < 8) {
        (true, true) => Rgb([200, 30, 30]),
        (false, true) => Rgb([30, 200, 30]),
        (true, false) => Rgb([30, 30, 200]),
        (false, false) => Rgb([220, 220, 220]),
    })
}

pub(super) fn png(image: &RgbaImage) -> Vec<u8> {
    let mut content = Vec::new();
    let (width, height) = image.dimensions();
    codecs::png::PngEncoder::new(&mut content)
        .write_image(image, width, height, ExtendedColorType::Rgba8)
        .unwrap();
    content
}

/// An EXIF block of one orientation and a place, little and big endian in turn.
pub(super) fn exif(orientation: u8) -> Vec<u8> {
    let n = orientation;
    let mut block = if n.is_multiple_of(2) {
        vec![
            b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, n, 0, 0, 0, 0, 0, 0, 0,
        ]
    } else {
        vec![
            b'M', b'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, n, 0, 0, 0, 0, 0, 0,
        ]
    };
    block.extend_from_slice(SECRET);
    block
}

/// A profile of RGB with nothing in it.
pub(super) fn icc_profile() -> Vec<u8> {
    let mut profile = vec![0; 200];
    profile[..4].copy_from_slice(&200_u32.to_be_bytes());
    profile[16..20].copy_from_slice(b"RGB ");
    profile[36..40].copy_from_slice(b"acsp");
    profile
}

/// The picture in a kind; of an orientation other than 1 it says so in EXIF.
pub(super) fn still(kind: MediaType, orientation: u8) -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgb8(image());
    match kind {
        MediaType::Jpeg => codecs::jpeg::JpegEncoder::new_with_quality(&mut content, 95)
            .encode_image(&image)
            .unwrap(),
        MediaType::Png => image.write_to(&mut content, ImageFormat::Png).unwrap(),
        MediaType::Gif => image.write_to(&mut content, ImageFormat::Gif).unwrap(),
        _ => image.write_to(&mut content, ImageFormat::WebP).unwrap(),
    }
    let content = content.into_inner();
    if orientation == 1 {
        return content;
    }
    with_exif(content, kind, orientation)
}

/// The file with an EXIF block of this orientation.
pub(super) fn with_exif(content: Vec<u8>, kind: MediaType, orientation: u8) -> Vec<u8> {
    let exif = Some(Bytes::from(exif(orientation)));
    edit(content, kind, |parts| parts.set_exif(exif))
}

trait Parts: ImageEXIF + ImageICC {}
impl<T: ImageEXIF + ImageICC> Parts for T {}

/// Calls for the trait object, which `ImageEXIF` alone cannot be.
fn edit(content: Vec<u8>, kind: MediaType, change: impl FnOnce(&mut dyn Edit)) -> Vec<u8> {
    let content = Bytes::from(content);
    match kind {
        MediaType::Jpeg => {
            let mut parts = Jpeg::from_bytes(content).unwrap();
            change(&mut parts);
            parts.encoder().bytes().to_vec()
        }
        MediaType::Png => {
            let mut parts = Png::from_bytes(content).unwrap();
            change(&mut parts);
            parts.encoder().bytes().to_vec()
        }
        MediaType::WebP => {
            let mut parts = WebP::from_bytes(content).unwrap();
            change(&mut parts);
            parts.encoder().bytes().to_vec()
        }
        _ => content.to_vec(),
    }
}

trait Edit {
    fn set_exif(&mut self, exif: Option<Bytes>);
    fn set_icc(&mut self, profile: Option<Bytes>);
}

impl<T: Parts> Edit for T {
    fn set_exif(&mut self, exif: Option<Bytes>) {
        ImageEXIF::set_exif(self, exif);
    }
    fn set_icc(&mut self, profile: Option<Bytes>) {
        self.set_icc_profile(profile);
    }
}

pub(super) fn with_profile(content: Vec<u8>, kind: MediaType, profile: Vec<u8>) -> Vec<u8> {
    edit(content, kind, |parts| parts.set_icc(Some(profile.into())))
}

/// Everything that may stand beside the pixels, with the secret in it, and an archive behind the end.
pub(super) fn with_metadata(kind: MediaType) -> Vec<u8> {
    let content = with_profile(still(kind, 1), kind, icc_profile());
    // Of the orientation 1, so that it is not turned.
    let exif = Bytes::from(exif(1));
    let mut content = edit(content, kind, |parts| parts.set_exif(Some(exif)));
    match kind {
        MediaType::Jpeg => {
            for (marker, head) in [
                (0xFE, &b""[..]),
                (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>"),
                (0xED, b"Photoshop 3.0\0"),
                (0xE2, b"MPF\0"),
                (0xEF, b""),
            ] {
                let data = [head, SECRET].concat();
                let length = (data.len() as u16 + 2).to_be_bytes();
                let segment = [&[0xFF, marker], &length[..], &data].concat();
                content.splice(2..2, segment);
            }
        }
        MediaType::Png => {
            for name in [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"prVW", b"acTL"] {
                let data = [b"Comment\0xmp", SECRET].concat();
                content = with_chunk(content, *name, &data);
            }
        }
        MediaType::Gif => {
            // In front of the trailer: a comment, and XMP of an application.
            for head in [&b"\x21\xFE"[..], b"\x21\xFF\x0BXMP DataXMP"] {
                let length = [SECRET.len() as u8];
                let block = [head, &length, SECRET, &[0]].concat();
                let end = content.len() - 1;
                content.splice(end..end, block);
            }
        }
        _ => {
            for name in [b"XMP ", b"JUNK"] {
                content.extend_from_slice(name);
                content.extend_from_slice(&(SECRET.len() as u32).to_le_bytes());
                content.extend_from_slice(SECRET);
            }
            set_riff_size(&mut content);
        }
    }
    content.extend_from_slice(b"PK\x03\x04");
    content.extend_from_slice(SECRET);
    content
}

/// A PNG with a chunk behind its header.
pub(super) fn with_chunk(mut content: Vec<u8>, name: [u8; 4], data: &[u8]) -> Vec<u8> {
    let chunk = img_parts::png::PngChunk::new(name, Bytes::copy_from_slice(data));
    content.splice(33..33, chunk.encoder().bytes());
    content
}

pub(super) fn set_riff_size(content: &mut [u8]) {
    let size = (content.len() - 8) as u32;
    content[4..8].copy_from_slice(&size.to_le_bytes());
}

pub(super) fn profile_of(content: &[u8], kind: MediaType) -> Option<Vec<u8>> {
    let content = Cursor::new(content);
    match kind {
        MediaType::Jpeg => codecs::jpeg::JpegDecoder::new(content)
            .unwrap()
            .icc_profile(),
        MediaType::Png => codecs::png::PngDecoder::new(content).unwrap().icc_profile(),
        _ => codecs::webp::WebPDecoder::new(content)
            .unwrap()
            .icc_profile(),
    }
    .unwrap()
}

/// A GIF of frames with times, repeated three times.
pub(super) fn moving_gif(frames: u8) -> Vec<u8> {
    let palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9];
    let mut encoder = gif::Encoder::new(Vec::new(), 24, 16, &palette).unwrap();
    encoder.set_repeat(gif::Repeat::Finite(3)).unwrap();
    for at in 0..frames {
        let frame = gif::Frame {
            delay: 7,
            dispose: gif::DisposalMethod::Background,
            width: 20,
            height: 10,
            left: u16::from(at % 4),
            top: 2,
            buffer: vec![at % 4; 200].into(),
            ..gif::Frame::default()
        };
        encoder.write_frame(&frame).unwrap();
    }
    encoder.into_inner().unwrap()
}

/// A WebP of lossless frames, each with a chunk that nobody knows.
pub(super) fn moving_webp(frames: u8) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0".to_vec();
    file.extend_from_slice(&[0x02, 0, 0, 0, 23, 0, 0, 15, 0, 0]);
    file.extend_from_slice(b"ANIM\x06\0\0\0\0\0\0\0\x03\0");
    let picture = still(MediaType::WebP, 1);
    for _ in 0..frames {
        let mut frame = vec![0, 0, 0, 0, 0, 0, 23, 0, 0, 15, 0, 0, 40, 0, 0, 0];
        frame.extend_from_slice(&picture[12..]);
        frame.extend_from_slice(b"JUNK");
        frame.extend_from_slice(&(SECRET.len() as u32).to_le_bytes());
        frame.extend_from_slice(SECRET);
        file.extend_from_slice(b"ANMF");
        file.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        file.extend_from_slice(&frame);
    }
    set_riff_size(&mut file);
    file
}
