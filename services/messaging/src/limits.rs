//! The limits of messaging, each with its unit and its reason.

/// Unicode scalar values of a text (F1).
pub const TEXT_CHARS_MAX: usize = 700;
/// Unicode scalar values of a preview: two lines on a phone.
pub const PREVIEW_CHARS_MAX: usize = 100;
