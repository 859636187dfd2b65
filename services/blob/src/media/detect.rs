//! What content is, by its first bytes.

use crate::model::MediaType;

/// Major brands of ISO media files that are pictures or sound and no video.
const OTHER_BRANDS: [&[u8; 4]; 14] = [
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis",
    b"crx ", b"M4A ", b"M4B ", b"M4P ",
];
/// Brands whose readers play MPEG-4 video.
const MP4_BRANDS: [&[u8; 4]; 16] = [
    b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso8", b"mp41", b"mp42", b"avc1",
    b"dash", b"mmp4", b"MSNV", b"M4V ", b"M4VH", b"M4VP",
];
/// Bytes of the header of a WebM file in which its kind stands: writers put it first.
const EBML_HEADER_BYTES: usize = 64;

/// What content is, by the first [`crate::limits::DETECT_BYTES`] of it; whatever its sender calls it.
/// Signatures are looked at whole: `infer` is content with the first few bytes of them, and takes any
/// Matroska file for WebM.
pub fn detect(head: &[u8]) -> Option<MediaType> {
    if head.starts_with(&[0xFF, 0xD8, 0xFF]) {
        return Some(MediaType::Jpeg);
    }
    if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(MediaType::Png);
    }
    if head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a") {
        return Some(MediaType::Gif);
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        return Some(MediaType::WebP);
    }
    if head.get(4..8) == Some(b"ftyp") {
        return iso_media(head);
    }
    if head.starts_with(&[0x1A, 0x45, 0xDF, 0xA3]) {
        let header = head.get(..EBML_HEADER_BYTES.min(head.len()))?;
        let is_webm = header.windows(7).any(|doc| doc == b"\x42\x82\x84webm");
        return is_webm.then_some(MediaType::WebM);
    }
    // QuickTime files from before there were brands.
    match infer::get(head)?.mime_type() {
        "video/quicktime" => Some(MediaType::QuickTime),
        _ => None,
    }
}

/// MPEG-4 or QuickTime, by the brands of an `ftyp` box: the major one, then its version, then others.
fn iso_media(head: &[u8]) -> Option<MediaType> {
    let size = u32::from_be_bytes(head.get(..4)?.try_into().ok()?) as usize;
    let brands = head.get(8..size.min(head.len()))?;
    let major = brands.get(..4)?;
    if major == b"qt  " {
        return Some(MediaType::QuickTime);
    }
    if OTHER_BRANDS.iter().any(|brand| brand.as_slice() == major) {
        return None;
    }
    let is_mp4 = |brand: &[u8]| {
        MP4_BRANDS.iter().any(|known| known.as_slice() == brand) || brand.starts_with(b"3gp")
    };
    let mut others = brands.get(8..).unwrap_or_default().chunks_exact(4);
    (is_mp4(major) || others.any(is_mp4)).then_some(MediaType::Mp4)
}
