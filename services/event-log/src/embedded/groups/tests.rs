use super::*;

fn group(partitions: u32) -> Group {
    let positions = (0..partitions).map(|_| AtomicU64::new(0)).collect();
    Group::new(
        "one".to_owned(),
        Topic::Messages,
        0,
        positions,
        Duration::MAX,
    )
}

fn owners(group: &Group) -> Vec<Option<u64>> {
    let state = group.state.lock();
    state.slots.iter().map(|slot| slot.meant_for).collect()
}

/// Members come and go in any order, with more of them than partitions at times.
#[test]
fn partitions_are_always_shared_evenly_and_few_move() {
    for partitions in [1, 2, 5, 8, 16] {
        let group = group(partitions);
        let mut members = Vec::new();
        let mut random = 12_345_u32;
        for _ in 0..200 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let before = owners(&group);
            let (was, joins) = (members.len(), members.is_empty() || random >> 31 == 0);
            if joins {
                members.push(group.join().0);
            } else {
                let at = random as usize / 7 % members.len();
                group.leave(members.swap_remove(at));
            }
            let after = owners(&group);
            if members.is_empty() {
                assert!(after.iter().all(Option::is_none));
                continue;
            }
            let share = |id: u64| after.iter().filter(|owner| **owner == Some(id)).count();
            let shares: Vec<_> = members.iter().map(|id| share(*id)).collect();
            assert_eq!(
                shares.iter().sum::<usize>(),
                after.len(),
                "each has an owner"
            );
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            // A member that joins takes its share, one that leaves gives up its own: no more moves.
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
            let least = after.len().div_ceil(if joins { was + 1 } else { was });
            assert!(moved <= least, "{moved} moved, {least} would do");
        }
    }
}
