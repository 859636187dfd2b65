//! The records of one commit in one partition, packed: what a row of the file holds, and what
//! readers that keep up get from memory. All numbers are little endian.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | format, 1 |
//! | 4 | 4 | CRC-32 of everything after it |
//! | 8 | 8 | offset of the first record; the others follow without gaps |
//! | 16 | 8 | time, milliseconds since 1970-01-01 UTC |
//! | 24 | 4 | number of records |
//! | 28 | 4 | the partition's index in the file |
//! | 32 | | per record: lengths of key, headers, payload (4 each), then these three |
//!
//! Headers are, one after the other, length of the name (4), length of the value (4), name, value.

use bytes::Bytes;

use crate::{AppendError, KEY_AND_HEADERS_BYTES_MAX, NewRecord, PAYLOAD_BYTES_MAX, Record};

const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 32;
/// The three lengths before each record.
const LENGTHS_BYTES: usize = 12;
/// A batch of the largest record alone.
pub(super) const RECORD_BYTES_MAX: usize =
    HEADER_BYTES + LENGTHS_BYTES + KEY_AND_HEADERS_BYTES_MAX + PAYLOAD_BYTES_MAX;
/// The two lengths before each header.
const HEADER_LENGTHS_BYTES: usize = 8;
/// An emptied builder keeps at most this much: one burst is not paid for ever.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// A record that is not too large, and what it takes when packed.
pub(super) struct Sized {
    record: NewRecord,
    headers: u32,
    packed: usize,
}

impl Sized {
    /// Measures a record; refuses one that is too large.
    pub(super) fn new(record: NewRecord) -> Result<Self, AppendError> {
        let each = |(name, value): &(String, Bytes)| {
            HEADER_LENGTHS_BYTES.saturating_add(name.len().saturating_add(value.len()))
        };
        let headers = record
            .headers
            .iter()
            .map(each)
            .fold(0, usize::saturating_add);
        let beside = headers.saturating_add(record.key.len());
        if beside > KEY_AND_HEADERS_BYTES_MAX || record.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        Ok(Self {
            packed: LENGTHS_BYTES + beside + record.payload.len(),
            headers: length(headers),
            record,
        })
    }

    /// Bytes in a batch.
    pub(super) fn packed(&self) -> usize {
        self.packed
    }

    /// The record.
    pub(super) fn record(&self) -> &NewRecord {
        &self.record
    }
}

/// Lengths were bounded far below 4 GiB by [`Sized::new`].
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Packs records until their place is known.
#[derive(Default)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    records: u32,
}

impl Builder {
    /// Adds a record; answers its place in the batch.
    pub(super) fn push(&mut self, sized: &Sized) -> u32 {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let record = &sized.record;
        self.bytes.reserve(sized.packed);
        self.put_u32(length(record.key.len()));
        self.put_u32(sized.headers);
        self.put_u32(length(record.payload.len()));
        self.bytes.extend_from_slice(&record.key);
        for (name, value) in &record.headers {
            self.put_u32(length(name.len()));
            self.put_u32(length(value.len()));
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.extend_from_slice(value);
        }
        self.bytes.extend_from_slice(&record.payload);
        let place = self.records;
        self.records += 1;
        place
    }

    fn put_u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes of the packed records.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it holds.
    pub(super) fn records(&self) -> u32 {
        self.records
    }

    /// What a row is to hold, once the records have their place.
    pub(super) fn seal(&mut self, partition: u32, base: u64, time_unix_ms: i64) -> &[u8] {
        let mut rest = [0; HEADER_BYTES - 8];
        rest[0..8].copy_from_slice(&base.to_le_bytes());
        rest[8..16].copy_from_slice(&time_unix_ms.to_le_bytes());
        rest[16..20].copy_from_slice(&self.records.to_le_bytes());
        rest[20..24].copy_from_slice(&partition.to_le_bytes());
        self.bytes[8..HEADER_BYTES].copy_from_slice(&rest);
        self.bytes[0..4].copy_from_slice(&FORMAT.to_le_bytes());
        let check = crc32fast::hash(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&check.to_le_bytes());
        &self.bytes
    }

    /// A copy for readers, of exactly the size that it needs.
    pub(super) fn sealed(&self, base: u64, time_unix_ms: i64) -> Batch {
        Batch {
            bytes: Bytes::copy_from_slice(&self.bytes),
            base,
            records: self.records,
            time_unix_ms,
        }
    }

