//! The parts of a file that are kept, without copying them until memory for them was given.

use std::ops::Range;

use bytes::Bytes;

/// Parts of a file, in order, and bytes of our own between them.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Kept(Range<usize>),
    Own(Vec<u8>),
}

impl Pieces {
    /// Keeps a part of the file. Neighbours become one: the number of pieces is bounded by what is left
    /// out between them.
    pub(super) fn keep(&mut self, range: Range<usize>) {
        if let Some(Piece::Kept(last)) = self.0.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        self.0.push(Piece::Kept(range));
    }

    /// Adds bytes that are not in the file as they are.
    pub(super) fn add(&mut self, own: Vec<u8>) {
        self.0.push(Piece::Own(own));
    }

    /// Adds the pieces of a part behind these.
    pub(super) fn append(&mut self, part: Self) {
        self.0.extend(part.0);
    }

    /// The whole.
    pub(super) fn assemble(&self, content: &Bytes) -> Vec<u8> {
        let part = |piece: &Piece| match piece {
            Piece::Kept(range) => range.len(),
            Piece::Own(own) => own.len(),
        };
        let mut whole = Vec::with_capacity(self.0.iter().map(part).sum());
        for piece in &self.0 {
            match piece {
                Piece::Kept(range) => {
                    whole.extend_from_slice(content.get(range.clone()).unwrap_or_default());
                }
                Piece::Own(own) => whole.extend_from_slice(own),
            }
        }
        whole
    }
}
