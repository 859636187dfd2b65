//! Colour profiles: the only thing besides pixels that stays, since colours are wrong without it.

/// Bytes of a colour profile that stays: those of cameras, phones and browsers have some hundred bytes to
/// a few thousand, those of printers half a million.
pub(super) const PROFILE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the header and the count of tags of a profile.
const HEADER_BYTES: usize = 132;

/// The channels that a picture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Gray,
    Rgb,
    Cmyk,
}

/// Whether a profile may stay in a picture of these channels: small, and with a header that says its own
/// size, its signature and these channels. What its tags hold is not looked at: a profile of this size is
/// not a place where cameras write.
pub(super) fn is_sane(profile: &[u8], channels: Channels) -> bool {
    let space = match channels {
        Channels::Gray => b"GRAY",
        Channels::Rgb => b"RGB ",
        Channels::Cmyk => b"CMYK",
    };
    let size = profile.get(..4).and_then(|size| size.try_into().ok());
    (HEADER_BYTES..=PROFILE_BYTES_MAX).contains(&profile.len())
        && size.map(u32::from_be_bytes) == u32::try_from(profile.len()).ok()
        && profile.get(16..20) == Some(space)
        && profile.get(36..40) == Some(b"acsp")
}
