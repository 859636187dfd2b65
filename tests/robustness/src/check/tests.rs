//! The judge is judged: good histories pass, and each kind of damage is found by its name.

use proptest::prelude::*;

use super::{Wrong, judge};
use crate::history::Record;

mod damage;
mod groups;
mod made;

use damage::DAMAGES;

/// Histories that are tried per property.
const CASES: u32 = 40;

#[test]
fn a_good_history_passes() {
    let records = made::history(1, 400);
    let verdict = judge(&records);
    assert!(verdict.is_good(), "{:#?}", verdict.examples);
}

#[test]
fn nothing_is_judged_of_nothing() {
    assert!(judge(&[]).is_good());
}

#[test]
fn each_kind_of_wrong_is_told_apart() {
    for wrong in Wrong::ALL {
        let has_damage = DAMAGES.iter().any(|damage| damage.wrong == wrong);
        let has_damage = has_damage || groups::makes(wrong);
        assert!(has_damage, "nothing makes {}", wrong.name());
    }
    for damage in DAMAGES {
        let mut records = made::history(7, 400);
        let is_done = (damage.done)(&mut records, 3);
        assert!(is_done, "{}: nothing to damage", damage.name);
        let verdict = judge(&records);
        assert!(
            verdict.count(damage.wrong) > 0,
            "{}: not {}, but {:#?}",
            damage.name,
            damage.wrong.name(),
            verdict.examples
        );
    }
}

#[test]
fn a_history_survives_its_file() {
    for record in made::history(3, 400) {
        let line = serde_json::to_string(&record).unwrap();
        let again: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(again, record, "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn every_good_history_passes(seed: u64, steps in 0..300_usize) {
        let verdict = judge(&made::history(seed, steps));
        prop_assert!(verdict.is_good(), "{:#?}", verdict.examples);
    }

    #[test]
    fn every_damage_of_every_history_is_found(seed: u64, pick: usize) {
        for damage in DAMAGES {
            let mut records = made::history(seed, 120);
            if (damage.done)(&mut records, pick) {
                let verdict = judge(&records);
                prop_assert!(
                    verdict.count(damage.wrong) > 0,
                    "{}: not {}, but {:#?}", damage.name, damage.wrong.name(), verdict.examples
                );
            }
        }
    }
}
