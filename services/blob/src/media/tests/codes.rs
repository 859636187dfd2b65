//! What the codes of lossless WebP cost: many bytes of pixels little, and few bytes of codes much.

use super::*;

/// Bits in the order of a stream.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    /// A number, its lowest bit first.
    fn number(&mut self, value: u32, count: u32) {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
    }

    /// A word of a code, its highest bit first.
    fn word(&mut self, word: &str) {
        self.0.extend(word.chars().map(|bit| bit == '1'));
    }

    /// A code of one symbol.
    fn one(&mut self, symbol: u32) {
        self.word("101");
        self.number(symbol, 8);
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| (0..).zip(bits).map(|(at, bit)| u8::from(*bit) << at).sum();
        self.0.chunks(8).map(byte).collect()
    }
}

/// A picture of 4 x 4 pixels and this many groups of codes, each with 2,048 words of eleven bits.
fn groups(count: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.number(0x2F, 8);
    bits.number(3, 14);
    bits.number(3, 14);
    // No transparency, the version, no transforms; a colour cache of eleven bits, and groups by blocks of 4 x 4.
    bits.number(0, 4);
    bits.number(0, 1);
    bits.number(1, 1);
    bits.number(11, 4);
    bits.number(1, 1);
    bits.number(0, 3);
    // The one block: the number of the last group, in red and green.
    bits.number(0, 1);
    bits.one((count - 1) & 0xFF);
    bits.one((count - 1) >> 8);
    (0..3).for_each(|_| bits.one(0));
    for _ in 0..count {
        // The lengths of words: 11, again as before, and some zeros, in words of 2, 1 and 2 bits.
        bits.number(0, 1);
        bits.number(11, 4);
        for at in 0..15 {
            // At the places of 18, 16 and 11.
            let length = match at {
                1 | 14 => 2,
                8 => 1,
                _ => 0,
            };
            bits.number(length, 3);
        }
        bits.number(0, 1);
        bits.word("10");
        for _ in 0..341 {
            bits.word("0");
            bits.number(3, 2);
        }
        bits.word("10");
        for zeros in [138, 131, 11] {
            bits.word("11");
            bits.number(zeros - 11, 7);
        }
        (0..4).for_each(|_| bits.one(0));
    }
    // The pixels, each of the first word.
    (0..16).for_each(|_| bits.number(0, 11));
    let pixels = bits.bytes();
    let mut content = b"RIFF\0\0\0\0WEBPVP8L".to_vec();
    content.extend_from_slice(&(pixels.len() as u32).to_le_bytes());
    content.extend_from_slice(&pixels);
    if pixels.len() % 2 == 1 {
        content.push(0);
    }
    make::set_riff_size(&mut content);
    content
}

#[test]
fn codes_cost_what_a_decoder_makes_of_them_and_too_many_are_refused() {
    for count in [1, 100] {
        let plan = Plan::new(groups(count).into(), MediaType::WebP).unwrap();
        let tables = plan.memory_bytes() - FIXED_MEMORY_BYTES;
        // 1,024 entries of four bytes, and a tree of 4,096 nodes of sixteen bytes.
        let expected = u64::from(count) * (1_024 * 4 + 4_096 * 16);
        assert!(
            tables >= expected && tables < expected * 11 / 10,
            "{tables}"
        );
        let picture = plan.read().unwrap();
        assert_eq!((picture.look.width, picture.look.height), (4, 4));
    }
    let many = groups(20_000);
    assert!(many.len() < 4 << 20);
    let begun = std::time::Instant::now();
    let refused = Plan::new(many.into(), MediaType::WebP);
    assert!(matches!(refused, Err(PictureError::TooLarge(_))));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_lossless_webp_of_many_bytes_is_read_and_costs_as_its_pixels_do() {
    let mut noise = 1_u32;
    let image = image::RgbImage::from_fn(1_200, 1_000, |_, _| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        image::Rgb([(noise >> 24) as u8, (noise >> 16) as u8, (noise >> 8) as u8])
    });
    let mut content = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut content, image::ImageFormat::WebP)
        .unwrap();
    let content = content.into_inner();
    assert!(content.len() > 3_000_000, "{}", content.len());
    let plan = Plan::new(content.into(), MediaType::WebP).unwrap();
    assert!(plan.memory_bytes() < 48 << 20, "{}", plan.memory_bytes());
    assert_eq!(plan.read().unwrap().look.width, 1_200);
}

#[test]
fn groups_of_codes_that_an_encoder_makes_are_counted() {
    let content = include_bytes!("pictures/groups-lossless.webp");
    let pixels = &content[25..];
    let bytes = lossless::table_bytes(pixels, 160, 120).unwrap();
    // Six groups, of up to five tables of up to four kilobytes each.
    assert!((40_000..120_000).contains(&bytes), "{bytes}");
}
