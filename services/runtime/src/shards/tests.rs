use std::sync::Arc;

use proptest::{collection::hash_set, prelude::*};

use super::*;
use crate::{auth::KeyPair, clock::SystemClock};

const KEYS: u32 = 4_000;

fn keys() -> impl Iterator<Item = [u8; 16]> {
    (0..KEYS).map(|n| {
        let mut key = [7; 16];
        key[..4].copy_from_slice(&n.to_be_bytes());
        key
    })
}

fn owners(names: &[String]) -> Vec<String> {
    let shards = Shards::new(names).unwrap();
    keys()
        .map(|key| shards.name(shards.owner(&key)).to_owned())
        .collect()
}

fn names(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    hash_set("[a-z0-9.:-]{1,40}", count).prop_map(|names| names.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_the_list_means_nothing(names in names(1..8)) {
        let mut other = names.clone();
        other.reverse();
        prop_assert_eq!(owners(&names), owners(&other));
        other.sort();
        prop_assert_eq!(owners(&names), owners(&other));
    }

    #[test]
    fn every_replica_owns_about_as_much_as_the_others(names in names(2..8)) {
        let owners = owners(&names);
        let fair = KEYS as usize / names.len();
        for name in &names {
            let owned = owners.iter().filter(|owner| *owner == name).count();
            // Six standard deviations, and more.
            prop_assert!(owned.abs_diff(fair) < fair / 3, "{name}: {owned} of {fair}");
        }
    }

    #[test]
    fn a_replica_that_comes_or_goes_moves_only_its_own_keys(names in names(2..8)) {
        let (gone, left) = names.split_last().unwrap();
        for (before, after) in owners(&names).into_iter().zip(owners(left)) {
            prop_assert!(before == after || before == *gone, "{before} lost a key to {after}");
        }
    }
}

#[test]
fn the_function_is_a_contract() {
    // Computed from the definition by a program that shares nothing with this one.
    let shards = Shards::new(["presence-0", "presence-1", "presence-2"]).unwrap();
    let owned: Vec<usize> = (0..16).map(|n| shards.owner(&[n; 16])).collect();
    assert_eq!(owned, [1, 2, 0, 0, 0, 1, 0, 1, 2, 0, 1, 2, 2, 1, 0, 0]);
    assert_eq!(shards.replicas[0].weight(&[1; 16]), 0x8a65080daf1e8caa);
}

#[test]
fn one_replica_owns_everything() {
    let alone = Shards::one();
    assert_eq!((alone.len(), alone.owner(b"x"), alone.name(0)), (1, 0, ""));
    let named = Shards::new(["a"]).unwrap();
    assert_eq!((named.len(), named.owner(b"x"), named.name(0)), (1, 0, "a"));
}

#[test]
fn a_list_that_is_none_is_refused_with_what_is_wrong() {
    use ShardsError as E;
    let refused = |names: &[&str]| Shards::new(names.iter().copied()).err();
    assert_eq!(refused(&[]), Some(E::None));
    assert_eq!(refused(&["a", "b", "a"]), Some(E::Repeated("a".to_owned())));
    for bad in ["", "a b", "a\0b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
        assert_eq!(refused(&["a", bad]), Some(E::BadName(bad.to_owned())));
    }
    let many: Vec<String> = (0..=REPLICAS_MAX).map(|n| n.to_string()).collect();
    assert_eq!(Shards::new(&many).err(), Some(E::TooMany));

    let key = KeyPair::generate().unwrap();
    let identity = ServiceIdentity::new("test", key, Arc::new(SystemClock));
    for bad in ["", "10.1.2.3:7001", "https://a:1", "ftp://a:1", "/x"] {
        let replica = Replica {
            name: "a".to_owned(),
            url: bad.to_owned(),
        };
        let refused = connect(&[replica], &identity).err().unwrap();
        assert!(matches!(refused, E::BadUrl { url, .. } if url == bad));
    }
}

#[tokio::test]
async fn every_replica_has_a_channel_of_its_own() {
    let key = KeyPair::generate().unwrap();
    let identity = ServiceIdentity::new("test", key, Arc::new(SystemClock));
    let replica = |n: u16| Replica {
        name: format!("presence-{n}"),
        url: format!("http://127.0.0.1:{}", 7_000 + n),
    };
    let (shards, channels) = connect(&[replica(1), replica(0)], &identity).unwrap();
    assert_eq!((shards.len(), channels.len()), (2, 2));
    assert_eq!(
        (shards.name(0), shards.name(1)),
        ("presence-1", "presence-0")
    );
}
