use super::*;

const FIRST: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(2);

#[test]
fn waits_double_up_to_the_cap_and_begin_anew_after_a_reset() {
    let mut backoff = Backoff::new(FIRST, CAP);
    for tries in 0..100_u32 {
        let bound = (FIRST * (1 << tries.min(10))).min(CAP);
        assert!(backoff.next(None) <= bound);
    }
    backoff.reset();
    assert!(backoff.next(None) <= FIRST);
}

#[test]
fn a_wait_is_never_shorter_than_the_server_asked_for() {
    let mut backoff = Backoff::new(FIRST, CAP);
    let asked = Duration::from_secs(60);
    for _ in 0..100 {
        let wait = backoff.next(Some(asked));
        assert!(asked <= wait && wait <= asked + CAP);
    }
}

#[test]
fn waits_are_spread_over_the_whole_range() {
    let waits: Vec<_> = (0..200)
        .map(|_| Backoff::new(CAP, CAP).next(None))
        .collect();
    assert!(waits.iter().any(|wait| *wait < CAP / 4));
    assert!(waits.iter().any(|wait| *wait > CAP * 3 / 4));
}
