use super::*;

fn sized(key: &'static str, payload: &'static [u8], headers: usize) -> Sized {
    let headers = (0..headers)
        .map(|n| (format!("name-{n}"), Bytes::from(vec![7; n])))
        .collect();
    Sized::new(NewRecord {
        key: Bytes::from_static(key.as_bytes()),
        payload: Bytes::from_static(payload),
        headers,
    })
    .unwrap()
}

fn packed() -> Vec<u8> {
    let mut builder = Builder::default();
    assert_eq!(builder.push(&sized("a", b"one", 0)), 0);
    assert_eq!(builder.push(&sized("", b"", 3)), 1);
    assert_eq!(builder.push(&sized("ccc", b"three", 1)), 2);
    builder.seal(5, 40, -7).to_vec()
}

fn read_all(batch: Batch, from: u64) -> Option<Vec<Record>> {
    let mut cursor = batch.cursor(from)?;
    let mut records = Vec::new();
    while !cursor.is_done() {
        records.push(cursor.read()?);
    }
    Some(records)
}

#[test]
fn records_come_back_as_they_were() {
    let batch = Batch::parse(5, 40, packed()).unwrap();
    assert_eq!((batch.base(), batch.end()), (40, 43));
    let records = read_all(batch.clone(), 40).unwrap();
    let offsets: Vec<_> = records.iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [40, 41, 42]);
    assert!(records.iter().all(|r| r.time_unix_ms == -7));
    assert_eq!(records[0].payload, "one");
    assert_eq!(records[1].key, "");
    assert_eq!(
        records[1].headers[2],
        ("name-2".into(), Bytes::from_static(&[7, 7]))
    );
    assert_eq!(
        (&records[2].key[..], &records[2].payload[..]),
        (&b"ccc"[..], &b"three"[..])
    );
    let last = read_all(batch, 42).unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].payload, "three");
}

#[test]
fn every_damaged_byte_and_every_cut_is_noticed() {
    let good = packed();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(Batch::parse(5, 40, bad).is_err(), "byte {at}");
        assert!(
            Batch::parse(5, 40, good[..at].to_vec()).is_err(),
            "cut {at}"
        );
    }
    assert!(Batch::parse(4, 40, good.clone()).is_err());
    assert!(Batch::parse(5, 41, good).is_err());
}

/// A check that fits does not make lengths true: nothing may panic on them.
#[test]
fn lengths_that_lie_never_panic() {
    let good = packed();
    for at in 24..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let check = crc32fast::hash(&bad[8..]);
            bad[4..8].copy_from_slice(&check.to_le_bytes());
            if let Ok(batch) = Batch::parse(5, 40, bad) {
                // Reading ends, with records or without.
                let mut cursor = batch.clone().cursor(40).unwrap();
                while cursor.read().is_some() {}
                let _ = batch.cursor(42);
            }
        }
    }
}
