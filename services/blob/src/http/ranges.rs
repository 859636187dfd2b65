//! Which bytes a request asks for (RFC 9110, 14).

use std::ops::Range;

use http_range_header::{SyntacticallyCorrectRange, parse_range_header};

/// Ranges of one request; a request for more gets everything, as the standard allows. More is nothing
/// that a player or a resumed download asks for.
const RANGES_MAX: usize = 8;

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Everything,
    /// These, each inside of the size and not empty.
    Ranges(Vec<Range<u64>>),
    /// Nothing that there is.
    NotSatisfiable,
}

/// Reads a `Range` header for something of `size` bytes. One that is malformed, or of another unit, is
/// as if it were not there; so are ranges that overlap, and too many.
pub(super) fn wanted(range: &str, size: u64) -> Wanted {
    let Ok(parsed) = parse_range_header(range) else {
        return Wanted::Everything;
    };
    let parsed = parsed.into_ranges();
    if parsed.len() > RANGES_MAX {
        return Wanted::Everything;
    }
    let mut ranges = Vec::with_capacity(parsed.len());
    for one in parsed {
        let range = match one {
            SyntacticallyCorrectRange::FromLast(last) => size.saturating_sub(last)..size,
            SyntacticallyCorrectRange::FromStart(first) => first..size,
            SyntacticallyCorrectRange::Indexed(first, last) => {
                first..last.saturating_add(1).min(size)
            }
        };
        // Those that are not there are left out.
        if range.start < range.end {
            ranges.push(range);
        }
    }
    if ranges.is_empty() {
        return Wanted::NotSatisfiable;
    }
    let mut sorted = ranges.clone();
    sorted.sort_by_key(|range| range.start);
    if sorted.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Wanted::Everything;
    }
    Wanted::Ranges(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let ranges =
            |ends: &[(u64, u64)]| Wanted::Ranges(ends.iter().map(|(a, b)| *a..*b).collect());
        for (header, expected) in [
            ("bytes=0-0", ranges(&[(0, 1)])),
            ("bytes=0-", ranges(&[(0, 1_000)])),
            ("bytes=500-", ranges(&[(500, 1_000)])),
            ("bytes=-1", ranges(&[(999, 1_000)])),
            ("bytes=-5000", ranges(&[(0, 1_000)])),
            ("bytes=999-5000", ranges(&[(999, 1_000)])),
            (
                "bytes=0-9, 20-29,-10",
                ranges(&[(0, 10), (20, 30), (990, 1_000)]),
            ),
            ("bytes=900-999,0-9", ranges(&[(900, 1_000), (0, 10)])),
            // The one that is not there is left out.
            ("bytes=0-9,2000-2001", ranges(&[(0, 10)])),
            ("bytes=1000-", Wanted::NotSatisfiable),
            ("bytes=2000-3000", Wanted::NotSatisfiable),
            ("bytes=0-5,3-9", Wanted::Everything),
            ("bytes=9-0", Wanted::Everything),
            ("bytes=", Wanted::Everything),
            ("bytes=a-b", Wanted::Everything),
            ("lines=0-9", Wanted::Everything),
            ("bytes=0-9;1-2", Wanted::Everything),
            ("bytes=99999999999999999999-", Wanted::NotSatisfiable),
            (
                "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16",
                Wanted::Everything,
            ),
        ] {
            assert_eq!(wanted(header, 1_000), expected, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_for_lies_inside_and_is_asked_for_once(
            header in "bytes=([0-9]{0,4}-[0-9]{0,4},?){0,6}", size in 1_u64..3_000,
        ) {
            if let Wanted::Ranges(ranges) = wanted(&header, size) {
                let mut sent = 0;
                for range in ranges {
                    assert!(range.start < range.end && range.end <= size);
                    sent += range.end - range.start;
                }
                assert!(sent <= size);
            }
        }
    }
}
