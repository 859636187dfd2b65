//! Pictures made from a seed, in the formats, sizes and orientations that phones and browsers send, of
//! which it is known how they have to look when they come back.
//!
//! Each is a board of 4 x 4 colours, so a few pixels tell whether all of it is where it belongs. Some lie
//! on their side and say so in their EXIF data; all say beside their pixels where they were taken, which
//! nobody is to see who gets them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::Cursor,
};

use anyhow::{Context, bail, ensure};
use image::{
    DynamicImage, ExtendedColorType, Frame, ImageEncoder, RgbImage,
    codecs::{
        gif::{GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngEncoder,
        webp::WebPEncoder,
    },
    metadata::Orientation,
};

/// Pictures that are made.
const PICTURES: u64 = 48;
/// Colours of a side of the board.
const BOARD: u32 = 4;
/// Of the messages, one in so many has attachments.
const ONE_IN: u64 = 10;
/// Attachments of such a message at most.
const ATTACHMENTS_MAX: u64 = 3;
/// What is planted beside the pixels.
const PLANTED: &str = "PLANTED-52.5163N-13.3777E";
/// Sides: a pixel, smaller than the board, thumbnails, screens, and one of 3 megapixels.
const SIDES: [(u32, u32); 8] = [
    (1, 1),
    (3, 2),
    (64, 48),
    (96, 160),
    (400, 300),
    (640, 480),
    (720, 1_280),
    (2_048, 1_536),
];
/// What a lossy format may change of a colour in the middle of its field.
const LOSSY_TOLERANCE: u8 = 40;

/// One picture, and how it has to look.
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    /// When it is upright.
    sides: (u32, u32),
    /// By rows, when it is upright.
    board: [[u8; 3]; 16],
    tolerance: u8,
}

/// All pictures of a run.
pub(crate) struct Gallery {
    seed: u64,
    pictures: Vec<Made>,
}

