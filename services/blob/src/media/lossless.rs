//! What a decoder makes of the codes of lossless WebP pixels, known before it makes them.
//!
//! A picture may have tens of thousands of groups of five codes, each described in some ten bytes and
//! unpacked to tables of kilobytes. How many there are stands behind smaller pictures (transforms, and which
//! group is for which block): these are walked here as a decoder does, and of their pixels nothing is
//! kept but the largest number of a group.

use super::PictureError;

/// Bytes of tables of one picture: encoders make at most some 2,600 groups of 20 KiB, and mostly a few hundred.
pub(super) const TABLE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bits of a code's longest word.
const WORD_BITS_MAX: usize = 15;
/// Words up to so many bits are looked up in a table of four bytes each, and longer ones in a tree of two nodes
/// for each, of sixteen bytes.
const TABLE_BITS_MAX: usize = 10;
const TABLE_ENTRY_BYTES: u64 = 4;
const LONG_WORD_BYTES: u64 = 2 * 16;
/// Bytes of a group of five codes besides their tables, while the list of them grows.
const GROUP_BYTES: u64 = 1_024;
/// Bytes that a memory allocator may add to a table and a tree.
const ALLOCATION_BYTES: u64 = 64;
/// Symbols of the code of green: its values, and lengths of repeats. Those of the colour cache come behind.
const GREEN_SYMBOLS: usize = 256 + 24;
/// Symbols of the codes of red, blue, transparency and distances.
const OTHER_SYMBOLS: [usize; 4] = [256, 256, 256, 40];
/// The order in which the lengths of the words of lengths are told.
const LENGTH_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

pub(super) const DAMAGED: PictureError = PictureError::Unreadable("a WebP's codes are damaged");

/// Bytes of the tables of a stream of lossless pixels of these sides, that begins behind its header.
pub(super) fn table_bytes(stream: &[u8], width: u32, height: u32) -> Result<u64, PictureError> {
    let mut bits = Bits {
        rest: stream,
        held: 0,
        count: 0,
    };
    let width = transforms(&mut bits, width, height)?;
    let cache = cache_symbols(&mut bits)?;
    let mut groups = 1;
    if bits.read(1)? == 1 {
        let block = bits.read(3)? + 2;
        let largest = image(&mut bits, blocks(width, block), blocks(height, block))?;
        groups = u32::from(largest) + 1;
    }
    let mut bytes = 0;
    for _ in 0..groups {
        bytes += Group::read(&mut bits, cache)?.bytes();
        if bytes > TABLE_BYTES_MAX {
            return Err(PictureError::TooLarge("a WebP of too many codes"));
        }
    }
    Ok(bytes)
}

/// Passes what was done to the pixels, and answers with the width that is stored.
fn transforms(bits: &mut Bits<'_>, width: u32, height: u32) -> Result<u32, PictureError> {
    let mut stored = width;
    let mut seen = [false; 4];
    while bits.read(1)? == 1 {
        let kind = bits.read(2)?;
        let first = seen.get_mut(kind as usize).ok_or(DAMAGED)?;
        if std::mem::replace(first, true) {
            return Err(DAMAGED);
        }
        match kind {
            // Prediction, and how colours depend on each other, by blocks.
            0 | 1 => {
                let block = bits.read(3)? + 2;
                image(bits, blocks(stored, block), blocks(height, block))?;
            }
            // Green is taken from the others.
            2 => {}
            // A palette; of few colours, several pixels are stored in one.
            _ => {
                let colors = bits.read(8)? + 1;
                image(bits, colors, 1)?;
                stored = match colors {
                    ..=2 => blocks(stored, 3),
                    3..=4 => blocks(stored, 2),
                    5..=16 => blocks(stored, 1),
                    _ => stored,
                };
            }
        }
    }
    Ok(stored)
}

/// Blocks of this many bits along a side.
fn blocks(side: u32, bits: u32) -> u32 {
    side.div_ceil(1 << bits)
}

fn cache_symbols(bits: &mut Bits<'_>) -> Result<usize, PictureError> {
    if bits.read(1)? == 0 {
        return Ok(0);
    }
    match bits.read(4)? {
        size @ 1..=11 => Ok(1 << size),
        _ => Err(DAMAGED),
    }
}

