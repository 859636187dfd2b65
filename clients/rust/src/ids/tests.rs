use super::*;

const NOW_MS: u64 = 1_790_000_000_000;

#[test]
fn names_grow_also_when_the_clock_stands_still_or_goes_back() {
    let mut last = None;
    for step in 0..20_000_u64 {
        // Every thousand names the clock jumps back by a second.
        let now_ms = NOW_MS + step / 100 - 1_000 * (step / 1_000);
        let id = after(last, now_ms, rand::random());
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        assert!(Some(id) > last, "{id} after {last:?}");
        last = Some(id);
    }
}

#[test]
fn two_devices_that_count_up_from_the_same_name_do_not_meet() {
    let same = after(None, NOW_MS, [7; 10]);
    let one = after(Some(same), NOW_MS - 5, rand::random());
    let other = after(Some(same), NOW_MS - 5, rand::random());
    assert_eq!(place_of(one), place_of(other));
    assert_ne!(one, other);
}

#[test]
fn a_name_follows_what_the_user_sent_from_elsewhere() {
    let mut ids = MessageIds::new(10);
    let future = after(None, NOW_MS * 2, [9; 10]);
    ids.saw("c", &future.to_string());
    ids.saw("c", "not an id");
    assert!(ids.next("c") > future.to_string());
    assert!(ids.next("d") < future.to_string());
}