/// A number that depends on nothing but these.
fn number(parts: impl Hash) -> u64 {
    // Without keys, so the same in every run.
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl Gallery {
    pub(crate) fn new(seed: u64) -> anyhow::Result<Self> {
        let pictures = (0..PICTURES).map(|place| Made::new(seed, place));
        let pictures = pictures.collect::<anyhow::Result<_>>();
        Ok(Self {
            seed,
            pictures: pictures.context("the pictures could not be made")?,
        })
    }

    /// Which pictures the message at this place of a log has; mostly none, and some several times.
    pub(crate) fn of_message(&self, log: &str, place: usize) -> Vec<usize> {
        if !number((self.seed, log, place)).is_multiple_of(ONE_IN) {
            return Vec::new();
        }
        let count = 1 + number((self.seed, log, place, "count")) % ATTACHMENTS_MAX;
        let mut chosen = Vec::new();
        for nth in 0..count {
            let one = number((self.seed, log, place, nth)) % PICTURES;
            // A message has a picture once.
            match usize::try_from(one) {
                Ok(one) if !chosen.contains(&one) => chosen.push(one),
                _ => {}
            }
        }
        chosen
    }

    pub(crate) fn picture(&self, place: usize) -> Option<&Made> {
        self.pictures.get(place)
    }
}

impl Made {
    fn new(seed: u64, place: u64) -> anyhow::Result<Self> {
        let random = |what: &str| number((seed, place, what));
        let (width, height) = SIDES[(random("sides") % SIDES.len() as u64) as usize];
        let mut board = [[0; 3]; 16];
        for (field, colour) in board.iter_mut().enumerate() {
            let [red, green, blue, ..] = number((seed, place, field)).to_le_bytes();
            *colour = [red, green, blue];
        }
        let upright = RgbImage::from_fn(width, height, |x, y| {
            image::Rgb(board[field_at((x, y), (width, height))])
        });
        let mut made = Self {
            bytes: Vec::new(),
            sides: (width, height),
            board,
            tolerance: 0,
        };
        match place % 5 {
            0 => made.jpeg(upright, 1 + (random("orientation") % 8) as u8)?,
            1 => made.png(upright, 1 + (random("orientation") % 8) as u8)?,
            2 => made.gif(&upright, 1)?,
            3 => made.gif(&upright, 3)?,
            _ => made.webp(&upright)?,
        }
        Ok(made)
    }

    fn jpeg(&mut self, upright: RgbImage, orientation: u8) -> anyhow::Result<()> {
        let lying = lying(upright, orientation);
        let mut encoder = JpegEncoder::new_with_quality(&mut self.bytes, 92);
        encoder.set_exif_metadata(exif(orientation))?;
        encoder.encode_image(&lying)?;
        self.tolerance = LOSSY_TOLERANCE;
        Ok(())
    }

    fn png(&mut self, upright: RgbImage, orientation: u8) -> anyhow::Result<()> {
        let lying = lying(upright, orientation).into_rgb8();
        let mut encoder = PngEncoder::new(&mut self.bytes);
        encoder.set_exif_metadata(exif(orientation))?;
        let (width, height) = lying.dimensions();
        encoder.write_image(&lying, width, height, ExtendedColorType::Rgb8)?;
        Ok(())
    }

    fn webp(&mut self, upright: &RgbImage) -> anyhow::Result<()> {
        let mut encoder = WebPEncoder::new_lossless(&mut self.bytes);
        encoder.set_exif_metadata(exif(1))?;
        let (width, height) = upright.dimensions();
        encoder.write_image(upright, width, height, ExtendedColorType::Rgb8)?;
        Ok(())
    }

    /// The first frame is the board, those after it are its mirror images.
    fn gif(&mut self, upright: &RgbImage, frames: u32) -> anyhow::Result<()> {
        let mut encoder = GifEncoder::new_with_speed(&mut self.bytes, 10);
        encoder.set_repeat(Repeat::Infinite)?;
        for nth in 0..frames {
            let frame = match nth {
                0 => upright.clone(),
                _ => image::imageops::flip_horizontal(upright),
            };
            encoder.encode_frame(Frame::new(DynamicImage::ImageRgb8(frame).into_rgba8()))?;
        }
        drop(encoder);
        comment(&mut self.bytes)?;
        // 256 colours are enough for 16, but who chooses them may round.
        self.tolerance = 12;
        Ok(())
    }

    /// Why these bytes are not this picture as it is to be shown.
    pub(crate) fn check(&self, bytes: &[u8], sides: (u32, u32)) -> anyhow::Result<()> {
        let planted = PLANTED.as_bytes();
        if bytes.windows(planted.len()).any(|part| part == planted) {
            bail!("it still says where it was taken");
        }
        ensure!(
            sides == self.sides,
            "it is said to have the sides {sides:?} and not {:?}",
            self.sides
        );
        let shown = image::load_from_memory(bytes).context("it cannot be read")?;
        let shown = shown.into_rgb8();
        ensure!(shown.dimensions() == self.sides, "it has other sides");
        let (width, height) = self.sides;
        for field_y in 0..BOARD {
            for field_x in 0..BOARD {
                let x = ((2 * field_x + 1) * width / (2 * BOARD)).min(width - 1);
                let y = ((2 * field_y + 1) * height / (2 * BOARD)).min(height - 1);
                let wanted = self.board[field_at((x, y), self.sides)];
                // A lossy format mixes what is smaller than its blocks.
                if self.tolerance == LOSSY_TOLERANCE && width.min(height) < 16 * BOARD {
                    continue;
                }
                let is = shown.get_pixel(x, y).0;
                let differs = |(is, wanted): (u8, u8)| is.abs_diff(wanted) > self.tolerance;
                ensure!(
                    !is.into_iter().zip(wanted).any(differs),
                    "at {x},{y} it is {is:?} and not {wanted:?}"
                );
            }
        }
        Ok(())
    }
}

/// The field that a pixel is of.
fn field_at((x, y): (u32, u32), (width, height): (u32, u32)) -> usize {
    ((y * BOARD / height) * BOARD + x * BOARD / width) as usize
}

/// The picture as it is stored by a device that was held in this way.
fn lying(upright: RgbImage, orientation: u8) -> DynamicImage {
    let turned = match Orientation::from_exif(orientation) {
        // What undoes it.
        Some(Orientation::Rotate90) => Orientation::Rotate270,
        Some(Orientation::Rotate270) => Orientation::Rotate90,
        Some(same) => same,
        None => Orientation::NoTransforms,
    };
    let mut picture = DynamicImage::ImageRgb8(upright);
    picture.apply_orientation(turned);
    picture
}

/// A TIFF block with an orientation, a description, and a place.
fn exif(orientation: u8) -> Vec<u8> {
    const ASCII: u16 = 2;
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    let planted = [PLANTED.as_bytes(), b"\0"].concat();
    let length = planted.len() as u32;
    // Header 8, three entries of 12 with 2 before and 4 after, then the text, then the places.
    let text_at = 8 + 2 + 3 * 12 + 4;
    let gps_at = text_at + length + length % 2;
    let entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
        let mut entry = Vec::with_capacity(12);
        entry.extend(tag.to_le_bytes());
        entry.extend(kind.to_le_bytes());
        entry.extend(count.to_le_bytes());
        entry.extend(value);
        entry
    };
    let mut block = b"II*\0\x08\0\0\0".to_vec();
    block.extend(3_u16.to_le_bytes());
    block.extend(entry(0x010E, ASCII, length, text_at.to_le_bytes()));
    block.extend(entry(0x0112, SHORT, 1, [orientation, 0, 0, 0]));
    block.extend(entry(0x8825, LONG, 1, gps_at.to_le_bytes()));
    block.extend(0_u32.to_le_bytes());
    block.extend(&planted);
    block.resize(gps_at as usize, 0);
    block.extend(2_u16.to_le_bytes());
    block.extend(entry(0x0001, ASCII, 2, *b"N\0\0\0"));
    block.extend(entry(0x001B, ASCII, length, text_at.to_le_bytes()));
    block.extend(0_u32.to_le_bytes());
    block
}