/// Passes a picture of one group of codes, and answers with the largest number in its red and green. Repeats
/// and what comes from the cache are of pixels that were there before, so that they need not be known.
fn image(bits: &mut Bits<'_>, width: u32, height: u32) -> Result<u16, PictureError> {
    let cache = cache_symbols(bits)?;
    let group = Group::read(bits, cache)?;
    let pixels = u64::from(width) * u64::from(height);
    if let Some(green) = group.only_value() {
        let red = group.red.word(bits)?;
        return Ok(red << 8 | green);
    }
    let mut largest = 0;
    let mut at = 0;
    while at < pixels {
        let green = group.green.word(bits)?;
        match usize::from(green) {
            ..256 => {
                let red = group.red.word(bits)?;
                group.blue.word(bits)?;
                group.alpha.word(bits)?;
                largest = largest.max(red << 8 | green);
                at += 1;
            }
            256..GREEN_SYMBOLS => {
                let length = bits.prefixed(u32::from(green) - 256)?;
                let distance = group.distance.word(bits)?;
                bits.prefixed(u32::from(distance))?;
                at += length;
                if at > pixels {
                    return Err(DAMAGED);
                }
            }
            _ => at += 1,
        }
    }
    Ok(largest)
}

/// The codes of a part of a picture.
struct Group {
    green: Code,
    red: Code,
    blue: Code,
    alpha: Code,
    distance: Code,
}

impl Group {
    fn read(bits: &mut Bits<'_>, cache: usize) -> Result<Self, PictureError> {
        let [red, blue, alpha, distance] = OTHER_SYMBOLS;
        Ok(Self {
            green: Code::read(bits, GREEN_SYMBOLS + cache)?,
            red: Code::read(bits, red)?,
            blue: Code::read(bits, blue)?,
            alpha: Code::read(bits, alpha)?,
            distance: Code::read(bits, distance)?,
        })
    }

    fn bytes(&self) -> u64 {
        let codes = [
            &self.green,
            &self.red,
            &self.blue,
            &self.alpha,
            &self.distance,
        ];
        GROUP_BYTES + codes.map(Code::bytes).iter().sum::<u64>()
    }

    /// Its green, if all pixels are the same: they take no bits then, however many they are.
    fn only_value(&self) -> Option<u16> {
        match (&self.green, &self.red, &self.blue, &self.alpha) {
            (Code::One(green @ ..256), Code::One(_), Code::One(_), Code::One(_)) => Some(*green),
            _ => None,
        }
    }
}

/// A canonical prefix code.
enum Code {
    /// Of one symbol, which takes no bits.
    One(u16),
    Many {
        /// Words of each length.
        counts: [u16; WORD_BITS_MAX + 1],
        /// By length, and then in order.
        symbols: Vec<u16>,
    },
}

impl Code {
    fn read(bits: &mut Bits<'_>, size: usize) -> Result<Self, PictureError> {
        if bits.read(1)? == 1 {
            return Self::read_simple(bits, size);
        }
        let mut lengths = [0_u8; LENGTH_ORDER.len()];
        let told = bits.read(4)? as usize + 4;
        for &symbol in LENGTH_ORDER.iter().take(told) {
            let length = lengths.get_mut(symbol).ok_or(DAMAGED)?;
            *length = bits.read(3)? as u8;
        }
        let of_lengths = Self::of_lengths(&lengths)?;
        let mut left = size;
        if bits.read(1)? == 1 {
            let width = 2 + 2 * bits.read(3)?;
            left = 2 + bits.read(width)? as usize;
            if left > size {
                return Err(DAMAGED);
            }
        }
        let mut lengths = Vec::with_capacity(size);
        let mut previous = 8;
        while lengths.len() < size && left > 0 {
            left -= 1;
            let (length, repeats) = match of_lengths.word(bits)? {
                length @ ..16 => (length as u8, 1),
                16 => (previous, bits.read(2)? + 3),
                17 => (0, bits.read(3)? + 3),
                _ => (0, bits.read(7)? + 11),
            };
            if length != 0 {
                previous = length;
            }
            lengths.resize(lengths.len() + repeats as usize, length);
            if lengths.len() > size {
                return Err(DAMAGED);
            }
        }
        Self::of_lengths(&lengths)
    }

