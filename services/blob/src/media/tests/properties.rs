//! Pictures that were damaged at random: what is accepted is a clean picture, and nothing panics.

use image::GenericImageView;
use proptest::{prelude::*, sample::Index};

use super::*;

#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Splice(Index, Index, usize),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), 1..64_usize).prop_map(|(at, bytes)| Damage::Remove(at, bytes)),
        2 => (at(), at(), 1..256_usize).prop_map(|(f, t, bytes)| Damage::Splice(f, t, bytes)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..32))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn apply(content: &mut Vec<u8>, damage: &Damage) {
    if content.is_empty() {
        return;
    }
    let len = content.len();
    match damage {
        Damage::Flip(at, bit) => content[at.index(len)] ^= 1 << bit,
        Damage::Set(at, byte) => content[at.index(len)] = *byte,
        Damage::Cut(at) => content.truncate(at.index(len)),
        Damage::Remove(at, bytes) => {
            let at = at.index(len);
            content.drain(at..len.min(at + bytes));
        }
        Damage::Splice(from, to, bytes) => {
            let from = from.index(len);
            let part = content[from..len.min(from + bytes)].to_vec();
            let to = to.index(len);
            content.splice(to..to, part);
        }
        Damage::Insert(at, bytes) => {
            let at = at.index(len);
            content.splice(at..at, bytes.clone());
        }
    }
}

fn source() -> impl Strategy<Value = (MediaType, Vec<u8>)> {
    (0..KINDS.len(), 1..=8_u8, 0..3_u8).prop_map(|(kind, orientation, form)| {
        let kind = KINDS[kind];
        let content = match (form, kind) {
            (0, MediaType::Gif) => make::moving_gif(4),
            (0, MediaType::WebP) => make::moving_webp(4),
            (1, _) => make::with_metadata(kind),
            _ => make::still(kind, orientation),
        };
        (kind, content)
    })
}

/// What is accepted is clean: cleaning it again changes nothing, and it has the sides that are said.
pub(super) fn hold(picture: &Picture) -> Result<(), TestCaseError> {
    let kind = picture.media_type;
    let seen = image::load_from_memory(&picture.content)
        .map_err(|error| TestCaseError::fail(format!("{kind:?} does not decode: {error}")))?;
    prop_assert_eq!(seen.dimensions(), (picture.look.width, picture.look.height));
    let again = read(picture.content.to_vec(), kind)
        .map_err(|error| TestCaseError::fail(format!("{kind:?} is not read again: {error}")))?;
    prop_assert_eq!(&again.content, &picture.content);
    for (thumbnail, content) in [
        (picture.look.small, &picture.small),
        (picture.look.large, &picture.large),
    ] {
        let seen = image::load_from_memory(content).unwrap();
        prop_assert_eq!(seen.dimensions(), (thumbnail.width, thumbnail.height));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(384, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_picture_is_refused_or_clean(
        (kind, mut content) in source(),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        for damage in &damages {
            apply(&mut content, damage);
        }
        let plan = Plan::new(content.into(), kind);
        // What costs much is not for a test that runs often.
        if let Ok(plan) = plan && plan.memory_bytes() < 40 << 20 && let Ok(picture) = plan.read() {
            hold(&picture)?;
        }
    }

    #[test]
    fn segments_from_anywhere_do_not_pass(
        kind in 0..KINDS.len(),
        name in prop::sample::select(vec![*b"tEXt", *b"zzZz", *b"XMP ", *b"JUNK", *b"caBX"]),
        marker in prop::sample::select(vec![0xE1_u8, 0xE3, 0xE5, 0xED, 0xEF, 0xFE]),
        text in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let kind = KINDS[kind];
        let mut content = make::still(kind, 1);
        let data = [SECRET, &text].concat();
        match kind {
            MediaType::Jpeg => {
                let length = (data.len() as u16 + 2).to_be_bytes();
                content.splice(2..2, [&[0xFF, marker], &length[..], &data].concat());
            }
            MediaType::Png if name[0].is_ascii_lowercase() => {
                content = make::with_chunk(content, name, &data);
            }
            MediaType::WebP => {
                content = make::moving_webp(2);
                content.extend_from_slice(&name);
                content.extend_from_slice(&(data.len() as u32).to_le_bytes());
                content.extend_from_slice(&data);
                if data.len() % 2 == 1 {
                    content.push(7);
                }
                make::set_riff_size(&mut content);
            }
            _ => content.extend_from_slice(&data),
        }
        let picture = read(content, kind).unwrap();
        prop_assert!(!contains(&picture.content, SECRET));
        hold(&picture)?;
    }
}
