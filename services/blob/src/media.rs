//! Pictures that strangers send: known by their content, read under limits, cleaned of what they say
//! beside their pixels, and made smaller. See the crate's README for what it costs.
//!
//! A picture is read in two steps. [`Plan::new`] walks the structure to its end, decodes nothing, and
//! knows then what decoding costs at most; [`Plan::read`] copies what is known to be needed, decodes
//! that copy (what is served is what was checked) and makes the thumbnails. [`Pictures`] does both on
//! blocking threads, the second one inside of a budget of memory and before a deadline.

mod detect;
mod gif;
mod icc;
mod jpeg;
mod look;
mod lossless;
mod pieces;
mod png;
#[cfg(test)]
mod tests;
mod webp;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use image::{DynamicImage, Limits, metadata::Orientation};
use tokio::{sync::Semaphore, task, time};

pub use self::detect::detect;
use crate::{
    limits,
    model::{Look, MediaType},
};

/// Frames of a moving picture: some minutes of it. A client keeps something of each.
pub const FRAMES_MAX: u32 = 4_096;
/// Pixels of a moving picture, all frames together, each as large as the picture: a minute of
/// 480 x 360 twice over. A client paints them all, again and again.
pub const MOVING_PIXELS_MAX: u64 = 500_000_000;
/// Bytes that any picture costs besides its pixels: its thumbnails while they are made (1,280 x 1,280
/// pixels of 4 bytes, and smaller ones). It also bounds how many small ones are read at once.
const FIXED_MEMORY_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of memory in one permit of the budget: a semaphore counts in 32 bits, and bytes would not fit.
const PERMIT_BYTES: u64 = 1024;

/// Why a picture was refused. The texts are for client authors and say nothing of the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Damaged, cut off, of a kind that is not supported, or not what it begins as.
    #[error("the picture cannot be read: {0}")]
    Unreadable(&'static str),
    /// More pixels, or more work for its pixels, than may be.
    #[error("the picture is too large: {0}")]
    TooLarge(&'static str),
    /// Others are read; this one may be tried again.
    #[error("too many pictures are read at the moment")]
    Overloaded,
}

/// A picture that was read.
#[derive(Debug, Clone)]
pub struct Picture {
    /// What it is, and `content` is.
    pub media_type: MediaType,
    /// What may be served: upright, without metadata.
    pub content: Bytes,
    /// Its sides, placeholder and thumbnails.
    pub look: Look,
    /// [`crate::model::Variant::Small`].
    pub small: Bytes,
    /// [`crate::model::Variant::Large`].
    pub large: Bytes,
}

/// How much may be read at once.
#[derive(Debug, Clone, Copy)]
pub struct PicturesConfig {
    /// Bytes of memory of all pictures that are read at once, at their worst. A picture that may cost
    /// more alone is refused.
    pub memory_bytes_max: u64,
    /// How long a picture waits for memory.
    pub wait_max: Duration,
    /// How long the reading may take.
    pub read_max: Duration,
}

impl Default for PicturesConfig {
    fn default() -> Self {
        Self {
            // The largest JPEG of a phone (50 million pixels, progressive, turned) and a few small ones.
            memory_bytes_max: 1024 * 1024 * 1024,
            // Some of the largest pictures, one after the other.
            wait_max: Duration::from_secs(20),
            // Ten times what the slowest picture inside of the limits has taken on one core.
            read_max: Duration::from_secs(30),
        }
    }
}

/// Reads pictures; clones share one budget.
#[derive(Debug, Clone)]
pub struct Pictures {
    config: PicturesConfig,
    budget: Arc<Semaphore>,
}

impl Pictures {
    /// With a budget of its own.
    pub fn new(config: PicturesConfig) -> Self {
        Self {
            budget: Arc::new(Semaphore::new(permits(config.memory_bytes_max) as usize)),
            config,
        }
    }

    /// Reads a picture that claims to be of this kind. Dropping the future does not stop a thread that
    /// has begun; what it uses stays taken from the budget until it ends.
    pub async fn read(
        &self,
        content: Bytes,
        media_type: MediaType,
    ) -> Result<Picture, PictureError> {
        let plan = blocking(move || Plan::new(content, media_type)).await?;
        if plan.memory_bytes() > self.config.memory_bytes_max {
            return Err(TOO_MUCH_MEMORY);
        }
        let permits = permits(plan.memory_bytes());
        let waiting = self.budget.clone().acquire_many_owned(permits);
        let Ok(Ok(permit)) = time::timeout(self.config.wait_max, waiting).await else {
            return Err(PictureError::Overloaded);
        };
        let reading = blocking(move || {
            // Held by the thread and not by the caller, who may be gone before it ends.
            let _permit = permit;
            plan.read()
        });
        let begun = time::Instant::now();
        match time::timeout(self.config.read_max, reading).await {
            // The task that waits may wake later than the thread ends.
            Ok(read) if begun.elapsed() <= self.config.read_max => read,
            _ => Err(PictureError::TooLarge("it takes too long to read")),
        }
    }
}

const TOO_MUCH_MEMORY: PictureError =
    PictureError::TooLarge("it may take more memory to read than one picture gets");

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// Runs on a blocking thread. A panic there is a decoder's, whose work is its caller's fault: the picture
/// is refused, and the process lives.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PictureError> + Send + 'static,
) -> Result<T, PictureError> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(panicked = error.is_panic(), "a picture broke its decoder");
            Err(PictureError::Unreadable("its decoder fails"))
        }
    }
}

/// A picture whose structure was walked to its end, and of which nothing is decoded yet.
#[derive(Debug)]
pub struct Plan {
    content: Bytes,
    media_type: MediaType,
    outline: Outline,
    kind: Kind,
}

