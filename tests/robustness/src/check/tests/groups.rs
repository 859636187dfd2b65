//! The judge of groups is judged in the same way.

use proptest::prelude::*;

use super::CASES;
use crate::check::judge;

mod damage;
mod made;

use damage::DAMAGES;
pub(super) use damage::makes;

#[test]
fn a_good_history_of_groups_passes() {
    let verdict = judge(&made::history(1, 600));
    assert!(verdict.is_good(), "{:#?}", verdict.examples);
}

#[test]
fn each_kind_of_wrong_in_groups_is_told_apart() {
    for damage in DAMAGES {
        let mut records = made::history(7, 600);
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
fn a_history_of_groups_survives_its_file() {
    for record in made::history(3, 400) {
        let line = serde_json::to_string(&record).unwrap();
        let again: crate::history::Record = serde_json::from_str(&line).unwrap();
        assert_eq!(again, record, "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn every_good_history_of_groups_passes(seed: u64, steps in 0..400_usize) {
        let verdict = judge(&made::history(seed, steps));
        prop_assert!(verdict.is_good(), "{:#?}", verdict.examples);
    }

    #[test]
    fn every_damage_of_every_history_of_groups_is_found(seed: u64, pick: usize) {
        for damage in DAMAGES {
            let mut records = made::history(seed, 150);
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