/// Puts a comment into a GIF, before its end.
fn comment(gif: &mut Vec<u8>) -> anyhow::Result<()> {
    ensure!(gif.pop() == Some(0x3B), "a GIF ends in its trailer");
    let mut cursor = Cursor::new(gif);
    cursor.set_position(cursor.get_ref().len() as u64);
    let gif = cursor.into_inner();
    gif.extend([0x21, 0xFE, PLANTED.len() as u8]);
    gif.extend(PLANTED.as_bytes());
    gif.extend([0, 0x3B]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server has to make of it.
    fn upright(made: &Made) -> Vec<u8> {
        let reader = image::ImageReader::new(Cursor::new(&made.bytes));
        let mut decoder = reader
            .with_guessed_format()
            .unwrap()
            .into_decoder()
            .unwrap();
        use image::ImageDecoder;
        let orientation = decoder.orientation().unwrap();
        let mut picture = DynamicImage::from_decoder(decoder).unwrap();
        picture.apply_orientation(orientation);
        let mut bytes = Vec::new();
        picture
            .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
            .unwrap();
        bytes
    }

    #[test]
    fn pictures_that_were_turned_upright_and_cleaned_are_right_and_no_others() {
        let gallery = Gallery::new(7).unwrap();
        let mut turned = 0;
        for made in &gallery.pictures {
            let good = upright(made);
            made.check(&good, made.sides).unwrap();
            // As it was sent, it says where it was taken.
            assert!(made.check(&made.bytes, made.sides).is_err());
            assert!(made.check(&good[..good.len() / 2], made.sides).is_err());
            let (width, height) = made.sides;
            assert!(made.check(&good, (width + 1, height)).is_err());
            // Upside down.
            if width.min(height) >= 16 * BOARD {
                let mut wrong = image::load_from_memory(&good).unwrap();
                wrong.apply_orientation(Orientation::Rotate180);
                let mut bytes = Vec::new();
                let format = image::ImageFormat::Png;
                wrong
                    .write_to(&mut Cursor::new(&mut bytes), format)
                    .unwrap();
                assert!(made.check(&bytes, made.sides).is_err());
                turned += 1;
            }
        }
        assert!(turned > 10);
    }

    #[test]
    fn about_one_message_in_ten_has_pictures_and_the_same_ones_in_every_run() {
        let [one, other] = [7, 7].map(|seed| Gallery::new(seed).unwrap());
        let with = (0..5_000).filter(|place| !one.of_message("log", *place).is_empty());
        let count = with.count();
        assert!((400..600).contains(&count), "{count}");
        for place in 0..5_000 {
            assert_eq!(one.of_message("log", place), other.of_message("log", place));
        }
        for (made, again) in one.pictures.iter().zip(&other.pictures) {
            assert!(made.bytes == again.bytes);
        }
    }
}