/// What all kinds know before anything is decoded.
#[derive(Debug, Clone, Copy)]
struct Outline {
    /// As it is stored, in pixels.
    width: u32,
    /// As it is stored, in pixels.
    height: u32,
    /// How it has to be turned to stand upright.
    orientation: Orientation,
    /// What decoding and turning it costs at most, besides the file.
    pixel_memory_bytes: u64,
}

#[derive(Debug)]
enum Kind {
    Jpeg(jpeg::Jpeg),
    Png(png::Png),
    Gif(gif::Gif),
    WebP(webp::WebP),
}

impl Plan {
    /// Walks the structure and holds it to the limits. Its work is one pass over the bytes, and its memory
    /// a few bytes for each of a bounded number of segments.
    pub fn new(content: Bytes, media_type: MediaType) -> Result<Self, PictureError> {
        if content.len() as u64 > limits::BLOB_BYTES_MAX {
            return Err(PictureError::TooLarge("it has more bytes than a blob may"));
        }
        if detect(&content) != Some(media_type) {
            return Err(PictureError::Unreadable("it is of another kind"));
        }
        let (outline, kind) = match media_type {
            MediaType::Jpeg => jpeg::plan(&content).map(|(o, kind)| (o, Kind::Jpeg(kind)))?,
            MediaType::Png => png::plan(&content).map(|(o, kind)| (o, Kind::Png(kind)))?,
            MediaType::Gif => gif::plan(&content).map(|(o, kind)| (o, Kind::Gif(kind)))?,
            MediaType::WebP => webp::plan(&content).map(|(o, kind)| (o, Kind::WebP(kind)))?,
            MediaType::Mp4 | MediaType::QuickTime | MediaType::WebM => {
                return Err(PictureError::Unreadable("it is a video"));
            }
        };
        Ok(Self {
            content,
            media_type,
            outline,
            kind,
        })
    }

    /// What [`Plan::read`] costs at most, with the file, its clean copy and the thumbnails.
    pub fn memory_bytes(&self) -> u64 {
        FIXED_MEMORY_BYTES
            .saturating_add(self.content.len() as u64 * 2)
            .saturating_add(self.outline.pixel_memory_bytes)
    }

    /// Cleans, decodes, turns and makes smaller.
    pub fn read(self) -> Result<Picture, PictureError> {
        let Self {
            content,
            media_type,
            outline,
            kind,
        } = self;
        let (clean, image) = match &kind {
            Kind::Jpeg(kind) => kind.read(&content, &outline)?,
            Kind::Png(kind) => kind.read(&content, &outline)?,
            Kind::Gif(kind) => kind.read(&content, &outline)?,
            Kind::WebP(kind) => kind.read(&content, &outline)?,
        };
        // The uploaded bytes are not needed any more; the thumbnails are.
        drop(content);
        let made = look::look(&image)?;
        Ok(Picture {
            media_type,
            content: Bytes::from(clean),
            look: made.look,
            small: made.small,
            large: made.large,
        })
    }
}

/// Whether a picture of these sides may be decoded at all.
fn check_sides(width: u32, height: u32) -> Result<(), PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::Unreadable("it has no pixels"));
    }
    if width > limits::PICTURE_SIDE_MAX || height > limits::PICTURE_SIDE_MAX {
        return Err(PictureError::TooLarge(
            "it is more than 16,384 pixels wide or high",
        ));
    }
    if u64::from(width) * u64::from(height) > limits::PICTURE_PIXELS_MAX {
        return Err(PictureError::TooLarge("it has more than 50 million pixels"));
    }
    Ok(())
}

/// Whether a moving picture of these sides may have this many frames.
fn check_frames(width: u32, height: u32, frames: u32) -> Result<(), PictureError> {
    if frames > FRAMES_MAX {
        return Err(PictureError::TooLarge("it has more than 4,096 frames"));
    }
    // Every frame counts as all of the picture: that is what it costs who shows it.
    let pixels = u64::from(width) * u64::from(height) * u64::from(frames);
    if frames > 1 && pixels > MOVING_PIXELS_MAX {
        return Err(PictureError::TooLarge(
            "its frames have more than 500 million pixels",
        ));
    }
    Ok(())
}

impl Outline {
    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn is_turned(&self) -> bool {
        self.orientation != Orientation::NoTransforms
    }

    /// What a decoder may use: behind the checks of the header, in case that a decoder reads another one.
    fn decoder_limits(&self) -> Limits {
        let mut limits = Limits::no_limits();
        limits.max_image_width = Some(self.width);
        limits.max_image_height = Some(self.height);
        limits.max_alloc = Some(self.pixel_memory_bytes.max(FIXED_MEMORY_BYTES));
        limits
    }
}

/// Turns an image upright, in eight bits a channel: one that is encoded again need not have more, and the
/// second copy that turning takes is then half as large.
fn upright(image: DynamicImage, orientation: Orientation) -> DynamicImage {
    let mut image = match image {
        DynamicImage::ImageLuma16(_) => DynamicImage::ImageLuma8(image.into_luma8()),
        DynamicImage::ImageLumaA16(_) => DynamicImage::ImageLumaA8(image.into_luma_alpha8()),
        DynamicImage::ImageRgb16(_) => DynamicImage::ImageRgb8(image.into_rgb8()),
        DynamicImage::ImageRgba16(_) => DynamicImage::ImageRgba8(image.into_rgba8()),
        other => other,
    };
    image.apply_orientation(orientation);
    image
}

/// The orientation that an EXIF block states, with or without the prefix that JPEG has before it.
fn orientation_of_exif(exif: &[u8]) -> Orientation {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    Orientation::from_exif_chunk(tiff).unwrap_or(Orientation::NoTransforms)
}