    /// Forgets the records and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(SPARE_BYTES_MAX);
        self.records = 0;
    }
}

/// A packed batch.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    bytes: Bytes,
    base: u64,
    records: u32,
    time_unix_ms: i64,
}

impl Batch {
    /// Reads a row of the file. Says what is wrong with it if it is not what was written there.
    pub(super) fn parse(partition: u32, base: u64, row: Vec<u8>) -> Result<Self, &'static str> {
        let bytes = Bytes::from(row);
        let mut header = Fields(&bytes);
        let (Some(format), Some(check)) = (header.u32(), header.u32()) else {
            return Err("the batch is cut off");
        };
        if format != FORMAT {
            return Err("the batch has an unknown format");
        }
        if crc32fast::hash(header.0) != check {
            return Err("the batch is damaged");
        }
        let (stored_base, time) = (header.u64(), header.u64());
        let (records, stored_partition) = (header.u32(), header.u32());
        let (Some(time), Some(records)) = (time, records) else {
            return Err("the batch is cut off");
        };
        if stored_base != Some(base) || stored_partition != Some(partition) || records == 0 {
            return Err("the batch is not in its place");
        }
        Ok(Self {
            base,
            records,
            time_unix_ms: time.cast_signed(),
            bytes,
        })
    }

    /// Offset of the first record.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Offset after the last record.
    pub(super) fn end(&self) -> u64 {
        self.base + u64::from(self.records)
    }

    /// Memory that it holds.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads from `offset` on, which must be in the batch. `None` if the batch is not well formed.
    pub(super) fn cursor(self, offset: u64) -> Option<Cursor> {
        let mut cursor = Cursor {
            at: HEADER_BYTES,
            next: self.base,
            batch: self,
        };
        while cursor.next < offset {
            cursor.skip()?;
        }
        Some(cursor)
    }
}

/// A place in a batch.
#[derive(Debug)]
pub(super) struct Cursor {
    batch: Batch,
    at: usize,
    next: u64,
}

impl Cursor {
    /// Whether all records were read.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.batch.end()
    }

    fn lengths(&self) -> Option<[usize; 3]> {
        let mut fields = Fields(self.batch.bytes.get(self.at..)?);
        let mut next = || usize::try_from(fields.u32()?).ok();
        Some([next()?, next()?, next()?])
    }

    fn skip(&mut self) -> Option<()> {
        let [key, headers, payload] = self.lengths()?;
        let length = key.checked_add(headers)?.checked_add(payload)?;
        let at = self.at.checked_add(LENGTHS_BYTES)?.checked_add(length)?;
        if at > self.batch.bytes.len() {
            return None;
        }
        self.at = at;
        self.next += 1;
        Some(())
    }

    /// The next record; `None` if the batch is not well formed or there is no more.
    pub(super) fn read(&mut self) -> Option<Record> {
        if self.is_done() {
            return None;
        }
        let [key, headers, payload] = self.lengths()?;
        let (offset, start) = (self.next, self.at.checked_add(LENGTHS_BYTES)?);
        self.skip()?;
        // `skip` has made sure that all three are within the batch.
        let slice = |from: usize, length: usize| self.batch.bytes.slice(from..from + length);
        Some(Record {
            offset,
            time_unix_ms: self.batch.time_unix_ms,
            key: slice(start, key),
            payload: slice(start + key + headers, payload),
            headers: unpack_headers(&slice(start + key, headers))?,
        })
    }
}

fn unpack_headers(packed: &Bytes) -> Option<Vec<(String, Bytes)>> {
    let mut headers = Vec::new();
    let mut fields = Fields(packed);
    while !fields.0.is_empty() {
        let (name, value) = (fields.u32()?, fields.u32()?);
        let name = fields.take(usize::try_from(name).ok()?)?;
        let value = fields.take(usize::try_from(value).ok()?)?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        headers.push((name, packed.slice_ref(value)));
    }
    Some(headers)
}

/// Takes fields from the front of what is left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(field)
    }

    fn u32(&mut self) -> Option<u32> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*field))
    }

    fn u64(&mut self) -> Option<u64> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*field))
    }
}

#[cfg(test)]
mod tests;