    /// One or two symbols.
    fn read_simple(bits: &mut Bits<'_>, size: usize) -> Result<Self, PictureError> {
        let two = bits.read(1)? == 1;
        let width = if bits.read(1)? == 1 { 8 } else { 1 };
        let first = bits.read(width)? as u16;
        if usize::from(first) >= size {
            return Err(DAMAGED);
        }
        if !two {
            return Ok(Self::One(first));
        }
        let second = bits.read(8)? as u16;
        if usize::from(second) >= size {
            return Err(DAMAGED);
        }
        let mut counts = [0; WORD_BITS_MAX + 1];
        if let Some(count) = counts.get_mut(1) {
            *count = 2;
        }
        Ok(Self::Many {
            counts,
            symbols: vec![first, second],
        })
    }

    /// The code whose words have these lengths; 0 is no word.
    fn of_lengths(lengths: &[u8]) -> Result<Self, PictureError> {
        let mut counts = [0_u16; WORD_BITS_MAX + 1];
        let mut symbols: Vec<u16> = (0..)
            .zip(lengths)
            .filter(|(_, length)| **length != 0)
            .map(|(symbol, _)| symbol)
            .collect();
        for symbol in &symbols {
            let length = lengths.get(usize::from(*symbol)).copied();
            let count = counts.get_mut(usize::from(length.unwrap_or_default()));
            *count.ok_or(DAMAGED)? += 1;
        }
        if let [only] = symbols.as_slice() {
            return Ok(Self::One(*only));
        }
        // Every word must mean something: that is what decoders want.
        let space = |(length, count): (usize, &u16)| u32::from(*count) << (WORD_BITS_MAX - length);
        if counts.iter().enumerate().map(space).sum::<u32>() != 1 << WORD_BITS_MAX {
            return Err(DAMAGED);
        }
        symbols.sort_by_key(|symbol| lengths.get(usize::from(*symbol)));
        Ok(Self::Many { counts, symbols })
    }

    fn bytes(&self) -> u64 {
        let Self::Many { counts, .. } = self else {
            return 0;
        };
        let longest = counts.iter().rposition(|&count| count > 0);
        let table = 1 << longest.unwrap_or_default().min(TABLE_BITS_MAX);
        let long = counts.iter().skip(TABLE_BITS_MAX + 1);
        let long = long.map(|&count| u64::from(count)).sum::<u64>();
        table * TABLE_ENTRY_BYTES + long * LONG_WORD_BYTES + ALLOCATION_BYTES
    }

    /// Reads a word, and answers with its symbol.
    fn word(&self, bits: &mut Bits<'_>) -> Result<u16, PictureError> {
        let (counts, symbols) = match self {
            Self::One(symbol) => return Ok(*symbol),
            Self::Many { counts, symbols } => (counts, symbols),
        };
        // The first word of each length follows the last one that is shorter.
        let (mut word, mut first, mut index) = (0_usize, 0_usize, 0_usize);
        for &count in counts.iter().skip(1) {
            word |= bits.read(1)? as usize;
            let count = usize::from(count);
            if let Some(at) = word.checked_sub(first).filter(|at| *at < count) {
                return symbols.get(index + at).copied().ok_or(DAMAGED);
            }
            index += count;
            first = (first + count) << 1;
            word <<= 1;
        }
        Err(DAMAGED)
    }
}

/// Bits of a stream, the lowest of each byte first.
struct Bits<'a> {
    rest: &'a [u8],
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// At most 32 bits.
    fn read(&mut self, count: u32) -> Result<u32, PictureError> {
        while self.count < count {
            let (byte, rest) = self.rest.split_first().ok_or(DAMAGED)?;
            self.held |= u64::from(*byte) << self.count;
            self.count += 8;
            self.rest = rest;
        }
        // Fewer than 2^32: the mask says so.
        let value = (self.held & ((1 << count) - 1)) as u32;
        self.held >>= count;
        self.count -= count;
        Ok(value)
    }

    /// A length or a distance: a symbol for how large it is, and bits for the rest.
    fn prefixed(&mut self, symbol: u32) -> Result<u64, PictureError> {
        if symbol < 4 {
            return Ok(u64::from(symbol) + 1);
        }
        let width = (symbol - 2) >> 1;
        let rest = self.read(width)?;
        Ok((u64::from(2 + (symbol & 1)) << width) + u64::from(rest) + 1)
    }
}
